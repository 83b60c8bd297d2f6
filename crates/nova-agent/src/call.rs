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

#[cfg(test)]
mod tests {
    use super::*;
    use nova_proto::{FrameDecoder, LogStream};
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU32;

    /// What the host gets of a call that `run` is given, and how often its slot was freed.
    fn messages_of(run: impl FnOnce(Call)) -> (Vec<Message>, u32) {
        let (guest, mut host) = UnixStream::pair().expect("a socket pair");
        let outgoing = Arc::new(Outgoing::new(guest));
        let freed = Arc::new(AtomicU32::new(0));
        let count = freed.clone();
        let exec = Exec {
            request_id: "a".into(),
            attempt: 1,
            timeout_ms: 1000,
            traceparent: None,
            input: RawValue::NULL.to_owned(),
        };
        let free_slot = Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let event = Arc::new(Event::new().expect("an event"));
        run(Call::new(9, exec, outgoing.clone(), event, free_slot).0);
        outgoing.close();
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).expect("frames");
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        let frames = std::iter::from_fn(|| decoder.next_frame().expect("a frame"));
        let messages = frames.inspect(|frame| assert_eq!(frame.id, 9));
        let messages = messages.map(|frame| Message::decode(&frame).expect("a message")).collect();
        (messages, freed.load(Ordering::SeqCst))
    }

    #[test]
    fn the_answer_comes_once_and_after_the_log() {
        let (messages, freed) = messages_of(|mut call| {
            call.log.line(LogStream::Stderr, b"hello");
            call.finish(Ok(RawValue::NULL.to_owned()));
        });
        assert!(matches!(messages[..], [Message::Log(_), Message::Resp(Reply::Done(_))]));
        assert_eq!(freed, 1);
    }

    #[test]
    fn a_runner_that_fails_still_answers_and_frees_the_slot() {
        let (messages, freed) = messages_of(|call| {
            let run = std::panic::AssertUnwindSafe(move || {
                let _call = call;
                panic!("a bug");
            });
            assert!(std::panic::catch_unwind(run).is_err());
        });
        assert!(matches!(messages[..], [Message::Resp(Reply::Refused(_))]));
        assert_eq!(freed, 1);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = failure(FunctionErrorKind::FunctionFailed, "\u{20ac}".repeat(10_000));
        assert!(long.message.len() <= MESSAGE_MAX_BYTES && long.message.ends_with("\u{20ac}..."));
        assert_eq!(shorten("short".into(), 5), "short");
    }
}
