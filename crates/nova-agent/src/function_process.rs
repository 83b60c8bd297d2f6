//! The process of a function that stays (`persistent`, `lambda`): its pipes, cut into lines.
use crate::child::Stdin;
use crate::event::Event;
use crate::line_protocol::ANSWER_MAX_BYTES;
use crate::logs::{LINE_MAX_BYTES, LineCutter};
use crate::machine::Machine;
use crate::pipes::{PipeReader, enlarge, set_nonblocking};
use crate::reaper::Exit;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::Arc;

/// How much of the end of stderr an error quotes, bytes.
const STDERR_TAIL_BYTES: usize = 2048;

/// How often stderr is read before the stdout that was read with it is looked at: what the function
/// logged before its answer belongs to that call. A pipe holds one read; the bound is for a flood.
const STDERR_READS: usize = 16;

/// How a process that stays is spoken to.
pub enum Contract<'a> {
    /// Calls on stdin, answers on stdout, among log lines.
    Lines,
    /// Elsewhere, as this environment says; stdin is empty, stdout a log.
    Elsewhere {
        /// Program and arguments.
        command: &'a [String],
        /// Variables on top of those that every function has.
        env: &'a [(&'a str, &'a str)],
    },
}

/// Something that the process wrote.
pub enum Line {
    /// A line of stdout: an answer or a log.
    Stdout(Vec<u8>),
    /// A line of stderr.
    Stderr(Vec<u8>),
    /// A line of stdout that is over the limit of answers.
    TooLong,
}

/// A running process and what was read from it.
pub struct FunctionProcess {
    exit: Exit,
    stdin: Option<ChildStdin>,
    to_write: Vec<u8>,
    written: usize,
    stdout: PipeReader<ChildStdout>,
    stderr: PipeReader<ChildStderr>,
    stdout_lines: LineCutter,
    stderr_lines: LineCutter,
    stderr_tail: Vec<u8>,
    oom_kills_before: u64,
}

impl FunctionProcess {
    /// Starts it; `event` is raised when it ends.
    ///
    /// # Errors
    /// A message for the function's author.
    pub fn start(
        machine: &Machine,
        contract: Contract<'_>,
        event: Arc<Event>,
    ) -> Result<Self, String> {
        let (command, env, stdin, stdout_line_max_bytes): (_, &[_], _, _) = match contract {
            Contract::Lines => {
                (&machine.function.command[..], &[], Stdin::Pipe, ANSWER_MAX_BYTES + 8)
            }
            Contract::Elsewhere { command, env } => (command, env, Stdin::Empty, LINE_MAX_BYTES),
        };
        let oom_kills_before = machine.cgroup.oom_kills();
        let (mut child, exit) = machine.start(command, env, stdin, event)?;
        let stdin = child.stdin.take();
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("cannot talk to the function: a pipe is missing".into());
        };
        let failed = |error| {
            machine.reaper.kill_all();
            format!("cannot talk to the function: {error}")
        };
        if let Some(stdin) = &stdin {
            set_nonblocking(stdin).map_err(failed)?;
            enlarge(stdin);
            enlarge(&stdout);
        }
        Ok(Self {
            exit,
            stdin,
            to_write: Vec::new(),
            written: 0,
            stdout: PipeReader::new(stdout).map_err(failed)?,
            stderr: PipeReader::new(stderr).map_err(failed)?,
            stdout_lines: LineCutter::new(stdout_line_max_bytes),
            stderr_lines: LineCutter::new(LINE_MAX_BYTES),
            stderr_tail: Vec::new(),
            oom_kills_before,
        })
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.exit.status()
    }

    /// The cgroup's count of OOM kills before it was started.
    pub fn oom_kills_before(&self) -> u64 {
        self.oom_kills_before
    }

    /// The end of its stderr.
    pub fn stderr_tail(&self) -> String {
        String::from_utf8_lossy(&self.stderr_tail).into_owned()
    }

    /// Begins the end of its stderr anew: what was written until now is none of the next call's.
    pub fn forget_stderr(&mut self) {
        self.stderr_tail.clear();
    }

    /// What to poll for reading.
    pub fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.stdout.fd().into_iter().chain(self.stderr.fd())
    }

    /// What to poll for writing, if there is something to write.
    pub fn wants_to_write(&self) -> Option<BorrowedFd<'_>> {
        if self.to_write.is_empty() { None } else { self.stdin.as_ref().map(AsFd::as_fd) }
    }

    /// Adds a line for its stdin. Bounded by the calls that are in it.
    pub fn queue(&mut self, line: Vec<u8>) {
        if self.to_write.is_empty() {
            self.to_write = line;
        } else {
            self.to_write.extend_from_slice(&line);
        }
        self.write_some();
    }

    /// Writes what its stdin takes without waiting.
    pub fn write_some(&mut self) {
        while self.written < self.to_write.len() {
            let Some(stdin) = &mut self.stdin else { break };
            match stdin.write(&self.to_write[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It closed its stdin: its calls end with it, or at their timeout.
                Err(_) => self.stdin = None,
            }
        }
        self.to_write = Vec::new();
        self.written = 0;
    }

    /// Reads what there is for now, the log before the answer; `None` when there was nothing.
    pub fn read_some(&mut self) -> Option<Vec<Line>> {
        let mut lines = Vec::new();
        let mut answers = Vec::new();
        let Self { stdout, stderr, stdout_lines, stderr_lines, stderr_tail, .. } = self;
        let mut any = stdout.read_some(|bytes| {
            stdout_lines.push(bytes, &mut |line| answers.push(stdout_line(line)));
        });
        for _ in 0..STDERR_READS {
            let more = stderr.read_some(|bytes| {
                stderr_lines.push(bytes, &mut |line| lines.push(Line::Stderr(line)));
                stderr_tail.extend_from_slice(bytes);
                let surplus = stderr_tail.len().saturating_sub(STDERR_TAIL_BYTES);
                stderr_tail.drain(..surplus);
            });
            any |= more;
            if !more {
                break;
            }
        }
        lines.append(&mut answers);
        any.then_some(lines)
    }

    /// The last lines of a dead process: those without a line end.
    pub fn finish(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        self.stderr_lines.finish(&mut |line| lines.push(Line::Stderr(line)));
        self.stdout_lines.finish(&mut |line| lines.push(stdout_line(line)));
        lines
    }
}

fn stdout_line(line: Vec<u8>) -> Line {
    if line.len() > ANSWER_MAX_BYTES { Line::TooLong } else { Line::Stdout(line) }
}
