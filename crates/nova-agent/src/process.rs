//! `process` mode: a process per call, input in a file, the result on stdout.
//!
//! The call ends when its main process does. Then everything that it left behind is killed, and what
//! the pipes still hold is read to its end: with every writer dead, there is one.
use crate::call::{Call, Failure, failure};
use crate::child::Stdin;
use crate::event::Event;
use crate::files::InputFile;
use crate::ipc;
use crate::logs::{LINE_MAX_BYTES, LineCutter, unix_ms};
use crate::machine::Machine;
use crate::output::{OutputError, OutputReader};
use crate::pipes::{PipeReader, wait};
use crate::reaper::{Exit, Reaper};
use nova_proto::{FunctionErrorKind, LogStream, PAYLOAD_MAX_BYTES};
use serde_json::value::RawValue;
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::time::Instant;

/// How much of the end of stderr an error quotes, bytes.
const STDERR_TAIL_BYTES: usize = 2048;

/// Why a call is over.
enum End {
    Exited(ExitStatus),
    TimedOut,
    Cancelled,
    TooLarge,
}

/// Runs one call from its start to its answer.
pub fn run(machine: &Machine, mut call: Call, event: Arc<Event>) {
    let _guard = KillOnPanic(&machine.reaper);
    let result = attempt(machine, &mut call, event);
    call.finish(result);
}

/// A bug in here must not leave the function running when its call answers by being dropped: that
/// frees the slot, and the next call would be killed with the leftovers of this one.
struct KillOnPanic<'a>(&'a Reaper);

impl Drop for KillOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.kill_all();
        }
    }
}

fn attempt(
    machine: &Machine,
    call: &mut Call,
    event: Arc<Event>,
) -> Result<Box<RawValue>, Failure> {
    let not_started = |message| failure(FunctionErrorKind::FunctionNotStarted, message);
    let input = InputFile::create(call.exec.input.get()).map_err(not_started)?;
    // It may be megabytes, and is in the file now.
    call.exec.input = RawValue::NULL.to_owned();
    let command: Vec<String> =
        machine.function.command.iter().map(|word| word.replace("{input}", input.path())).collect();
    let deadline_ms = (unix_ms() + call.exec.timeout_ms).to_string();
    let request_id = call.exec.request_id.clone();
    let traceparent = call.exec.traceparent.clone();
    let mut env =
        vec![("NOVA_REQUEST_ID", request_id.as_str()), ("NOVA_DEADLINE_MS", deadline_ms.as_str())];
    env.extend(traceparent.as_deref().map(|value| ("TRACEPARENT", value)));

    // Programs of people's own images may not know of the argument.
    let stdin = match machine.function.own_image {
        Some(_) => Stdin::File(input.open().map_err(not_started)?),
        None => Stdin::Empty,
    };
    let oom_kills_before = machine.cgroup.oom_kills();
    let (child, exit) = machine.start(&command, &env, stdin, event.clone()).map_err(not_started)?;
    call.process_started();
    let mut running = Running::new(child, exit, event).map_err(|error| {
        machine.reaper.kill_all();
        not_started(format!("cannot read the function's output: {error}"))
    })?;
    let end = running.supervise(call);
    machine.reaper.kill_all();
    ipc::remove_left();
    running.read_to_end(call);
    running.conclude(machine, call, end, oom_kills_before)
}

/// A started process and what was read from it.
struct Running {
    exit: Exit,
    event: Arc<Event>,
    stdout: PipeReader<ChildStdout>,
    stderr: PipeReader<ChildStderr>,
    output: OutputReader,
    too_large: bool,
    stderr_lines: LineCutter,
    stderr_tail: Vec<u8>,
}

impl Running {
    fn new(mut child: Child, exit: Exit, event: Arc<Event>) -> std::io::Result<Self> {
        let missing = || std::io::Error::other("a pipe is missing");
        Ok(Self {
            exit,
            event,
            stdout: PipeReader::new(child.stdout.take().ok_or_else(missing)?)?,
            stderr: PipeReader::new(child.stderr.take().ok_or_else(missing)?)?,
            output: OutputReader::new(),
            too_large: false,
            stderr_lines: LineCutter::new(LINE_MAX_BYTES),
            stderr_tail: Vec::new(),
        })
    }

