//! What a function may do wrong has the same defined answer in every language; docs/errors.md lists them.
use base64::{Engine, engine::general_purpose::STANDARD};
use nova_e2e::{FunctionUnderTest, Nova, eventually, setting};
use serde_json::{Value, json};

/// One program per language that does what its input names.
const PYTHON: (&str, &str) = ("python", include_str!("misbehaving/python.py"));
const NODE: (&str, &str) = ("node", include_str!("misbehaving/node.js"));
const RUBY: (&str, &str) = ("ruby", include_str!("misbehaving/ruby.rb"));
const PHP: (&str, &str) = ("php", include_str!("misbehaving/php.php"));

/// What the program answers when it does nothing wrong: it is alone, and sees and changes nothing.
fn unharmed() -> Value {
    json!({"processes": 1, "reads_shadow": false, "writes_code": false})
}

async fn create(language: (&str, &str)) -> FunctionUnderTest {
    create_with(language, 120).await
}

async fn create_with((runtime, code): (&str, &str), timeout_s: u32) -> FunctionUnderTest {
    let fields = json!({"memory_mb": 128, "timeout_s": timeout_s});
    Nova::from_env().function(runtime, code, fields).await
}

/// The call fails with this kind; its message, which holds `part`, is for the function's author.
async fn fails(function: &FunctionUnderTest, case: &str, kind: &str, part: &str) {
    let error = function.failure(&json!(case), kind).await;
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(part), "{case}: {part:?} is not in: {message}");
    let next = function.call(&json!("nothing")).await;
    assert_eq!(next["output"], unharmed(), "the call after {case}");
    assert_eq!(next["start"], "warm", "{case} did not take the guest with it");
}

async fn misbehaves(language: (&str, &str)) {
    let function = create(language).await;
    assert_eq!(function.output(&json!("nothing")).await, unharmed());

    fails(&function, "throw", "function_exited", "no such order").await;
    fails(&function, "throw", "function_exited", "/code/handler").await;
    fails(&function, "exit", "function_exited", "status 1").await;
    fails(&function, "allocate", "out_of_memory", "128 MiB").await;
    fails(&function, "utf8", "invalid_output", "begins with: \"\u{fffd}\u{fffd}\"").await;
    fails(&function, "nan", "invalid_output", "begins with: N").await;

    let answer = function.call(&json!("print")).await;
    assert_eq!(answer["output"], unharmed(), "what was printed before the result is no part of it");
    assert!(log_of(&function, &answer).await.contains(&"a forgotten print".to_owned()));

    assert_eq!(function.output(&json!("fork")).await["processes"], 6);
    assert_eq!(function.output(&json!("nothing")).await, unharmed(), "its children are gone");
    function.delete().await;
}

/// The stored lines of a call's log.
async fn log_of(function: &FunctionUnderTest, answer: &Value) -> Vec<String> {
    let id = answer["request_id"].as_str().unwrap();
    let path = function.path(&format!("/logs?request_id={id}&tail=10000"));
    eventually("the log is stored", async || {
        let items = Nova::from_env().get(&path).await.ok()["items"].take();
        let lines = items.as_array().unwrap().iter();
        let lines: Vec<String> = lines.map(|line| line["text"].as_str().unwrap().into()).collect();
        (!lines.is_empty()).then_some(lines)
    })
    .await
}

/// A log of 2 MiB is kept up to its limit, and does not stop the function.
async fn logs_too_much(language: (&str, &str)) {
    let function = create(language).await;
    let answer = function.call(&json!("log")).await;
    assert_eq!(answer["output"], unharmed());
    let lines = eventually("the log ends with the marker", async || {
        let lines = log_of(&function, &answer).await;
        lines.last().is_some_and(|line| line.contains("truncated")).then_some(lines)
    })
    .await;
    let bytes: usize = lines.iter().map(String::len).sum();
    assert!((900 << 10..=(1 << 20) + 4096).contains(&bytes), "{bytes} bytes were kept");
    function.delete().await;
}

/// A loop without end is killed at the timeout, and the guest serves on.
async fn loops(language: (&str, &str)) {
    // Enough for the calls that do nothing; microVMs may be emulated.
    let timeout_s = if setting("NOVA_E2E_BACKEND") == "firecracker" { 30 } else { 3 };
    let function = create_with(language, timeout_s).await;
    function.call(&json!("nothing")).await;
    let problem = function.invoke(&json!("loop")).await.problem(504, "function_timeout");
    let limit = format!("{timeout_s}000 ms");
    assert!(problem["detail"].as_str().unwrap().contains(&limit), "{problem}");
    let next = function.call(&json!("nothing")).await;
    assert_eq!((&next["output"], &next["start"]), (&unharmed(), &json!("warm")));
    function.delete().await;
}

/// A file that cannot be parsed is named, in the language's own words.
async fn syntax_error(runtime: &str, code: &str, said: &str) {
    let function = Nova::from_env().function(runtime, code, json!({"timeout_s": 120})).await;
    let error = function.failure(&json!({}), "function_exited").await;
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(said) && message.contains("/code/handler"), "{message}");
    function.delete().await;
}

/// The tests of one language, in a module of its own: on emulated hardware only Python's are run.
macro_rules! language {
    ($name:ident, $program:expr, $broken:expr, $said:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn may_do_it_all_wrong() {
                misbehaves($program).await;
            }

            #[tokio::test]
            async fn a_log_of_two_mebibytes_is_cut() {
                logs_too_much($program).await;
            }

            #[tokio::test]
            async fn a_loop_without_end_is_killed() {
                loops($program).await;
            }

            #[tokio::test]
            async fn a_syntax_error_is_quoted_with_its_file() {
                syntax_error($program.0, $broken, $said).await;
            }
        }
    };
}

language!(python, PYTHON, "def broken(:\n", "SyntaxError");
language!(node, NODE, "function broken( {\n", "SyntaxError");
language!(ruby, RUBY, "def broken(\n", "syntax error");
language!(php, PHP, "<?php function broken( {\n", "syntax error");

#[tokio::test]
async fn a_syntax_error_of_a_shell_script_is_quoted_with_its_file() {
    syntax_error("base", "#!/bin/sh\nif true; then\n", "syntax error").await;
}

#[tokio::test]
async fn a_file_that_is_not_for_its_runtime_is_named() {
    let nova = Nova::from_env();
    // Source text where a program is wanted, and nobody here who compiles it.
    let source = "package main\n\nfunc main() {}\n";
    let body = json!({"name": "source", "runtime": "crystal", "code": "puts 1\n"});
    let problem = nova.post("/functions", &body).await.problem(409, "builder_not_installed");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("`nova runtime add --builder crystal`"), "{detail}");
    let function = nova.function("base", source, json!({})).await;
    let error = function.failure(&json!({}), "function_not_started").await;
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("/code/handler"), "{message}");
    function.delete().await;

    // A program that is not there under the name that the function was given.
    let archive = crate::bad_input::tar_gz(&[("other.py", b"print(1)", 0o644)]);
    let code = json!({"archive": STANDARD.encode(archive)});
    let body =
        json!({"name": "no-handler", "runtime": "python", "code": code, "handler": "main.py"});
    let problem = nova.post("/functions", &body).await.problem(400, "invalid_field");
    assert_eq!(problem["errors"][0]["field"], "handler");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("main.py") && detail.contains("other.py"), "{detail}");
}
