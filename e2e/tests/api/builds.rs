//! Source of compiled languages: built in a guest when it is deployed, with what the compiler says.
//! For the compilers that are installed here, which are those of C and Rust.
use nova_e2e::{FunctionUnderTest, Nova, cli, eventually, setting};
use serde_json::{Value, json};

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

#[tokio::test]
async fn source_without_a_compiler_is_refused_with_the_command_that_adds_it() {
    let body = json!({"name": "no-compiler", "runtime": "crystal", "code": "puts 1\n"});
    let answer = Nova::from_env().post("/functions", &body).await;
    let problem = answer.problem(409, "builder_not_installed");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("`nova runtime add --builder crystal`"), "{detail}");
}
