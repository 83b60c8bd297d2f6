//! The host's end of the conversation with a guest's agent: one connection, any number of calls.
//!
//! ```text
//!  exec, ping ...            ┌── Outbox ──▶ socket ──▶ guest
//!      │   registers in      │
//!      └──▶ CallTable ◀──────┴── reader ◀── socket ◀── guest
//! ```
//!
//! Replies find their call by id. Everything that arrives is hostile: a frame over the limit, bytes
//! that are no frame, a reply nobody asked for or of the wrong kind end the line with a reason, and
//! every call on it. What a guest can make the host hold is bounded: one frame being read, and a
//! fixed amount of log text per call. Nobody waits for a slow reader of logs except that reader.
//!
//! What surprises: dropping the future of [`AgentLine::exec`] is how a call is cancelled. If its
//! frame has not begun to leave, it never will; otherwise the guest is told, and the answer that it
//! still owes is thrown away when it comes.
mod calls;
mod export;
mod logs;
mod outbox;
mod reader;
#[cfg(test)]
mod tests;

use self::calls::{Answer, CallTable, Expected};
use self::outbox::Outbox;
use crate::driver::{EventSink, ExecError, ExecRequest};
use nova_proto::{
    Exec, ExecReport, GuestPhases, Init, Message, PAYLOAD_MAX_BYTES, PROTOCOL_VERSION, Ready,
    Refusal, Reply,
};
use serde_json::value::RawValue;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// How long after its own timeout a call may stay unanswered. The agent only has to kill and reap what
/// the function started and report it; for a fork bomb of a thousand processes on a host whose
/// processors were all taken, ten seconds were seen to be too short.
pub const EXEC_GRACE_MS: u64 = 30_000;

/// Most bytes of a function's error message that are believed; the protocol's own bound.
const ERROR_MESSAGE_MAX_BYTES: usize = 8 * 1024;

/// Why a request that is not a call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The connection ended, or the guest broke the protocol.
    #[error("the connection to the guest ended: {0}")]
    Closed(String),
    /// The agent said no.
    #[error("the guest's agent refused: {}", .0.message)]
    Refused(Refusal),
    /// The agent speaks another version of the protocol.
    #[error(
        "the guest's agent speaks protocol version {0}, this host {PROTOCOL_VERSION}; \
         install an agent built with this nova"
    )]
    ProtocolMismatch(u32),
    /// The request is too large for a frame.
    #[error("the request does not fit a frame: {0}")]
    Unsendable(String),
    /// Nothing came within this many milliseconds.
    #[error("the guest's agent did not answer within {0} ms")]
    Timeout(u64),
}

/// A connection to one guest's agent. Dropping it closes the connection.
#[derive(Debug)]
pub struct AgentLine {
    line: Arc<Line>,
    tasks: [JoinHandle<()>; 2],
}

/// What the public handle, the tasks and the calls in flight share.
#[derive(Debug)]
struct Line {
    calls: CallTable,
    outbox: Outbox,
}

impl AgentLine {
    /// Takes over a connected stream. Must be called within a tokio runtime.
    pub fn start(stream: UnixStream) -> Self {
        let stream = Arc::new(stream);
        let line = Arc::new(Line {
            calls: CallTable::default(),
            outbox: Outbox::new(Arc::clone(&stream)),
        });
        let reader = tokio::spawn(reader::run(stream, Arc::clone(&line)));
        let writer = tokio::spawn({
            let line = Arc::clone(&line);
            async move {
                let error = line.outbox.run().await;
                line.calls.close(&format!("writing to the guest failed: {error}"));
            }
        });
        Self { line, tasks: [reader, writer] }
    }

    /// Tells the guest what to become.
    pub async fn init(&self, init: Init, within: Duration) -> Result<Ready, LineError> {
        match self.ask(Message::Init(Box::new(init)), Expected::Ready, within).await? {
            Reply::Ready(ready) if ready.protocol == PROTOCOL_VERSION => Ok(ready),
            Reply::Ready(ready) => Err(LineError::ProtocolMismatch(ready.protocol)),
            other => Err(refusal(other)),
        }
    }

    /// Asks whether the agent is there.
    pub async fn ping(&self, within: Duration) -> Result<(), LineError> {
        match self.ask(Message::Ping, Expected::Pong, within).await? {
            Reply::Pong {} => Ok(()),
            other => Err(refusal(other)),
        }
    }

    /// Asks the agent to end everything. A guest that dies before it answers has stopped too.
    pub async fn stop(&self, within: Duration) -> Result<(), LineError> {
        match self.ask(Message::Stop, Expected::Stopping, within).await {
            Ok(Reply::Stopping {}) | Err(LineError::Closed(_)) => Ok(()),
            Ok(other) => Err(refusal(other)),
            Err(error) => Err(error),
        }
    }

