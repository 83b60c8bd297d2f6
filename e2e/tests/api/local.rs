//! `nova invoke --local` says what `nova invoke` says, and leaves nothing. Needs root and an OCI runtime on
//! the machine of the test.
use nova_e2e::daemon::traces;
use nova_e2e::{CliOutput, cli, command, run};
use std::fs;
use std::path::Path;

const CODE: &str = "import json, sys
value = json.load(open(sys.argv[1]))
print('a log line', file=sys.stderr)
if value == 'fail':
    raise SystemExit('broken on purpose')
while value == 'loop':
    pass
print(json.dumps({'got': value}))
";

/// Runs `nova` with a directory for temporary files, in which and of which nothing may stay.
fn local(home: &Path, arguments: &[&str]) -> CliOutput {
    let temporary = home.join("temporary");
    fs::create_dir_all(&temporary).unwrap();
    let output = run(command(arguments).current_dir(home).env("TMPDIR", &temporary));
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().collect();
    assert!(left.is_empty(), "{left:?} of {output:?}");
    let left = traces("no daemon's id", &temporary);
    assert!(left.is_empty(), "{left:?} of {output:?}");
    output
}

/// Standard error without what differs from call to call.
fn comparable(output: &CliOutput, name: &str) -> (i32, String, Vec<String>) {
    let said = output.stderr.lines().filter(|line| !line.starts_with("request "));
    let said = said.map(|line| line.replace(name, "NAME")).collect();
    (output.status, output.stdout.clone(), said)
}

#[tokio::test]
async fn code_runs_once_with_the_output_that_the_daemon_would_give() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("code.py"), CODE).unwrap();
    let name = format!("e2e-local-{}", std::process::id());
    let path = home.path().join("code.py");
    let made = cli(&["register", &name, "-r", "python", "-t", "20", "-c", path.to_str().unwrap()]);
    assert_eq!(made.status, 0, "{made:?}");
    for payload in ["{\"a\": 1.0}", "\"fail\""] {
        let there = cli(&["invoke", &name, "--tail", "-p", payload]);
        let arguments = ["invoke", "--local", "code.py", "-r", "python", "-t", "20", "-p", payload];
        let here = local(home.path(), &arguments);
        assert_eq!(
            comparable(&here, "function local"),
            comparable(&there, &format!("function {name}"))
        );
        assert!(here.stderr.contains("a log line"), "{here:?}");
    }
    assert_eq!(cli(&["delete", &name]).status, 0);
    let slow = local(
        home.path(),
        &["invoke", "--local", "code.py", "-r", "python", "-t", "1", "-p", "\"loop\""],
    );
    assert_eq!(slow.status, 1, "{slow:?}");
    assert!(slow.stderr.contains("[function_timeout]"), "{slow:?}");
}

#[tokio::test]
async fn what_has_to_be_built_is_built_first() {
    let home = tempfile::tempdir().unwrap();
    let project = home.path().join("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("code.py"), CODE).unwrap();
    fs::write(project.join("requirements.txt"), "# none yet\n").unwrap();
    let arguments = ["invoke", "--local", "project", "-r", "python", "-H", "code.py", "-p", "1"];
    let called = local(home.path(), &arguments);
    assert_eq!((called.status, called.stdout.trim()), (0, "{\"got\": 1}"), "{called:?}");
}

#[tokio::test]
async fn a_project_needs_no_flags_and_a_mistake_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let made =
        run(command(&["init", "hello", "-r", "python", "--mode", "lambda"])
            .current_dir(home.path()));
    assert_eq!(made.status, 0, "{made:?}");
    let project = home.path().join("hello");
    let called = local(&project, &["invoke", "--local", "-p", "@event.json"]);
    assert_eq!(called.status, 0, "{called:?}");
    assert!(called.stdout.contains("Hello, Ada!"), "{called:?}");

    let nothing = local(home.path(), &["invoke", "--local"]);
    assert_eq!(nothing.status, 1, "{nothing:?}");
    assert!(nothing.stderr.contains("--runtime"), "{nothing:?}");
    let unknown = local(home.path(), &["invoke", "--local", "hello/main.py", "-r", "pyhton"]);
    assert_eq!(unknown.status, 1, "{unknown:?}");
    assert!(unknown.stderr.contains("did you mean `python`?"), "{unknown:?}");
    let without = local(home.path(), &["invoke", "hello", "-r", "python"]);
    assert_eq!(without.status, 2, "{without:?}");
    assert!(without.stderr.contains("--local"), "{without:?}");
}
