//! Owns the server's process and the calls in it: what happens when one of them begins or ends.
//!
//! What surprises: a connection that breaks is often the first sign of a process that dies, so what it means
//! is said only a moment later, when the process had the time to be seen dead and why.
use super::exchange::{Exchange, News};
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
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Names the port for the server.
const PORT: &str = "PORT";
/// The port of a function that names none.
const PORT_DEFAULT: &str = "8080";
/// How long after a broken connection the process may take to be seen dead.
const DEATH_GRACE: Duration = Duration::from_millis(200);
/// How often the pipes are read for what belongs to an answer. A flood is not waited for.
const LOG_READS: usize = 16;

/// A server and those that talk to it.
struct Process {
    function: FunctionProcess,
    port: u16,
    /// It has accepted a connection.
    listens: bool,
    /// Raised when it is ended.
    stop: Arc<Event>,
    sender: Sender<(String, News)>,
    news: Receiver<(String, News)>,
    /// Calls whose connections broke, and when they fail with that.
    broken: Vec<(String, Failure, Instant)>,
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
        self.take_news();
        self.notice_exit();
        self.notice_broken();
        while let Ok(call) = self.incoming.try_recv() {
            self.begin(call);
        }
        self.notice_cancelled();
        self.notice_timeout();
        let held_back = self.calls.held_back();
        let mut fds = vec![self.event.as_fd()];
        let mut deadline = self.calls.next_deadline();
        if let Some(process) = &self.process {
            let broken = process.broken.iter().map(|(_, _, until)| *until);
            deadline = deadline.into_iter().chain(broken).min();
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

    /// Sends a call to the server, which is started if there is none.
    fn begin(&mut self, mut call: Call) {
        let request_id = call.exec.request_id.clone();
        // An earlier attempt of the same request, whose caller left: its answer would pass for this one's.
        if let Some(index) = self.calls.position(&request_id) {
            let reason =
                "the function's process was ended with an earlier attempt of another request";
            self.end_with(index, failure(FunctionErrorKind::Cancelled, reason), reason);
        }
        if self.process.is_none() {
            match self.start() {
                Ok(process) => self.process = Some(process),
                Err(message) => {
                    let kind = FunctionErrorKind::FunctionNotStarted;
                    return call.finish(Err(failure(kind, message)));
                }
            }
        }
        let Some(process) = &mut self.process else { return };
        if self.calls.is_empty() {
            process.function.forget_stderr();
        }
        let exchange = Exchange {
            request_id,
            deadline_unix_ms: unix_ms() + call.exec.timeout_ms,
            traceparent: call.exec.traceparent.clone(),
            // It may be megabytes, and is on its way now.
            input: std::mem::replace(&mut call.exec.input, RawValue::NULL.to_owned()),
            port: process.port,
            stop: process.stop.clone(),
            news: process.sender.clone(),
            wake: self.event.clone(),
        };
        match exchange.start() {
            Ok(()) => self.calls.add(call),
            Err(error) => {
                let problem = format!("cannot start a thread for the call: {error}");
                call.finish(Err(failure(FunctionErrorKind::FunctionNotStarted, problem)));
            }
        }
    }

    fn start(&self) -> Result<Process, String> {
        let function = &self.machine.function;
        let port = function.env.get(PORT).map_or(PORT_DEFAULT, String::as_str);
        let number = port.parse().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| format!("the variable PORT is `{port}`, no port"))?;
        let failed = |error| format!("cannot watch the function: {error}");
        let stop = Arc::new(Event::new().map_err(failed)?);
        let contract = Contract::Elsewhere { command: &function.command, env: &[(PORT, port)] };
        let function = FunctionProcess::start(&self.machine, contract, self.event.clone())?;
        let (sender, news) = channel();
        Ok(Process {
            function,
            port: number,
            listens: false,
            stop,
            sender,
            news,
            broken: Vec::new(),
        })
    }

