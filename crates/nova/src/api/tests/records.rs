//! What can be seen of calls afterwards, and of the daemon.
use super::fixture::Fixture;
use axum::http::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn calls_are_remembered_newest_first() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    fixture.create("other").await;
    let invoke = |name: &str, input: Value| {
        let path = format!("/functions/{name}/invoke");
        let fixture = &fixture;
        async move { fixture.post(&path, input).await.json()["request_id"].take() }
    };
    let good = invoke("hello", json!({})).await;
    let bad = invoke("hello", json!({ "fail": "function_exited" })).await;
    let other = invoke("other", json!({})).await;
    // At once: a call that was answered is in the records.
    let all = fixture.get("/invocations").await.json();
    let ids = |page: &Value| -> Vec<Value> {
        page["items"].as_array().unwrap().iter().map(|item| item["request_id"].clone()).collect()
    };
    assert_eq!(ids(&all), [other, bad.clone(), good.clone()]);
    let of_one = fixture.get("/invocations?function=hello").await.json();
    assert_eq!(ids(&of_one), [bad.clone(), good.clone()]);
    let failed = fixture.get("/invocations?function=hello&failed=true").await.json();
    assert_eq!(ids(&failed), [bad]);
    assert_eq!(failed["items"][0]["error"]["code"], "function_exited");

    let path = format!("/invocations/{}", good.as_str().unwrap());
    let one = fixture.get(&path).await.json();
    assert_eq!(one["function"], "hello");
    assert_eq!((&one["trigger"], &one["start"]), (&json!("http"), &json!("cold")));
    assert_eq!(one["phases"]["exec_ms"], 1.5);
    assert_eq!(one.get("error"), None);
}

#[tokio::test]
async fn an_invocation_that_never_was_is_not_found() {
    let fixture = Fixture::new().await;
    let unknown = fixture.get("/invocations/0190c2f0-0000-7000-8000-000000000000").await;
    assert_eq!(unknown.problem().1, "invocation_not_found");
    assert_eq!(fixture.get("/invocations/nonsense").await.problem().2, "request_id");
    assert_eq!(fixture.get("/invocations?function=..%2Fx").await.problem().2, "function");
    assert_eq!(fixture.get("/invocations?failed=maybe").await.problem().2, "failed");
}

#[tokio::test]
async fn logs_can_be_searched() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    let log = |text: &str| {
        let input = json!({ "log": text });
        let fixture = &fixture;
        async move { fixture.post("/functions/hello/invoke", input).await.json() }
    };
    let first = log("one apple").await;
    log("two pears").await;
    let path = "/functions/hello/logs";
    let both = fixture.get(path).await.json();
    assert_eq!(both["items"][0]["text"], "one apple", "oldest first");
    let texts = |page: Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(fixture.get(&format!("{path}?q=pear")).await.json()), ["two pears"]);
    assert_eq!(texts(fixture.get(&format!("{path}?tail=1")).await.json()), ["two pears"]);
    let id = first["request_id"].as_str().unwrap();
    let of_one = fixture.get(&format!("{path}?request_id={id}")).await.json();
    assert_eq!(texts(of_one), ["one apple"]);
    for (query, field) in
        [("tail=0", "tail"), ("tail=10001", "tail"), ("request_id=x", "request_id")]
    {
        assert_eq!(fixture.get(&format!("{path}?{query}")).await.problem().2, field, "{query}");
    }
    let unknown = fixture.get("/functions/nothing/logs").await;
    assert_eq!(unknown.problem().1, "function_not_found");
}

#[tokio::test]
async fn stats_show_each_vm() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    assert_eq!(fixture.get("/stats").await.json()["active_vms"], 0);
    fixture.post("/functions/hello/invoke", json!({})).await;
    let stats = fixture.until("/stats", |stats| stats["idle_vms"] == 1).await;
    assert_eq!(stats["backend"], "fake");
    assert_eq!((&stats["active_vms"], &stats["booting_vms"]), (&json!(1), &json!(0)));
    assert_eq!(stats["memory_mb"], 128 + 16);
    assert_eq!(
        (&stats["vms"][0]["function"], &stats["vms"][0]["state"]),
        (&json!("hello"), &json!("idle"))
    );
}

#[tokio::test]
async fn metrics_count_calls_in_both_forms() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    for _ in 0..3 {
        fixture.post("/functions/hello/invoke", json!({})).await;
    }
    let json = fixture.get("/metrics").await.json();
    let hello = &json["functions"][0];
    assert_eq!(
        (&hello["function"], &hello["invocations"]["success"]),
        (&json!("hello"), &json!(3))
    );
    assert_eq!((&hello["cold_starts"], &hello["warm_starts"]), (&json!(1), &json!(2)));
    assert_eq!(hello["duration"]["count"], 3);
    assert_eq!(json["vms_created"], 1);
    let text = fixture.get("/metrics/prometheus").await;
    assert!(text.header("content-type").starts_with("application/openmetrics-text"));
    let text = String::from_utf8(text.bytes).unwrap();
    let line = r#"nova_invocations_total{function="hello",runtime="python",status="success"} 3"#;
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn health_says_which_backend_and_how_weak() {
    let fixture = Fixture::new().await;
    let health = fixture.send_with(axum::http::Method::GET, "/health", &[], "").await;
    assert_eq!(health.status, StatusCode::OK);
    let json = health.json();
    assert_eq!((&json["status"], &json["backend"]), (&json!("ok"), &json!("fake")));
    assert_eq!(json["warnings"], json!(["weak"]));
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_a_reason_not_to_be_ready() {
    let fixture = Fixture::with_settings(|settings| settings.data_dir = "/not/there".into()).await;
    let ready = fixture.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (503, &"degraded".into()));
    let problem = ready.json()["problem"].take();
    assert!(problem.as_str().unwrap().contains("disk of the data directory"), "{problem}");
    let health = fixture.get("/health").await.json();
    assert_eq!((&health["warnings"][0], &health["warnings"][1]), (&"weak".into(), &problem));
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/health/ready").await.json(), serde_json::json!({ "status": "ok" }));
}
