//! The program itself: a daemon that runs no functions, and the command line against it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const NOVA: &str = env!("CARGO_BIN_EXE_nova");

/// A command that sees nothing of the environment that the tests run in.
fn nova(data_dir: &Path, line: &str) -> Command {
    let mut command = Command::new(NOVA);
    command.args(line.split_whitespace()).env("NOVA_DATA_DIR", data_dir);
    for name in
        ["NOVA_URL", "NOVA_API_KEY", "NOVA_CONFIG", "NOVA_LISTEN", "NOVA_BACKEND", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    command
}

struct Daemon {
    process: Child,
    directory: tempfile::TempDir,
    log: Vec<String>,
}

impl Daemon {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(directory: tempfile::TempDir) -> Self {
        let line = "daemon --backend none --listen 127.0.0.1:0";
        let mut process = nova(directory.path(), line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        loop {
            let line = lines.next().expect("the daemon ended").unwrap();
            let serving = line.contains("serving");
            log.push(line);
            if serving {
                break;
            }
        }
        // What it logs later has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, directory, log }
    }

    fn run(&self, line: &str) -> Output {
        nova(self.directory.path(), line).output().unwrap()
    }

    /// Ends it in an orderly way. Returns what it has printed.
    fn end(&mut self) -> String {
        self.signal("-TERM");
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
        let mut printed = String::new();
        std::io::Read::read_to_string(&mut self.process.stdout.take().unwrap(), &mut printed)
            .unwrap();
        printed
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed half-way leaves it running; a second signal ends it at once.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_daemon_starts_answers_and_ends_cleanly() {
    let mut daemon = Daemon::start();
    let listed = daemon.run("list -o json");
    assert_eq!((listed.status.code(), text(&listed.stdout).trim()), (Some(0), "[]"));

    let runtimes = daemon.run("runtime list -o json");
    let runtimes: Value = serde_json::from_slice(&runtimes.stdout).unwrap();
    assert!(runtimes.as_array().unwrap().iter().any(|runtime| runtime["id"] == "python"));

    let announced = daemon.directory.path().join("daemon.pid");
    let url = std::fs::read_to_string(&announced).unwrap().lines().nth(1).unwrap().to_owned();
    let printed = daemon.end();
    assert!(!announced.exists(), "nothing says that a daemon runs");
    let key = std::fs::read_to_string(daemon.directory.path().join("admin.key")).unwrap();
    assert!(printed.contains(key.trim()), "the first key is shown once");
    let gone = daemon.run(&format!("list --url {url}"));
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("nova daemon"), "{}", text(&gone.stderr));
}

#[test]
fn the_first_key_is_shown_by_the_first_start_that_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let failed = nova(directory.path(), "daemon --backend firecracker --listen 127.0.0.1:0")
        .env("NOVA_FIRECRACKER_DIR", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
    assert_eq!(text(&failed.stdout), "");

    let mut daemon = Daemon::start_in(directory);
    let key = std::fs::read_to_string(daemon.directory.path().join("admin.key")).unwrap();
    assert!(daemon.end().contains(key.trim()));
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let daemon = Daemon::start();
    let second = daemon.run("daemon --backend none --listen 127.0.0.1:0");
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(said.contains(&daemon.process.id().to_string()), "{said}");
}

#[test]
fn refusals_go_to_stderr_with_their_code_and_status_1() {
    let daemon = Daemon::start();
    let big = daemon.directory.path().join("big.json");
    std::fs::write(&big, format!("\"{}\"", "x".repeat(6 * 1024 * 1024))).unwrap();
    let invoke_big = format!("invoke x -p @{}", big.display());
    for (line, part) in [
        ("get nothing", "[function_not_found]"),
        ("invoke nothing", "[function_not_found]"),
        ("delete nothing", "[function_not_found]"),
        ("secret get nothing", "[secret_not_found]"),
        ("register x -r javascript -c /etc/hostname", "node"),
        ("register x -c /etc/hostname", "--runtime"),
        ("register x -r python", "--code"),
        ("invoke x -p {", "not JSON"),
        ("invoke x -p @/no/such/file", "/no/such/file"),
        ("update x", "nothing to change"),
        (
            "register x -r python -c /etc/hostname -H ../x",
            "handler: \"../x\" is not a path inside the code",
        ),
        (&invoke_big, "over the limit of 6 MiB"),
        (&invoke_big, "[payload_too_large]"),
    ] {
        let output = daemon.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(text(&output.stdout), "", "{line}");
        assert!(text(&output.stderr).contains(part), "{line}: {}", text(&output.stderr));
    }
    let usage = daemon.run("invoke");
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_secret_from_stdin_is_stored_and_never_shown() {
    let daemon = Daemon::start();
    let mut set = nova(daemon.directory.path(), "secret set token --function hello");
    let mut set = set.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut set.stdin.take().unwrap(), b"correct-horse\n").unwrap();
    assert!(set.wait().unwrap().success());
    for line in ["secret list -o wide", "secret get token -o yaml"] {
        let shown = text(&daemon.run(line).stdout);
        assert!(shown.contains("token") && shown.contains("hello"), "{shown}");
        assert!(!shown.contains("correct-horse"), "{shown}");
    }
    assert!(!daemon.log.iter().any(|line| line.contains("correct-horse")));
    for entry in std::fs::read_dir(daemon.directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(13).any(|window| window == b"correct-horse");
            assert!(!found, "the value lies open in {}", path.display());
        }
    }
}

#[test]
fn without_keys_only_loopback_may_be_listened_on() {
    let directory = tempfile::tempdir().unwrap();
    let line = "daemon --insecure-no-auth --backend none --listen 0.0.0.0:0";
    let output = nova(directory.path(), line).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("loopback"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_port_in_use_is_named_before_anything_is_made() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let line = format!("daemon --backend none --listen {address}");
    let output = nova(directory.path(), &line).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
    assert!(!directory.path().join("nova.db").exists());
}

#[test]
fn every_refusal_of_the_daemon_ends_with_its_code() {
    let daemon = Daemon::start();
    let wrong = nova(daemon.directory.path(), "list")
        .env("NOVA_API_KEY", format!("nova_{}_{}", "a".repeat(12), "b".repeat(43)))
        .output()
        .unwrap();
    assert!(text(&wrong.stderr).trim().ends_with("[unauthenticated]"), "{}", text(&wrong.stderr));
    let missing = text(&daemon.run("get nothing").stderr);
    assert!(missing.trim().ends_with("[function_not_found]"), "{missing}");
}

#[test]
fn a_misspelt_variable_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let line = "daemon --backend none --listen 127.0.0.1:0";
    let output = nova(directory.path(), line).env("NOVA_IDEL_TTL", "5m").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("NOVA_IDEL_TTL") && said.contains("`NOVA_IDLE_TTL`"), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_shared_runtime_is_not_removed_and_its_place_named() {
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("shared/images");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join("python.json"), "{}").unwrap();
    let output = nova(&directory.path().join("data"), "runtime remove python")
        .env("NOVA_ARTIFACTS", directory.path().join("shared"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("NOVA_ARTIFACTS") && said.contains("images/python.json"), "{said}");
    assert!(images.join("python.json").exists());
}

#[test]
fn completions_are_printed_for_each_shell() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = nova(directory.path(), &format!("completions {shell}")).output().unwrap();
        assert!(text(&output.stdout).contains("nova"), "{shell}");
    }
}
