//! One call under way: what to run, where its log and its answer go, how it is cancelled.
use crate::event::Event;
use crate::logs::CallLog;
use crate::outgoing::Outgoing;
use nova_proto::{
    Exec, ExecReport, FunctionError, FunctionErrorKind, GuestPhases, Message, Refusal, RefusalKind,
    Reply,
};
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest error message, bytes.
const MESSAGE_MAX_BYTES: usize = 8 * 1024;

/// Lets the connection cancel a call that a runner owns.
#[derive(Clone)]
pub struct CancelHandle {
    cancelled: Arc<AtomicBool>,
    wake: Arc<Event>,
}

impl CancelHandle {
    /// The caller left.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.wake.raise();
    }
}

/// A call that is to be answered exactly once: by [`Call::finish`], or by its drop if a runner fails.
pub struct Call {
    /// What to run.
    pub exec: Exec,
    /// Its log.
    pub log: CallLog,
    /// When it is killed.
    pub deadline: Instant,
    started: Instant,
    init: Duration,
    id: u64,
    outgoing: Arc<Outgoing>,
    cancelled: Arc<AtomicBool>,
    free_slot: Option<Box<dyn FnOnce() + Send>>,
}

/// Why a call has no result.
pub type Failure = FunctionError;

/// A failure of this kind with this message, shortened where it is too long.
pub fn failure(kind: FunctionErrorKind, message: impl Into<String>) -> Failure {
    FunctionError { kind, message: shorten(message.into(), MESSAGE_MAX_BYTES), detail: None }
}

/// What the function itself answered under `error`.
pub fn failure_with_detail(message: String, detail: Option<Value>) -> Failure {
    FunctionError { detail, ..failure(FunctionErrorKind::FunctionFailed, message) }
}

impl Call {
    /// A call that starts now. `wake` is raised when it is cancelled, `free_slot` called right before
    /// the answer is sent.
    pub fn new(
        id: u64,
        exec: Exec,
        outgoing: Arc<Outgoing>,
        wake: Arc<Event>,
        free_slot: Box<dyn FnOnce() + Send>,
    ) -> (Self, CancelHandle) {
        let started = Instant::now();
        let cancelled = Arc::new(AtomicBool::new(false));
        let log_sink = outgoing.clone();
        let call = Self {
            log: CallLog::new(Box::new(move |log| log_sink.send_bulk(id, Message::Log(log)))),
            deadline: started + Duration::from_millis(exec.timeout_ms),
            exec,
            started,
            init: Duration::ZERO,
            id,
            outgoing,
            cancelled: cancelled.clone(),
            free_slot: Some(free_slot),
        };
        (call, CancelHandle { cancelled, wake })
    }

    /// The function's process was started for this call and is ready for it now.
    pub fn process_started(&mut self) {
        self.init = self.started.elapsed();
    }

    /// True when the caller left.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Whether more may be read from the function.
    pub fn has_room(&self) -> bool {
        self.outgoing.has_room()
    }

    /// Sends the rest of the log and the answer.
    pub fn finish(mut self, result: Result<Box<RawValue>, Failure>) {
        self.log.flush();
        let (output, error) = match result {
            Ok(output) => (Some(output), None),
            Err(error) => (None, Some(error)),
        };
        let report = ExecReport {
            output,
            error,
            phases: GuestPhases {
                init_us: self.init.as_micros() as u64,
                exec_us: (self.started.elapsed() - self.init).as_micros() as u64,
            },
            log_truncated: self.log.truncated(),
        };
        self.answer(Reply::Done(report));
    }

    /// The answer goes behind the log. The slot is free before the host can know, so that its next
    /// call never finds it taken.
    fn answer(&mut self, reply: Reply) {
        if let Some(free_slot) = self.free_slot.take() {
            free_slot();
            self.outgoing.send_bulk(self.id, Message::Resp(reply));
        }
    }
}

impl Drop for Call {
    /// A runner that panicked still answers.
    fn drop(&mut self) {
        self.answer(Reply::Refused(Refusal {
            kind: RefusalKind::SetupFailed,
            message: "the agent failed while running this call; its console says why".into(),
        }));
    }
}

/// At most `limit` bytes of `text`, with a mark where it was cut.
pub fn shorten(text: String, limit: usize) -> String {
    const MARK: &str = "...";
    if text.len() <= limit {
        return text;
    }
    let mut end = limit - MARK.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", &text[..end])
}
