//! Functions in `lambda` mode: handlers in Python and JavaScript.
use crate::bad_input::tar_gz;
use base64::{Engine, engine::general_purpose::STANDARD};
use nova_e2e::{FunctionUnderTest, Nova, cli, eventually};
use serde_json::{Value, json};

/// Does what the event says, and tells of its call.
pub const PYTHON: &str = r#"
import logging, os, sys, time
logging.getLogger().setLevel("INFO")
print("module loaded")
calls = 0

def handler(event, context):
    global calls
    calls += 1
    do = event.get("do")
    if do == "log":
        print("printed"); logging.getLogger().info("logged"); print("error", file=sys.stderr)
    if do == "raise": raise KeyError("no such order")
    if do == "exit": sys.exit(3)
    if do == "sleep": time.sleep(1000)
    if do == "hoard": return len(b"x" * (512 << 20))
    if do == "nan": return float("nan")
    if do == "object": return object()
    if do == "big": return "a" * (7 << 20)
    if do == "async": return later()
    return {
        "event": event, "calls": calls, "request_id": context.aws_request_id,
        "left_ms": context.get_remaining_time_in_millis(), "memory": context.memory_limit_in_mb,
        "name": context.function_name, "version": context.function_version,
        "arn": context.invoked_function_arn, "handler": os.environ["_HANDLER"],
        "root": os.environ["LAMBDA_TASK_ROOT"], "file": __file__,
    }

async def later():
    return "later"
"#;

/// The same in JavaScript.
pub const NODE: &str = r#"
console.log("module loaded");
let calls = 0;
exports.handler = async (event, context) => {
  calls += 1;
  switch (event.do) {
    case "log": console.log("printed", { a: 1 }); console.error("error"); break;
    case "raise": throw new RangeError("no such order");
    case "exit": process.exit(3);
    case "circular": { const a = {}; a.a = a; return a; }
    case "nothing": return;
    case "stray": Promise.reject(new Error("stray")); return new Promise(() => setTimeout(() => {}, 1000));
  }
  return {
    event, calls, request_id: context.awsRequestId, left_ms: context.getRemainingTimeInMillis(),
    memory: context.memoryLimitInMB, name: context.functionName, version: context.functionVersion,
    arn: context.invokedFunctionArn, handler: process.env._HANDLER,
    root: process.env.LAMBDA_TASK_ROOT, file: __filename,
  };
};
"#;

async fn lambda(nova: &Nova, runtime: &str, code: &str) -> FunctionUnderTest {
    nova.function(runtime, code, json!({"mode": "lambda"})).await
}

async fn of_files(
    nova: &Nova,
    runtime: &str,
    files: &[(&str, &str)],
    fields: Value,
) -> FunctionUnderTest {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes(), 0o755)).collect();
    of_archive(nova, runtime, &tar_gz(&files), fields).await
}

