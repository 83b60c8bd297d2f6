//! A driver whose guests are a few lines of Rust. The payload says what a call does:
//!
//! | field | effect |
//! |---|---|
//! | `ms` | takes that long |
//! | `log` | writes that many log lines |
//! | `fail` | the function fails with this kind of error |
//! | `guest` | `"dies"`: the guest is lost in the middle of the call |
//!
//! The output tells what ran: `{"vm", "code", "memory_mb", "env"}`.
use async_trait::async_trait;
use nova_proto::{ExecReport, FunctionError, FunctionErrorKind, GuestPhases, LogLine, LogStream};
use nova_vm::{BootError, EventSink, ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long a boot takes.
pub const BOOT: Duration = Duration::from_millis(100);
/// How long a stop takes.
pub const STOP: Duration = Duration::from_millis(50);
/// How long a guest takes to end a cancelled call.
pub const SETTLE: Duration = Duration::from_millis(20);
/// What a guest takes beside its `memory_mb`, MiB.
pub const OVERHEAD_MB: u32 = 32;

#[derive(Default)]
pub struct FakeDriver {
    host: Arc<Mutex<Host>>,
}

/// What is on the host.
#[derive(Default)]
pub struct Host {
    /// Guests from the beginning of their boot to the end of their stop.
    pub alive: BTreeSet<VmId>,
    pub most_alive: usize,
    /// Every boot that began.
    pub boots: usize,
    /// The order in which guests were given calls, by the `n` of their payloads.
    pub order: Vec<u64>,
    /// Calls that were cancelled in the guest.
    pub cancelled: usize,
    /// Guests end a cancelled call after [`SETTLE`] and are as good as before; else they can't tell.
    pub guests_settle: bool,
    pub boots_fail: Option<fn() -> BootError>,
    pub boots_hang: bool,
    /// Turned to make all guests die.
    pub doom: Option<watch::Sender<bool>>,
}

impl FakeDriver {
    pub fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap()
    }

    /// Kills every guest that is up.
    pub fn kill_all(&self) {
        if let Some(doom) = &self.host().doom {
            doom.send_replace(true);
        }
    }
}

/// Something on the host that removes itself.
struct Place {
    host: Arc<Mutex<Host>>,
    id: VmId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.host.lock().unwrap().alive.remove(&self.id);
    }
}

#[async_trait]
impl VmDriver for FakeDriver {
    fn backend(&self) -> &'static str {
        "fake"
    }

    fn overhead_mb(&self, _: u32) -> u32 {
        OVERHEAD_MB
    }

    async fn boot(&self, spec: VmSpec) -> Result<Box<dyn MicroVm>, BootError> {
        let (place, fails, hangs, doom) = {
            let mut host = self.host();
            host.boots += 1;
            assert!(host.alive.insert(spec.id.clone()), "a VM id is used once");
            host.most_alive = host.most_alive.max(host.alive.len());
            let doom = host.doom.get_or_insert_with(|| watch::Sender::new(false)).subscribe();
            let place = Place { host: Arc::clone(&self.host), id: spec.id.clone() };
            (place, host.boots_fail, host.boots_hang, doom)
        };
        sleep(if hangs { Duration::MAX } else { BOOT }).await;
        match fails {
            Some(error) => Err(error()),
            None => Ok(Box::new(FakeVm { place, spec, calls: AtomicUsize::new(0), doom })),
        }
    }
}

struct FakeVm {
    place: Place,
    spec: VmSpec,
    calls: AtomicUsize,
    doom: watch::Receiver<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wish {
    n: Option<u64>,
    ms: u64,
    log: usize,
    fail: Option<FunctionErrorKind>,
    guest: Option<String>,
}

/// A call in a guest; dropped before its end it was cancelled.
struct Running<'a>(&'a FakeVm, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.place.host.lock().unwrap().cancelled += 1;
        }
    }
}

#[async_trait]
impl MicroVm for FakeVm {
    fn id(&self) -> &VmId {
        &self.spec.id
    }

    async fn exec(&self, request: ExecRequest, events: EventSink) -> Result<ExecReport, ExecError> {
        let calls = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(calls <= self.spec.setup.instance_concurrency as usize, "a slot has one owner");
        let mut running = Running(self, false);
        let wish: Wish = serde_json::from_str(request.input.get()).unwrap_or_default();
        self.place.host.lock().unwrap().order.extend(wish.n);
        for number in 0..wish.log {
            let text = format!("line {number}");
            let line = LogLine { time_unix_ms: 1_700_000_000_000, stream: LogStream::Stderr, text };
            events.send(line).await.ok();
        }
        let in_time = wish.ms <= request.timeout_ms;
        if wish.ms > 0 {
            sleep(Duration::from_millis(wish.ms.min(request.timeout_ms))).await;
        }
        running.1 = true;
        if wish.guest.as_deref() == Some("dies") {
            return Err(ExecError::Lost("it died".into()));
        }
        let fail = wish.fail.or((!in_time).then_some(FunctionErrorKind::Timeout));
        let error =
            fail.map(|kind| FunctionError { kind, message: "as wished".into(), detail: None });
        let output = error.is_none().then(|| {
            let setup = &self.spec.setup;
            serde_json::value::to_raw_value(&json!({
                "vm": self.spec.id.as_str(),
                "code": self.spec.code_hash.as_str(),
                "memory_mb": setup.memory_mb,
                "env": setup.env,
                "command": setup.command,
            }))
            .unwrap()
        });
        let phases = GuestPhases { init_us: 2000, exec_us: wish.ms * 1000 };
        Ok(ExecReport { output, error, phases, log_truncated: false })
    }

    async fn settled(&self) -> bool {
        let settles = self.place.host.lock().unwrap().guests_settle;
        sleep(SETTLE).await;
        settles
    }

    async fn died(&self) -> String {
        let mut doom = self.doom.clone();
        if doom.wait_for(|doomed| *doomed).await.is_err() {
            std::future::pending::<()>().await;
        }
        "killed by the test".into()
    }

    async fn stop(self: Box<Self>) {
        sleep(STOP).await;
        assert_eq!(self.calls.load(Ordering::SeqCst), 0, "stopped with a call on it");
    }
}
