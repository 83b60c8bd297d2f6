//! Source of compiled languages: built in a guest when it is deployed, with what the compiler says.
//! And WebAssembly, compiled ahead of time. For the builders of C, Rust and WebAssembly, which the runner installs.
use base64::{Engine, engine::general_purpose::STANDARD};
use nova_e2e::{FunctionUnderTest, Nova, cli, eventually, setting};
use serde_json::{Value, json};
use std::io::Read;

/// A program in C that answers with its version, and logs nothing.
fn c_program(answer: &str) -> String {
    format!("#include <stdio.h>\nint main(void) {{ puts(\"{answer}\"); return 0; }}\n")
}

/// A text that a compiler stumbles over in its second line.
const BROKEN_C: &str = "#include <stdio.h>\nint main(void) { return undeclared; }\n";

/// Waits for the end of a build.
async fn built(function: &FunctionUnderTest) -> Value {
    eventually("the build is done", async || {
        let function = Nova::from_env().get(&function.path("")).await.ok();
        (function["build"]["status"] != "pending").then_some(function)
    })
    .await
}

async fn create(runtime: &str, code: &str) -> FunctionUnderTest {
    let fields = json!({"memory_mb": 64, "timeout_s": 60});
    Nova::from_env().function(runtime, code, fields).await
}

#[tokio::test]
async fn inline_source_is_built_and_an_update_that_is_not_leaves_what_serves() {
    let function = create("c", &c_program("1")).await;
    let ready = built(&function).await;
    assert_eq!((&ready["status"], &ready["version"]), (&json!("ready"), &json!(1)), "{ready}");
    assert_eq!(function.output(&json!(null)).await, json!(1));

    let patch = async |code: &str| {
        let request = Nova::from_env().request(reqwest::Method::PATCH, &function.path(""));
        let answer = request.json(&json!({"code": code})).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    };
    patch(BROKEN_C).await;
    let failed = built(&function).await;
    assert_eq!((&failed["status"], &failed["version"]), (&json!("ready"), &json!(1)));
    let error = failed["build"]["error"].as_str().unwrap();
    assert!(error.contains("main.c:2:") && error.contains("undeclared"), "{error}");
    assert_eq!(function.output(&json!(null)).await, json!(1), "the version before serves");

    patch(&c_program("2")).await;
    assert_eq!(built(&function).await["version"], 2);
    assert_eq!(function.output(&json!(null)).await, json!(2));
    function.delete().await;
}

#[tokio::test]
async fn the_command_line_follows_a_build_and_fails_with_it() {
    let name = format!("cli-build-{}", std::process::id());
    let directory = tempfile::tempdir().unwrap();
    let project = directory.path().join("project");
    std::fs::create_dir(&project).unwrap();
    let source = "#include <stdio.h>\n#include \"answer.h\"\n#warning seen\nint main(void) { puts(ANSWER); }\n";
    std::fs::write(project.join("program.c"), source).unwrap();
    std::fs::write(project.join("answer.h"), "#define ANSWER \"\\\"built\\\"\"\n").unwrap();
    let path = project.to_str().unwrap();
    let made = cli(&["register", &name, "-r", "c", "-c", path]);
    assert_eq!(made.status, 0, "{made:?}");
    assert!(made.stderr.contains("warning: #warning seen"), "the log is shown: {made:?}");
    assert!(made.stdout.contains("ready"), "{made:?}");
    let called = cli(&["invoke", &name]);
    assert_eq!((called.status, called.stdout.trim()), (0, "\"built\""), "{called:?}");

    let file = directory.path().join("broken.c");
    std::fs::write(&file, BROKEN_C).unwrap();
    let failed = cli(&["update", &name, "-c", file.to_str().unwrap()]);
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(failed.stderr.contains("undeclared"), "{failed:?}");
    assert!(failed.stderr.contains("was not built") && failed.stderr.contains("[build_failed]"));
    assert_eq!(cli(&["invoke", &name]).stdout.trim(), "\"built\"");
    assert_eq!(cli(&["delete", &name]).status, 0);
}

