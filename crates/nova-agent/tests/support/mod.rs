//! A guest for tests: the real agent as PID 1 of its own pid and mount namespaces, as in a container.
//!
//! Its root is an overlay over the host's, so `sh` and `python3` are there, with `/code`, `/tmp`, `/out`,
//! `/run` and `/nova` of its own; of root's capabilities it has those that a container has. Needs root, and leaves nothing: the namespaces die with the agent.
#![allow(dead_code, reason = "each test file uses a part of it")]

use nova_proto::{
    CgroupSetup, Exec, ExecReport, FrameDecoder, FunctionErrorKind, FunctionSetup, Init, LogLine,
    LogStream, Message, Mode, OomCounter, PROTOCOL_VERSION, Refusal, Reply, Rootfs,
};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a test waits for what must happen. Reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs in the new namespaces: makes the guest's root and becomes the agent.
const ENTER: &str = r#"
set -e
mount -t tmpfs tmpfs "$1/ns"
mkdir -p "$1/ns/upper/code" "$1/ns/upper/var/task" "$1/ns/upper/nova" "$1/ns/upper/out" "$1/ns/work" "$1/ns/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/ns/upper,workdir=$1/ns/work" "$1/ns/root"
cd "$1/ns/root"
mount --bind "$1/code" code
mount --bind "$1/code" var/task
mount --bind "$1/nova" nova
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs dev/shm
mount --rbind /sys sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=1777,uid=1000,gid=1000 tmpfs out
exec chroot . setpriv --bounding-set=-all,+setuid,+setgid,+kill --inh-caps=-all \
    /nova/nova-agent --socket /nova/agent.sock
"#;

/// A running agent.
pub struct Guest {
    directory: TempDir,
    process: Child,
    cgroup: Option<MemoryCgroup>,
}

impl Guest {
    /// Starts one whose `/code` holds these executable files.
    pub fn start(code: &[(&str, &str)]) -> Self {
        Self::start_with_console(code, Stdio::inherit())
    }

