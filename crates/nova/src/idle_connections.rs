//! Connections that wait for their client, so that the one which has waited longest can make room.
//!
//! Nobody has shown a key when a connection is accepted, and one that is kept open costs its client
//! nothing: without this a few thousand of them would keep everybody else out.
//!
//! Who has waited longest is asked, not closed: its next request may be arriving at this very moment.
//! It hands over its place, or says no and is idle again after its work.
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};

/// Takes a connection's place; dropped, it says no.
pub type Leave = oneshot::Sender<OwnedSemaphorePermit>;

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
    by_age: BTreeMap<u64, mpsc::Sender<Leave>>,
}

impl IdleConnections {
    /// The place of the connection that has been idle for longest, as soon as there is one.
    pub async fn place_of_longest(&self) -> OwnedSemaphorePermit {
        loop {
            let more = self.one_more.notified();
            let longest = self.lock().by_age.pop_first();
            let Some((_, asking)) = longest else {
                more.await;
                continue;
            };
            let (leave, place) = oneshot::channel();
            // One that is just ending, or was asked before, cannot be asked.
            if asking.try_send(leave).is_ok()
                && let Ok(place) = place.await
            {
                return place;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection. Idle from its beginning on, but for the time of its work.
#[derive(Debug)]
pub struct Presence {
    all: Arc<IdleConnections>,
    asking: mpsc::Sender<Leave>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How much [`Work`] there is.
    work: usize,
    /// Where it is in the order of those that are idle.
    place: Option<u64>,
}

impl Presence {
    /// A new connection, and the end at which it is asked to leave.
    pub fn new(all: &Arc<IdleConnections>) -> (Arc<Self>, Departure) {
        let (asking, asked) = mpsc::channel(1);
        let presence = Arc::new(Self { all: all.clone(), asking, state: Mutex::default() });
        presence.rest(&mut presence.all.lock(), &mut presence.state());
        (presence.clone(), Departure { presence, asked })
    }

    /// Something has begun that must not be cut off; the connection is idle again when all such values
    /// have ended.
    pub fn work(self: &Arc<Self>) -> Work {
        let (mut all, mut state) = (self.all.lock(), self.state());
        state.work += 1;
        if let Some(place) = state.place.take() {
            all.by_age.remove(&place);
        }
        Work(self.clone())
    }

    fn end_work(&self) {
        let (mut all, mut state) = (self.all.lock(), self.state());
        state.work -= 1;
        if state.work == 0 {
            self.rest(&mut all, &mut state);
        }
    }

    fn rest(&self, all: &mut Waiting, state: &mut State) {
        all.next += 1;
        all.by_age.insert(all.next, self.asking.clone());
        state.place = Some(all.next);
        self.all.one_more.notify_one();
    }

    /// Locked behind the list of all.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let (mut all, mut state) = (self.all.lock(), self.state());
        if let Some(place) = state.place.take() {
            all.by_age.remove(&place);
        }
    }
}

/// Where a connection hears that it should leave.
#[derive(Debug)]
pub struct Departure {
    presence: Arc<Presence>,
    asked: mpsc::Receiver<Leave>,
}

impl Departure {
    /// Who wants the connection's place, at a moment when nothing is lost with it. To be polled by the
    /// task that does the connection's work and behind it, so that the moment is not over when this
    /// is ready.
    pub async fn due(&mut self) -> Leave {
        loop {
            match self.asked.recv().await {
                Some(leave) if self.presence.state().work == 0 => return leave,
                Some(_at_work) => {}
                // The presence has the other end.
                None => std::future::pending().await,
            }
        }
    }
}

/// A request and its answer, or what of an answer the client has not yet taken.
#[derive(Debug)]
pub struct Work(Arc<Presence>);

impl Work {
    /// The answer, which keeps the connection from being idle until all of it was handed out.
    pub fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(Answer { body, _work: self }))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.end_work();
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
