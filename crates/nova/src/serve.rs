//! The HTTP server: accepts connections, bounds them, and ends them one by one when told to stop.
//!
//! Written on hyper itself rather than on `axum::serve`, which sets no time limit for a request's
//! head. Nobody has shown a key yet when a connection is accepted, so each thing that a client may be
//! slow at has a limit of its own: its first request and later ones here, taking an answer in
//! [`crate::slow_client`], the body in `api::body`.
//!
//! When a client closes its connection, hyper drops the future of the request in progress: that
//! is what cancels a call whose caller went away (a test below shows it).
use crate::idle_connections::{IdleConnections, Presence};
use crate::slow_client::Impatient;
use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once. Each may hold one payload. For one more the connection is closed that has been
/// without a request for longest; where all are at work it waits.
const CONNECTIONS_MAX: usize = 4096;
/// The part of the open files that connections may take: guests need several each.
const FILES_PER_CONNECTION: u64 = 4;
/// How long a new connection may take for its first request's head. One that says nothing takes the
/// place of somebody who has something to say, so this is short; browsers and clients that connect ahead
/// of time connect again.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that has asked before may take for a request's head, or keep its connection
/// without any request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a request's head: several times what browsers and proxies send. It is kept for every
/// connection, also of those who have no key.
const HEAD_MAX_BYTES: usize = 64 * 1024;
/// Pause after an accept that failed: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are left when nothing more is accepted.
pub struct Connections {
    graceful: GracefulShutdown,
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Connections {
    fn new() -> Self {
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        Self { graceful: GracefulShutdown::new(), tasks, cut }
    }

    /// Ends each connection after the answer it is working on; after `within` all that are left are
    /// cut, and how many that were is returned. Nothing of them is left then.
    pub async fn end(self, within: Duration) -> usize {
        self.tasks.close();
        let answered = tokio::time::timeout(within, self.graceful.shutdown()).await.is_ok();
        let left = if answered { 0 } else { self.tasks.len() };
        self.cut.cancel();
        self.tasks.wait().await;
        left
    }
}

/// Serves until `stop` is cancelled and then closes the listener.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> Connections {
    let max = connections_max(getrlimit(Resource::Nofile).current);
    serve_at_most(max, listener, router, stop).await
}

async fn serve_at_most(
    max: usize,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> Connections {
    let connections = Connections::new();
    let (places, idle) = (Arc::new(Semaphore::new(max)), Arc::new(IdleConnections::default()));
    let service = router.map_request(|request: Request<Incoming>| request.map(Body::new));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX_BYTES);
    loop {
        let accepted = async {
            let accepted = listener.accept().await;
            (take_place(&places, &idle).await, accepted)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => return connections,
            both = accepted => both,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // An answer is written at once; waiting for more to send only delays it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it was served");
            continue;
        }
        let asked = CancellationToken::new();
        let first_request = asked.clone();
        let (presence, mut departure) = Presence::new(&idle);
        let stream = Impatient::new(stream, presence.clone());
        let inner = service.clone();
        let service = tower::service_fn(move |request: Request<Incoming>| {
            asked.cancel();
            let work = presence.work();
            let answering = inner.clone().oneshot(request);
            async move { answering.await.map(|answer| work.until_sent(answer)) }
        });
        let service = TowerToHyperService::new(service);
        let connection = server.serve_connection(TokioIo::new(stream), service);
        let connection = connections.graceful.watch(connection);
        let cut = connections.cut.clone();
        connections.tasks.spawn(async move {
            let silence = tokio::time::timeout(FIRST_HEAD_TIMEOUT, first_request.cancelled());
            let leave = tokio::select! {
                // First what the client has sent or takes now: it is not idle then.
                biased;
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection broke");
                    }
                    None
                }
                () = cut.cancelled() => None,
                leave = departure.due() => Some(leave),
                Err(_) = silence => {
                    tracing::debug!("a connection without any request was closed");
                    None
                }
            };
            // Where nobody wants it any more, the place ends here and is free for all.
            if leave.is_some_and(|leave| leave.send(place).is_ok()) {
                tracing::debug!("a connection made room for another");
            }
        });
    }
}

/// A place for one more connection, for which another that is idle may have to go.
async fn take_place(places: &Arc<Semaphore>, idle: &IdleConnections) -> OwnedSemaphorePermit {
    tokio::select! {
        biased;
        // Nobody closes the semaphore.
        Ok(place) = places.clone().acquire_owned() => place,
        place = idle.place_of_longest() => place,
    }
}

