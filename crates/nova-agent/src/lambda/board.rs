//! What the owner of the process and the connections from the process share: events that wait to be
//! fetched, those that are being worked on, and answers.
//!
//! ```text
//!   offered ──next──▶ taken ──response|error──▶ answers ──▶ the owner
//!      ▲                │
//!      └── not read ────┘   the connection was closed with the event still unread
//! ```
//!
//! An event is handed over only to a client that is there, and comes back if the client goes without
//! having read it. That can be known: a socket that is closed with unread data in it is reset, one
//! without is not. So a runtime that dies while it waits swallows nothing, and what it has read is never
//! given to another.
use super::delivery::{Delivery, Invocation};
use super::extensions::Extensions;
use super::http::{Connection, Peer};
use crate::call::Failure;
use crate::event::Event;
use crate::line_protocol::CallResult;
use crate::pipes::wait;
use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the connections of a dead process may take to find out.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

struct Taken {
    /// Over which connection it went, until it is known to be read.
    connection: Option<u64>,
    /// `None` once the runtime has begun to answer: it may be megabytes.
    delivery: Option<Delivery>,
}

/// What changes.
#[derive(Default)]
pub struct State {
    offered: VecDeque<Delivery>,
    taken: HashMap<String, Taken>,
    answers: Vec<(String, CallResult)>,
    /// Handed over since the owner last looked.
    begun: Vec<String>,
    /// The runtime has asked for an event: it is initialised.
    initialised: bool,
    init_failure: Option<Failure>,
    pub extensions: Extensions,
    /// Who waits for something to change.
    parked: Vec<Arc<Event>>,
    connections: usize,
    closing: bool,
}

/// See the module.
pub struct Board {
    state: Mutex<State>,
    /// A connection has ended.
    ended: Condvar,
    owner: Arc<Event>,
    slots: usize,
}

/// Why a request is not carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not now: `InvalidStateTransition`.
    State,
    /// No event with this id is being worked on: `InvalidRequestID`.
    RequestId,
}

/// What came of waiting.
pub enum Waited<T> {
    /// This.
    Got(T),
    /// The client has gone, or did something else than wait.
    Over,
}

impl Board {
    /// An empty one for a process that takes `slots` events at once; `owner` is raised when there is
    /// something for the owner.
    pub fn new(owner: Arc<Event>, slots: usize) -> Self {
        Self { state: Mutex::default(), ended: Condvar::new(), owner, slots }
    }

    /// Offers an event to whoever asks.
    pub fn offer(&self, delivery: Delivery) {
        let mut state = self.lock();
        state.offered.push_back(delivery);
        state.wake_all();
    }

    /// Takes an offered event back; false when it was fetched already.
    pub fn withdraw(&self, request_id: &str) -> bool {
        let mut state = self.lock();
        let position =
            state.offered.iter().position(|offered| offered.invocation.request_id == request_id);
        position.is_some_and(|position| state.offered.remove(position).is_some())
    }

    /// For a `next`: refuses it where the process has its only event to answer first. One that takes several
    /// may ask ahead, as AWS's client for Node.js does; it waits until a caller comes.
    pub fn ask(&self) -> Result<(), Refused> {
        let mut state = self.lock();
        let is_out_of_turn = self.slots == 1 && !state.taken.is_empty();
        if state.init_failure.is_some() || is_out_of_turn {
            return Err(Refused::State);
        }
        if !state.initialised {
            state.initialised = true;
            self.owner.raise();
        }
        Ok(())
    }

    /// Waits for an event for this connection.
    pub fn next(
        &self,
        number: u64,
        client: &Connection,
        waker: &Arc<Event>,
    ) -> Waited<Arc<Invocation>> {
        let waited = self.wait_for(client, waker, |state| {
            let delivery = state.offered.pop_front()?;
            let invocation = delivery.invocation.clone();
            let request_id = invocation.request_id.clone();
            state.begun.push(request_id.clone());
            let taken = Taken { connection: Some(number), delivery: Some(delivery) };
            state.taken.insert(request_id, taken);
            state.extensions.announce(&invocation);
            state.wake_all();
            Some(invocation)
        });
        self.owner.raise();
        waited
    }

    /// The client has sent another request over this connection: what it got before, it has read.
    pub fn has_read(&self, number: u64) {
        for taken in self.lock().taken.values_mut().filter(|taken| taken.connection == Some(number))
        {
            taken.connection = None;
        }
    }

