//! The guest's side of the conversation, as a pure state machine: messages in, actions out.
//!
//! ```text
//!  AwaitingInit ──Init──▶ SettingUp ──ok──▶ Ready ⇄ Running ──Stop──▶ Stopped
//!                             └──failed──▶ Broken ──────────Stop──────▶ ┘
//! ```
//!
//! *Running* is *Ready* with at least one call in it, or with an export, which wants the machine for itself. Nothing here reads a socket or starts a
//! process: [`crate::server`] feeds it and carries out what it says, so every rule of the protocol
//! (one Init, bounded slots, each attempt at most once) is tested without I/O.
use crate::attempts::Attempts;
use nova_proto::{Credit, Exec, Init, Message, Reconfigure, Refusal, RefusalKind, Reply};
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest time that a call may be given. The product allows 900 s; a day leaves room and keeps
/// every later sum of times far from overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest request id, bytes. Nova's are UUIDs of 36; ids are remembered, so they are bounded.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// What the server is to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Set the machine up, then report to [`Session::set_up_finished`].
    SetUp { id: u64, init: Box<Init> },
    /// Start this call, then report its end to [`Session::finished`].
    Run { id: u64, exec: Exec },
    /// End the call or export with this id; it still reports its end.
    Cancel { id: u64 },
    /// Begin to send the build's result, then report its end to [`Session::finished`].
    Export { id: u64 },
    /// The host has read so many bytes of the export under way.
    Credit { bytes: u32 },
    /// Take on the new identity, then answer.
    Reconfigure { id: u64, reconfigure: Reconfigure },
    /// Send this answer.
    Reply { id: u64, reply: Reply },
    /// End everything, once the answers before this are sent.
    PowerOff,
}

enum State {
    AwaitingInit,
    SettingUp,
    /// Serving, with the request ids of the running calls by frame id.
    Ready {
        slots: usize,
        running: BTreeMap<u64, String>,
        /// The frame id of the export under way; then nothing runs.
        exporting: Option<u64>,
    },
    /// The set-up failed; the machine is half made and nothing will run in it.
    Broken,
    Stopped,
}

/// The state of the conversation. It outlives connections: the host may come back after losing one.
pub struct Session {
    state: State,
    attempts: Attempts,
}

impl Session {
    /// A guest that nobody has spoken to yet.
    pub fn new() -> Self {
        Self { state: State::AwaitingInit, attempts: Attempts::default() }
    }

    /// Takes one message from the host.
    pub fn on_message(&mut self, id: u64, message: Message) -> Vec<Action> {
        match message {
            Message::Init(init) => self.on_init(id, init),
            Message::Exec(exec) => self.on_exec(id, exec),
            Message::Ping => vec![Action::Reply { id, reply: Reply::Pong {} }],
            Message::Stop => {
                let mut actions = self.cancel_all();
                self.state = State::Stopped;
                actions.push(Action::Reply { id, reply: Reply::Stopping {} });
                actions.push(Action::PowerOff);
                actions
            }
            // A cancel may cross the answer on its way; then there is nothing left to do.
            Message::Cancel if self.is_running(id) || self.is_exporting(id) => {
                vec![Action::Cancel { id }]
            }
            Message::Cancel => vec![],
            Message::Export => self.on_export(id),
            // As with a cancel, the end of the export may be on its way.
            Message::Credit(Credit { bytes }) if self.is_exporting(id) => {
                vec![Action::Credit { bytes }]
            }
            Message::Credit(_) => vec![],
            Message::Reconfigure(reconfigure) => match &self.state {
                State::Ready { running, exporting: None, .. } if running.is_empty() => {
                    vec![Action::Reconfigure { id, reconfigure }]
                }
                _ => refuse(id, RefusalKind::WrongState, "reconfigure is for an idle, ready guest"),
            },
            Message::Resp(_) | Message::Log(_) | Message::Chunk(_) => {
                refuse(id, RefusalKind::Malformed, "the host does not send messages of this type")
            }
        }
    }

    /// Takes the result of [`Action::SetUp`]: how many calls may run at once, or that it failed.
    pub fn set_up_finished(&mut self, slots: Result<u32, ()>) {
        if matches!(self.state, State::SettingUp) {
            self.state = match slots {
                Ok(slots) => State::Ready {
                    slots: slots.max(1) as usize,
                    running: BTreeMap::new(),
                    exporting: None,
                },
                Err(()) => State::Broken,
            };
        }
    }

