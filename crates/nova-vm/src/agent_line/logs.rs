//! Log lines on their way from the reader to whoever records a call.
//!
//! The reader must never wait, so it puts lines into a buffer of a fixed size, counted over the
//! whole call: the agent promises at most [`LOG_MAX_BYTES`] per call, and what a guest sends beyond
//! that is dropped with a marker. The call itself carries the buffer to its sink.
use super::calls::Answer;
use crate::driver::EventSink;
use nova_proto::{LOG_MAX_BYTES, LogLine, LogStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// What a line costs beside its text: its own size in memory, so that empty lines are not free.
const LINE_COST_BYTES: usize = size_of::<LogLine>();

/// Most bytes of one call's lines, their cost included: the agent's limit, and as much again for
/// the cost of lines of ordinary length.
const CALL_LOG_MAX_BYTES: usize = 2 * LOG_MAX_BYTES;

/// The reader's side.
#[derive(Debug)]
pub(super) struct LineSender {
    lines: UnboundedSender<LogLine>,
    room_bytes: usize,
    truncated: bool,
}

/// The call's side.
pub(super) struct Forwarder {
    lines: UnboundedReceiver<LogLine>,
    sink: EventSink,
}

/// A way for the log lines of one call to its sink.
pub(super) fn forward(sink: EventSink) -> (LineSender, Forwarder) {
    let (sender, receiver) = unbounded_channel();
    let sender = LineSender { lines: sender, room_bytes: CALL_LOG_MAX_BYTES, truncated: false };
    (sender, Forwarder { lines: receiver, sink })
}

impl LineSender {
    /// Takes lines as long as the call has room for them.
    pub fn send(&mut self, lines: Vec<LogLine>) {
        for line in lines {
            if self.truncated {
                return;
            }
            let cost = line.text.len() + LINE_COST_BYTES;
            let line = match self.room_bytes.checked_sub(cost) {
                Some(room) => {
                    self.room_bytes = room;
                    line
                }
                None => {
                    self.truncated = true;
                    LogLine {
                        text: "the log is cut off here: the call wrote too much".into(),
                        stream: LogStream::System,
                        ..line
                    }
                }
            };
            // The receiver is gone when the call was given up; its lines go with it.
            let _ = self.lines.send(line);
        }
    }

    /// Whether lines were dropped.
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

impl Forwarder {
    /// Carries lines to the sink until the answer is there. Lines that the sink has no room for then
    /// are carried on in the background, so that a slow reader of logs does not delay the answer.
    pub async fn until(
        mut self,
        mut answer: oneshot::Receiver<Answer>,
    ) -> Result<Answer, oneshot::error::RecvError> {
        let mut waiting: Option<LogLine> = None;
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                Some(line) = self.lines.recv(), if waiting.is_none() => waiting = Some(line),
                permit = self.sink.reserve(), if waiting.is_some() => {
                    let line = waiting.take();
                    if let (Ok(permit), Some(line)) = (permit, line) {
                        permit.send(line);
                    }
                }
            }
        };
        // All lines of a call arrive before its answer, so they are in the buffer by now.
        while let Some(line) = waiting.take().or_else(|| self.lines.try_recv().ok()) {
            if let Err(tokio::sync::mpsc::error::TrySendError::Full(line)) =
                self.sink.try_send(line)
            {
                tokio::spawn(self.rest(line));
                break;
            }
        }
        answer
    }

    /// Carries what is left; ends when all is delivered or nobody listens.
    async fn rest(mut self, first: LogLine) {
        let mut next = Some(first);
        while let Some(line) = next {
            if self.sink.send(line).await.is_err() {
                return;
            }
            next = self.lines.try_recv().ok();
        }
    }
}