    /// Runs one call. Log lines go to `events`, in order; those that `events` has no room for when
    /// the answer comes follow it. Dropping the future cancels the call in the guest.
    pub async fn exec(
        &self,
        request: ExecRequest,
        events: EventSink,
    ) -> Result<ExecReport, ExecError> {
        let started = Instant::now();
        let deadline =
            started + Duration::from_millis(request.timeout_ms.saturating_add(EXEC_GRACE_MS));
        let message = Message::Exec(Exec {
            request_id: request.request_id.to_string(),
            attempt: request.attempt,
            timeout_ms: request.timeout_ms,
            traceparent: request.traceparent,
            input: request.input,
        });
        let (lines, forwarder) = logs::forward(events);
        let (call, answer) =
            self.open(message, Expected::Done(lines)).map_err(|error| match error {
                LineError::Unsendable(why) => ExecError::Refused(why),
                other => ExecError::Lost(other.to_string()),
            })?;
        let answer = tokio::select! {
            answer = forwarder.until(answer) => answer,
            () = sleep_until(deadline) => return Err(ExecError::Silent(EXEC_GRACE_MS)),
        };
        call.answered();
        match answer {
            Ok(Answer { reply: Reply::Done(report), log_truncated }) => {
                checked(report, log_truncated, started.elapsed()).map_err(ExecError::Protocol)
            }
            Ok(Answer { reply, .. }) => Err(ExecError::Refused(refusal(reply).to_string())),
            Err(_) => Err(ExecError::Lost(self.line.calls.reason())),
        }
    }

    /// Resolves to true once every cancelled call was answered by the guest, to false when the line
    /// ends first or the guest takes longer than a kill may take.
    pub async fn settled(&self) -> bool {
        let mut abandoned = self.line.calls.abandoned();
        let settled = timeout(
            Duration::from_millis(EXEC_GRACE_MS),
            abandoned.wait_for(|abandoned| *abandoned == 0),
        );
        tokio::select! {
            settled = settled => matches!(settled, Ok(Ok(_))),
            _ = self.closed() => false,
        }
    }

    /// Resolves when the line has ended, with the reason. May be awaited any number of times.
    pub fn closed(&self) -> impl Future<Output = String> + Send + 'static {
        let mut ended = self.line.calls.ended();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_default(),
                Err(_) => "closed by the host".into(),
            }
        }
    }

    async fn ask(
        &self,
        message: Message,
        expected: Expected,
        within: Duration,
    ) -> Result<Reply, LineError> {
        let (call, answer) = self.open(message, expected)?;
        match timeout(within, answer).await {
            Ok(answer) => {
                call.answered();
                let closed = |_| LineError::Closed(self.line.calls.reason());
                answer.map(|answer| answer.reply).map_err(closed)
            }
            Err(_) => Err(LineError::Timeout(within.as_millis() as u64)),
        }
    }

    /// Registers a request and queues its frame.
    fn open(
        &self,
        message: Message,
        expected: Expected,
    ) -> Result<(OpenCall<'_>, oneshot::Receiver<Answer>), LineError> {
        let (id, answer) = self.line.calls.open(expected).map_err(LineError::Closed)?;
        let can_end = matches!(message, Message::Exec(_) | Message::Export);
        let call = OpenCall { line: &self.line, id, can_end };
        match message.encode(id) {
            Ok(bytes) => self.line.outbox.send(id, bytes),
            Err(error) => {
                call.answered();
                return Err(LineError::Unsendable(error.to_string()));
            }
        }
        Ok((call, answer))
    }
}

impl Drop for AgentLine {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.line.calls.close("closed by the host");
    }
}

/// A request on its way. Dropped before it was answered, it is given up: cancelled if that can be.
struct OpenCall<'a> {
    line: &'a Line,
    id: u64,
    /// Whether the guest can be told to end it.
    can_end: bool,
}

impl OpenCall<'_> {
    fn answered(self) {
        self.line.calls.forget(self.id);
        std::mem::forget(self);
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        if self.line.outbox.withdraw(self.id) {
            self.line.calls.forget(self.id);
            return;
        }
        self.line.calls.abandon(self.id);
        if self.can_end {
            // A message without content always encodes.
            if let Ok(bytes) = Message::Cancel.encode(self.id) {
                self.line.outbox.send(self.id, bytes);
            }
        }
    }
}

/// The reply that is left when it is not the expected one: the table lets only refusals pass.
fn refusal(reply: Reply) -> LineError {
    match reply {
        Reply::Refused(mut refusal) => {
            cut(&mut refusal.message);
            LineError::Refused(refusal)
        }
        Reply::Ready(_)
        | Reply::Done(_)
        | Reply::Pong {}
        | Reply::Stopping {}
        | Reply::Exported {} => LineError::Closed("a reply of the wrong kind".into()),
    }
}

/// A guest's words as long as the protocol promises them.
fn cut(message: &mut String) {
    message.truncate(message.floor_char_boundary(ERROR_MESSAGE_MAX_BYTES));
}

/// A report as the protocol promises it, or why it is not.
fn checked(
    mut report: ExecReport,
    log_truncated: bool,
    took: Duration,
) -> Result<ExecReport, String> {
    report.log_truncated |= log_truncated;
    // What the guest measured is part of what the host did.
    let took_us = took.as_micros() as u64;
    let GuestPhases { init_us, exec_us } = &mut report.phases;
    for phase in [init_us, exec_us] {
        *phase = took_us.min(*phase);
    }
    if let Some(error) = &mut report.error {
        cut(&mut error.message);
    }
    match (&report.output, &report.error) {
        (Some(output), _) if output.get().len() > PAYLOAD_MAX_BYTES => {
            Err(format!("a result of {} bytes", output.get().len()))
        }
        (Some(_), Some(_)) => Err("a call with both a result and an error".into()),
        // JSON's null and an absent field are the same on this wire: the function returned null.
        (None, None) => {
            report.output = Some(RawValue::NULL.to_owned());
            Ok(report)
        }
        _ => Ok(report),
    }
}
