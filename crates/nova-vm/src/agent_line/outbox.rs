//! Frames on their way to the guest.
//!
//! A frame is written at once by whoever sends it, if the socket has room: no hop to another thread
//! on the warm path. What does not fit waits in a queue for the writer task. The queue holds at most
//! one frame per open request and one Cancel per frame that left, because a request that is given
//! up takes its frame with it.
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// The sending half of a line.
#[derive(Debug)]
pub(super) struct Outbox {
    stream: Arc<UnixStream>,
    queue: Mutex<VecDeque<Outgoing>>,
    more: Notify,
}

#[derive(Debug)]
struct Outgoing {
    id: u64,
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    pub fn new(stream: Arc<UnixStream>) -> Self {
        Self { stream, queue: Mutex::default(), more: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Outgoing>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame of request `id` after all frames sent before.
    pub fn send(&self, id: u64, bytes: Vec<u8>) {
        let mut queue = self.queue();
        queue.push_back(Outgoing { id, bytes, written: 0 });
        // Only with an empty queue ahead: otherwise the writer waits for room already. An error is
        // met again, and reported, by the writer.
        if queue.len() > 1 || !matches!(self.write(&mut queue), Ok(true)) {
            self.more.notify_one();
        }
    }

    /// Takes back the frame of request `id` if none of it has been written.
    pub fn withdraw(&self, id: u64) -> bool {
        let mut queue = self.queue();
        let position = queue.iter().position(|frame| frame.id == id && frame.written == 0);
        position.is_some_and(|position| queue.remove(position).is_some())
    }

    /// Writes what waits whenever the socket has room, until that fails.
    pub async fn run(&self) -> io::Error {
        loop {
            self.more.notified().await;
            loop {
                // A statement of its own: the guard must not live until the await.
                let done = self.write(&mut self.queue());
                match done {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => return error,
                }
                if let Err(error) = self.stream.writable().await {
                    return error;
                }
            }
        }
    }

    /// Writes as much as the socket takes now; true when nothing is left.
    fn write(&self, queue: &mut VecDeque<Outgoing>) -> io::Result<bool> {
        while let Some(frame) = queue.front_mut() {
            match self.stream.try_write(&frame.bytes[frame.written..]) {
                Ok(count) => frame.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if frame.written == frame.bytes.len() {
                queue.pop_front();
            }
        }
        Ok(true)
    }
}
