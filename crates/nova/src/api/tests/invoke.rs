//! Calls: results, failures, limits.
use super::fixture::Fixture;
use axum::body::Body;
use axum::http::{Method, StatusCode};
use nova_domain::{FunctionName, SecretName};
use nova_proto::PAYLOAD_MAX_BYTES;
use serde_json::{Value, json};

const PATH: &str = "/functions/hello/invoke";

async fn ready() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    fixture
}

#[tokio::test]
async fn a_call_answers_with_its_result_and_where_its_time_went() {
    let fixture = ready().await;
    let first = fixture.post(PATH, json!({ "n": 1 })).await;
    assert_eq!(first.status, StatusCode::OK);
    let answer = first.json();
    assert_eq!(answer["output"], json!({ "n": 1 }));
    assert_eq!(answer.get("error"), None);
    assert_eq!((&answer["start"], &answer["cold_start"]), (&json!("cold"), &json!(true)));
    assert_eq!(answer["version"], 1);
    assert_eq!(first.header("x-nova-request-id"), answer["request_id"].as_str().unwrap());
    let timing = first.header("server-timing");
    for phase in ["queue;dur=", "acquire;dur=", "boot;dur=", "init;dur=0.5", "exec;dur=1.5"] {
        assert!(timing.contains(phase), "{timing}");
    }
    let second = fixture.post(PATH, json!({})).await;
    assert_eq!(second.json()["start"], "warm");
    assert!(!second.header("server-timing").contains("boot"));
}

#[tokio::test]
async fn a_payload_travels_as_it_was_written() {
    let fixture = ready().await;
    let odd = r#"{"b":1.0,  "a":1e2,"big":123456789012345678901234567890,"é":"\u00e9"}"#;
    let answer = fixture.send(Method::POST, PATH, odd).await;
    let body = String::from_utf8(answer.bytes).unwrap();
    assert!(body.contains(odd), "{body}");
    for payload in ["1", "null", "\"text\"", "[1, 2]", " {} \n"] {
        let answer = fixture.send(Method::POST, PATH, payload).await;
        let sent: Value = serde_json::from_str(payload).unwrap();
        assert_eq!(answer.json()["output"], sent, "{payload}");
    }
    let empty = fixture.send(Method::POST, PATH, Body::empty()).await;
    assert_eq!(empty.json()["output"], json!({}), "nothing stands for {{}}");
}

#[tokio::test]
async fn a_payload_that_is_not_one_json_value_is_refused() {
    let fixture = ready().await;
    for payload in [&b"{} x"[..], b"{}{}", b"{", b"name=x", b"\"\xff\""] {
        let answer = fixture.send(Method::POST, PATH, payload.to_vec()).await;
        assert_eq!(answer.problem().1, "invalid_json", "{payload:?}");
    }
}

#[tokio::test]
async fn a_payload_of_the_limit_passes_and_one_byte_more_does_not() {
    let fixture = ready().await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let most = fixture.send(Method::POST, PATH, text(PAYLOAD_MAX_BYTES)).await;
    assert_eq!(most.status, StatusCode::OK);
    assert_eq!(most.json()["output"].as_str().unwrap().len(), PAYLOAD_MAX_BYTES - 2);
    let more = fixture.send(Method::POST, PATH, text(PAYLOAD_MAX_BYTES + 1)).await;
    assert_eq!((more.problem().0, more.problem().1.as_str()), (413, "payload_too_large"));
}

#[tokio::test]
async fn a_failure_of_the_function_is_an_answer_and_its_timeout_a_problem() {
    let fixture = ready().await;
    let failed = fixture.post(PATH, json!({ "fail": "out_of_memory" })).await;
    assert_eq!(failed.status, StatusCode::OK);
    assert_eq!(failed.json()["error"]["kind"], "out_of_memory");
    assert_eq!(failed.json()["error"]["detail"], json!({ "asked": true }));
    assert_eq!(failed.json()["output"], Value::Null);

    let late = fixture.post(PATH, json!({ "fail": "timeout" })).await;
    assert_eq!((late.problem().0, late.problem().1.as_str()), (504, "function_timeout"));
    let id = late.json()["request_id"].take();
    assert_eq!(late.header("x-nova-request-id"), id.as_str().unwrap());
    let after = fixture.post(PATH, json!({})).await;
    assert_eq!(after.json()["start"], "warm", "the VM of a function that failed is still good");
}

