//! The Runtime API's socket: a listener on loopback for one process, a thread per connection.
//!
//! Each process gets a listener of its own, on a port that the kernel chooses, so that nothing that a
//! dead process left in a queue can reach the next one.
use super::board::Board;
use super::delivery::Delivery;
use super::http::{Broken, Connection};
use super::routes::{self, Routed};
use crate::console::say;
use crate::event::Event;
use crate::pipes::wait;
use nova_proto::FunctionSetup;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

/// Connections of a process, beside two for each event that it may work on at once: its extensions, and
/// those of clients that it has left open. Each may hold a head of a MiB.
const CONNECTIONS_SPARE: usize = 16;
/// More of them for each processor, where the process takes several events at once: AWS's client for Node.js
/// then starts eight threads per processor, each with a connection to ask over and one to answer over.
const CONNECTIONS_PER_PROCESSOR: usize = 16;
/// Most processors that count: as many as a function may have.
const PROCESSORS_MAX: usize = 32;

/// How long an accept that failed is left alone, so that a lasting failure does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The Runtime API of one process. Ends with this value.
pub struct Server {
    board: Arc<Board>,
    address: SocketAddr,
    stop: Arc<Event>,
}

impl Server {
    /// Listens for a process of this function; `owner` is raised when there is something for the owner.
    ///
    /// # Errors
    /// When the guest has no loopback, port or thread left.
    pub fn start(function: &FunctionSetup, owner: Arc<Event>) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let slots = function.instance_concurrency.max(1) as usize;
        let board = Arc::new(Board::new(owner, slots));
        let about = Arc::new(routes::About::of(function));
        board.with_extensions(|extensions| {
            extensions.set_function_arn(about.function_arn.clone());
        });
        let stop = Arc::new(Event::new()?);
        let acceptor = Acceptor {
            listener,
            board: board.clone(),
            about,
            stop: stop.clone(),
            connections_max: connections_max(slots),
        };
        std::thread::Builder::new().name("runtime-api".into()).spawn(move || {
            let run = AssertUnwindSafe(|| acceptor.run());
            // Reported by the hook; the process fails with its next connection.
            let _ = catch_unwind(run);
        })?;
        Ok(Self { board, address, stop })
    }

    /// `host:port`, as clients want it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What the connections and the owner share.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The process is dead: ends the listener and the connections. Returns the events that it has not
    /// read.
    pub fn close(&self) -> Vec<Delivery> {
        self.stop.raise();
        self.board.close()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

/// Most connections of a process that takes so many events at once.
fn connections_max(slots: usize) -> usize {
    let processors = match slots {
        1 => 0,
        _ => available_parallelism().map_or(1, |found| found.get().min(PROCESSORS_MAX)),
    };
    2 * slots + CONNECTIONS_SPARE + CONNECTIONS_PER_PROCESSOR * processors
}

struct Acceptor {
    listener: TcpListener,
    board: Arc<Board>,
    about: Arc<routes::About>,
    stop: Arc<Event>,
    connections_max: usize,
}

impl Acceptor {
    fn run(&self) {
        let mut number = 0;
        while self.board.connect(self.connections_max) {
            let Some(stream) = self.accept() else { return self.board.disconnect() };
            number += 1;
            let (board, about) = (self.board.clone(), self.about.clone());
            let serve = move || {
                let serve = AssertUnwindSafe(|| serve(stream, number, &board, &about));
                // Reported by the hook; the client sees its connection end.
                let _ = catch_unwind(serve);
                board.disconnect();
            };
            if let Err(error) =
                std::thread::Builder::new().name("runtime-client".into()).spawn(serve)
            {
                say(format_args!("cannot start a thread for a runtime's connection: {error}"));
                self.board.disconnect();
            }
        }
    }

    /// The next connection; `None` when there will be no more.
    fn accept(&self) -> Option<TcpStream> {
        loop {
            wait(&[self.listener.as_fd(), self.stop.as_fd()], None, None, false);
            if self.stop.is_raised() {
                return None;
            }
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(false).is_ok() => return Some(stream),
                // It left before it was served, or is to come yet.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => std::thread::sleep(ACCEPT_RETRY),
            }
        }
    }
}

/// Serves one client until one of both ends it.
fn serve(stream: TcpStream, number: u64, board: &Board, about: &routes::About) {
    let mut connection = Connection::new(stream);
    let waker = match Event::new() {
        Ok(waker) => Arc::new(waker),
        Err(error) => return say(format_args!("cannot serve a runtime's connection: {error}")),
    };
    let mut delivered = false;
    loop {
        let routed = match connection.read_head() {
            Ok(head) => {
                if delivered {
                    board.has_read(number);
                }
                routes::serve(&mut connection, &head, number, &waker, board, about)
            }
            Err(broken) => Err(broken),
        };
        match routed {
            Ok(Routed::KeepOpen) => delivered = false,
            Ok(Routed::Delivered) => delivered = true,
            Ok(Routed::Close) | Err(Broken::Closed) => return,
            Ok(Routed::Undelivered) | Err(Broken::Reset) => return board.unread(number),
            Err(broken) => return routes::refuse_broken(&mut connection, &broken),
        }
    }
}