    /// Reads until the process ends or has to be ended.
    fn supervise(&mut self, call: &mut Call) -> End {
        loop {
            self.event.lower();
            if let Some(status) = self.exit.status() {
                return End::Exited(status);
            }
            if call.is_cancelled() {
                return End::Cancelled;
            }
            if self.too_large {
                return End::TooLarge;
            }
            if Instant::now() >= call.deadline {
                return End::TimedOut;
            }
            let has_room = call.has_room();
            let mut fds = vec![self.event.as_fd()];
            if has_room {
                fds.extend(self.stdout.fd().into_iter().chain(self.stderr.fd()));
            }
            wait(&fds, None, Some(call.deadline), !has_room);
            if has_room {
                self.read_some(call);
                call.log.flush();
            }
        }
    }

    /// Reads once from each pipe; false when there was nothing.
    fn read_some(&mut self, call: &mut Call) -> bool {
        let Self { stdout, stderr, output, stderr_lines, stderr_tail, .. } = self;
        let log = &mut call.log;
        let from_stderr = stderr.read_some(|bytes| {
            stderr_lines.push(bytes, &mut |line| log.line(LogStream::Stderr, &line));
            stderr_tail.extend_from_slice(bytes);
            let surplus = stderr_tail.len().saturating_sub(STDERR_TAIL_BYTES);
            stderr_tail.drain(..surplus);
        });
        let mut pushed = Ok(());
        let from_stdout = stdout.read_some(|bytes| {
            if !self.too_large {
                pushed = output.push(bytes, &mut |line| log.line(LogStream::Stdout, line));
            }
        });
        self.too_large |= pushed.is_err();
        from_stderr || from_stdout
    }

    /// Reads what is left in the pipes of a dead process.
    fn read_to_end(&mut self, call: &mut Call) {
        while self.read_some(call) {}
        self.stderr_lines.finish(&mut |line| call.log.line(LogStream::Stderr, &line));
    }

    fn conclude(
        self,
        machine: &Machine,
        call: &mut Call,
        end: End,
        oom_kills_before: u64,
    ) -> Result<Box<RawValue>, Failure> {
        let mut log = |line: &[u8]| call.log.line(LogStream::Stdout, line);
        let too_large = || {
            let message = format!("the result is over the limit of {PAYLOAD_MAX_BYTES} bytes");
            failure(FunctionErrorKind::OutputTooLarge, message)
        };
        match end {
            End::Exited(_) | End::TooLarge if self.too_large => Err(too_large()),
            End::Exited(status) if status.success() => {
                self.output.finish(&mut log).map_err(|error| match error {
                    OutputError::TooLarge => too_large(),
                    OutputError::Invalid { quote } => {
                        let message = match quote.as_str() {
                            "" => "the function printed nothing; print one JSON value".into(),
                            _ => format!(
                                "stdout does not end in a JSON value; it begins with: {quote}"
                            ),
                        };
                        failure(FunctionErrorKind::InvalidOutput, message)
                    }
                })
            }
            End::Exited(status) => {
                self.output.abandon(&mut log);
                let tail = String::from_utf8_lossy(&self.stderr_tail);
                Err(machine.explain_exit(status, oom_kills_before, &tail))
            }
            End::TooLarge => Err(too_large()),
            End::TimedOut => {
                self.output.abandon(&mut log);
                let message =
                    format!("the function ran past its timeout of {} ms", call.exec.timeout_ms);
                Err(failure(FunctionErrorKind::Timeout, message))
            }
            End::Cancelled => {
                self.output.abandon(&mut log);
                let message = "the caller left before the function had finished";
                Err(failure(FunctionErrorKind::Cancelled, message))
            }
        }
    }
}
