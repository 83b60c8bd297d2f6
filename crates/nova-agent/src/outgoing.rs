//! What waits to be sent to the host, in two lanes.
//!
//! Answers to pings, refusals and the like go first; results and logs follow in their order. Nobody
//! blocks here: a call that produces much looks at [`Outgoing::has_room`] and reads less from its
//! function while there is none. So a slow host holds back the function that writes to it, and neither
//! pings nor timeouts. One connection has one of these; when it closes, what waits is dropped.
//!
//! A frame that finds nothing before it is sent by whoever has it, as far as the socket takes it at once:
//! waking another thread for it would be a third of a warm call's time.
use crate::console::say;
use nix::sys::socket::{MsgFlags, send};
use nova_proto::{FunctionError, FunctionErrorKind, Message, Reply};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Above this, functions are held back, bytes: one largest result and its log.
const HIGH_WATER_BYTES: usize = 8 * 1024 * 1024;

/// Most answers that may wait. A host that sends requests and reads no answers is cut off here.
const CONTROL_MAX_FRAMES: usize = 1024;

/// The queue of one connection.
pub struct Outgoing {
    stream: UnixStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The rest of a frame of which the beginning is sent.
    begun: Option<Vec<u8>>,
    control: VecDeque<Vec<u8>>,
    bulk: VecDeque<Vec<u8>>,
    bulk_bytes: usize,
    writing: bool,
    closed: bool,
}

impl Outgoing {
    /// A queue for this connection; [`Self::write_until_closed`] sends from it.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Queues an answer that must not wait behind results and logs.
    pub fn send_control(&self, id: u64, reply: Reply) {
        let Some(frame) = encode(id, Message::Resp(reply)) else { return };
        let mut state = self.lock();
        if state.control.len() >= CONTROL_MAX_FRAMES {
            say(format_args!("the host reads no answers; closing its connection"));
            drop(state);
            return self.close();
        }
        if let Some(frame) = self.send_at_once(&mut state, frame) {
            state.control.push_back(frame);
            self.changed.notify_all();
        }
    }

    /// Queues a result or log lines, in order.
    pub fn send_bulk(&self, id: u64, message: Message) {
        let Some(frame) = encode(id, message) else { return };
        let mut state = self.lock();
        if let Some(frame) = self.send_at_once(&mut state, frame) {
            state.bulk_bytes += frame.len();
            state.bulk.push_back(frame);
            self.changed.notify_all();
        }
    }

    /// Sends the frame if nothing is before it and the socket takes it now. The frame comes back if it
    /// has to be queued; of one that was sent in part, the rest is next in turn already.
    fn send_at_once(&self, state: &mut State, mut frame: Vec<u8>) -> Option<Vec<u8>> {
        if state.closed {
            return None;
        }
        if !state.is_empty() {
            return Some(frame);
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.stream.as_raw_fd(), &frame, flags) {
            Ok(sent) if sent == frame.len() => None,
            Ok(sent) => {
                frame.drain(..sent);
                state.begun = Some(frame);
                self.changed.notify_all();
                None
            }
            // Full, or broken, which the writer will find out.
            Err(_) => Some(frame),
        }
    }

    /// Whether a function may write more. A closed connection takes everything, into nowhere.
    pub fn has_room(&self) -> bool {
        self.lock().bulk_bytes < HIGH_WATER_BYTES
    }