#[tokio::test]
async fn a_build_sees_nothing_of_the_host_and_has_its_limits() {
    // The daemon's key lies where the tests' own daemon has it, and is no secret to this test.
    let key = setting("NOVA_API_KEY");
    let admin_key = format!("{}/admin.key", setting("NOVA_E2E_DATA"));
    assert!(std::fs::read_to_string(&admin_key).unwrap().contains(&key), "the file is there");
    let rust = format!("fn main() {{ print!(\"{{:?}}\", include_str!(\"{admin_key}\")); }}\n");
    let c = format!("asm(\".incbin \\\"{admin_key}\\\"\");\nint main(void) {{ return 0; }}\n");
    for (runtime, code) in [("rust", rust), ("c", c)] {
        let function = create(runtime, &code).await;
        let failed = built(&function).await;
        assert_eq!(failed["status"], "failed", "{failed}");
        let text = failed.to_string();
        assert!(text.contains("admin.key"), "{text}");
        assert!(!text.contains(&key), "the key is not in what the build said");
        let answer = Nova::from_env().post(&function.path("/invoke"), &json!(null)).await;
        answer.problem(409, "build_failed");
        function.delete().await;
    }
}

/// Writes `7` to WASI's standard output: fd_write(1, iovecs at 0, one of them, written at 20).
const PRINT: &[u8] = &[0, 0x41, 1, 0x41, 0, 0x41, 1, 0x41, 20, 0x10, 0, 0x1a, 0x0b];

/// A command of WASI's preview 1 with this body, as the binary format has it.
fn wasm_module(body: &[u8]) -> Vec<u8> {
    let section = |id: u8, body: &[u8]| [&[id, body.len() as u8], body].concat();
    let name = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let import = [&[1][..], &name("wasi_snapshot_preview1"), &name("fd_write"), &[0, 0]].concat();
    let exports = [&[2][..], &name("memory"), &[2, 0], &name("_start"), &[0, 1]].concat();
    let code = [&[1, body.len() as u8], body].concat();
    let text = [8, 0, 0, 0, 2, 0, 0, 0, b'7', b'\n'];
    let data = [&[1, 0, 0x41, 0, 0x0b, text.len() as u8], &text[..]].concat();
    let types = [2, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f, 0x60, 0, 0];
    let sections = [
        section(1, &types),
        section(2, &import),
        section(3, &[1, 1]),
        section(5, &[1, 0, 1]),
        section(7, &exports),
        section(10, &code),
        section(11, &data),
    ];
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

/// A component of WASI 0.2 that does nothing but end well (0) or badly (1), as the binary format has it.
fn wasm_component(end: u8) -> Vec<u8> {
    let section = |id: u8, body: &[u8]| [&[id, body.len() as u8], body].concat();
    let name = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    // A module whose function `run` returns the constant.
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 1, 0x7f]),
        section(3, &[1, 0]),
        section(7, &[&[1][..], &name("run"), &[0, 0]].concat()),
        section(10, &[1, 4, 0, 0x41, end, 0x0b]),
    ];
    [
        b"\0asm\x0d\0\x01\0".to_vec(),
        section(1, &module.concat()),
        // An instance of it, the type `func() -> result`, and its `run` lifted to that.
        section(2, &[1, 0, 0, 0]),
        section(7, &[2, 0x6a, 0, 0, 0x40, 0, 0, 0]),
        section(6, &[&[1, 0, 0, 1, 0][..], &name("run")].concat()),
        section(8, &[1, 0, 0, 0, 0, 1]),
        // Exported as what a command of WASI exports.
        section(5, &[&[1, 1, 1, 0][..], &name("run"), &[1, 0]].concat()),
        section(11, &[&[1, 0][..], &name("wasi:cli/run@0.2.0"), &[5, 0, 0]].concat()),
    ]
    .concat()
}