    /// Starts one whose messages go to `console`.
    pub fn start_with_console(code: &[(&str, &str)], console: Stdio) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces: run them as root");
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("permissions");
        for name in ["ns", "code", "nova"] {
            fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        fs::copy(env!("CARGO_BIN_EXE_nova-agent"), directory.path().join("nova/nova-agent"))
            .expect("the agent");
        fs::set_permissions(directory.path().join("nova"), Permissions::from_mode(0o700))
            .expect("permissions");
        for (name, text) in code {
            let path = directory.path().join("code").join(name);
            fs::write(&path, text).expect("a code file");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("permissions");
        }
        let process = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--ipc",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                ENTER,
                "enter",
            ])
            .arg(directory.path())
            .stderr(console)
            .spawn()
            .expect("unshare");
        Self { directory, process, cgroup: None }
    }

    /// Gives the function a memory cgroup of the host, for an Init that follows.
    pub fn limit_memory(&mut self, bytes: u64) {
        self.cgroup = Some(MemoryCgroup::make(bytes));
    }

    /// A new connection to the agent.
    pub fn connect(&self) -> Host {
        let path = self.directory.path().join("nova/agent.sock");
        let stream = wait_for("the agent to listen", || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Host { stream, decoder: FrameDecoder::default(), next_id: 0, early: Vec::new() }
    }

    /// A connection over which the guest was set up to run this function.
    pub fn ready(&self, function: FunctionSetup) -> Host {
        let mut host = self.connect();
        match host.ask(Message::Init(Box::new(self.init(function)))) {
            Reply::Ready(ready) => assert_eq!(ready.protocol, PROTOCOL_VERSION),
            other => panic!("no Ready but {other:?}"),
        }
        host
    }

    /// The Init of a container for this function.
    pub fn init(&self, function: FunctionSetup) -> Init {
        let (procs_files, counter) = match &self.cgroup {
            None => (vec![], "/dev/null".into()),
            Some(cgroup) => (vec![cgroup.file("cgroup.procs")], cgroup.file("memory.oom_control")),
        };
        Init {
            protocol: PROTOCOL_VERSION,
            hostname: "guest".into(),
            clock_unix_ns: None,
            entropy: vec![],
            rootfs: Rootfs::Mounted,
            network: None,
            cgroup: CgroupSetup::Given { procs_files, oom_counter: OomCounter { path: counter } },
            function,
        }
    }

    /// Whether the agent still runs.
    pub fn is_alive(&mut self) -> bool {
        self.process.try_wait().expect("a status").is_none()
    }

    /// Waits until the agent has ended by itself.
    pub fn wait_for_end(&mut self) {
        wait_for("the agent to end", || self.process.try_wait().expect("a status"));
    }

    /// Where a path of the guest is for the test.
    pub fn inside(&self, path: &str) -> PathBuf {
        let agent = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.process.id()))
            .expect("the agent's pid");
        PathBuf::from(format!("/proc/{}/root{path}", agent.trim()))
    }

    /// How many processes in the guest have this word on their command line.
    pub fn processes_with(&self, word: &str) -> usize {
        let agent = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.process.id()))
            .expect("the agent's pid");
        let namespace =
            fs::read_link(format!("/proc/{}/ns/pid", agent.trim())).expect("a namespace");
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let paths = entries.map(|entry| entry.path());
        let guests = paths
            .filter(|path| fs::read_link(path.join("ns/pid")).is_ok_and(|link| link == namespace));
        guests
            .filter(|path| {
                let line = fs::read(path.join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(word)
            })
            .count()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Takes the agent, PID 1 of its namespace, with it, and that takes everything else.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The host's end of a connection.
pub struct Host {
    pub stream: UnixStream,
    decoder: FrameDecoder,
    next_id: u64,
    early: Vec<(u64, Message)>,
}

/// A call's answer and the log that came before it.
#[derive(Debug)]
pub struct Outcome {
    pub report: ExecReport,
    pub log: Vec<LogLine>,
}

impl Host {
    /// Sends a message with a new id, which is returned.
    pub fn send(&mut self, message: Message) -> u64 {
        self.next_id += 1;
        self.send_as(self.next_id, message);
        self.next_id
    }

    /// Sends a message with this id.
    pub fn send_as(&mut self, id: u64, message: Message) {
        self.stream.write_all(&message.encode(id).expect("a frame")).expect("sent");
    }

    /// The next message from the agent; `None` when it has closed the connection.
    pub fn receive(&mut self) -> Option<(u64, Message)> {
        let mut buffer = [0; 64 * 1024];
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("a frame") {
                return Some((frame.id, Message::decode(&frame).expect("a message")));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.decoder.push(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the agent is silent: {error}"),
            }
        }
    }

    /// The answer to the request with this id, and the log lines of it.
    pub fn answer(&mut self, id: u64) -> (Reply, Vec<LogLine>) {
        let mut log = Vec::new();
        let mut early = std::mem::take(&mut self.early).into_iter();
        loop {
            let (from, message) =
                early.next().or_else(|| self.receive()).expect("the agent closed the connection");
            match message {
                Message::Log(batch) if from == id => log.extend(batch.lines),
                Message::Resp(reply) if from == id => {
                    self.early.extend(early);
                    return (reply, log);
                }
                other => self.early.push((from, other)),
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, message: Message) -> Reply {
        let id = self.send(message);
        self.answer(id).0
    }

    /// Sends a request and waits for its refusal.
    pub fn refused(&mut self, message: Message) -> Refusal {
        match self.ask(message) {
            Reply::Refused(refusal) => refusal,
            other => panic!("not refused but {other:?}"),
        }
    }

    /// Starts a call; its id.
    pub fn begin(&mut self, exec: Exec) -> u64 {
        self.send(Message::Exec(exec))
    }

    /// Waits for the end of a call.
    pub fn outcome(&mut self, id: u64) -> Outcome {
        match self.answer(id) {
            (Reply::Done(report), log) => Outcome { report, log },
            (other, _) => panic!("not done but {other:?}"),
        }
    }

    /// Runs a call with this input to its end.
    pub fn call(&mut self, input: &str) -> Outcome {
        let id = self.begin(exec(input));
        self.outcome(id)
    }
}

impl Outcome {
    /// The result, as JSON text.
    #[track_caller]
    pub fn output(&self) -> &str {
        match &self.report.output {
            Some(output) => output.get(),
            None => panic!("no output: {:?}; log: {:?}", self.report.error, self.texts()),
        }
    }

    /// The failure's kind and message.
    #[track_caller]
    pub fn error(&self) -> (FunctionErrorKind, &str) {
        let error = self.report.error.as_ref().expect("an error");
        assert!(self.report.output.is_none());
        (error.kind, &error.message)
    }

    /// The lines of the log, whatever stream.
    pub fn texts(&self) -> Vec<&str> {
        self.log.iter().map(|line| line.text.as_str()).collect()
    }

    /// The lines that came from this stream.
    pub fn from(&self, stream: LogStream) -> Vec<&str> {
        let lines = self.log.iter().filter(|line| line.stream == stream);
        lines.map(|line| line.text.as_str()).collect()
    }
}

/// A call with a request id of its own and plenty of time.
pub fn exec(input: &str) -> Exec {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Exec {
        request_id: format!("request-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        attempt: 1,
        timeout_ms: PATIENCE.as_millis() as u64,
        traceparent: None,
        input: RawValue::from_string(input.into()).expect("JSON"),
    }
}

/// A call that may take this long.
pub fn exec_within(input: &str, timeout_ms: u64) -> Exec {
    Exec { timeout_ms, ..exec(input) }
}

/// A function in `process` mode that runs this command.
pub fn process(command: &[&str]) -> FunctionSetup {
    FunctionSetup {
        name: "hello".into(),
        version: "7".into(),
        mode: Mode::Process,
        handler: "handler".into(),
        command: command.iter().map(|word| (*word).into()).collect(),
        env: BTreeMap::new(),
        secrets: vec![],
        memory_mb: 128,
        tmp_mb: 0,
        out_mb: 0,
        instance_concurrency: 1,
        own_image: None,
    }
}

/// A build that runs this command.
pub fn build(command: &[&str]) -> FunctionSetup {
    FunctionSetup { out_mb: 64, ..process(command) }
}

/// A function in `persistent` mode that runs this command.
pub fn persistent(command: &[&str], instance_concurrency: u32) -> FunctionSetup {
    FunctionSetup { mode: Mode::Persistent, instance_concurrency, ..process(command) }
}

/// A function in `lambda` mode whose runtime is this command.
pub fn lambda(command: &[&str], instance_concurrency: u32) -> FunctionSetup {
    let handler = "main.handler".into();
    FunctionSetup { mode: Mode::Lambda, handler, instance_concurrency, ..process(command) }
}

/// Parses a result.
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Waits until `probe` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A frame whose payload is this text, whatever it says.
pub fn raw_frame(kind: u8, id: u64, payload: &str) -> Vec<u8> {
    let body = format!(r#"{{"type":{kind},"id":{id},"payload":{payload}}}"#);
    [&(body.len() as u32).to_be_bytes(), body.as_bytes()].concat()
}

/// A memory cgroup (v1) of the host, removed with this value.
struct MemoryCgroup {
    path: PathBuf,
}

impl MemoryCgroup {
    fn make(bytes: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nova-agent-test-{}-{number}", std::process::id());
        let path = Path::new("/sys/fs/cgroup/memory").join(name);
        fs::create_dir(&path).expect("a memory cgroup");
        fs::write(path.join("memory.limit_in_bytes"), bytes.to_string()).expect("a limit");
        Self { path }
    }

    fn file(&self, name: &str) -> String {
        self.path.join(name).to_str().expect("a path").into()
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Empty once the guest's last process is gone, which it is about to be.
        wait_for("the cgroup to be empty", || fs::remove_dir(&self.path).ok());
    }
}
