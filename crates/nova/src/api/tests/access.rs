//! Who may do what: every route against every kind of key.
use super::fixture::{Fixture, function};
use crate::api::{auth::Access, routes};
use axum::body::Body;
use axum::http::{Method, StatusCode};
use chrono::{TimeDelta, Utc};
use nova_store::{ApiKeyText, Role};
use serde_json::json;

/// What each route takes, written down a second time: role, and whether a key that is limited to the
/// function `mine` may use it.
const EXPECTED: &[(&str, &str, Option<Role>, bool)] = &[
    ("GET", "/functions", Some(Role::Read), true),
    ("POST", "/functions", Some(Role::Deploy), true),
    ("GET", "/functions/{name}", Some(Role::Read), true),
    ("PATCH", "/functions/{name}", Some(Role::Deploy), true),
    ("DELETE", "/functions/{name}", Some(Role::Deploy), true),
    ("GET", "/functions/{name}/code", Some(Role::Deploy), true),
    ("PUT", "/functions/{name}/code", Some(Role::Deploy), true),
    ("GET", "/functions/{name}/build", Some(Role::Read), true),
    ("POST", "/functions/{name}/invoke", Some(Role::Invoke), true),
    ("GET", "/functions/{name}/logs", Some(Role::Read), true),
    ("GET", "/invocations", Some(Role::Read), true),
    ("GET", "/invocations/{request_id}", Some(Role::Read), true),
    ("GET", "/runtimes", Some(Role::Read), true),
    ("GET", "/secrets", Some(Role::Deploy), false),
    ("GET", "/secrets/{secret}", Some(Role::Deploy), false),
    ("PUT", "/secrets/{secret}", Some(Role::Deploy), false),
    ("DELETE", "/secrets/{secret}", Some(Role::Deploy), false),
    ("GET", "/layers", Some(Role::Read), true),
    ("GET", "/layers/{layer}", Some(Role::Read), true),
    ("PUT", "/layers/{layer}", Some(Role::Deploy), false),
    ("DELETE", "/layers/{layer}", Some(Role::Deploy), false),
    ("GET", "/stats", Some(Role::Read), false),
    ("GET", "/metrics", Some(Role::Read), false),
    ("GET", "/metrics/prometheus", Some(Role::Read), false),
    ("GET", "/health", None, true),
    ("GET", "/health/live", None, true),
    ("GET", "/health/ready", None, true),
];

const ROLES: [Role; 4] = [Role::Read, Role::Invoke, Role::Deploy, Role::Admin];

fn concrete(path: &str, function: &str) -> String {
    path.replace("{name}", function)
        .replace("{secret}", "token")
        .replace("{layer}", "shared")
        .replace("{request_id}", "0190c2f0-0000-7000-8000-000000000000")
}

fn is_refused(status: StatusCode) -> bool {
    status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN
}

#[test]
fn the_table_has_exactly_the_routes_that_are_expected() {
    assert_eq!(routes().len(), EXPECTED.len());
    for (route, (method, path, role, _)) in routes().iter().zip(EXPECTED) {
        assert_eq!((route.method.as_str(), route.path), (*method, *path));
        let asked = match route.access {
            Access::Open => None,
            Access::Key(role, _) => Some(role),
        };
        assert_eq!(asked, *role, "{method} {path}");
    }
}

#[tokio::test]
async fn every_route_takes_its_role_and_those_above_and_no_other() {
    let fixture = Fixture::new().await;
    for role in ROLES {
        let key = fixture.key_of(role, &[]).await;
        for (method, path, least, _) in EXPECTED {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let headers = [("x-api-key", key.as_str())];
            let path = concrete(path, "mine");
            let answer = fixture.send_with(method.clone(), &path, &headers, Body::empty()).await;
            let may = least.is_none_or(|least| role >= least);
            assert_eq!(!is_refused(answer.status), may, "{role:?} {method} {path}");
        }
    }
}