#[tokio::test]
async fn a_call_without_an_answer_is_a_problem_with_its_id() {
    let fixture = ready().await;
    fixture.create("unbootable").await;
    let lost = fixture.post(PATH, json!({ "lose": true })).await;
    assert_eq!((lost.problem().0, lost.problem().1.as_str()), (502, "guest_lost"));
    assert!(lost.json()["request_id"].is_string());
    let unbootable = fixture.post("/functions/unbootable/invoke", json!({})).await;
    assert_eq!((unbootable.problem().0, unbootable.problem().1.as_str()), (503, "boot_failed"));
    assert!(unbootable.json()["detail"].as_str().unwrap().contains("nothing to boot"));
    let missing = fixture.post("/functions/nothing/invoke", json!({})).await;
    assert_eq!(missing.problem().1, "function_not_found");
}

#[tokio::test]
async fn after_a_change_the_next_call_runs_the_new_version() {
    let fixture = ready().await;
    let ask = json!({ "env": "GREETING" });
    assert_eq!(fixture.post(PATH, ask.clone()).await.json()["output"], Value::Null);
    let change = json!({ "env_vars": { "GREETING": "hello" } });
    fixture.send(Method::PATCH, "/functions/hello", change.to_string()).await;
    let answer = fixture.post(PATH, ask).await.json();
    assert_eq!(answer["output"], "hello");
    assert_eq!((&answer["version"], &answer["start"]), (&json!(2), &json!("cold")));
}

/// Whatever a warm call asked the store for would be missing: the key, the function, its secret.
#[tokio::test]
async fn a_warm_call_asks_the_store_for_nothing() {
    let fixture = Fixture::new().await;
    let secret = json!({ "value": "hidden" });
    fixture.send(Method::PUT, "/secrets/token", secret.to_string()).await;
    let mut body = super::fixture::function("hello");
    body["env_vars"] = json!({ "TOKEN": "$SECRET:token" });
    fixture.post("/functions", body).await;
    assert_eq!(fixture.post(PATH, json!({})).await.status, StatusCode::OK);

    let store = &fixture.api.store;
    store.delete_function(&FunctionName::parse("hello").unwrap()).await.unwrap();
    store.delete_secret(&SecretName::parse("token").unwrap()).await.unwrap();
    for key in store.api_keys().await.unwrap() {
        store.delete_api_key(&key.id).await.unwrap();
    }
    let warm = fixture.post(PATH, json!({ "env": "TOKEN" })).await;
    assert_eq!(warm.status, StatusCode::OK, "{:?}", warm.json());
    assert_eq!((&warm.json()["start"], &warm.json()["output"]), (&json!("warm"), &json!("hidden")));
}

#[tokio::test]
async fn the_log_of_a_call_comes_with_its_answer_where_asked_for() {
    let fixture = ready().await;
    let with = fixture.post(&format!("{PATH}?logs=true"), json!({ "log": "working" })).await;
    assert_eq!(with.json()["logs"][0]["text"], "working");
    assert_eq!(with.json()["logs"][0]["stream"], "stderr");
    assert_eq!(with.json()["logs"][0]["time"], "1970-01-01T00:00:01Z");
    let without = fixture.post(PATH, json!({ "log": "working" })).await;
    assert_eq!(without.json().get("logs"), None);
    assert_eq!(fixture.post(&format!("{PATH}?log=true"), json!({})).await.problem().2, "log");
}

#[tokio::test]
async fn a_daemon_that_is_draining_takes_no_calls() {
    let fixture = ready().await;
    fixture.api.draining.cancel();
    fixture.api.executor.drain(std::time::Duration::ZERO).await;
    let answer = fixture.post(PATH, json!({})).await;
    assert_eq!((answer.problem().0, answer.problem().1.as_str()), (503, "shutting_down"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(fixture.get("/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fixture.get("/health/live").await.status, StatusCode::OK);
}