/// How many connections fit, where this process may open that many files (`None`: any number).
fn connections_max(files: Option<u64>) -> usize {
    let share = files.map_or(u64::MAX, |files| files / FILES_PER_CONNECTION).max(1);
    usize::try_from(share).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::post;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    async fn start(router: Router) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, router, stop.clone()));
        (address, stop)
    }

    #[tokio::test]
    async fn a_client_that_goes_away_drops_the_handler() {
        let (entered, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inside, gone) = (entered.clone(), dropped.clone());
        let handler = move || {
            let (entered, dropped) = (inside.clone(), gone.clone());
            async move {
                let token = CancellationToken::new();
                let watched = token.clone();
                tokio::spawn(async move {
                    watched.cancelled().await;
                    dropped.notify_one();
                });
                let _cancels_when_dropped = token.drop_guard();
                entered.notify_one();
                std::future::pending::<()>().await;
            }
        };
        let (address, _stop) = start(Router::new().route("/", post(handler))).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        client.write_all(request).await.unwrap();
        entered.notified().await;
        drop(client);
        dropped.notified().await;
    }

    #[tokio::test]
    async fn after_a_stop_nothing_is_accepted_and_an_answer_in_progress_is_sent() {
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inside, let_go) = (entered.clone(), leave.clone());
        let handler = move || {
            let (entered, leave) = (inside.clone(), let_go.clone());
            async move {
                entered.notify_one();
                leave.notified().await;
                "answer"
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", post(handler));
        let serving = tokio::spawn(serve(listener, router, stop.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        client.write_all(request).await.unwrap();
        entered.notified().await;
        stop.cancel();
        let connections = serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
        leave.notify_one();
        assert_eq!(connections.end(Duration::MAX).await, 0);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("answer"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_cut_in_the_end() {
        let entered = Arc::new(Notify::new());
        let inside = entered.clone();
        let handler = move || {
            inside.notify_one();
            std::future::pending::<()>()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", post(handler));
        let serving = tokio::spawn(serve(listener, router, stop.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        client.write_all(request).await.unwrap();
        entered.notified().await;
        stop.cancel();
        assert_eq!(serving.await.unwrap().end(Duration::from_secs(5)).await, 1);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection is closed");
    }
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_is_closed_soon_and_one_that_asked_is_kept() {
        let (address, _stop) = start(Router::new().route("/", post(async || "answer"))).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        let mut answer = async || {
            asking.write_all(request).await.unwrap();
            let mut text = String::new();
            while !text.ends_with("answer") {
                let mut piece = [0; 512];
                let length = asking.read(&mut piece).await.unwrap();
                assert_ne!(length, 0, "closed after {text:?}");
                text += std::str::from_utf8(&piece[..length]).unwrap();
            }
        };
        answer().await;
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "the silent one is closed");
        answer().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut_off() {
        let handler = async || vec![0_u8; 64 * 1024 * 1024];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", post(handler));
        let serving = tokio::spawn(serve(listener, router, stop.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        client.write_all(request).await.unwrap();
        // The answer has begun to arrive, so the connection has asked and is being written to.
        client.readable().await.unwrap();
        stop.cancel();
        let left = serving.await.unwrap().end(Duration::from_secs(600)).await;
        assert_eq!(left, 0, "it ended by itself");
    }

    #[tokio::test]
    async fn where_all_places_are_taken_the_longest_idle_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", post(async || "answer"));
        tokio::spawn(serve_at_most(2, listener, router, CancellationToken::new()));
        let connect = async || TcpStream::connect(address).await.unwrap();
        let ask = async |client: &mut TcpStream| {
            let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
            client.write_all(request).await.unwrap();
            let mut text = String::new();
            while !text.ends_with("answer") {
                let mut piece = [0; 512];
                let length = client.read(&mut piece).await.unwrap();
                assert_ne!(length, 0, "closed after {text:?}");
                text += std::str::from_utf8(&piece[..length]).unwrap();
            }
        };
        let (mut first, mut second) = (connect().await, connect().await);
        ask(&mut first).await;
        ask(&mut second).await;
        ask(&mut first).await;
        let mut third = connect().await;
        ask(&mut third).await;
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0, "the longest idle is closed");
        ask(&mut first).await;
        ask(&mut third).await;
    }

    /// A request in which the client has nothing to say.
    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";

    /// Serves with a single place.
    async fn start_narrow(router: Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_at_most(1, listener, router, CancellationToken::new()));
        address
    }

    #[tokio::test]
    async fn a_request_that_comes_while_its_connection_should_make_room_is_answered() {
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (inside, let_go) = (entered.clone(), leave.clone());
        let handler = move || {
            let (entered, leave) = (inside.clone(), let_go.clone());
            async move {
                entered.notify_one();
                leave.notified().await;
                "answer"
            }
        };
        let address = start_narrow(Router::new().route("/", post(handler))).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        entered.notified().await;
        leave.notify_one();
        first.readable().await.unwrap();
        assert_ne!(first.read(&mut [0; 512]).await.unwrap(), 0, "the first answer");
        // Nothing is awaited between these, so that the server sees both at once, the connection first.
        let second = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(first.try_write(REQUEST).unwrap(), REQUEST.len());
        entered.notified().await;
        leave.notify_one();
        let mut answer = String::new();
        first.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("answer"), "{answer:?}");

        second.set_nonblocking(true).unwrap();
        let mut second = TcpStream::from_std(second).unwrap();
        second.write_all(REQUEST).await.unwrap();
        entered.notified().await;
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_slowly_is_whole_before_its_connection_makes_room() {
        // More than the kernel takes off the server's hands.
        const ANSWER_BYTES: usize = 64 * 1024 * 1024;
        let router = Router::new().route("/", post(async || vec![0_u8; ANSWER_BYTES]));
        let address = start_narrow(router).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        first.readable().await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() > ANSWER_BYTES, "{} bytes came", answer.len());
        second.readable().await.unwrap();
        assert_ne!(second.read(&mut [0]).await.unwrap(), 0, "the second has its place");
    }

    #[test]
    fn connections_leave_most_open_files_to_the_guests() {
        assert_eq!(connections_max(Some(1024)), 256);
        assert_eq!(connections_max(Some(1_048_576)), CONNECTIONS_MAX);
        assert_eq!((connections_max(None), connections_max(Some(2))), (CONNECTIONS_MAX, 1));
    }
}
