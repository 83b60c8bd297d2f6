//! A daemon that a test starts, kills and looks behind. Runs on the machine that hosts the guests.
use crate::{Nova, eventually, setting};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A daemon with a data directory of its own.
pub struct Daemon {
    child: Child,
    data_dir: PathBuf,
    /// Its client.
    pub nova: Nova,
}

/// How to start one.
pub struct DaemonOptions<'a> {
    /// Where its state lies; it may hold the state of an earlier one.
    pub data_dir: &'a Path,
    /// Where it listens; by default on a free port of loopback.
    pub listen: &'a str,
    /// The backend to ask for; by default the one that the suite is run for.
    pub backend: Option<&'a str>,
    /// More environment.
    pub environment: &'a [(&'a str, &'a str)],
}

impl<'a> DaemonOptions<'a> {
    /// The usual: a data directory, nothing else.
    pub fn new(data_dir: &'a Path) -> Self {
        Self { data_dir, listen: "127.0.0.1:0", backend: None, environment: &[] }
    }

    /// The command that starts the daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new(setting("NOVA_BIN"));
        command
            .args(["daemon", "--listen", self.listen, "--data-dir"])
            .arg(self.data_dir)
            .arg("--backend")
            .arg(self.backend.map_or_else(|| setting("NOVA_E2E_BACKEND"), str::to_owned))
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(self.data_dir));
        command
    }

    /// Starts it and waits until it answers.
    pub async fn start(&self) -> Daemon {
        let mut child = self.command().spawn().expect("NOVA_BIN starts");
        let url = eventually("the daemon announces its address", async || {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("the daemon ended with {status}:\n{}", log(self.data_dir));
            }
            let text = std::fs::read_to_string(self.data_dir.join("daemon.pid")).ok()?;
            let (pid, url) = text.split_once('\n')?;
            let announced = pid == child.id().to_string() && url.ends_with('\n');
            announced.then(|| url.trim().to_owned())
        })
        .await;
        let key = std::fs::read_to_string(self.data_dir.join("admin.key")).expect("an admin key");
        let nova = Nova::at(&url, key.trim());
        eventually("the daemon is ready", async || {
            nova.get("/health/ready").await.status.is_success().then_some(())
        })
        .await;
        Daemon { child, data_dir: self.data_dir.to_owned(), nova }
    }
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Twelve hex digits that name everything it owns.
    pub fn id(&self) -> String {
        let id = std::fs::read_to_string(self.data_dir.join("daemon-id")).expect("a daemon id");
        id.trim().to_owned()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("it still runs");
        self.child.wait().expect("it ends");
    }

    /// Ends it gracefully and returns its exit status.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        let status = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
        self.child.wait().expect("it ends")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        log(&self.data_dir)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only a failing test gets here with a running daemon; it must not outlive the test.
        if matches!(self.child.try_wait(), Ok(None)) {
            Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().ok();
            self.child.wait().ok();
        }
    }
}

fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("log")
}

fn log_file(data_dir: &Path) -> Stdio {
    let path = log_path(data_dir);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.expect("a log file beside the data directory").into()
}

fn log(data_dir: &Path) -> String {
    std::fs::read_to_string(log_path(data_dir)).unwrap_or_default()
}

/// Everything on this host that carries a daemon's id, one line each: what must be gone after it.
pub fn traces(daemon_id: &str, data_dir: &Path) -> Vec<String> {
    let id6 = &daemon_id[..6];
    let mut found = Vec::new();
    for (what, program, arguments) in [
        ("link", "ip", &["-o", "link"][..]),
        ("namespace", "ip", &["netns", "list"]),
        ("table", "nft", &["list", "tables"]),
        ("mount", "cat", &["/proc/self/mounts"]),
        ("loop device", "losetup", &["-a"]),
    ] {
        let output = Command::new(program).args(arguments).output().expect("a host tool runs");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if line.contains(id6) || line.contains(&*data_dir.to_string_lossy()) {
                found.push(format!("{what}: {line}"));
            }
        }
    }
    // Directories of Nova's own, leases of addresses, and what the OCI runtime keeps of containers.
    let runtime_state = data_dir.join("run/runc");
    for directory in [Path::new("/run"), Path::new("/run/nova"), &runtime_state] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            // A lease is named by what it is for; whose it is, is in it.
            let owner =
                if path.is_file() { std::fs::read(&path).unwrap_or_default() } else { vec![] };
            let named = entry.file_name().to_string_lossy().contains(id6);
            let container = directory == runtime_state;
            if named || container || String::from_utf8_lossy(&owner).contains(id6) {
                found.push(format!("file: {}", path.display()));
            }
        }
    }
    found.extend(cgroups(Path::new("/sys/fs/cgroup"), id6, 4));
    found.extend(processes(data_dir));
    found
}

fn cgroups(below: &Path, id6: &str, depth: u32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(below) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name().to_string_lossy().contains(id6) {
            found.push(format!("cgroup: {}", entry.path().display()));
        } else if depth > 0 && !entry.path().is_symlink() {
            found.extend(cgroups(&entry.path(), id6, depth - 1));
        }
    }
    found
}

/// Processes other than this one whose command line or root lies below the data directory.
fn processes(data_dir: &Path) -> Vec<String> {
    let data_dir = data_dir.to_string_lossy();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let root = std::fs::read_link(entry.path().join("root")).unwrap_or_default();
        if command.contains(&*data_dir) || root.to_string_lossy().contains(&*data_dir) {
            found.push(format!("process {pid}: {command}"));
        }
    }
    found
}

/// Processes of a daemon's guests.
pub fn guests(daemon_id: &str) -> Vec<u32> {
    processes_in_cgroup(&format!("nova-{}/", &daemon_id[..6]))
}

/// Host processes in a cgroup whose path holds this text; not those that have ended and only wait for
/// the machine's init to look at their status.
pub fn processes_in_cgroup(path: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid: &u32| {
            let about = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
            let inside = about("cgroup").is_ok_and(|text| text.contains(path));
            inside && !about("status").is_ok_and(|text| text.contains("State:\tZ"))
        })
        .collect()
}