/// A function from a whole archive.
pub async fn of_archive(
    nova: &Nova,
    runtime: &str,
    archive: &[u8],
    fields: Value,
) -> FunctionUnderTest {
    let mut body = json!({
        "runtime": runtime, "mode": "lambda", "timeout_s": 60,
        "code": {"archive": STANDARD.encode(archive)},
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    nova.create(body).await
}

/// A handler's context says what Nova knows of the call, and the second call finds the same process.
pub async fn assert_answers(function: &FunctionUnderTest, file: &str) {
    let cold = function.call(&json!({"a": "é"})).await;
    let output = &cold["output"];
    assert_eq!(output["event"], json!({"a": "é"}));
    assert_eq!(output["request_id"], cold["request_id"]);
    let left_ms = output["left_ms"].as_f64();
    assert!(left_ms.is_some_and(|ms| ms > 0.0 && ms <= 60_000.0), "{output}");
    let expected = json!(["128", function.name, "1", "main.handler", "/var/task", file]);
    let fields =
        ["memory", "name", "version", "handler", "root", "file"].map(|key| output[key].clone());
    assert_eq!(json!(fields), expected);
    assert!(output["arn"].as_str().is_some_and(|arn| arn.ends_with(&function.name)), "{output}");
    assert!(cold["phases"]["init_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{cold}");
    let warm = function.call(&json!({})).await;
    assert_eq!((&warm["start"], &warm["output"]["calls"]), (&json!("warm"), &json!(2)));
}

/// The lines that a call logged.
async fn logs(function: &FunctionUnderTest, nova: &Nova, payload: &Value) -> Vec<String> {
    let answer = nova.post(&function.path("/invoke?logs=true"), payload).await.ok();
    let lines = answer["logs"].as_array().expect("log lines");
    lines.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

/// Type and message of what a handler threw.
pub fn detail(error: &Value) -> (&str, &str) {
    let text = |name: &str| error["detail"][name].as_str().unwrap_or_else(|| panic!("{error}"));
    assert!(error["detail"]["stackTrace"].is_array(), "{error}");
    (text("errorType"), text("errorMessage"))
}

#[tokio::test]
async fn a_python_handler_is_called() {
    let nova = Nova::from_env();
    let function = lambda(&nova, "python", PYTHON).await;
    assert_answers(&function, "/var/task/main.py").await;
    assert_eq!(function.output(&json!({"do": "async"})).await, "later");
    let lines = logs(&function, &nova, &json!({"do": "log"})).await;
    assert_eq!(lines.iter().filter(|line| *line == "printed" || *line == "error").count(), 2);
    assert!(
        lines.iter().any(|l| l.starts_with("[INFO]\t") && l.ends_with("\tlogged")),
        "{lines:?}"
    );
    function.delete().await;
}

#[tokio::test]
async fn a_node_handler_is_called() {
    let nova = Nova::from_env();
    let function = lambda(&nova, "node", NODE).await;
    assert_answers(&function, "/var/task/main.js").await;
    assert_eq!(function.output(&json!({"do": "nothing"})).await, Value::Null);
    let lines = logs(&function, &nova, &json!({"do": "log"})).await;
    let ends = |end: &str| lines.iter().any(|line| line.ends_with(end));
    assert!(ends("\tINFO\tprinted { a: 1 }") && ends("\tERROR\terror"), "{lines:?}");
    function.delete().await;
}

#[tokio::test]
async fn a_node_handler_may_be_a_module_or_take_a_callback() {
    let nova = Nova::from_env();
    let module = "import { helper } from './lib/helper.mjs';
        export const orders = { create: async (event) => helper(event) };";
    let helper = "export const helper = (event) => ({ seen: event });";
    let files = [("main.mjs", module), ("lib/helper.mjs", helper)];
    let fields = json!({"handler": "main.orders.create"});
    let function = of_files(&nova, "node", &files, fields).await;
    assert_eq!(function.output(&json!(1)).await, json!({"seen": 1}));
    function.delete().await;

    let callback = "exports.handler = (event, context, callback) => {
        setTimeout(() => event ? callback(null, { seen: event }) : callback('refused'), 1); };";
    let function =
        of_files(&nova, "node", &[("src/a.cjs", callback)], json!({"handler": "src/a.handler"}))
            .await;
    assert_eq!(function.output(&json!(2)).await, json!({"seen": 2}));
    let error = function.failure(&json!(0), "function_failed").await;
    assert_eq!(detail(&error).1, "refused");
    function.delete().await;
}

#[tokio::test]
async fn a_node_handler_may_stream() {
    let nova = Nova::from_env();
    let code = r#"
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  if (event.http) stream = awslambda.HttpResponseStream.from(stream, { statusCode: 418 });
  stream.write("[1,");
  await new Promise((resolve) => setTimeout(resolve, 5));
  if (event.fail) throw new Error("half way");
  stream.write("2]");
  stream.end();
});"#;
    let function = lambda(&nova, "node", code).await;
    assert_eq!(function.output(&json!({})).await, json!([1, 2]));
    let response = function.output(&json!({"http": true})).await;
    assert_eq!((&response["statusCode"], &response["body"]), (&json!(418), &json!("[1,2]")));
    let error = function.failure(&json!({"fail": true}), "function_failed").await;
    assert_eq!(detail(&error), ("Error", "half way"));
    function.delete().await;
}

#[tokio::test]
async fn what_a_handler_throws_reaches_the_caller() {
    let nova = Nova::from_env();
    for (runtime, code, error_type, message, file) in [
        ("python", PYTHON, "KeyError", "'no such order'", "/var/task/main.py"),
        ("node", NODE, "RangeError", "no such order", "/var/task/main.js"),
    ] {
        let function = lambda(&nova, runtime, code).await;
        let error = function.failure(&json!({"do": "raise"}), "function_failed").await;
        assert_eq!(detail(&error), (error_type, message));
        assert_eq!(error["message"], format!("{error_type}: {message}"));
        let stack = error["detail"]["stackTrace"].to_string();
        assert!(stack.contains(file) && !stack.contains("/var/runtime"), "{stack}");
        assert_eq!(function.output(&json!({})).await["calls"], 2, "the process lives");
        let error = function.failure(&json!({"do": "exit"}), "function_exited").await;
        assert!(error["message"].as_str().unwrap().contains("status 3"), "{error}");
        assert_eq!(function.output(&json!({})).await["calls"], 1, "the next one is new");
        function.delete().await;
    }
}

#[tokio::test]
async fn a_result_that_is_no_json_is_named() {
    let nova = Nova::from_env();
    let function = lambda(&nova, "python", PYTHON).await;
    for what in ["nan", "object"] {
        let error = function.failure(&json!({"do": what}), "function_failed").await;
        assert_eq!(detail(&error).0, "Runtime.MarshalError");
    }
    function.failure(&json!({"do": "big"}), "output_too_large").await;
    function.output(&json!({})).await;
    function.delete().await;
    let function = lambda(&nova, "node", NODE).await;
    let error = function.failure(&json!({"do": "circular"}), "function_failed").await;
    assert_eq!(detail(&error).0, "Runtime.MarshalError");
    let error = function.failure(&json!({"do": "stray"}), "function_failed").await;
    assert_eq!(detail(&error), ("Runtime.UnhandledPromiseRejection", "Error: stray"));
    function.output(&json!({})).await;
    function.delete().await;
}

#[tokio::test]
async fn a_lambda_that_runs_too_long_is_restarted() {
    let nova = Nova::from_env();
    let fields = json!({"mode": "lambda", "timeout_s": 10});
    let function = nova.function("python", PYTHON, fields).await;
    let problem = function.invoke(&json!({"do": "sleep"})).await.problem(504, "function_timeout");
    assert!(problem["detail"].as_str().unwrap().contains("10000 ms"), "{problem}");
    let answer = function.call(&json!({})).await;
    assert_eq!((&answer["start"], &answer["output"]["calls"]), (&json!("warm"), &json!(1)));
    function.delete().await;
}

#[tokio::test]
async fn a_lambda_that_needs_too_much_memory_is_named() {
    let nova = Nova::from_env();
    let function = lambda(&nova, "python", PYTHON).await;
    let error = function.failure(&json!({"do": "hoard"}), "out_of_memory").await;
    assert!(error["message"].as_str().unwrap().contains("128 MiB"), "{error}");
    function.output(&json!({})).await;
    function.delete().await;
}

#[tokio::test]
async fn code_that_cannot_be_loaded_is_named_with_its_file() {
    let nova = Nova::from_env();
    for (runtime, code, error_type, words) in [
        ("python", "def handler(:\n", "Runtime.UserCodeSyntaxError", "main.py, line 1"),
        (
            "python",
            "import nothing_of_that_name\n",
            "Runtime.ImportModuleError",
            "nothing_of_that_name",
        ),
        (
            "python",
            "def other(event, context): pass\n",
            "Runtime.HandlerNotFound",
            "/var/task/main.py",
        ),
        ("python", "print('as it loads')\n1 / 0\n", "ZeroDivisionError", "division by zero"),
        (
            "node",
            "exports.handler = async (=> 1;\n",
            "Runtime.UserCodeSyntaxError",
            "/var/task/main.js",
        ),
        (
            "node",
            "require('nothing-of-that-name');\n",
            "Runtime.ImportModuleError",
            "nothing-of-that-name",
        ),
        ("node", "exports.other = () => 1;\n", "Runtime.HandlerNotFound", "/var/task/main.js"),
        ("node", "null.x;\n", "TypeError", "null"),
    ] {
        let function = lambda(&nova, runtime, code).await;
        let error = function.failure(&json!({}), "function_not_started").await;
        let (named, message) = detail(&error);
        assert_eq!(named, error_type, "{runtime}: {error}");
        assert!(message.contains(words), "{words} is not in: {error}");
        function.delete().await;
    }
    let function =
        nova.function("python", PYTHON, json!({"mode": "lambda", "handler": "main.handler"})).await;
    function.update(&json!({"handler": "elsewhere.handler"})).await;
    let error = function.failure(&json!({}), "function_not_started").await;
    assert!(detail(&error).1.contains("No module named 'elsewhere'"), "{error}");
    function.delete().await;
}

#[tokio::test]
async fn a_base_function_without_a_bootstrap_says_so() {
    let nova = Nova::from_env();
    let function = of_files(&nova, "base", &[("other", "#!/bin/sh\n")], json!({})).await;
    let error = function.failure(&json!({}), "function_not_started").await;
    assert!(error["message"].as_str().unwrap().contains("/code/bootstrap"), "{error}");
    function.delete().await;
}

#[tokio::test]
async fn a_shell_script_may_speak_the_runtime_api() {
    let nova = Nova::from_env();
    let example = include_str!("../../../runtimes/base/examples/lambda/handler");
    let function = lambda(&nova, "base", example).await;
    for calls in 1..=2 {
        let output = function.output(&json!({"name": "Ada"})).await;
        assert_eq!(output, json!({"message": "Hello, Ada!", "calls": calls}));
    }
    function.delete().await;
}

#[tokio::test]
async fn a_guest_may_have_several_events_at_once() {
    let nova = Nova::from_env();
    // No handler returns before five are at work at the same time.
    let python = "import threading\nall_here = threading.Barrier(5)\ndef handler(event, context):\n    all_here.wait()\n    return event\n";
    let node = "let here = [];\nexports.handler = (event) => new Promise((go) => {\n  here.push(() => go(event));\n  if (here.length === 5) here.splice(0).forEach((leave) => leave());\n});\n";
    let fields = json!({"mode": "lambda", "instance_concurrency": 5, "max_replicas": 1});
    for (runtime, code) in [("python", python), ("node", node)] {
        let function = nova.function(runtime, code, fields.clone()).await;
        let calls = (0..10).map(|n| {
            let function = &function;
            async move { (n, function.output(&json!({"n": n})).await) }
        });
        for (n, output) in futures::future::join_all(calls).await {
            assert_eq!(output["n"], n, "each caller gets the answer to its own call");
        }
        function.delete().await;
    }
}

#[tokio::test]
async fn the_handlers_name_is_checked_and_has_a_default() {
    let nova = Nova::from_env();
    let body = json!({"name": "e2e-odd", "runtime": "python", "code": "x", "mode": "lambda", "handler": "main"});
    let problem = nova.post("/functions", &body).await.problem(400, "invalid_field");
    assert_eq!(problem["errors"][0]["field"], "handler");
    assert!(problem["errors"][0]["hint"].as_str().unwrap().contains("main.handler"), "{problem}");
    let function = lambda(&nova, "python", PYTHON).await;
    assert_eq!(nova.get(&function.path("")).await.ok()["handler"], "main.handler");
    function.update(&json!({"mode": "process", "code": "print(1)"})).await;
    assert_eq!(nova.get(&function.path("")).await.ok()["handler"], "handler");
    assert_eq!(function.output(&json!({})).await, 1);
    function.delete().await;
}

#[tokio::test]
async fn the_command_line_stores_a_file_under_the_handlers_name() {
    let nova = Nova::from_env();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("orders.mjs");
    std::fs::write(&file, "export const create = async (event) => ({ created: event });\n")
        .unwrap();
    let name = format!("e2e-cli-lambda-{}", std::process::id());
    let path = file.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = cli(arguments);
        assert_eq!(output.status, 0, "{output:?}");
        serde_json::from_str::<Value>(&output.stdout).unwrap_or_default()
    };
    let register = ["register", &name, "-r", "node", "--mode", "lambda", "-c", path];
    run(&[&register[..], &["-H", "orders.create"]].concat());
    assert_eq!(run(&["invoke", &name, "-p", "7"]), json!({"created": 7}));
    std::fs::write(&file, "export const create = async () => 'changed';\n").unwrap();
    run(&["update", &name, "-c", path]);
    assert_eq!(run(&["invoke", &name]), "changed");
    nova.delete(&format!("/functions/{name}")).await;
}

#[tokio::test]
async fn records_of_lambda_calls_carry_the_error() {
    let nova = Nova::from_env();
    let function = lambda(&nova, "python", PYTHON).await;
    let answer = function.invoke(&json!({"do": "raise"})).await.ok();
    let id = answer["request_id"].as_str().unwrap();
    let path = format!("/invocations/{id}");
    let record = eventually("the record", async || {
        let answer = nova.get(&path).await;
        answer.status.is_success().then(|| answer.ok())
    });
    let record = record.await;
    assert_eq!(record["error"]["code"], "function_failed", "{record}");
    function.delete().await;
}