    /// The connection was closed before all that was sent over it was read: an event that it got, and
    /// that nobody answers, is offered again.
    pub fn unread(&self, number: u64) {
        let mut state = self.lock();
        let unread = |taken: &Taken| taken.connection == Some(number) && taken.delivery.is_some();
        let found = state.taken.iter().find(|(_, taken)| unread(taken)).map(|(id, _)| id.clone());
        let Some(request_id) = found else { return };
        let Some(Taken { delivery: Some(mut delivery), .. }) = state.taken.remove(&request_id)
        else {
            return;
        };
        if delivery.left_unread() {
            state.offered.push_front(delivery);
            state.wake_all();
        } else {
            // Nobody will answer it: it fails with the process, or at its deadline.
            state.taken.insert(request_id, Taken { connection: None, delivery: None });
        }
    }

    /// The runtime begins to answer an event; nobody else may then.
    pub fn begin_answer(&self, request_id: &str) -> Result<Delivery, Refused> {
        let mut state = self.lock();
        let taken = state.taken.get_mut(request_id).ok_or(Refused::RequestId)?;
        // Over whatever connection it answers: it has read the event.
        taken.connection = None;
        taken.delivery.take().ok_or(Refused::RequestId)
    }

    /// The answer broke off; another may come.
    pub fn break_off_answer(&self, request_id: &str, delivery: Delivery) {
        if let Some(taken) = self.lock().taken.get_mut(request_id) {
            taken.delivery = Some(delivery);
        }
    }

    /// The answer to an event is here.
    pub fn answer(&self, request_id: &str, result: CallResult) {
        let mut state = self.lock();
        // A process that was ended meanwhile has nobody to answer.
        if state.taken.remove(request_id).is_some() {
            state.answers.push((request_id.to_owned(), result));
            self.owner.raise();
        }
    }

    /// The runtime could not initialise.
    pub fn fail_init(&self, failure: Failure) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.initialised || state.init_failure.is_some() {
            return Err(Refused::State);
        }
        state.init_failure = Some(failure);
        self.owner.raise();
        Ok(())
    }

    /// Waits until `look` finds something for a client, or the client does not wait any more.
    pub fn wait_for<T>(
        &self,
        client: &Connection,
        waker: &Arc<Event>,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Waited<T> {
        let waited = loop {
            waker.lower();
            {
                let mut state = self.lock();
                let peer = client.peer();
                if peer != Peer::Waiting || state.closing {
                    break Waited::Over;
                }
                if let Some(found) = look(&mut state) {
                    break Waited::Got(found);
                }
                if !state.parked.iter().any(|parked| Arc::ptr_eq(parked, waker)) {
                    state.parked.push(waker.clone());
                }
            }
            wait(&[client.stream().as_fd(), waker.as_fd()], None, None, false);
        };
        self.lock().parked.retain(|parked| !Arc::ptr_eq(parked, waker));
        waited
    }

    /// Does something with the extensions.
    pub fn with_extensions<T>(&self, act: impl FnOnce(&mut Extensions) -> T) -> T {
        act(&mut self.lock().extensions)
    }

    /// A connection begins, unless there are `most` already or the process was ended.
    pub fn connect(&self, most: usize) -> bool {
        let mut state = self.lock();
        while state.connections >= most && !state.closing {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.closing {
            state.connections += 1;
        }
        !state.closing
    }

    /// A connection has ended.
    pub fn disconnect(&self) {
        self.lock().connections -= 1;
        self.ended.notify_all();
    }

    /// Answers since the last look.
    pub fn take_answers(&self) -> Vec<(String, CallResult)> {
        std::mem::take(&mut self.lock().answers)
    }

    /// Events handed over since the last look.
    pub fn take_begun(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().begun)
    }

    /// Why the runtime could not initialise, if it said so.
    pub fn init_failure(&self) -> Option<Failure> {
        self.lock().init_failure.clone()
    }

    /// Whether the runtime has asked for an event.
    pub fn is_initialised(&self) -> bool {
        self.lock().initialised
    }

    /// The process is dead. Waits for its connections to find that out, and returns the events that
    /// nobody has read.
    pub fn close(&self) -> Vec<Delivery> {
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let mut state = self.lock();
        state.closing = true;
        state.wake_all();
        self.ended.notify_all();
        while state.connections > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.offered.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// All look for themselves whether there is something for them. There are few.
    pub fn wake_all(&mut self) {
        for waker in &self.parked {
            waker.raise();
        }
    }
}
