//! Serves the host: takes its connections, feeds the session, carries out what it says.
//!
//! One connection counts at a time, the latest: after a snapshot restore the old one is dead without
//! knowing it. Losing a connection cancels its calls, for nobody waits for them; the machine lives on.
use crate::call::{Call, CancelHandle};
use crate::console::say;
use crate::export::Credits;
use crate::listen::Listener;
use crate::outgoing::Outgoing;
use crate::place::Place;
use crate::reaper::Reaper;
use crate::runner::Runner;
use crate::session::{Action, Session};
use crate::set_up;
use nova_proto::{
    Exec, FrameDecoder, Init, Message, PROTOCOL_VERSION, Ready, Refusal, RefusalKind, Reply,
};
use std::collections::HashMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod export;

/// How long an accept that failed is left alone, so that a lasting failure does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long the answer to Stop may take to leave, and how long the host may take to hang up on it.
const FAREWELL: Duration = Duration::from_millis(250);

/// How many bytes are read from the host at a time.
const READ_BYTES: usize = 64 * 1024;

/// Everything that outlives a connection.
pub struct Server {
    place: Place,
    reaper: Arc<Reaper>,
    session: Mutex<Session>,
    /// Signalled when a call has ended.
    call_ended: Condvar,
    running: Mutex<HashMap<u64, CancelHandle>>,
    /// What the export under way may send.
    export: Mutex<Option<Arc<Credits>>>,
    runner: OnceLock<Runner>,
}

/// Where a connection's answers go, and the thread that reads from it.
type Connection = (Arc<Outgoing>, JoinHandle<()>);

impl Server {
    /// A server of a guest in this place.
    pub fn new(place: Place, reaper: Arc<Reaper>) -> Arc<Self> {
        Arc::new(Self {
            place,
            reaper,
            session: Mutex::new(Session::new()),
            call_ended: Condvar::new(),
            running: Mutex::default(),
            export: Mutex::default(),
            runner: OnceLock::new(),
        })
    }

    /// Takes connections for ever; the process ends by Stop.
    pub fn serve(self: Arc<Self>, listener: &Listener) -> ! {
        let mut current = None;
        loop {
            // This is PID 1's own thread: a bug here costs a connection, not the guest.
            let accept = AssertUnwindSafe(|| self.accept(listener, &mut current));
            let _ = catch_unwind(accept);
        }
    }

