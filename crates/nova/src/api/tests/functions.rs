//! Create, look at, change, delete; and everything that is refused.
use super::fixture::{Fixture, function};
use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn a_function_is_created_with_the_defaults_of_the_product() {
    let fixture = Fixture::new().await;
    let answer = fixture.post("/functions", function("hello")).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.header("location"), "/functions/hello");
    let created = answer.json();
    for (field, value) in [
        ("name", json!("hello")),
        ("handler", json!("handler")),
        ("mode", json!("process")),
        ("memory_mb", json!(128)),
        ("timeout_s", json!(30)),
        ("min_replicas", json!(0)),
        ("instance_concurrency", json!(1)),
        ("env_vars", json!({})),
        ("network", json!("egress")),
        ("snapshot", json!("auto")),
        ("revision", json!(1)),
        ("version", json!(1)),
    ] {
        assert_eq!(created[field], value, "{field}");
    }
    assert_eq!(created["limits"]["vcpus"], 1);
    assert_eq!(created["code_hash"].as_str().unwrap().len(), 64);
    assert_eq!(fixture.get("/functions/hello").await.json(), created);
}

#[tokio::test]
async fn wrong_fields_are_refused_by_name_with_a_hint() {
    let fixture = Fixture::new().await;
    for (field, value, status_code, hint) in [
        ("name", json!("../../x"), "invalid_field", "letters, digits"),
        ("runtime", json!("javascript"), "invalid_field", "nova runtime add node"),
        ("runtime", json!("pyhton"), "invalid_field", "did you mean `python`?"),
        ("memory_mb", json!(0), "invalid_field", "64 to 32768"),
        ("memory_mb", json!(64), "invalid_field", "at least 96"),
        ("memory_mb", json!(-1), "invalid_field", "type"),
        ("memory_mb", json!("much"), "invalid_field", "type"),
        ("timeout_s", json!(99_999), "invalid_field", "1 to 900"),
        ("handler", json!("../x"), "invalid_field", "relative"),
        ("mode", json!("batch"), "invalid_field", ""),
        ("network", json!("all"), "invalid_field", ""),
        ("secrets", json!(["nothing"]), "invalid_field", "nova secret set nothing"),
        ("code", json!(7), "invalid_field", ""),
        ("code_path", json!("/etc"), "invalid_field", ""),
        ("memory", json!(128), "unknown_field", "memory_mb"),
    ] {
        let mut body = function("hello");
        body[field] = value.clone();
        let answer = fixture.post("/functions", body).await;
        let (status, code, named) = answer.problem();
        assert_eq!((status, code.as_str()), (400, status_code), "{field} = {value}");
        assert_eq!(named, field, "{value}: {:?}", answer.json());
        assert!(answer.hint().contains(hint), "{field} = {value}: {}", answer.hint());
    }
    let nested = [
        (json!({ "limits": { "vcpus": 99 } }), "limits.vcpus"),
        (json!({ "limits": { "vcpu": 1 } }), "limits.vcpu"),
        (json!({ "env_vars": { "A B": "x" } }), "env_vars.A B"),
        (json!({ "env_vars": { "A": "$SECRET:nothing" } }), "env_vars.A"),
        (json!({ "network": { "allow": ["example.org"] } }), "network.allow"),
    ];
    for (change, field) in nested {
        let mut body = function("hello");
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = fixture.post("/functions", body).await;
        assert_eq!(answer.problem().2, field, "{:?}", answer.json());
    }
    assert_eq!(fixture.get("/functions").await.json()["items"], json!([]), "nothing was kept");
}

#[tokio::test]
async fn several_wrong_fields_are_reported_together() {
    let fixture = Fixture::new().await;
    let mut body = function("hello");
    body["memory_mb"] = json!(1);
    body["secrets"] = json!(["../x"]);
    let errors = fixture.post("/functions", body).await.json()["errors"].take();
    let fields: Vec<&str> =
        errors.as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["secrets[0]", "memory_mb"]);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let fixture = Fixture::new().await;
    for field in ["name", "runtime", "code"] {
        let mut body = function("hello");
        body.as_object_mut().unwrap().remove(field);
        assert_eq!(fixture.post("/functions", body).await.problem().2, field);
    }
}

