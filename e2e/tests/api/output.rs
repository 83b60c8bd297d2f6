//! What counts as the result, and how large things may be.
use nova_e2e::{Nova, eventually};
use serde_json::{Value, json};

/// The largest payload, as documented.
const PAYLOAD_MAX_BYTES: usize = 6 * 1024 * 1024;

/// Calls a function whose code this is; its result must be `{"answer": 42}` though it printed before.
async fn prints_before_its_result(runtime: &str, code: &str) {
    let nova = Nova::from_env();
    let function = nova.function(runtime, code, json!({})).await;
    let answer = function.call(&json!({})).await;
    assert_eq!(answer["output"], json!({"answer": 42}), "{answer}");
    let lines = crate::records::log_lines(&nova, &function, &answer, 2).await;
    assert_eq!(lines[0]["text"], "starting", "what was printed is a log line: {lines:?}");
    function.delete().await;
}

#[tokio::test]
async fn a_print_before_the_result_is_a_log_line_in_python() {
    let code =
        "import json\nprint('starting')\nprint('second')\nprint(json.dumps({'answer': 42}))\n";
    prints_before_its_result("python", code).await;
}

#[tokio::test]
async fn a_print_before_the_result_is_a_log_line_in_node() {
    let code = "console.log('starting');\nconsole.log('second');\nconsole.log(JSON.stringify({answer: 42}));\n";
    prints_before_its_result("node", code).await;
}

#[tokio::test]
async fn a_print_before_the_result_is_a_log_line_in_shell() {
    let code = "#!/bin/sh\necho starting\necho second\necho '{\"answer\": 42}'\n";
    prints_before_its_result("base", code).await;
}

#[tokio::test]
async fn stdout_that_is_one_json_value_over_many_lines_is_the_result() {
    let nova = Nova::from_env();
    let code = "import json\nprint(json.dumps({'a': [1, 2], 'b': None}, indent=2))\n";
    let function = nova.function("python", code, json!({})).await;
    assert_eq!(function.output(&json!({})).await, json!({"a": [1, 2], "b": null}));
    function.delete().await;
}

#[tokio::test]
async fn output_that_is_no_json_is_named_and_quoted() {
    let nova = Nova::from_env();
    for (code, quoted) in [
        ("print('hello, world')", "hello, world"),
        ("print('{\"a\": NaN}')", "NaN"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')", "\u{fffd}"),
        ("pass", ""),
    ] {
        let function = nova.function("python", code, json!({})).await;
        let error = function.failure(&json!({}), "invalid_output").await;
        assert!(error["message"].as_str().unwrap().contains(quoted), "{error}");
        function.delete().await;
    }
}

#[tokio::test]
async fn six_mebibytes_go_in_and_come_out() {
    let nova = Nova::from_env();
    let code = "import sys\nsys.stdout.write(open(sys.argv[1]).read())\n";
    let fields = json!({"memory_mb": 256, "timeout_s": 120});
    let function = nova.function("python", code, fields).await;
    // Two quotes around it make exactly the largest payload.
    let payload = json!("x".repeat(PAYLOAD_MAX_BYTES - 2));
    let output = function.output(&payload).await;
    assert_eq!(output.as_str().map(str::len), Some(PAYLOAD_MAX_BYTES - 2));
    assert!(output == payload, "every byte came back");
    function.delete().await;
}

#[tokio::test]
async fn one_byte_more_is_413_and_the_function_is_not_called() {
    let nova = Nova::from_env();
    let function = nova.function("python", "print(1)", json!({})).await;
    let answer = function.invoke(&json!("x".repeat(PAYLOAD_MAX_BYTES - 1))).await;
    answer.problem(413, "payload_too_large");
    assert_eq!(function.vm_states().await, [""; 0], "no VM was booted for it");
    function.delete().await;
}

#[tokio::test]
async fn a_result_over_the_limit_is_a_named_error() {
    let nova = Nova::from_env();
    let code = "import json\nprint(json.dumps('x' * (7 * 1024 * 1024)))\n";
    let function = nova.function("python", code, json!({"memory_mb": 256})).await;
    function.failure(&json!({}), "output_too_large").await;
    assert_eq!(function.vm_states().await, ["idle"], "the VM survives");
    function.delete().await;
}

#[tokio::test]
async fn a_log_flood_is_cut_off_with_a_marker_and_the_result_stands() {
    let nova = Nova::from_env();
    let code = "import sys
for n in range(40000):
    print('x' * 100, file=sys.stderr)
print('{\"done\": true}')
";
    let function = nova.function("python", code, json!({})).await;
    let answer = function.call(&json!({})).await;
    assert_eq!(answer["output"], json!({"done": true}));
    let id = answer["request_id"].as_str().unwrap();
    let path = function.path(&format!("/logs?request_id={id}&tail=10000"));
    let lines = eventually("the log ends with the marker", async || {
        let lines = nova.get(&path).await.ok()["items"].as_array().unwrap().clone();
        let last = lines.last()?;
        let marker = last["stream"] == "system" && last["text"].as_str()?.contains("truncated");
        marker.then_some(lines)
    })
    .await;
    let bytes: usize = lines.iter().map(|line| line["text"].as_str().unwrap().len()).sum();
    assert!(bytes <= 1024 * 1024 + 4096, "{bytes} bytes of logs were kept");
    function.delete().await;
}

#[tokio::test]
async fn a_payload_passes_through_as_it_is() {
    let nova = Nova::from_env();
    let code = "import json, sys\nprint(json.dumps({'raw': open(sys.argv[1]).read()}))\n";
    let function = nova.function("python", code, json!({})).await;
    let raw = "{\"n\": 12345678901234567890.000, \"k\":  [1 , 2]}";
    let request = nova
        .request(reqwest::Method::POST, &function.path("/invoke"))
        .header("content-type", "application/json")
        .body(raw);
    let answer: Value = nova.send(request).await.ok();
    assert_eq!(answer["output"]["raw"], raw, "no number was rounded and nothing re-encoded");
    function.delete().await;
}