    /// Passes on what the server has answered, behind what it has logged.
    fn take_news(&mut self) {
        let Some(process) = &mut self.process else { return };
        let all: Vec<(String, News)> = process.news.try_iter().collect();
        for (request_id, news) in all {
            match news {
                News::Accepted => self.accepted(&request_id),
                News::Answered(result) => {
                    self.read_logs();
                    if let Some(index) = self.calls.position(&request_id) {
                        self.calls.answer(index, result);
                    }
                }
                News::Broken(problem) => {
                    let Some(process) = &mut self.process else { return };
                    let message = format!("the function's server gave no answer: {problem}");
                    let failure = failure(FunctionErrorKind::InvalidOutput, message);
                    process.broken.push((request_id, failure, Instant::now() + DEATH_GRACE));
                }
            }
        }
    }

    fn accepted(&mut self, request_id: &str) {
        let Some(process) = &mut self.process else { return };
        if !std::mem::replace(&mut process.listens, true)
            && let Some(index) = self.calls.position(request_id)
            && let Some(call) = self.calls.call_mut(index)
        {
            call.process_started();
        }
    }

    /// The process ended by itself: so did all calls in it.
    fn notice_exit(&mut self) {
        let Some(process) = &self.process else { return };
        let Some(status) = process.function.exit_status() else { return };
        let oom_kills_before = process.function.oom_kills_before();
        let Some(stderr_tail) = self.end_process() else { return };
        let failure = self.machine.explain_exit(status, oom_kills_before, &stderr_tail);
        self.calls.fail_all(&failure);
    }

    /// Connections that broke though the process lives on.
    fn notice_broken(&mut self) {
        let Some(process) = &mut self.process else { return };
        let now = Instant::now();
        let due: Vec<_> = process.broken.extract_if(.., |(_, _, until)| *until <= now).collect();
        for (request_id, failure, _) in due {
            self.read_logs();
            if let Some(index) = self.calls.position(&request_id) {
                self.calls.answer(index, Err(failure));
            }
        }
    }

    fn notice_cancelled(&mut self) {
        while let Some(index) = self.calls.cancelled() {
            let message = "the caller left before the function had finished";
            let cancelled = failure(FunctionErrorKind::Cancelled, message);
            if self.calls.given_up() + 1 < self.machine.slots() as usize {
                self.calls.give_up(index, cancelled);
            } else {
                // Nobody waits for most of what the process does: start afresh.
                let reason = "the function's process was ended with another call whose caller left";
                self.end_with(index, cancelled, reason);
            }
        }
    }

    fn notice_timeout(&mut self) {
        if let Some(index) = self.calls.overdue() {
            let timeout_ms = self.calls.timeout_ms(index);
            let when = match &self.process {
                Some(Process { listens: false, port, .. }) => {
                    format!(" before it listened at port {port} (the variable PORT)")
                }
                _ => String::new(),
            };
            let message = format!("the function ran past its timeout of {timeout_ms} ms{when}");
            let reason =
                "the function's process was ended with another call that ran past its timeout";
            self.end_with(index, failure(FunctionErrorKind::Timeout, message), reason);
        }
    }

    /// Ends the process because of one call; the others, if they have not answered, fail with `reason`.
    fn end_with(&mut self, index: usize, cause: Failure, reason: &str) {
        let request_id = self.calls.request_id(index);
        self.end_process();
        if let Some(index) = self.calls.position(&request_id) {
            self.calls.answer(index, Err(cause));
        }
        self.calls.fail_all(&failure(FunctionErrorKind::FunctionCrashed, reason));
    }

    /// Kills the process and all that it started, and takes what it still had to say. Returns the end of
    /// its stderr.
    fn end_process(&mut self) -> Option<String> {
        self.machine.reaper.kill_all();
        // It may have answered with its last breath.
        self.take_news();
        while self.read_some() {}
        let mut process = self.process.take()?;
        process.stop.raise();
        for line in process.function.finish() {
            self.take_line(line);
        }
        Some(process.function.stderr_tail())
    }

    /// Reads what the process has logged before what it has just answered.
    fn read_logs(&mut self) {
        for _ in 0..LOG_READS {
            if self.calls.held_back() || !self.read_some() {
                break;
            }
        }
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
}