    /// Waits until everything is sent, the connection is closed, or the time is up.
    fn drain(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while !state.closed
            && (state.writing || !state.control.is_empty() || !state.bulk.is_empty())
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends what is left, says that nothing follows, and waits for the host to close its end. A kernel
    /// that resets right after a write to vsock takes the last packet with it.
    pub fn part(&self, timeout: Duration) {
        self.drain(timeout);
        // All of these fail when the host has gone already, which is what is waited for.
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.stream.set_read_timeout(Some(timeout));
        while (&self.stream).read(&mut [0; 512]).is_ok_and(|length| length > 0) {}
    }

    /// Ends the connection, for the writer and the reader.
    pub fn close(&self) {
        let mut state = self.lock();
        *state = State { closed: true, ..State::default() };
        self.changed.notify_all();
        // Fails when the host closed it first.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Sends what is queued, until the connection is closed.
    pub fn write_until_closed(&self) {
        while let Some(frame) = self.next() {
            if (&self.stream).write_all(&frame).is_err() {
                self.close();
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let waiting = state.begun.take();
            if let Some(frame) = waiting.or_else(|| state.control.pop_front()) {
                state.writing = true;
                return Some(frame);
            }
            if let Some(frame) = state.bulk.pop_front() {
                state.writing = true;
                state.bulk_bytes -= frame.len();
                return Some(frame);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nothing waits, nothing is under way.
    fn is_empty(&self) -> bool {
        let queued = self.begun.is_some() || !self.control.is_empty() || !self.bulk.is_empty();
        !queued && !self.writing
    }
}

/// The frame of a message. One that is too large, which the limits on results are there to prevent,
/// is still answered: as a result that is too large.
fn encode(id: u64, message: Message) -> Option<Vec<u8>> {
    let message = match message.encode(id) {
        Ok(frame) => return Some(frame),
        Err(error) => {
            say(format_args!("a message of type {} cannot be sent: {error}", message.kind()));
            message
        }
    };
    let Message::Resp(Reply::Done(mut report)) = message else { return None };
    report.output = None;
    report.error = Some(FunctionError {
        kind: FunctionErrorKind::OutputTooLarge,
        message: "the result does not fit in a message".into(),
        detail: None,
    });
    Message::Resp(Reply::Done(report)).encode(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nova_proto::{FrameDecoder, Log, LogLine, LogStream};

    fn log_of(bytes: usize) -> Message {
        let line = LogLine { time_unix_ms: 0, stream: LogStream::Stdout, text: "x".repeat(bytes) };
        Message::Log(Log { lines: vec![line] })
    }

    /// The ids of the frames that are sent, until the queue is empty.
    fn sent_ids(outgoing: &Outgoing, mut host: UnixStream) -> Vec<u64> {
        std::thread::scope(|scope| {
            scope.spawn(|| outgoing.write_until_closed());
            scope.spawn(|| {
                outgoing.drain(Duration::from_secs(60));
                outgoing.close();
            });
            let mut bytes = Vec::new();
            host.read_to_end(&mut bytes).expect("frames");
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            std::iter::from_fn(|| decoder.next_frame().expect("a frame")).map(|f| f.id).collect()
        })
    }

    #[test]
    fn an_answer_overtakes_results_and_logs_which_keep_their_order() {
        let (guest, host) = UnixStream::pair().expect("a socket pair");
        let outgoing = Outgoing::new(guest);
        // The first is under way at once, more of it than the socket holds.
        for id in 1..=3 {
            outgoing.send_bulk(id, log_of(1 << 20));
        }
        outgoing.send_control(4, Reply::Pong {});
        assert_eq!(sent_ids(&outgoing, host), [1, 4, 2, 3]);
    }

    #[test]
    fn a_host_that_does_not_read_uses_up_the_room() {
        let (guest, _host) = UnixStream::pair().expect("a socket pair");
        let outgoing = Outgoing::new(guest);
        let mut sent = 0;
        while outgoing.has_room() {
            outgoing.send_bulk(1, log_of(60 * 1024));
            sent += 1;
        }
        // The socket itself holds some.
        assert!((sent - 1) * 60 * 1024 < HIGH_WATER_BYTES + (1 << 20));
        outgoing.close();
        assert!(outgoing.has_room());
    }

    #[test]
    fn a_host_that_only_asks_is_cut_off() {
        let (guest, host) = UnixStream::pair().expect("a socket pair");
        let outgoing = Outgoing::new(guest);
        outgoing.send_bulk(0, log_of(1 << 20));
        for id in 0..=CONTROL_MAX_FRAMES as u64 {
            outgoing.send_control(id, Reply::Pong {});
        }
        assert!(outgoing.lock().closed);
        drop(host);
    }
}
