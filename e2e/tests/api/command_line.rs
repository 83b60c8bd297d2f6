//! The command line: a user's first quarter of an hour, mistakes included.
use nova_e2e::{cli, cli_with_input, eventually};
use serde_json::Value;

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

#[tokio::test]
async fn register_invoke_update_logs_delete() {
    let name = format!("cli-{}", std::process::id());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hello.py");
    let write = |word: &str| {
        let code = format!(
            "import json, sys\nprint('log of {word}', file=sys.stderr)\nprint(json.dumps(['{word}', json.load(open(sys.argv[1]))]))\n"
        );
        std::fs::write(&file, code).unwrap();
    };
    let path = file.to_str().unwrap();
    write("one");
    let made = cli(&["register", &name, "-r", "python", "-c", path, "-m", "160", "-t", "60"]);
    assert_eq!(made.status, 0, "{made:?}");

    let silent = cli(&["logs", &name]);
    assert_eq!((silent.status, silent.stdout.as_str()), (0, ""), "{silent:?}");
    assert!(silent.stderr.contains(&format!("no log lines of {name} yet")), "{silent:?}");

    let called = cli(&["invoke", &name, "-p", "{\"a\": 1}"]);
    assert_eq!((called.status, json_of(&called.stdout)), (0, serde_json::json!(["one", {"a": 1}])));
    let piped = cli_with_input(&["invoke", &name, "-p", "-"], "[true]");
    assert_eq!(json_of(&piped.stdout), serde_json::json!(["one", [true]]));

    let shown = json_of(&cli(&["get", &name, "-o", "json"]).stdout);
    assert_eq!(
        (&shown["memory_mb"], &shown["runtime"]),
        (&Value::from(160), &Value::from("python"))
    );
    let listed = cli(&["list"]);
    assert!(listed.stdout.contains(&name), "{listed:?}");

    write("two");
    let updated = cli(&["update", &name, "-c", path, "-e", "A=b"]);
    assert_eq!(updated.status, 0, "{updated:?}");
    assert_eq!(json_of(&cli(&["invoke", &name, "-p", "0"]).stdout)[0], "two");

    let logs = eventually("the log is stored", async || {
        let logs = cli(&["logs", &name]);
        logs.stdout.contains("log of two").then_some(logs)
    })
    .await;
    assert!(logs.stdout.contains("log of one"), "{logs:?}");

    assert_eq!(cli(&["delete", &name]).status, 0);
    let gone = cli(&["get", &name]);
    assert_eq!(gone.status, 1);
    assert!(gone.stderr.contains(&name) && gone.stderr.contains("nova list"), "{gone:?}");
}

#[tokio::test]
async fn a_failing_function_is_a_failing_command() {
    let name = format!("cli-fails-{}", std::process::id());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("handler");
    std::fs::write(&file, "raise SystemExit('broken on purpose')\n").unwrap();
    let made = cli(&["register", &name, "-r", "python", "-c", file.to_str().unwrap()]);
    assert_eq!(made.status, 0, "{made:?}");
    let called = cli(&["invoke", &name]);
    assert_eq!((called.status, called.stdout.as_str()), (1, ""), "{called:?}");
    assert!(called.stderr.contains("broken on purpose"), "{called:?}");
    cli(&["delete", &name]);
}

#[tokio::test]
async fn mistakes_say_what_to_do_next() {
    let refused = cli(&["register", "../x", "-r", "python", "-c", "/etc/hostname"]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("name") && refused.stderr.contains("letters"), "{refused:?}");
    let missing = cli(&["register", "x", "-r", "python", "-c", "/no/such/file"]);
    assert!(missing.stderr.contains("/no/such/file"), "{missing:?}");
    let payload = cli(&["invoke", "x", "-p", "{oops"]);
    assert!(payload.status != 0 && payload.stderr.contains("JSON"), "{payload:?}");
    let usage = cli(&["invoke"]);
    assert_eq!(usage.status, 2, "{usage:?}");
}

#[tokio::test]
async fn output_formats_agree() {
    for arguments in [&["list"][..], &["runtime", "list"]] {
        let as_json = cli(&[arguments, &["-o", "json"]].concat());
        assert!(json_of(&as_json.stdout).is_array(), "{as_json:?}");
        for format in ["table", "wide", "yaml"] {
            let other = cli(&[arguments, &["-o", format]].concat());
            assert_eq!(other.status, 0, "{other:?}");
        }
    }
    let runtimes = json_of(&cli(&["runtime", "list", "-o", "json"]).stdout);
    let ids: Vec<_> = runtimes.as_array().unwrap().iter().map(|item| &item["id"]).collect();
    for id in ["base", "node", "python"] {
        assert!(ids.contains(&&Value::from(id)), "{ids:?}");
    }
}
