//! `nova init` and `nova dev`, as an author uses them.
use nova_e2e::{cli, command, eventually, run};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

/// A name that no other run of the suite has.
fn unique(what: &str) -> String {
    format!("e2e-{what}-{}", std::process::id())
}

/// Runs `nova` in a directory.
fn nova_in(directory: &Path, arguments: &[&str]) -> nova_e2e::CliOutput {
    run(command(arguments).current_dir(directory))
}

#[tokio::test]
async fn a_new_project_is_deployed_and_called_by_the_commands_of_its_readme() {
    let home = tempfile::tempdir().unwrap();
    for (runtime, mode) in [("python", "process"), ("node", "lambda"), ("base", "lambda")] {
        let name = unique(&format!("init-{runtime}"));
        let arguments = ["init", &name, "-r", runtime, "--mode", mode];
        let made = nova_in(home.path(), &arguments);
        assert_eq!((made.status, made.stdout.as_str()), (0, ""), "{made:?}");
        let project = home.path().join(&name);
        let readme = fs::read_to_string(project.join("README.md")).unwrap();
        let commands = readme.lines().filter_map(|line| line.strip_prefix("nova "));
        let mut called = 0;
        for line in commands.filter(|line| !line.starts_with("dev") && !line.contains("--local")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let output = nova_in(&project, &words);
            assert_eq!(output.status, 0, "{line}: {output:?}");
            if words[0] == "invoke" {
                called += 1;
                let answer: Value = serde_json::from_str(&output.stdout).unwrap();
                assert_eq!(answer["message"], "Hello, Ada!", "{line}: {output:?}");
            }
        }
        assert_eq!(called, 1, "{readme}");
        assert_eq!(cli(&["delete", &name]).status, 0);

        let again = nova_in(home.path(), &arguments);
        assert_eq!(again.status, 1, "{again:?}");
        assert!(again.stderr.contains("is here already"), "{again:?}");
        assert_eq!(fs::read_to_string(project.join("README.md")).unwrap(), readme);
    }
    let unknown = nova_in(home.path(), &["init", "x", "-r", "cobol"]);
    assert_eq!(unknown.status, 1, "{unknown:?}");
    assert!(
        unknown.stderr.contains("no runtime cobol") && unknown.stderr.contains("python"),
        "{unknown:?}"
    );
}

/// A command that runs on, with what it has printed so far.
struct Running {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Waits until stdout and stderr end with what was expected, and forgets what they hold.
    async fn says(&mut self, stdout: &str, stderr: &str) {
        let what = format!("{stdout:?} on stdout, {stderr:?} on stderr");
        let (out, log) = (&self.stdout, &self.stderr);
        let child = &mut self.child;
        eventually(&what, async || {
            let ended = child.try_wait().unwrap();
            let (mut out, mut log) = (out.lock().unwrap(), log.lock().unwrap());
            assert!(ended.is_none(), "it ended with {ended:?}: {out} {log}");
            // The last line of each turn: only then all of it is there.
            let done = log.ends_with("Ctrl-C ends it\n");
            let said = done && out.contains(stdout) && log.contains(stderr);
            said.then(|| (out.clear(), log.clear()))
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a failing test gets here with a command that runs.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    text
}

#[tokio::test]
async fn dev_deploys_and_calls_on_every_save_and_goes_on_after_errors() {
    let home = tempfile::tempdir().unwrap();
    let name = unique("dev");
    let made = nova_in(home.path(), &["init", &name, "-r", "python"]);
    assert_eq!(made.status, 0, "{made:?}");
    let project = home.path().join(&name);
    let save = |code: &str| fs::write(project.join("handler.py"), code).unwrap();

    let mut dev = Running::start(&mut command(&["dev", project.to_str().unwrap()]));
    dev.says("{\"message\": \"Hello, Ada!\"}", "saying hello").await;
    save(
        "import json, sys\nprint('a log line', file=sys.stderr)\nprint(json.dumps(json.load(open(sys.argv[1]))))\n",
    );
    dev.says("{\"name\": \"Ada\"}", "a log line").await;
    fs::write(project.join("event.json"), "{\"name\": \"Grace\"}").unwrap();
    dev.says("{\"name\": \"Grace\"}", "a log line").await;
    save("print(1\n");
    dev.says("", "SyntaxError").await;
    save("print(2)\n");
    dev.says("2\n", "deployed").await;
    let settings = fs::read_to_string(project.join("nova.yaml")).unwrap();
    fs::write(project.join("nova.yaml"), settings.replace("handler:", "memory_mb: 1\nhandler:"))
        .unwrap();
    dev.says("", "memory_mb: 1 is out of range").await;
    fs::write(project.join("nova.yaml"), settings).unwrap();
    dev.says("2\n", "deployed").await;

    let rules = fs::read_to_string(project.join(".novaignore")).unwrap();
    fs::write(project.join(".novaignore"), "{a\n").unwrap();
    dev.says("", ".novaignore, line 1").await;
    fs::write(project.join(".novaignore"), rules).unwrap();
    dev.says("2\n", "deployed").await;

    let pid = dev.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(dev.child.wait().unwrap().success());
    eventually("it says that the function stays", async || {
        dev.stderr.lock().unwrap().contains(&format!("nova delete {name}")).then_some(())
    })
    .await;
    let kept = cli(&["invoke", &name]);
    assert_eq!((kept.status, kept.stdout.as_str()), (0, "2\n"), "{kept:?}");
    assert_eq!(cli(&["delete", &name]).status, 0);
}

#[tokio::test]
async fn dev_compiles_before_it_deploys() {
    let home = tempfile::tempdir().unwrap();
    let name = unique("dev-build");
    let write = |file: &str, text: &str| fs::write(home.path().join(file), text).unwrap();
    let settings = json!({
        "name": name, "runtime": "base", "handler": "handler",
        "build": "cp main.sh handler && chmod +x handler",
    });
    write("nova.yaml", &settings.to_string());
    write("main.sh", "#!/bin/sh\necho 1\n");
    let mut dev = Running::start(command(&["dev", "-p", "[]"]).current_dir(home.path()));
    dev.says("1\n", "building").await;
    write("nova.yaml", &settings.to_string().replace("cp main", "cp nothing"));
    dev.says("", "the build failed").await;
    write("main.sh", "#!/bin/sh\necho 3\n");
    write("nova.yaml", &settings.to_string());
    dev.says("3\n", "building").await;
    dev.child.kill().unwrap();
    assert_eq!(cli(&["delete", &name]).status, 0);
}
