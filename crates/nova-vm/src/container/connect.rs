//! The way to the agent in a container: waits for its socket, then connects.
//!
//! The socket lies in a directory that belongs to the container's root. A path in there is only as
//! good as that root, so the socket is opened first, without following links, and connected to
//! through the open file. That also lifts the limit of 108 bytes on a socket's path.
use super::bundle::SOCKET;
use super::process::readable;
use rustix::fs::{FileType, Mode, OFlags, fstat, inotify, open, openat};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::sleep;

/// First pause when the socket is there but not yet listening, a matter of microseconds; doubled
/// each time, the boot's deadline ends it.
const LISTEN_PAUSE: Duration = Duration::from_micros(100);
/// Longest such pause.
const LISTEN_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Connects to the agent's socket in `directory` as soon as it is there.
pub(super) async fn connect(directory: &Path) -> io::Result<UnixStream> {
    // Watched before the first look, so that no moment is missed.
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let changes = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, directory, changes)?;
    let watch = readable(watch)?;
    let directory = open(
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut pause = LISTEN_PAUSE;
    loop {
        match try_connect(&directory).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::NotFound => drained(&watch).await?,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                sleep(pause).await;
                pause = (pause * 2).min(LISTEN_PAUSE_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn try_connect(directory: &OwnedFd) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = openat(directory, SOCKET, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
        return Err(io::Error::other("the agent's socket is not a socket"));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

/// Waits for a change in the watched directory and forgets it.
async fn drained(watch: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut events = [0; 4096];
    loop {
        let mut ready = watch.readable().await?;
        match ready.try_io(|watch| Ok(rustix::io::read(watch.get_ref(), &mut events)?)) {
            Ok(result) => return result.map(drop),
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_socket_that_appears_later_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SOCKET);
        let guest = async {
            tokio::task::yield_now().await;
            std::fs::write(directory.path().join("other"), "").unwrap();
            tokio::task::yield_now().await;
            UnixListener::bind(&path).unwrap().accept().await.unwrap()
        };
        let (stream, _) = tokio::join!(connect(directory.path()), guest);
        stream.unwrap();
    }

    #[tokio::test]
    async fn a_directory_path_longer_than_a_socket_address_is_no_obstacle() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("d".repeat(200));
        std::fs::create_dir(&directory).unwrap();
        let short = parent.path().join("s");
        let listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, directory.join(SOCKET)).unwrap();
        let (stream, accepted) = tokio::join!(connect(&directory), listener.accept());
        stream.unwrap();
        accepted.unwrap();
    }

    #[tokio::test]
    async fn a_link_to_somebody_elses_socket_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other.sock");
        let _listener = UnixListener::bind(&other).unwrap();
        std::os::unix::fs::symlink(&other, directory.path().join(SOCKET)).unwrap();
        assert!(connect(directory.path()).await.is_err());
    }
}
