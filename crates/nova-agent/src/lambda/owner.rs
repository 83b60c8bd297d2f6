//! Owns the process and the calls in it: what happens when one of them begins or ends.
//!
//! What surprises: what the process has logged is read before an answer is passed on, so that it belongs
//! to that call; and a runtime that reports an error of its initialisation gets a moment to say more and
//! to exit, before it is ended.
use super::board::Board;
use super::delivery::{Delivery, Invocation};
use super::server::Server;
use super::{environment, program};
use crate::call::{Call, Failure, failure};
use crate::calls::Calls;
use crate::event::Event;
use crate::function_process::{Contract, FunctionProcess, Line};
use crate::logs::unix_ms;
use crate::machine::Machine;
use crate::pipes::wait;
use nova_proto::{FunctionErrorKind, LogStream};
use serde_json::value::RawValue;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// How long a runtime that could not initialise may take to exit by itself.
const INIT_FAILURE_GRACE: Duration = Duration::from_secs(1);

/// How often the pipes are read for what belongs to an answer. A flood is not waited for.
const LOG_READS: usize = 16;

/// A process and the API that it speaks to.
struct Process {
    function: FunctionProcess,
    server: Server,
    /// The call that it was started for, until that was handed over.
    started_for: Option<String>,
    /// When it is ended, since it could not initialise.
    ends_at: Option<Instant>,
}

/// What is left of a process that was ended.
struct Remains {
    /// Events that it has not read.
    unread: Vec<Delivery>,
    stderr_tail: String,
    init_failure: Option<Failure>,
    was_initialised: bool,
}

/// The thread's own: see the module.
pub struct Owner {
    machine: Arc<Machine>,
    event: Arc<Event>,
    incoming: Receiver<Call>,
    calls: Calls,
    process: Option<Process>,
}

impl Owner {
    /// One without a process; `event` wakes it.
    pub fn new(machine: Arc<Machine>, event: Arc<Event>, incoming: Receiver<Call>) -> Self {
        Self { machine, event, incoming, calls: Calls::default(), process: None }
    }

    /// After a bug: the calls answer by being dropped, the next one starts a new process.
    pub fn start_over(&mut self) {
        self.machine.reaper.kill_all();
        self.process = None;
        self.calls = Calls::default();
    }

    /// Looks at everything that may have happened, then waits for more.
    pub fn step(&mut self) {
        self.event.lower();
        self.take_answers();
        self.notice_exit();
        while let Ok(call) = self.incoming.try_recv() {
            self.begin(call);
        }
        self.notice_cancelled();
        self.notice_timeout();
        let held_back = self.calls.held_back();
        let mut fds = vec![self.event.as_fd()];
        let mut deadline = self.calls.next_deadline();
        if let Some(process) = &self.process {
            deadline = deadline.into_iter().chain(process.ends_at).min();
            if !held_back {
                fds.extend(process.function.readable());
            }
        }
        wait(&fds, None, deadline, held_back);
        if !held_back {
            self.read_some();
        }
        self.calls.flush_logs();
    }

    /// Offers a call to the process, which is started if there is none.
    fn begin(&mut self, mut call: Call) {
        let request_id = call.exec.request_id.clone();
        // An earlier attempt of the same request, whose caller left: its answer would pass for this one's.
        if let Some(index) = self.calls.position(&request_id) {
            let reason =
                "the function's process was ended with an earlier attempt of another request";
            self.end_with(index, failure(FunctionErrorKind::Cancelled, reason), reason);
        }
        let invocation = Invocation {
            request_id,
            deadline_unix_ms: unix_ms() + call.exec.timeout_ms,
            trace_id: call.exec.traceparent.as_deref().and_then(environment::trace_id),
            input: std::mem::replace(&mut call.exec.input, RawValue::NULL.to_owned()),
        };
        if self.calls.is_empty()
            && let Some(process) = &mut self.process
        {
            process.function.forget_stderr();
        }
        self.calls.add(call);
        self.offer(Delivery::new(invocation));
    }

    /// Offers an event; where no process can be had for it, its call fails.
    fn offer(&mut self, delivery: Delivery) {
        let request_id = delivery.invocation.request_id.clone();
        if self.process.is_none() {
            match self.start(&request_id) {
                Ok(process) => self.process = Some(process),
                Err(message) => {
                    if let Some(index) = self.calls.position(&request_id) {
                        let kind = FunctionErrorKind::FunctionNotStarted;
                        self.calls.answer(index, Err(failure(kind, message)));
                    }
                }
            }
        }
        if let Some(board) = self.board() {
            board.offer(delivery);
        }
    }

    fn start(&self, request_id: &str) -> Result<Process, String> {
        let function = &self.machine.function;
        let server = Server::start(function, self.event.clone())
            .map_err(|error| format!("cannot serve the Runtime API: {error}"))?;
        let variables = environment::variables(function, &server.address());
        let env: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let command = program::command(function);
        let contract = Contract::Elsewhere { command: &command, env: &env };
        let function = FunctionProcess::start(&self.machine, contract, self.event.clone())?;
        Ok(Process { function, server, started_for: Some(request_id.to_owned()), ends_at: None })
    }

    /// Passes on what the process has answered, behind what it has logged.
    fn take_answers(&mut self) {
        let Some(board) = self.board() else { return };
        let (begun, answers) = (board.take_begun(), board.take_answers());
        for request_id in begun {
            let Some(process) = &mut self.process else { break };
            if process.started_for.take_if(|first| *first == request_id).is_some()
                && let Some(index) = self.calls.position(&request_id)
                && let Some(call) = self.calls.call_mut(index)
            {
                call.process_started();
            }
        }
        if answers.is_empty() {
            return;
        }
        for _ in 0..LOG_READS {
            if self.calls.held_back() || !self.read_some() {
                break;
            }
        }
        for (request_id, result) in answers {
            if let Some(index) = self.calls.position(&request_id) {
                self.calls.answer(index, result);
            }
        }
    }