#[tokio::test]
async fn a_body_that_is_not_one_json_value_is_refused() {
    let fixture = Fixture::new().await;
    let trailing = format!("{} x", function("hello"));
    for body in [trailing.as_str(), "", "{", "name=hello"] {
        let answer = fixture.send(Method::POST, "/functions", body.to_owned()).await;
        assert_eq!(answer.problem().1, "invalid_json", "{body:?}");
    }
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    let again = fixture.post("/functions", function("hello")).await;
    assert_eq!((again.status.as_u16(), again.problem().1.as_str()), (409, "function_exists"));
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() {
    let fixture = Fixture::new().await;
    let before = fixture.create("hello").await;
    let change = json!({ "memory_mb": 256, "limits": { "tmp_mb": 64 }, "env_vars": { "A": "1" } });
    let answer = fixture.send(Method::PATCH, "/functions/hello", change.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK);
    let after = answer.json();
    assert_eq!(after["memory_mb"], 256);
    assert_eq!(after["limits"]["tmp_mb"], 64);
    assert_eq!(after["limits"]["vcpus"], 1, "limits are merged");
    assert_eq!(after["code_hash"], before["code_hash"]);
    assert_eq!((&after["revision"], &after["version"]), (&json!(2), &json!(2)));
    assert_eq!(after["id"], before["id"]);
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_revision() {
    let fixture = Fixture::new().await;
    let before = fixture.create("hello").await;
    for change in [json!({}), json!({ "memory_mb": 128 }), json!({ "code": "print(1)" })] {
        let answer = fixture.send(Method::PATCH, "/functions/hello", change.to_string()).await;
        assert_eq!(answer.json(), before);
    }
    let words = json!({ "description": "says hello" });
    let after = fixture.send(Method::PATCH, "/functions/hello", words.to_string()).await.json();
    assert_eq!((&after["revision"], &after["version"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn updates_at_the_same_time_are_all_kept() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    let changes = [json!({ "memory_mb": 256 }), json!({ "timeout_s": 5 })];
    let [first, second] =
        changes.map(|change| fixture.send(Method::PATCH, "/functions/hello", change.to_string()));
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
    let after = fixture.get("/functions/hello").await.json();
    assert_eq!((&after["memory_mb"], &after["timeout_s"]), (&json!(256), &json!(5)));
    assert_eq!(after["revision"], 3);
}

#[tokio::test]
async fn an_update_is_refused_like_a_create() {
    let fixture = Fixture::new().await;
    let before = fixture.create("hello").await;
    for (change, field) in [
        (json!({ "name": "other" }), "name"),
        (json!({ "memory_mb": 0 }), "memory_mb"),
        (json!({ "runtime": "javascript" }), "runtime"),
        (json!({ "memory_mbs": 1 }), "memory_mbs"),
    ] {
        let answer = fixture.send(Method::PATCH, "/functions/hello", change.to_string()).await;
        assert_eq!(answer.problem().2, field);
    }
    assert_eq!(fixture.get("/functions/hello").await.json(), before);
    let missing = fixture.send(Method::PATCH, "/functions/other", "{}").await;
    assert_eq!(missing.problem().1, "function_not_found");
}

#[tokio::test]
async fn a_deleted_function_is_gone_and_its_name_free() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    let deleted = fixture.send(Method::DELETE, "/functions/hello", Body::empty()).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::DELETE] {
        let answer = fixture.send(method, "/functions/hello", Body::empty()).await;
        assert_eq!(answer.problem().1, "function_not_found");
    }
    let call = fixture.post("/functions/hello/invoke", json!({})).await;
    assert_eq!(call.problem().1, "function_not_found");
    fixture.create("hello").await;
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let fixture = Fixture::new().await;
    for name in ["c", "a", "b"] {
        fixture.create(name).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = fixture.get("/functions?limit=2").await.json();
    assert_eq!(names(&first), ["a", "b"]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = fixture.get(&format!("/functions?limit=2&cursor={cursor}")).await.json();
    assert_eq!(names(&second), ["c"]);
    assert_eq!(second["next_cursor"], Value::Null);
    for (query, field) in
        [("limit=0", "limit"), ("limit=501", "limit"), ("limit=x", "limit"), ("limt=1", "limt")]
    {
        assert_eq!(fixture.get(&format!("/functions?{query}")).await.problem().2, field);
    }
    let bad = fixture.get("/invocations?cursor=nonsense").await;
    assert_eq!(bad.problem().2, "cursor");
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_a_problem_too() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/nothing").await.problem().1, "route_not_found");
    let wrong = fixture.send(Method::PUT, "/functions", Body::empty()).await;
    assert_eq!(wrong.problem().1, "method_not_allowed");
    assert!(wrong.header("allow").contains("POST"), "{:?}", wrong.headers);
    assert_eq!(fixture.get("/functions/..%2F..%2Fx").await.problem().2, "name");
}

#[tokio::test]
async fn runtimes_are_listed_with_what_can_be_installed() {
    let fixture = Fixture::new().await;
    let items = fixture.get("/runtimes").await.json()["items"].take();
    let find = |id: &str| {
        items.as_array().unwrap().iter().find(|item| item["id"] == id).cloned().unwrap_or_default()
    };
    let python = find("python");
    assert_eq!((&python["installed"], &python["version"]), (&json!(true), &json!("3.11.2")));
    assert_eq!(python["modes"], json!(["process", "persistent", "lambda"]));
    assert_eq!(find("node")["installed"], false);
}
