//! Connections that wait for their client, so that the one which has waited longest can make room.
//!
//! Nobody has shown a key when a connection is accepted, and one that is kept open costs its client
//! nothing: without this a few thousand of them would keep everybody else out.
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// All that are idle.
#[derive(Debug, Default)]
pub struct IdleConnections {
    idle: Mutex<Waiting>,
    one_more: Notify,
}

/// In the order in which they became idle.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
}

impl IdleConnections {
    /// Closes the connection that has been idle for longest, as soon as there is one.
    pub async fn close_longest(&self) {
        loop {
            let more = self.one_more.notified();
            if let Some((_, close)) = self.lock().by_age.pop_first() {
                return close.cancel();
            }
            more.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection. Idle from its beginning on, but for the time of its requests.
#[derive(Debug)]
pub struct Presence {
    all: Arc<IdleConnections>,
    /// Cancelled when it is to be closed.
    close: CancellationToken,
    place: Mutex<Option<u64>>,
}

impl Presence {
    /// A new connection, which `close` ends.
    pub fn new(all: &Arc<IdleConnections>, close: CancellationToken) -> Arc<Self> {
        let presence = Arc::new(Self { all: all.clone(), close, place: Mutex::default() });
        presence.rest();
        presence
    }

    /// A request has come; the connection is idle again when this value ends.
    pub fn work(self: &Arc<Self>) -> Work {
        self.leave();
        Work(self.clone())
    }

    fn rest(&self) {
        let mut all = self.all.lock();
        all.next += 1;
        let place = all.next;
        all.by_age.insert(place, self.close.clone());
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        drop(all);
        self.all.one_more.notify_one();
    }

    fn leave(&self) {
        let mut all = self.all.lock();
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(place) = place {
            all.by_age.remove(&place);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request and its answer, to the last byte that is handed out.
#[derive(Debug)]
pub struct Work(Arc<Presence>);

impl Work {
    /// The answer, which keeps the connection from being idle until all of it was taken.
    pub fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(Answer { body, _work: self }))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.rest();
    }
}

struct Answer {
    body: Body,
    _work: Work,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