    /// Takes one connection, in place of the one before.
    fn accept(self: &Arc<Self>, listener: &Listener, current: &mut Option<Connection>) {
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) => {
                say(format_args!("cannot accept a connection: {error}"));
                return std::thread::sleep(ACCEPT_RETRY);
            }
        };
        if let Some((outgoing, reader)) = current.take() {
            outgoing.close();
            // Its panics are caught inside.
            let _ = reader.join();
        }
        match self.clone().connect(stream) {
            Ok(connection) => *current = Some(connection),
            Err(error) => say(format_args!("cannot serve a connection: {error}")),
        }
    }

    /// Starts the two threads of a connection.
    fn connect(self: Arc<Self>, stream: UnixStream) -> std::io::Result<Connection> {
        let outgoing = Arc::new(Outgoing::new(stream.try_clone()?));
        let writer = outgoing.clone();
        std::thread::Builder::new().name("writer".into()).spawn(move || {
            // A panic is reported by the hook; without a writer the connection is of no use.
            let _ = catch_unwind(AssertUnwindSafe(|| writer.write_until_closed()));
            writer.close();
        })?;
        let for_reader = outgoing.clone();
        let reader = std::thread::Builder::new().name("reader".into()).spawn(move || {
            let read = AssertUnwindSafe(|| self.read_until_closed(&stream, &for_reader));
            let _ = catch_unwind(read);
            for_reader.close();
            self.disconnected();
        })?;
        Ok((outgoing, reader))
    }

    fn read_until_closed(self: &Arc<Self>, mut stream: &UnixStream, outgoing: &Arc<Outgoing>) {
        let mut decoder = FrameDecoder::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let length = match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            decoder.push(&buffer[..length]);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        let id = frame.id;
                        let message = Message::decode(&frame);
                        // Its payload may be megabytes, and the message has its own.
                        drop(frame);
                        match message {
                            Ok(message) => self.receive(id, message, outgoing),
                            Err(error) => outgoing.send_control(id, malformed(&error)),
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        say(format_args!("closing a connection: {error}"));
                        return;
                    }
                }
            }
        }
    }

    fn receive(self: &Arc<Self>, id: u64, message: Message, outgoing: &Arc<Outgoing>) {
        let actions = self.session().on_message(id, message);
        for action in actions {
            self.carry_out(action, outgoing);
        }
    }

    fn carry_out(self: &Arc<Self>, action: Action, outgoing: &Arc<Outgoing>) {
        match action {
            Action::SetUp { id, init } => outgoing.send_control(id, self.set_up(*init)),
            Action::Run { id, exec } => self.run(id, exec, outgoing),
            Action::Cancel { id } => self.cancel(id),
            Action::Export { id } => self.export(id, outgoing),
            Action::Credit { bytes } => {
                if let Some(credits) = &*self.exporting() {
                    credits.grant(bytes);
                }
            }
            Action::Reconfigure { id, reconfigure } => {
                let reply = match self.place.reconfigure(&reconfigure) {
                    Ok(()) => Reply::Pong {},
                    Err(message) => refused(RefusalKind::SetupFailed, message),
                };
                outgoing.send_control(id, reply);
            }
            Action::Reply { id, reply } => outgoing.send_control(id, reply),
            Action::PowerOff => {
                self.reaper.kill_all();
                outgoing.part(FAREWELL);
                self.place.power_off();
            }
        }
    }

    /// Becomes the machine that the host describes.
    fn set_up(&self, init: Init) -> Reply {
        let started = Instant::now();
        let made = set_up::machine(&self.place, init, self.reaper.clone())
            .and_then(|machine| Ok((machine.slots(), Runner::new(machine)?)));
        match made {
            Ok((slots, runner)) => {
                // The session lets one Init through.
                let _ = self.runner.set(runner);
                self.session().set_up_finished(Ok(slots));
                Reply::Ready(Ready {
                    protocol: PROTOCOL_VERSION,
                    agent_version: env!("CARGO_PKG_VERSION").into(),
                    init_us: started.elapsed().as_micros() as u64,
                })
            }
            Err(message) => {
                say(format_args!("set-up failed: {message}"));
                self.session().set_up_finished(Err(()));
                refused(RefusalKind::SetupFailed, message)
            }
        }
    }

    fn run(self: &Arc<Self>, id: u64, exec: Exec, outgoing: &Arc<Outgoing>) {
        let server = self.clone();
        let free_slot = Box::new(move || {
            server.running().remove(&id);
            server.session().finished(id);
            server.call_ended.notify_all();
        });
        let Some(runner) = self.runner.get() else {
            free_slot();
            let message = "the machine is not set up";
            return outgoing.send_control(id, refused(RefusalKind::WrongState, message));
        };
        let event = match runner.event() {
            Ok(event) => event,
            Err(error) => {
                free_slot();
                let message = format!("cannot make an event: {error}");
                return outgoing.send_control(id, refused(RefusalKind::SetupFailed, message));
            }
        };
        let (call, handle) = Call::new(id, exec, outgoing.clone(), event.clone(), free_slot);
        self.running().insert(id, handle);
        runner.run(call, event);
    }

    fn cancel(&self, id: u64) {
        match self.running().get(&id) {
            Some(handle) => handle.cancel(),
            // The session names only what is under way: the one export.
            None => {
                if let Some(credits) = &*self.exporting() {
                    credits.cancel();
                }
            }
        }
    }

    /// Ends what runs, so that the next connection finds its slots free.
    fn disconnected(&self) {
        let mut session = self.session();
        for action in session.on_disconnect() {
            if let Action::Cancel { id } = action {
                self.cancel(id);
            }
        }
        while !session.is_idle() {
            session = self.call_ended.wait(session).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, CancelHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(kind: RefusalKind, message: impl Into<String>) -> Reply {
    Reply::Refused(Refusal { kind, message: message.into() })
}

fn malformed(error: &nova_proto::MessageError) -> Reply {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    refused(RefusalKind::Malformed, format!("{error}{}", cause.unwrap_or_default()))
}
