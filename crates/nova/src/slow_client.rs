//! A connection whose other end has to take what is written to it.
//!
//! A client that asks and never reads would keep its connection, and the answer in memory, for as long
//! as it likes: TCP has no objection, and hyper waits. A write that makes no progress for
//! [`WRITE_TIMEOUT`] fails here instead, which ends the connection, and so does one of an answer that is
//! taken slower than [`RATE_MIN`] on the whole. Until all of it is taken the connection is at work.
use crate::idle_connections::{Presence, Work};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client may take none of an answer: beyond what a network recovers from by itself within
/// a few retransmissions, and as long as a pause in a request's body may be.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// What an answer has to be taken at on the whole, bytes per second: as a body has to be sent.
const RATE_MIN: u64 = 16 * 1024;
/// How long an answer may take beyond what [`RATE_MIN`] asks of it.
const RATE_GRACE: Duration = Duration::from_secs(30);

/// A stream whose writes fail when they stand still, or nearly so.
#[derive(Debug)]
pub struct Impatient<S> {
    stream: S,
    presence: Arc<Presence>,
    /// Runs while a write is waiting.
    waiting: Option<Pin<Box<Sleep>>>,
    /// From the first write that waited until all is flushed.
    slow: Option<Slow>,
}

/// What is being taken slowly. For hyper an answer is over as soon as it has the last of it in memory.
#[derive(Debug)]
struct Slow {
    began: Instant,
    taken_bytes: u64,
    _work: Work,
}

impl<S> Impatient<S> {
    /// Wraps the stream of a connection.
    pub fn new(stream: S, presence: Arc<Presence>) -> Self {
        Self { stream, presence, waiting: None, slow: None }
    }

    /// Counts what a write has got rid of.
    fn count(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Some(slow), Poll::Ready(Ok(length))) = (&mut self.slow, written) {
            slow.taken_bytes += *length as u64;
        }
    }

    /// Passes on what a write said, unless it has been waiting for too long.
    fn watch<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let now = Instant::now();
        let slow = self.slow.get_or_insert_with(|| Slow {
            began: now,
            taken_bytes: 0,
            _work: self.presence.work(),
        });
        let (began, taken) = (slow.began, slow.taken_bytes);
        let rate_end = began + RATE_GRACE + Duration::from_secs(taken / RATE_MIN);
        let end = rate_end.min(now + WRITE_TIMEOUT);
        let timer = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(end)));
        ready!(timer.as_mut().poll(context));
        let problem = format!("the client took {taken} bytes in {:?}", now - began);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, problem)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count(&written);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.count(&written);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_pending() {
            return self.watch(flushed, context);
        }
        // A flush that has nothing to do says nothing about a write that waits.
        if self.waiting.is_none() {
            self.slow = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(closed, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn impatient(stream: DuplexStream) -> Impatient<DuplexStream> {
        Impatient::new(stream, Presence::new(&Arc::default()).0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_and_one_that_is_taken_slowly_does_not() {
        const PIECE: usize = 1024 * 1024;
        let (mut client, server) = duplex(PIECE);
        let mut server = impatient(server);
        let reading = tokio::spawn(async move {
            let mut piece = vec![0; PIECE];
            for _ in 0..4 {
                tokio::time::advance(WRITE_TIMEOUT - Duration::from_secs(1)).await;
                client.read_exact(&mut piece).await.unwrap();
            }
            client
        });
        server.write_all(&vec![0; 4 * PIECE]).await.unwrap();
        let _client_that_stays = reading.await.unwrap();
        let error = server.write_all(&vec![0; PIECE + 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_in_drips_is_ended() {
        let (mut client, server) = duplex(16);
        let mut server = impatient(server);
        let dripping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(10)).await;
                client.read_exact(&mut [0; 16]).await.unwrap();
            }
        });
        let began = Instant::now();
        let error = server.write_all(&[0; 16 * 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() <= 2 * RATE_GRACE, "{:?}", began.elapsed());
        dripping.abort();
    }
}
