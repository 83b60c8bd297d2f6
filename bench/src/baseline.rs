//! What Nova is compared to: the least that any implementation must do.
use anyhow::{Context, Result};
use axum::{Router, body::Bytes, routing::post};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::process::{Child, Command};

/// A POST that comes back, on the same framework that Nova's API uses.
pub async fn serve_http() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let echo = Router::new()
        .route("/", post(|body: Bytes| async move { body }))
        .layer(axum::extract::DefaultBodyLimit::max(8 * 1024 * 1024));
    axum::serve(listener, echo).await?;
    Ok(())
}

/// A line over a Unix socket that comes back: what is left of a guest without Nova.
pub async fn serve_unix(path: &Path) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (reader, mut writer) = stream.into_split();
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                if writer.write_all(&line).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
}

/// A baseline running as a process of its own; ended when dropped.
pub struct Baseline {
    child: Child,
    /// The line it printed when it was ready.
    pub ready: String,
}

impl Baseline {
    /// Starts this program again with other arguments and waits for its first line.
    pub async fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("a baseline's output is piped")?;
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready).await?;
        Ok(Self { child, ready: ready.trim().to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the baseline has ended")
    }
}

/// The client's side of the Unix baseline.
pub struct UnixEcho {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl UnixEcho {
    /// Connects.
    pub async fn connect(path: &Path) -> Result<Self> {
        let stream = BufReader::new(UnixStream::connect(path).await?);
        Ok(Self { stream, line: Vec::new() })
    }

    /// One line there and back. `payload` must not hold a line end.
    pub async fn round_trip(&mut self, payload: &[u8]) -> Result<()> {
        self.line.clear();
        self.line.extend_from_slice(payload);
        self.line.push(b'\n');
        self.stream.get_mut().write_all(&self.line).await?;
        let sent = self.line.len();
        self.line.clear();
        let received = self.stream.read_until(b'\n', &mut self.line).await?;
        anyhow::ensure!(received == sent, "the echo sent {received} of {sent} bytes");
        Ok(())
    }
}
