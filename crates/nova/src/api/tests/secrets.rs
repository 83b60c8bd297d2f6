//! Secrets go in, reach the guest, and never come out.
use super::fixture::{Fixture, function};
use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

const VALUE: &str = "correct-horse-battery";

async fn put(fixture: &Fixture, name: &str, body: Value) -> super::fixture::Answer {
    fixture.send(Method::PUT, &format!("/secrets/{name}"), body.to_string()).await
}

#[tokio::test]
async fn a_secret_is_never_shown_and_reaches_the_guest() {
    let fixture = Fixture::new().await;
    let set = put(&fixture, "token", json!({ "value": VALUE })).await;
    assert_eq!(set.status, StatusCode::CREATED);
    assert_eq!(set.json()["version"], 1);
    let again = put(&fixture, "token", json!({ "value": VALUE })).await;
    assert_eq!((again.status, &again.json()["version"]), (StatusCode::OK, &json!(2)));

    let mut body = function("hello");
    body["env_vars"] = json!({ "TOKEN": "$SECRET:token" });
    let created = fixture.post("/functions", body).await;
    let call = fixture.post("/functions/hello/invoke", json!({ "env": "TOKEN" })).await;
    assert_eq!(call.json()["output"], VALUE);

    for answer in [
        set,
        again,
        created,
        fixture.get("/secrets").await,
        fixture.get("/secrets/token").await,
        fixture.get("/functions/hello").await,
    ] {
        let text = String::from_utf8(answer.bytes).unwrap();
        assert!(!text.contains(VALUE), "{text}");
    }
}

#[tokio::test]
async fn a_new_value_is_what_the_next_call_gets() {
    let fixture = Fixture::new().await;
    put(&fixture, "token", json!({ "value": "old" })).await;
    let mut body = function("hello");
    body["env_vars"] = json!({ "TOKEN": "$SECRET:token" });
    fixture.post("/functions", body).await;
    let ask = || fixture.post("/functions/hello/invoke", json!({ "env": "TOKEN" }));
    assert_eq!(ask().await.json()["output"], "old");
    put(&fixture, "token", json!({ "value": "new" })).await;
    assert_eq!(ask().await.json()["output"], "new");
    fixture.send(Method::DELETE, "/secrets/token", Body::empty()).await;
    let without = ask().await;
    assert_eq!((without.problem().0, without.problem().1.as_str()), (409, "secret_missing"));
}

#[tokio::test]
async fn a_secret_of_other_functions_is_forbidden() {
    let fixture = Fixture::new().await;
    put(&fixture, "token", json!({ "value": VALUE, "functions": ["other"] })).await;
    let mut body = function("hello");
    body["secrets"] = json!(["token"]);
    let refused = fixture.post("/functions", body.clone()).await;
    assert_eq!((refused.problem().0, refused.problem().1.as_str()), (403, "secret_forbidden"));
    body["name"] = json!("other");
    assert_eq!(fixture.post("/functions", body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn wrong_secrets_are_refused_without_repeating_the_value() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(64 * 1024 + 1);
    for (name, body, field) in [
        ("token", json!({ "value": long }), "value"),
        ("token", json!({ "value": VALUE, "function": ["a"] }), "function"),
        ("token", json!({ "value": VALUE, "functions": ["../x"] }), "functions[0]"),
        ("token", json!({ "value": [VALUE] }), "value"),
        ("..%2Fkey", json!({ "value": VALUE }), "secret"),
    ] {
        let answer = put(&fixture, name, body).await;
        assert_eq!(answer.problem().2, field, "{:?}", answer.json());
        assert!(!String::from_utf8(answer.bytes).unwrap().contains(VALUE));
    }
    assert_eq!(fixture.get("/secrets").await.json()["items"], json!([]));
    for method in [Method::GET, Method::DELETE] {
        let answer = fixture.send(method, "/secrets/token", Body::empty()).await;
        assert_eq!(answer.problem().1, "secret_not_found");
    }
}

#[tokio::test]
async fn a_secret_that_was_taken_away_is_forbidden_at_the_next_call() {
    let fixture = Fixture::new().await;
    put(&fixture, "token", json!({ "value": VALUE })).await;
    let mut body = function("hello");
    body["env_vars"] = json!({ "TOKEN": "$SECRET:token" });
    fixture.post("/functions", body).await;
    put(&fixture, "token", json!({ "value": VALUE, "functions": ["other"] })).await;
    let call = fixture.post("/functions/hello/invoke", json!({ "env": "TOKEN" })).await;
    assert_eq!((call.problem().0, call.problem().1.as_str()), (403, "secret_forbidden"));
}