    /// Takes the end of a call or export: its place is free.
    pub fn finished(&mut self, id: u64) {
        if let State::Ready { running, exporting, .. } = &mut self.state {
            running.remove(&id);
            exporting.take_if(|exporting| *exporting == id);
        }
    }

    /// The connection is gone: nobody waits for the running calls any more.
    pub fn on_disconnect(&mut self) -> Vec<Action> {
        self.cancel_all()
    }

    fn cancel_all(&self) -> Vec<Action> {
        match &self.state {
            State::Ready { running, exporting, .. } => {
                running.keys().chain(exporting).map(|&id| Action::Cancel { id }).collect()
            }
            _ => vec![],
        }
    }

    /// True when no call runs and nothing is exported.
    pub fn is_idle(&self) -> bool {
        match &self.state {
            State::Ready { running, exporting, .. } => running.is_empty() && exporting.is_none(),
            _ => true,
        }
    }

    fn is_exporting(&self, id: u64) -> bool {
        matches!(&self.state, State::Ready { exporting: Some(exporting), .. } if *exporting == id)
    }

    fn is_running(&self, id: u64) -> bool {
        matches!(&self.state, State::Ready { running, .. } if running.contains_key(&id))
    }

    fn on_init(&mut self, id: u64, init: Box<Init>) -> Vec<Action> {
        if init.protocol != nova_proto::PROTOCOL_VERSION {
            let message = format!(
                "the host speaks protocol version {}, this agent {}; use the agent that came with \
                 the daemon",
                init.protocol,
                nova_proto::PROTOCOL_VERSION
            );
            return refuse(id, RefusalKind::ProtocolMismatch, message);
        }
        match self.state {
            State::AwaitingInit => {
                self.state = State::SettingUp;
                vec![Action::SetUp { id, init }]
            }
            _ => refuse(id, RefusalKind::WrongState, "this guest had its Init already"),
        }
    }

    fn on_export(&mut self, id: u64) -> Vec<Action> {
        let State::Ready { running, exporting, .. } = &mut self.state else {
            return refuse(id, RefusalKind::WrongState, "export is for a guest that is set up");
        };
        if !running.is_empty() || exporting.is_some() {
            return refuse(id, RefusalKind::Busy, "export is for a guest in which nothing runs");
        }
        *exporting = Some(id);
        vec![Action::Export { id }]
    }

    fn on_exec(&mut self, id: u64, exec: Exec) -> Vec<Action> {
        if let Some(problem) = problem_with(&exec) {
            return refuse(id, RefusalKind::Malformed, problem);
        }
        let State::Ready { slots, running, exporting } = &mut self.state else {
            return refuse(id, RefusalKind::WrongState, "exec is for a guest that is set up");
        };
        if exporting.is_some() {
            return refuse(id, RefusalKind::Busy, "the result of a build is being sent");
        }
        if running.contains_key(&id) {
            return refuse(id, RefusalKind::Malformed, "this frame id belongs to a running call");
        }
        if running.values().any(|request_id| *request_id == exec.request_id) {
            return refuse(id, RefusalKind::Duplicate, "this request is running already");
        }
        if self.attempts.contains(&exec.request_id, exec.attempt) {
            return refuse(
                id,
                RefusalKind::Duplicate,
                "this attempt of the request was run already",
            );
        }
        if running.len() >= *slots {
            return refuse(id, RefusalKind::Busy, format!("all {slots} call slots are taken"));
        }
        self.attempts.insert(&exec.request_id, exec.attempt);
        running.insert(id, exec.request_id.clone());
        vec![Action::Run { id, exec }]
    }
}

fn problem_with(exec: &Exec) -> Option<&'static str> {
    if exec.request_id.is_empty() || exec.request_id.len() > REQUEST_ID_MAX_BYTES {
        Some("a request id has 1 to 128 bytes")
    } else if exec.request_id.bytes().any(|byte| byte.is_ascii_control()) {
        Some("a request id holds no control characters")
    } else if exec.timeout_ms == 0 || Duration::from_millis(exec.timeout_ms) > TIMEOUT_MAX {
        Some("timeout_ms is 1 to 86400000")
    } else if exec.traceparent.as_ref().is_some_and(|value| value.contains('\0')) {
        Some("traceparent holds no zero byte")
    } else if exec.input.get().len() > nova_proto::PAYLOAD_MAX_BYTES {
        Some("the input is over the payload limit")
    } else {
        None
    }
}

fn refuse(id: u64, kind: RefusalKind, message: impl Into<String>) -> Vec<Action> {
    let reply = Reply::Refused(Refusal { kind, message: message.into() });
    vec![Action::Reply { id, reply }]
}

#[cfg(test)]
mod tests;
