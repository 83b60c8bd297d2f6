//! B3: warm calls. Latency at concurrency 1 beside (a) a plain POST and (b) a Unix round trip, and
//! the gateway's processor time per call at concurrency 16 beside the plain server's.
use crate::baseline::{Baseline, UnixEcho};
use crate::client::Client;
use crate::daemon::Daemon;
use crate::statistics::{Rounds, Times};
use anyhow::{Context, Result};
use bytes::Bytes;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// Interleaved rounds; the spread of fewer says nothing.
const ROUNDS: usize = 9;
/// Calls of one contender in one round.
const CALLS: usize = 300;
/// Connections for the processor time.
const CONCURRENCY: usize = 16;
/// Calls of each connection for the processor time.
const CALLS_EACH: usize = 200;
/// Payloads: the smallest real one, a page, a document.
const SIZES: [usize; 3] = [64, 4 * 1024, 256 * 1024];

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Warm {
    /// By payload.
    pub sizes: Vec<Size>,
    /// Processor time of the gateway per call, microseconds, at concurrency 16.
    pub cpu: Cpu,
}

/// One payload.
#[derive(Debug, Serialize)]
pub struct Size {
    /// Its bytes.
    pub bytes: usize,
    /// A call of a persistent Python function through Nova.
    pub nova: Times,
    /// (a) a plain POST.
    pub http: Times,
    /// (b) a line over a Unix socket.
    pub unix: Times,
    /// Nova's median divided by `a + 6 b`, per round; the mark is 1.
    pub ratio: Rounds,
    /// What Nova adds to a plain POST: difference of the medians, microseconds, per round.
    pub added_us: Rounds,
}

/// Processor time per call.
#[derive(Debug, Serialize)]
pub struct Cpu {
    /// The daemon's.
    pub nova_us: Rounds,
    /// The plain server's.
    pub http_us: Rounds,
    /// The first divided by the second, per round; the mark is 3.
    pub ratio: Rounds,
}

/// Runs the benchmark.
pub async fn measure(nova: &Path) -> Result<Warm> {
    let daemon = Daemon::start(nova)?;
    let http = Baseline::start(&["http-echo"]).await?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("echo.sock");
    let socket_text = socket.to_str().context("a temporary path is text")?;
    let _unix = Baseline::start(&["unix-echo", socket_text]).await?;

    let mut nova_client = connect_nova(&daemon).await?;
    let mut http_client = Client::connect(&http.ready, "/", None).await?;
    let mut unix_client = UnixEcho::connect(&socket).await?;
    let mut sizes = Vec::new();
    for bytes in SIZES {
        eprintln!("warm calls with {bytes} bytes");
        sizes.push(one_size(bytes, &mut nova_client, &mut http_client, &mut unix_client).await?);
    }
    eprintln!("processor time at concurrency {CONCURRENCY}");
    let cpu = processor_time(&daemon, &http).await?;
    Ok(Warm { sizes, cpu })
}

async fn connect_nova(daemon: &Daemon) -> Result<Client> {
    Client::connect(&daemon.authority, "/functions/echo/invoke", Some(&daemon.key)).await
}

/// A JSON string of that many bytes.
fn payload(bytes: usize) -> Bytes {
    Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)))
}

async fn one_size(
    bytes: usize,
    nova: &mut Client,
    http: &mut Client,
    unix: &mut UnixEcho,
) -> Result<Size> {
    let payload = payload(bytes);
    let answer = nova.post(payload.clone()).await?;
    let text = String::from_utf8_lossy(&answer);
    anyhow::ensure!(answer.len() > bytes, "the function must echo its input: {text:.200}");
    let (mut all_nova, mut all_http, mut all_unix) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ratios, mut added) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut nova_us, mut http_us, mut unix_us) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..CALLS {
            let start = Instant::now();
            nova.post(payload.clone()).await?;
            nova_us.push(micros(start));
            let start = Instant::now();
            http.post(payload.clone()).await?;
            http_us.push(micros(start));
            let start = Instant::now();
            unix.round_trip(&payload).await?;
            unix_us.push(micros(start));
        }
        let [n, a, b] = [&nova_us, &http_us, &unix_us].map(|times| Times::of(times).p50_us);
        ratios.push(n / (a + 6.0 * b));
        added.push(n - a);
        all_nova.append(&mut nova_us);
        all_http.append(&mut http_us);
        all_unix.append(&mut unix_us);
    }
    Ok(Size {
        bytes,
        nova: Times::of(&all_nova),
        http: Times::of(&all_http),
        unix: Times::of(&all_unix),
        ratio: Rounds::of(&ratios),
        added_us: Rounds::of(&added),
    })
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

async fn processor_time(daemon: &Daemon, http: &Baseline) -> Result<Cpu> {
    let (mut nova_us, mut http_us, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut nova_clients = Vec::new();
    let mut http_clients = Vec::new();
    for _ in 0..CONCURRENCY {
        nova_clients.push(connect_nova(daemon).await?);
        http_clients.push(Client::connect(&http.ready, "/", None).await?);
    }
    // The first round boots the guests and is not counted.
    load(&mut nova_clients).await?;
    for _ in 0..ROUNDS {
        let nova = cpu_per_call(daemon.pid(), &mut nova_clients).await?;
        let http = cpu_per_call(http.pid()?, &mut http_clients).await?;
        nova_us.push(nova);
        http_us.push(http);
        ratios.push(nova / http);
    }
    Ok(Cpu {
        nova_us: Rounds::of(&nova_us),
        http_us: Rounds::of(&http_us),
        ratio: Rounds::of(&ratios),
    })
}

async fn cpu_per_call(pid: u32, clients: &mut [Client]) -> Result<f64> {
    let before = cpu_us(pid)?;
    load(clients).await?;
    Ok((cpu_us(pid)? - before) / (CONCURRENCY * CALLS_EACH) as f64)
}

async fn load(clients: &mut [Client]) -> Result<()> {
    let payload = payload(SIZES[0]);
    let mut tasks = Vec::new();
    for client in clients {
        let payload = payload.clone();
        tasks.push(async move {
            for _ in 0..CALLS_EACH {
                client.post(payload.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    futures::future::try_join_all(tasks).await?;
    Ok(())
}

/// User and system time that a process has used so far, microseconds, from its scheduler statistics.
fn cpu_us(pid: u32) -> Result<f64> {
    let mut total = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the look.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let nanoseconds = text.split(' ').next().context("schedstat has three numbers")?;
        total += nanoseconds.parse::<f64>()? / 1000.0;
    }
    Ok(total)
}
