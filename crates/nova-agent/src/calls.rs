//! The calls that a process which stays is at work on: who they are for, when their time is up, and
//! where its log goes. `persistent` and `lambda` mode have this in common.
//!
//! What the process logs carries no request id: it belongs to the oldest call that runs, and between
//! calls to the next one.
use crate::call::{Call, Failure};
use crate::line_protocol::CallResult;
use nova_proto::LogStream;
use std::time::Instant;

/// How much log text is kept between calls, bytes; then it is dropped. Enough for a stack trace.
const STASH_MAX_BYTES: usize = 64 * 1024;

/// A call in the process.
struct InFlight {
    request_id: String,
    deadline: Instant,
    /// `None` when the caller left and only the function's answer is still to come.
    call: Option<Call>,
}

impl InFlight {
    fn answer(self, result: CallResult) {
        if let Some(call) = self.call {
            call.finish(result);
        }
    }
}

/// The calls in the process, oldest first.
#[derive(Default)]
pub struct Calls {
    entries: Vec<InFlight>,
    stash: Vec<(LogStream, Vec<u8>)>,
    stash_bytes: usize,
}

impl Calls {
    /// Adds a call; what was logged since the last one is its log.
    pub fn add(&mut self, mut call: Call) {
        for (stream, line) in std::mem::take(&mut self.stash) {
            call.log.line(stream, &line);
        }
        self.stash_bytes = 0;
        self.entries.push(InFlight {
            request_id: call.exec.request_id.clone(),
            deadline: call.deadline,
            call: Some(call),
        });
    }

    /// True when the process has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where the call with this request id is.
    pub fn position(&self, request_id: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.request_id == request_id)
    }

    /// The request id of the call at `index`.
    pub fn request_id(&self, index: usize) -> String {
        self.entries[index].request_id.clone()
    }

    /// The request ids of all calls.
    pub fn request_ids(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.request_id.clone()).collect()
    }

    /// The call at `index`, unless its caller left.
    pub fn call_mut(&mut self, index: usize) -> Option<&mut Call> {
        self.entries[index].call.as_mut()
    }

    /// Answers the call at `index`, which is over with that.
    pub fn answer(&mut self, index: usize, result: CallResult) {
        self.entries.remove(index).answer(result);
    }

    /// Answers the caller at `index`, who left; the process goes on with the call.
    pub fn give_up(&mut self, index: usize, cancelled: Failure) {
        if let Some(call) = self.entries[index].call.take() {
            call.finish(Err(cancelled));
        }
    }

    /// How many calls go on though their callers left.
    pub fn given_up(&self) -> usize {
        self.entries.iter().filter(|entry| entry.call.is_none()).count()
    }

    /// Fails every call.
    pub fn fail_all(&mut self, failure: &Failure) {
        for entry in std::mem::take(&mut self.entries) {
            entry.answer(Err(failure.clone()));
        }
    }

    /// A call whose caller has left since the last look.
    pub fn cancelled(&self) -> Option<usize> {
        let is_cancelled = |entry: &InFlight| entry.call.as_ref().is_some_and(Call::is_cancelled);
        self.entries.iter().position(is_cancelled)
    }

    /// A call whose time is up.
    pub fn overdue(&self) -> Option<usize> {
        let now = Instant::now();
        self.entries.iter().position(|entry| entry.deadline <= now)
    }

    /// How long the call at `index` may take, milliseconds.
    pub fn timeout_ms(&self, index: usize) -> u64 {
        self.entries[index].call.as_ref().map_or(0, |call| call.exec.timeout_ms)
    }

    /// When the next call's time is up.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.deadline).min()
    }

    /// Whether the host reads too slowly for more of the process to be read.
    pub fn held_back(&self) -> bool {
        self.entries.iter().flat_map(|entry| &entry.call).any(|call| !call.has_room())
    }

    /// Adds a line to the log.
    pub fn log(&mut self, stream: LogStream, line: &[u8]) {
        if let Some(call) = self.entries.iter_mut().find_map(|entry| entry.call.as_mut()) {
            call.log.line(stream, line);
        } else if self.stash_bytes + line.len() < STASH_MAX_BYTES {
            self.stash_bytes += line.len() + 1;
            self.stash.push((stream, line.to_vec()));
        }
    }

    /// Sends what was logged.
    pub fn flush_logs(&mut self) {
        for call in self.entries.iter_mut().flat_map(|entry| &mut entry.call) {
            call.log.flush();
        }
    }
}
