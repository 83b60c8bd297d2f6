//! `persistent` mode: one process for many calls, a thread that owns it and them.
//!
//! The process is started by the first call and again by the first one after its end. Calls come over
//! a channel, answers come as lines; an event wakes the thread for calls, cancels and the process's
//! end. Whatever ends the process (its own exit, a timeout, a cancel, nonsense on stdout) ends all calls
//! in it. With several call slots a cancel alone does not: the others go on, the answer is dropped.
//!
//! stderr and plain lines of stdout are logs; [`Calls`] says whose.
use crate::call::{Call, Failure, failure};
use crate::calls::Calls;
use crate::event::Event;
use crate::function_process::{Contract, FunctionProcess, Line};
use crate::line_protocol::{Answer, answer_too_large, parse_answer, request_line};
use crate::logs::unix_ms;
use crate::machine::Machine;
use crate::pipes::wait;
use nova_proto::{FunctionErrorKind, LogStream};
use serde_json::value::RawValue;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The runner of a function in `persistent` mode.
pub struct Persistent {
    calls: Sender<Call>,
    event: Arc<Event>,
}

impl Persistent {
    /// Starts its thread; the process comes with the first call.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(machine: Arc<Machine>) -> std::io::Result<Self> {
        let event = Arc::new(Event::new()?);
        let (calls, incoming) = channel();
        let mut owner = Owner {
            machine,
            event: event.clone(),
            incoming,
            calls: Calls::default(),
            process: None,
        };
        std::thread::Builder::new().name("persistent".into()).spawn(move || {
            loop {
                let step = std::panic::AssertUnwindSafe(|| owner.step());
                if std::panic::catch_unwind(step).is_err() {
                    // The calls answer by being dropped; the next one starts a new process.
                    owner.machine.reaper.kill_all();
                    owner.process = None;
                    owner.calls = Calls::default();
                }
            }
        })?;
        Ok(Self { calls, event })
    }

    /// What wakes the thread: for the cancel handles of its calls.
    pub fn event(&self) -> Arc<Event> {
        self.event.clone()
    }

    /// Runs a call. It is answered by itself.
    pub fn run(&self, call: Call) {
        // The thread never ends; and if it did, the call would answer by being dropped.
        let _ = self.calls.send(call);
        self.event.raise();
    }
}

struct Owner {
    machine: Arc<Machine>,
    event: Arc<Event>,
    incoming: Receiver<Call>,
    calls: Calls,
    process: Option<FunctionProcess>,
}

impl Owner {
    /// Looks at everything that may have happened, then waits for more.
    fn step(&mut self) {
        self.event.lower();
        self.notice_exit();
        while let Ok(call) = self.incoming.try_recv() {
            self.begin(call);
        }
        self.notice_cancelled();
        self.notice_timeout();
        let held_back = self.calls.held_back();
        let mut fds = vec![self.event.as_fd()];
        let mut writable = None;
        if let Some(process) = &self.process {
            writable = process.wants_to_write();
            if !held_back {
                fds.extend(process.readable());
            }
        }
        wait(&fds, writable, self.calls.next_deadline(), held_back);
        if let Some(process) = &mut self.process {
            process.write_some();
        }
        if !held_back {
            self.read_some();
        }
        self.calls.flush_logs();
    }

    /// Hands a call to the process, which is started if there is none.
    fn begin(&mut self, mut call: Call) {
        // An earlier attempt of the same request, whose caller left: its answer would pass for this one's.
        if let Some(index) = self.calls.position(&call.exec.request_id) {
            let reason =
                "the function's process was ended with an earlier attempt of another request";
            self.end_with(index, failure(FunctionErrorKind::Cancelled, reason), reason);
        }
        if self.process.is_none() {
            match FunctionProcess::start(&self.machine, Contract::Lines, self.event.clone()) {
                Ok(process) => self.process = Some(process),
                Err(message) => {
                    return call
                        .finish(Err(failure(FunctionErrorKind::FunctionNotStarted, message)));
                }
            }
            call.process_started();
        }
        if let Some(process) = &mut self.process {
            if self.calls.is_empty() {
                process.forget_stderr();
            }
            process.queue(request_line(&call.exec, unix_ms() + call.exec.timeout_ms));
            // It may be megabytes, and is on its way now.
            call.exec.input = RawValue::NULL.to_owned();
        }
        self.calls.add(call);
    }

    /// The process ended by itself: so did all calls in it.
    fn notice_exit(&mut self) {
        let Some(process) = &self.process else { return };
        let Some(status) = process.exit_status() else { return };
        let oom_kills_before = process.oom_kills_before();
        let Some(stderr_tail) = self.end_process() else { return };
        let failure = self.machine.explain_exit(status, oom_kills_before, &stderr_tail);
        self.calls.fail_all(&failure);
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
            let message = format!("the function ran past its timeout of {timeout_ms} ms");
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

    /// Kills the process and all that it started, and takes what it still had to say. Returns the end
    /// of its stderr.
    fn end_process(&mut self) -> Option<String> {
        self.machine.reaper.kill_all();
        while self.read_some() {}
        let mut process = self.process.take()?;
        for line in process.finish() {
            self.take_line(line);
        }
        Some(process.stderr_tail())
    }

    /// Reads once from the process; false when there was nothing.
    fn read_some(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(lines) = process.read_some() else { return false };
        for line in lines {
            self.take_line(line);
        }
        true
    }

    fn take_line(&mut self, line: Line) {
        match line {
            Line::TooLong => self.break_off(answer_too_large()),
            Line::Stderr(text) => self.calls.log(LogStream::Stderr, &text),
            Line::Stdout(text) => match parse_answer(&text) {
                Some(answer) if !self.calls.is_empty() => {
                    // It may be megabytes, as may be what was read from it.
                    drop(text);
                    self.take_answer(answer);
                }
                _ => self.calls.log(LogStream::Stdout, &text),
            },
        }
    }

    /// Hands an answer to its call, of which there is at least one.
    fn take_answer(&mut self, answer: Answer) {
        let index = match &answer.request_id {
            Some(request_id) => self.calls.position(request_id),
            None if self.machine.slots() == 1 => Some(0),
            None => None,
        };
        match (index, answer.request_id) {
            (Some(index), _) => self.calls.answer(index, answer.result),
            (None, Some(request_id)) => {
                let message =
                    format!("the function answered request `{request_id}`, which is not running");
                self.break_off(failure(FunctionErrorKind::InvalidOutput, message));
            }
            (None, None) => {
                let message = "the function answered without the request_id, which it must repeat \
                               where instance_concurrency is above 1";
                self.break_off(failure(FunctionErrorKind::InvalidOutput, message));
            }
        }
    }

    /// What the process writes cannot be told apart any more: its calls fail, and it is ended. The
    /// kill is done by the next look, which finds no call that could blame it on something else.
    fn break_off(&mut self, failure: Failure) {
        self.calls.fail_all(&failure);
        self.machine.reaper.kill_all();
    }
}
