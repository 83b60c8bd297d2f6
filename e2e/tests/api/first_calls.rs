//! A function answers: cold, then warm, in each runtime and mode of this release.
use base64::{Engine, engine::general_purpose::STANDARD};
use nova_e2e::{Nova, setting, static_binary};
use serde_json::{Value, json};

const PYTHON_ECHO: &str =
    "import json, sys\nprint(json.dumps({'echo': json.load(open(sys.argv[1]))}))\n";
const NODE_ECHO: &str = "const input = JSON.parse(require('fs').readFileSync(process.argv[2]));\nconsole.log(JSON.stringify({echo: input}));\n";
const PYTHON_PERSISTENT: &str = "import json, sys
count = 0
for line in sys.stdin:
    request = json.loads(line)
    count += 1
    print(json.dumps({'request_id': request['request_id'], 'output': {'echo': request['input'], 'count': count}}), flush=True)
";

fn assert_answer(answer: &Value, start: &str) {
    assert_eq!(answer["start"], start, "{answer}");
    assert_eq!(answer["cold_start"], start == "cold");
    assert_eq!(answer["request_id"].as_str().map(str::len), Some(36));
    assert!(answer["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{answer}");
    assert!(answer["phases"]["exec_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{answer}");
    assert_eq!(answer["version"], 1);
}

#[tokio::test]
async fn the_daemon_has_the_backend_that_the_suite_is_for() {
    let nova = Nova::from_env();
    let health = nova.get("/health").await.ok();
    assert_eq!(health["backend"], setting("NOVA_E2E_BACKEND"), "{health}");
}

#[tokio::test]
async fn a_python_file_answers_cold_then_warm() {
    let nova = Nova::from_env();
    let function = nova.function("python", PYTHON_ECHO, json!({})).await;
    let cold = function.call(&json!({"a": [1, "é", null]})).await;
    assert_answer(&cold, "cold");
    assert_eq!(cold["output"], json!({"echo": {"a": [1, "é", null]}}));
    assert!(cold["phases"]["boot_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{cold}");
    let warm = function.call(&json!(7)).await;
    assert_answer(&warm, "warm");
    assert_eq!(warm["output"], json!({"echo": 7}));
    function.delete().await;
}

#[tokio::test]
async fn the_answer_carries_server_timing() {
    let nova = Nova::from_env();
    let function = nova.function("python", PYTHON_ECHO, json!({})).await;
    let answer = function.invoke(&json!({})).await;
    let timing = answer.headers["server-timing"].to_str().unwrap().to_owned();
    for phase in ["queue", "acquire", "boot", "init", "exec"] {
        assert!(timing.contains(&format!("{phase};dur=")), "{timing}");
    }
    function.delete().await;
}

#[tokio::test]
async fn a_node_file_answers() {
    let nova = Nova::from_env();
    let function = nova.function("node", NODE_ECHO, json!({})).await;
    assert_eq!(function.output(&json!({"b": 1.5})).await, json!({"echo": {"b": 1.5}}));
    function.delete().await;
}

#[tokio::test]
async fn a_static_binary_answers() {
    let nova = Nova::from_env();
    let archive = crate::bad_input::tar_gz(&[("handler", &static_binary(), 0o755)]);
    let code = json!({"archive": STANDARD.encode(archive)});
    let function = nova.create(json!({"runtime": "base", "code": code, "timeout_s": 60})).await;
    assert_eq!(function.output(&json!([1, 2])).await, json!({"echo": [1, 2]}));
    function.delete().await;
}

#[tokio::test]
async fn a_persistent_function_keeps_its_process() {
    let nova = Nova::from_env();
    let function = nova.function("python", PYTHON_PERSISTENT, json!({"mode": "persistent"})).await;
    let first = function.call(&json!("one")).await;
    assert_answer(&first, "cold");
    assert_eq!(first["output"], json!({"echo": "one", "count": 1}));
    let second = function.call(&json!("two")).await;
    assert_answer(&second, "warm");
    assert_eq!(second["output"], json!({"echo": "two", "count": 2}));
    function.delete().await;
}

#[tokio::test]
async fn calls_at_once_share_a_persistent_instance_and_never_mix() {
    let nova = Nova::from_env();
    let fields = json!({"mode": "persistent", "instance_concurrency": 10, "max_replicas": 1});
    let function = nova.function("python", PYTHON_PERSISTENT, fields).await;
    let calls = (0..30).map(|n| {
        let function = &function;
        async move { (n, function.output(&json!(n)).await) }
    });
    for (n, output) in futures::future::join_all(calls).await {
        assert_eq!(output["echo"], n, "each caller gets the answer to its own call");
    }
    function.delete().await;
}

#[tokio::test]
async fn the_guest_contract_holds() {
    let nova = Nova::from_env();
    let code = "import json, os, sys
print(json.dumps({
    'uid': os.getuid(), 'cwd': os.getcwd(), 'input': os.path.exists(sys.argv[1]),
    'name': os.environ['NOVA_FUNCTION_NAME'], 'version': os.environ['NOVA_FUNCTION_VERSION'],
    'request': os.environ['NOVA_REQUEST_ID'], 'memory': os.environ['NOVA_MEMORY_MB'],
    'deadline': int(os.environ['NOVA_DEADLINE_MS']), 'own': os.environ['GREETING'],
    'trace': os.environ.get('TRACEPARENT'),
    'same': os.path.samefile('/code', '/var/task') or os.listdir('/code') == os.listdir('/var/task'),
    'names': sorted(os.environ),
}))
";
    let fields = json!({"env_vars": {"GREETING": "hi there"}, "memory_mb": 160});
    let function = nova.function("python", code, fields).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = nova.request(reqwest::Method::POST, &function.path("/invoke"));
    let answer = nova.send(request.header("traceparent", trace).json(&json!({}))).await.ok();
    let seen = &answer["output"];
    let seen_trace = seen["trace"].as_str().unwrap_or_default();
    assert!(seen_trace.contains(&trace[3..35]), "the caller's trace id: {seen}");
    assert_eq!(seen["uid"], 1000);
    assert!(matches!(seen["cwd"].as_str(), Some("/code" | "/var/task")), "{seen}");
    assert_eq!((&seen["input"], &seen["same"]), (&json!(true), &json!(true)));
    assert_eq!(seen["name"], function.name.as_str());
    assert_eq!((&seen["version"], &seen["memory"]), (&json!("1"), &json!("160")));
    assert_eq!(seen["request"], answer["request_id"]);
    assert_eq!(seen["own"], "hi there");
    assert!(seen["deadline"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{seen}");
    let names = seen["names"].as_array().unwrap();
    for host_name in ["NOVA_API_KEY", "NOVA_URL", "CARGO_HOME", "SUDO_USER", "SSH_CONNECTION"] {
        assert!(!names.contains(&json!(host_name)), "{host_name} of the host is in the guest");
    }
    function.delete().await;
}
