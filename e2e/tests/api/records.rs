//! Every call leaves a record and its log lines, visible within a moment.
use nova_e2e::{FunctionUnderTest, Nova, eventually};
use serde_json::{Value, json};

/// The log lines of one call, once at least `count` are there.
pub async fn log_lines(
    nova: &Nova,
    function: &FunctionUnderTest,
    answer: &Value,
    count: usize,
) -> Vec<Value> {
    let id = answer["request_id"].as_str().expect("a request id");
    let path = function.path(&format!("/logs?request_id={id}&tail=10000"));
    eventually("the log lines are stored", async || {
        let lines = nova.get(&path).await.ok()["items"].as_array().expect("items").clone();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn a_call_leaves_a_record_with_its_phases() {
    let nova = Nova::from_env();
    let function = nova.function("python", "print(1)", json!({})).await;
    let answer = function.call(&json!({})).await;
    let id = answer["request_id"].as_str().unwrap();
    let record = eventually("the record is stored", async || {
        let answer = nova.get(&format!("/invocations/{id}")).await;
        answer.status.is_success().then(|| answer.json())
    })
    .await;
    assert_eq!(record["function"], function.name.as_str());
    assert_eq!((&record["start"], &record["trigger"]), (&json!("cold"), &json!("http")));
    assert_eq!((&record["attempt"], &record["version"]), (&json!(1), &json!(1)));
    assert!(record["error"].is_null() && record["phases"]["exec_ms"].is_f64(), "{record}");
    let list = nova.get(&format!("/invocations?function={}", function.name)).await.ok();
    assert_eq!(list["items"][0]["request_id"], id);
    function.delete().await;
}

#[tokio::test]
async fn failures_are_recorded_with_their_code() {
    let nova = Nova::from_env();
    let function = nova.function("python", "import sys; sys.exit(4)", json!({})).await;
    function.failure(&json!({}), "function_exited").await;
    let path = format!("/invocations?function={}&failed=true", function.name);
    let items = eventually("the record is stored", async || {
        let items = nova.get(&path).await.ok()["items"].as_array().unwrap().clone();
        (!items.is_empty()).then_some(items)
    })
    .await;
    assert_eq!(items[0]["error"]["code"], "function_exited", "{items:?}");
    function.delete().await;
}

#[tokio::test]
async fn stderr_is_the_log_in_order() {
    let nova = Nova::from_env();
    let code = "import sys\nfor n in range(5):\n    print('line', n, file=sys.stderr)\nprint(1)\n";
    let function = nova.function("python", code, json!({})).await;
    let answer = function.call(&json!({})).await;
    let lines = log_lines(&nova, &function, &answer, 5).await;
    let texts: Vec<_> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["line 0", "line 1", "line 2", "line 3", "line 4"]);
    assert!(lines.iter().all(|line| line["stream"] == "stderr"), "{lines:?}");
    let found = nova.get(&function.path("/logs?q=line%203")).await.ok();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    function.delete().await;
}

#[tokio::test]
async fn metrics_count_calls_in_json_and_for_prometheus() {
    let nova = Nova::from_env();
    let function = nova.function("python", "print(1)", json!({})).await;
    function.call(&json!({})).await;
    function.call(&json!({})).await;
    let metrics = nova.get("/metrics").await.ok();
    let functions = metrics["functions"].as_array().unwrap();
    let of = functions.iter().find(|of| of["function"] == function.name.as_str()).unwrap();
    assert_eq!((&of["cold_starts"], &of["warm_starts"]), (&json!(1), &json!(1)), "{of}");
    let text = nova.get("/metrics/prometheus").await;
    let line = text
        .text
        .lines()
        .filter(|line| line.starts_with("nova_invocations_total") && line.contains(&function.name))
        .find(|line| line.contains("status=\"success\""))
        .unwrap_or_else(|| panic!("no such series in {}", text.text));
    assert!(line.contains("runtime=\"python\"") && line.ends_with(" 2"), "{line}");
    function.delete().await;
}
