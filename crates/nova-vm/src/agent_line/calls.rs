//! Which requests are on their way, and what may answer them.
//!
//! A request is *waiting*, or *abandoned*: nobody waits, but the guest still owes its one reply, and
//! until that comes the id may not be taken for a forged one.
use super::export::ChunkSender;
use super::logs::LineSender;
use nova_proto::{Chunk, LogLine, Reply};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};

/// Most requests that were given up and are still unanswered. A healthy agent answers a cancelled
/// call within its kill; one that owes this many answers nothing at all.
const ABANDONED_MAX: usize = 1024;

/// The reply that a request is waiting for; a refusal may always come instead.
#[derive(Debug)]
pub(super) enum Expected {
    Ready,
    Done(LineSender),
    Pong,
    Stopping,
    Exported(ChunkSender),
}

/// A reply for a waiting request.
#[derive(Debug)]
pub(super) struct Answer {
    pub reply: Reply,
    /// Log lines of this call were dropped on the host's side.
    pub log_truncated: bool,
}

#[derive(Debug)]
enum Call {
    Waiting { expected: Expected, answer: oneshot::Sender<Answer> },
    Abandoned,
}

/// The open requests of one line, until it ends.
#[derive(Debug)]
pub(super) struct CallTable {
    state: Mutex<State>,
    /// How many requests are abandoned.
    abandoned: watch::Sender<usize>,
    ended: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    /// The next id; ids are never used twice on one line.
    next_id: u64,
    calls: HashMap<u64, Call>,
}

impl Default for CallTable {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            abandoned: watch::Sender::new(0),
            ended: watch::Sender::new(None),
        }
    }
}

impl CallTable {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new request, or the reason why the line has ended.
    pub fn open(&self, expected: Expected) -> Result<(u64, oneshot::Receiver<Answer>), String> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if let Some(reason) = self.ended.borrow().as_ref() {
            return Err(reason.clone());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.calls.insert(id, Call::Waiting { expected, answer });
        Ok((id, receiver))
    }

    /// Drops a request that was answered, or that the guest never heard of.
    pub fn forget(&self, id: u64) {
        self.state().calls.remove(&id);
    }

    /// Keeps the id of a request that nobody waits for any more, until its reply has come.
    pub fn abandon(&self, id: u64) {
        let mut state = self.state();
        let Some(call) = state.calls.get_mut(&id) else { return };
        *call = Call::Abandoned;
        self.abandoned.send_modify(|abandoned| *abandoned += 1);
        if *self.abandoned.borrow() > ABANDONED_MAX {
            drop(state);
            self.close(&format!("the guest left {ABANDONED_MAX} cancelled calls unanswered"));
        }
    }

    /// A reply has arrived. An error is the reason to end the line.
    pub fn reply(&self, id: u64, reply: Reply) -> Result<(), String> {
        let mut state = self.state();
        match state.calls.remove(&id) {
            Some(Call::Waiting { expected, answer }) => {
                let log_truncated = match (&expected, &reply) {
                    (Expected::Done(lines), Reply::Done(_) | Reply::Refused(_)) => {
                        lines.truncated()
                    }
                    (Expected::Ready, Reply::Ready(_) | Reply::Refused(_))
                    | (Expected::Pong, Reply::Pong {} | Reply::Refused(_))
                    | (Expected::Stopping, Reply::Stopping {} | Reply::Refused(_))
                    | (Expected::Exported(_), Reply::Refused(_)) => false,
                    (Expected::Exported(chunks), Reply::Exported {}) if chunks.ended() => false,
                    _ => return Err(format!("the reply to request {id} is of the wrong kind")),
                };
                // The request may be given up at this very moment: then nobody wants the answer.
                let _ = answer.send(Answer { reply, log_truncated });
                Ok(())
            }
            Some(Call::Abandoned) => {
                self.abandoned.send_modify(|abandoned| *abandoned -= 1);
                Ok(())
            }
            None => Err(format!("a reply to request {id}, which is not open")),
        }
    }

    /// Log lines have arrived. Lines of a call that has ended meanwhile are dropped; lines of a call
    /// that never was are the reason to end the line.
    pub fn log(&self, id: u64, lines: Vec<LogLine>) -> Result<(), String> {
        let mut state = self.state();
        let next_id = state.next_id;
        match state.calls.get_mut(&id) {
            Some(Call::Waiting { expected: Expected::Done(sender), .. }) => {
                sender.send(lines);
                Ok(())
            }
            Some(Call::Abandoned) => Ok(()),
            None if id < next_id => Ok(()),
            Some(Call::Waiting { .. }) | None => {
                Err(format!("log lines of request {id}, which is not a call"))
            }
        }
    }

    /// A piece of an export has arrived. One that nobody asked for, or gave leave for, is the reason to
    /// end the line.
    pub fn chunk(&self, id: u64, chunk: Chunk) -> Result<(), String> {
        match self.state().calls.get_mut(&id) {
            Some(Call::Waiting { expected: Expected::Exported(sender), .. }) => {
                sender.send(chunk).map_err(|problem| format!("export {id}: {problem}"))
            }
            Some(Call::Abandoned) => Ok(()),
            Some(Call::Waiting { .. }) | None => {
                Err(format!("a chunk of request {id}, which is not an export"))
            }
        }
    }

    /// Leaves it to an export to take so many bytes more.
    pub fn grant(&self, id: u64, bytes: usize) {
        if let Some(Call::Waiting { expected: Expected::Exported(sender), .. }) =
            self.state().calls.get_mut(&id)
        {
            sender.grant(bytes);
        }
    }

    /// Ends the line: every waiting request learns of it. The first reason stays.
    pub fn close(&self, reason: &str) {
        let mut state = self.state();
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| reason.to_owned());
            first
        });
        state.calls.clear();
    }

    /// Turns to zero when every abandoned request was answered.
    pub fn abandoned(&self) -> watch::Receiver<usize> {
        self.abandoned.subscribe()
    }

    /// The reason why the line has ended, or an empty text.
    pub fn reason(&self) -> String {
        self.ended.borrow().clone().unwrap_or_default()
    }

    /// Turns to the reason when the line ends.
    pub fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.subscribe()
    }
}