#[tokio::test]
async fn no_key_a_malformed_a_wrong_and_an_expired_one_are_all_unauthenticated() {
    let fixture = Fixture::new().await;
    let good = fixture.key_of(Role::Admin, &[]).await;
    let expired =
        fixture.key_until(Role::Admin, &[], Some(Utc::now() - TimeDelta::seconds(1))).await;
    let (public, secret) = good.rsplit_once('_').unwrap();
    let other_secret = format!("{public}_{}", secret.chars().rev().collect::<String>());
    let unknown = ApiKeyText::generate().reveal();
    let bearer = |key: &str| format!("Bearer {key}");
    let cases: Vec<Vec<(&str, String)>> = vec![
        vec![],
        vec![("authorization", "Bearer".into())],
        vec![("authorization", bearer("nonsense"))],
        vec![("authorization", format!("Basic {good}"))],
        vec![("authorization", bearer(&other_secret))],
        vec![("authorization", bearer(&unknown))],
        vec![("authorization", bearer(&expired))],
        vec![("x-api-key", unknown.clone())],
        // A wrong key is not saved by a right one in the other header.
        vec![("authorization", bearer(&unknown)), ("x-api-key", good.clone())],
    ];
    for headers in cases {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        for (method, path, role, _) in EXPECTED {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let path = concrete(path, "mine");
            let answer = fixture.send_with(method.clone(), &path, &headers, Body::empty()).await;
            let refused = answer.status == StatusCode::UNAUTHORIZED;
            assert_eq!(refused, role.is_some(), "{headers:?} {method} {path}");
            if refused {
                assert_eq!(answer.problem().1, "unauthenticated");
                assert_eq!(answer.header("www-authenticate"), "Bearer");
            }
        }
    }
    for header in [("authorization", bearer(&good)), ("authorization", format!("bearer {good}"))] {
        let answer =
            fixture.send_with(Method::GET, "/functions", &[(header.0, &header.1)], "").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_key_of_some_functions_sees_and_touches_no_other() {
    let fixture = Fixture::new().await;
    fixture.create("mine").await;
    fixture.create("other").await;
    let theirs = fixture.post("/functions/other/invoke", json!({})).await.json();
    let id = theirs["request_id"].as_str().unwrap();
    let seen = format!("/invocations/{id}");
    fixture.until(&seen, |record| record["function"] == "other").await;

    let key = fixture.key_of(Role::Admin, &["mine"]).await;
    let headers = [("x-api-key", key.as_str())];
    for (method, path, _, may) in EXPECTED {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let other = concrete(path, "other");
        let answer = fixture.send_with(method.clone(), &other, &headers, "{}").await;
        let expected = *may && !path.contains("{name}");
        assert_eq!(!is_refused(answer.status), expected, "{method} {other}");
    }
    let get = |path: &'static str| fixture.send_with(Method::GET, path, &headers, "");
    let listed = get("/functions").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["name"], "mine");
    assert_eq!(get("/functions/mine").await.status, StatusCode::OK);
    assert_eq!(get("/invocations").await.json()["items"], json!([]));
    assert_eq!(get("/invocations?function=other").await.status, StatusCode::FORBIDDEN);
    let hidden = fixture.send_with(Method::GET, &seen, &headers, "").await;
    assert_eq!(hidden.problem().1, "invocation_not_found");
    let create = function("third").to_string();
    let created = fixture.send_with(Method::POST, "/functions", &headers, create).await;
    assert_eq!(created.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_list_for_some_functions_tells_nothing_of_others() {
    let fixture = Fixture::new().await;
    for name in ["a-other", "mine-1", "mine-2", "n-other", "z-other"] {
        fixture.create(name).await;
    }
    let key = fixture.key_of(Role::Read, &["mine-2", "mine-1", "mine-not-made"]).await;
    let headers = [("x-api-key", key.as_str())];
    let mut path = "/functions?limit=1".to_owned();
    for name in ["mine-1", "mine-2"] {
        let answer = fixture.send_with(Method::GET, &path, &headers, "").await.json();
        assert!(!answer.to_string().contains("other"), "{answer}");
        assert_eq!(answer["items"].as_array().unwrap().len(), 1);
        assert_eq!(answer["items"][0]["name"], name);
        let cursor = answer["next_cursor"].as_str();
        assert_eq!(cursor.is_some(), name == "mine-1", "{answer}");
        path = format!("/functions?limit=1&cursor={}", cursor.unwrap_or_default());
    }
}

#[tokio::test]
async fn without_authentication_everybody_of_this_host_may() {
    let fixture = Fixture::with_settings(|settings| settings.authentication = false).await;
    let answer = fixture.send_with(Method::GET, "/functions", &[], "").await;
    assert_eq!(answer.status, StatusCode::OK);
    for (name, value, status) in [
        ("origin", "http://127.0.0.1:9000", 200),
        ("sec-fetch-site", "none", 200),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
    ] {
        let answer = fixture.send_with(Method::GET, "/functions", &[(name, value)], "").await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {value}");
    }
}

#[tokio::test]
async fn another_host_is_refused_whatever_the_key() {
    let fixture = Fixture::new().await;
    let key = fixture.key_of(Role::Admin, &[]).await;
    for path in ["/functions", "/health", "/nothing"] {
        let headers = [("host", "evil.example"), ("x-api-key", key.as_str())];
        let answer = fixture.send_with(Method::GET, path, &headers, "").await;
        assert_eq!((answer.problem().0, answer.problem().1.as_str()), (403, "host_not_allowed"));
    }
}
