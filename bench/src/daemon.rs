//! A daemon for the time of a benchmark, with one persistent Python function in it.
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the daemon may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends its input back, as the baselines do.
const ECHO: &str = "import sys
for line in sys.stdin:
    start = line.index('\"input\":') + 8
    sys.stdout.write('{\"output\":' + line[start:line.rindex('}')] + '}\\n')
    sys.stdout.flush()
";

/// The daemon; ended when dropped.
pub struct Daemon {
    child: Child,
    home: tempfile::TempDir,
    /// `host:port`.
    pub authority: String,
    /// Its admin key.
    pub key: String,
}

impl Daemon {
    /// Starts it on the container backend and registers the function `echo`.
    pub fn start(nova: &Path) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let data = home.path().join("data");
        let log = std::fs::File::create(home.path().join("daemon.log"))?;
        let child = Command::new(nova)
            .args(["daemon", "--backend", "container", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", nova.display()))?;
        let mut daemon = Self { child, home, authority: String::new(), key: String::new() };
        let announced = daemon.wait_for(&data.join("daemon.pid"), "http://")?;
        daemon.authority = announced.rsplit('/').next().unwrap_or_default().to_owned();
        daemon.key = daemon.wait_for(&data.join("admin.key"), "nova_")?;
        daemon.register(nova)?;
        Ok(daemon)
    }

    /// The text of a file that the daemon writes, once there is `sign` in it.
    fn wait_for(&mut self, file: &Path, sign: &str) -> Result<String> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.home.path().join("daemon.log"))?;
                bail!("the daemon ended with {status}:\n{log}");
            }
            match std::fs::read_to_string(file) {
                Ok(text) if text.contains(sign) => return Ok(text.trim().to_owned()),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        bail!("no {} after {PATIENCE:?}", file.display())
    }

    fn register(&self, nova: &Path) -> Result<()> {
        let code = self.home.path().join("handler");
        std::fs::write(&code, ECHO)?;
        let status = Command::new(nova)
            .args(["register", "echo", "-r", "python", "--mode", "persistent", "-m", "256"])
            .args(["--max-replicas", "16", "-c"])
            .arg(&code)
            .env("NOVA_URL", format!("http://{}", self.authority))
            .env("NOVA_API_KEY", &self.key)
            .stdout(Stdio::null())
            .status()?;
        anyhow::ensure!(status.success(), "nova register failed");
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM, so that it removes its guests; a benchmark has nothing to do with an error here.
        Command::new("/bin/kill").arg(self.child.id().to_string()).status().ok();
        self.child.wait().ok();
    }
}