/// Creates a function of a module, with a file beside it.
async fn create_wasm(module: &[u8], fields: Value) -> FunctionUnderTest {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [("handler", module), ("data.txt", b"data")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    }
    let archive = STANDARD.encode(tar.into_inner().unwrap());
    let mut body = json!({"runtime": "wasm", "code": {"archive": archive}, "timeout_s": 60});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Nova::from_env().create(body).await
}

/// The files of the code that a function runs.
async fn code_of(function: &FunctionUnderTest) -> Vec<(String, Vec<u8>)> {
    let request = Nova::from_env().request(reqwest::Method::GET, &function.path("/code"));
    let bytes = request.send().await.unwrap().bytes().await.unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), content)
    });
    files.collect()
}

#[tokio::test]
async fn a_wasm_module_is_compiled_ahead_of_time_and_keeps_what_lies_beside_it() {
    let function = create_wasm(&wasm_module(PRINT), json!({})).await;
    let ready = built(&function).await;
    assert_eq!(ready["status"], "ready", "{ready}");
    let files = code_of(&function).await;
    assert_eq!(files[0], ("data.txt".into(), b"data".to_vec()));
    assert!(files[1].1.starts_with(b"\x7fELF"), "machine code in the place of the module");
    assert_eq!(function.output(&json!(null)).await, json!(7));
    function.delete().await;
}

#[tokio::test]
async fn a_wasm_component_is_compiled_ahead_of_time_and_run() {
    for (end, kind, said) in [
        // It ran to its end, and printed no result.
        (0, "invalid_output", "printed nothing"),
        (1, "function_exited", "status 1"),
    ] {
        let function = create_wasm(&wasm_component(end), json!({})).await;
        assert_eq!(built(&function).await["status"], "ready");
        assert!(code_of(&function).await[1].1.starts_with(b"\x7fELF"));
        let error = function.failure(&json!(null), kind).await;
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        function.delete().await;
    }
}

#[tokio::test]
async fn what_cannot_be_compiled_ahead_of_time_is_run_as_it_is_and_fails_in_its_own_words() {
    let function = create_wasm(b"\0asm\x01\0\0\0broken", json!({})).await;
    let ready = built(&function).await;
    assert_eq!(ready["status"], "ready", "{ready}");
    assert!(ready["build"]["log"].to_string().contains("run as it is"), "{ready}");
    let error = function.failure(&json!(null), "function_exited").await;
    assert!(error["message"].as_str().unwrap().contains("failed to parse WebAssembly"), "{error}");
    function.delete().await;
}

#[tokio::test]
async fn a_wasm_program_has_its_limits() {
    // A loop without an end.
    let endless = wasm_module(&[0, 0x03, 0x40, 0x0c, 0, 0x0b, 0x0b]);
    let function = create_wasm(&endless, json!({"timeout_s": 1})).await;
    assert_eq!(built(&function).await["status"], "ready");
    function.invoke(&json!(null)).await.problem(504, "function_timeout");
    function.delete().await;
    // Grows its memory by 16384 pages, 1 GiB, and fills it from 1024 on with ones.
    let grow = [0x41, 0x80, 0x80, 0x01, 0x40, 0, 0x1a];
    let fill = [0x41, 0x80, 0x08, 0x41, 1, 0x41, 0x80, 0x80, 0x80, 0x80, 0x02, 0xfc, 0x0b, 0];
    let greedy = wasm_module(&[&[0], &grow[..], &fill, &[0x0b]].concat());
    let function = create_wasm(&greedy, json!({"memory_mb": 64})).await;
    assert_eq!(built(&function).await["status"], "ready");
    function.failure(&json!(null), "out_of_memory").await;
    function.delete().await;
}

#[tokio::test]
async fn source_without_a_compiler_is_refused_with_the_command_that_adds_it() {
    let body = json!({"name": "no-compiler", "runtime": "crystal", "code": "puts 1\n"});
    let answer = Nova::from_env().post("/functions", &body).await;
    let problem = answer.problem(409, "builder_not_installed");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("`nova runtime add --builder crystal`"), "{detail}");
}