    /// The process ended by itself, or had its moment after an error of its initialisation.
    fn notice_exit(&mut self) {
        let Some(process) = &mut self.process else { return };
        if process.ends_at.is_none() && process.server.board().init_failure().is_some() {
            process.ends_at = Some(Instant::now() + INIT_FAILURE_GRACE);
        }
        let status = process.function.exit_status();
        let is_over = process.ends_at.is_some_and(|ends_at| ends_at <= Instant::now());
        if status.is_none() && !is_over {
            return;
        }
        let oom_kills_before = process.function.oom_kills_before();
        let Some(remains) = self.end_process() else { return };
        let explained = status.map(|status| {
            self.machine.explain_exit(status, oom_kills_before, &remains.stderr_tail)
        });
        let out_of_memory = |failure: &Failure| failure.kind == FunctionErrorKind::OutOfMemory;
        let failure = match (remains.init_failure, explained) {
            // It may have said that it could not initialise because of it.
            (_, Some(explained)) if out_of_memory(&explained) => explained,
            (Some(init_failure), _) => init_failure,
            (None, Some(explained)) => explained,
            (None, None) => return,
        };
        // One that never came so far as to ask would not the next time either.
        let unread = if remains.was_initialised { remains.unread } else { Vec::new() };
        self.fail_and_offer_again(&failure, unread);
    }

    fn notice_cancelled(&mut self) {
        while let Some(index) = self.calls.cancelled() {
            let message = "the caller left before the function had finished";
            let cancelled = failure(FunctionErrorKind::Cancelled, message);
            let request_id = self.calls.request_id(index);
            if self.board().is_some_and(|board| board.withdraw(&request_id)) {
                self.calls.answer(index, Err(cancelled));
            } else if self.calls.given_up() + 1 < self.machine.slots() as usize {
                self.calls.give_up(index, cancelled);
            } else {
                // Nobody waits for most of what the process does: start afresh.
                let reason = "the function's process was ended with another call whose caller left";
                self.end_with(index, cancelled, reason);
            }
        }
    }

    fn notice_timeout(&mut self) {
        while let Some(index) = self.calls.overdue() {
            let timeout_ms = self.calls.timeout_ms(index);
            let initialised = self.board().is_some_and(Board::is_initialised);
            let when = if initialised { "" } else { " before it asked for its first event" };
            let message = format!("the function ran past its timeout of {timeout_ms} ms{when}");
            let reason =
                "the function's process was ended with another call that ran past its timeout";
            self.end_with(index, failure(FunctionErrorKind::Timeout, message), reason);
        }
    }

    /// Ends the process because of one call. Others that it has fetched fail with `reason`.
    fn end_with(&mut self, index: usize, cause: Failure, reason: &str) {
        let request_id = self.calls.request_id(index);
        let remains = self.end_process();
        if let Some(index) = self.calls.position(&request_id) {
            self.calls.answer(index, Err(cause));
        }
        let unread = remains.map(|remains| remains.unread).unwrap_or_default();
        self.fail_and_offer_again(&failure(FunctionErrorKind::FunctionCrashed, reason), unread);
    }

    /// After the end of a process: what it has not read goes to the next one, other calls fail.
    fn fail_and_offer_again(&mut self, failure: &Failure, unread: Vec<Delivery>) {
        let again: Vec<Delivery> = unread.into_iter().filter_map(Delivery::again).collect();
        for request_id in self.calls.request_ids() {
            let is_unread = again.iter().any(|one| one.invocation.request_id == request_id);
            if !is_unread && let Some(index) = self.calls.position(&request_id) {
                self.calls.answer(index, Err(failure.clone()));
            }
        }
        for delivery in again {
            // Its call may have been what the process was ended for.
            if self.calls.position(&delivery.invocation.request_id).is_some() {
                self.offer(delivery);
            }
        }
    }

    /// Kills the process and all that it started, and takes what it still had to say.
    fn end_process(&mut self) -> Option<Remains> {
        self.machine.reaper.kill_all();
        while self.read_some() {}
        let mut process = self.process.take()?;
        for line in process.function.finish() {
            self.take_line(line);
        }
        let Process { function, server, .. } = process;
        let board = server.board();
        let init_failure = board.init_failure();
        let was_initialised = board.is_initialised();
        let unread = server.close();
        // It may have answered with its last breath.
        for (request_id, result) in board.take_answers() {
            if let Some(index) = self.calls.position(&request_id) {
                self.calls.answer(index, result);
            }
        }
        Some(Remains { unread, stderr_tail: function.stderr_tail(), init_failure, was_initialised })
    }

    /// Reads once from the process; false when there was nothing.
    fn read_some(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(lines) = process.function.read_some() else { return false };
        for line in lines {
            self.take_line(line);
        }
        true
    }

    fn take_line(&mut self, line: Line) {
        match line {
            Line::Stdout(text) => self.calls.log(LogStream::Stdout, &text),
            Line::Stderr(text) => self.calls.log(LogStream::Stderr, &text),
            // Lines that are logs are cut long before.
            Line::TooLong => {}
        }
    }

    fn board(&self) -> Option<&Board> {
        self.process.as_ref().map(|process| process.server.board())
    }
}
