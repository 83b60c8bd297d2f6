//! Sockets in a jail, and the way through one of them to the agent in the guest.
//!
//! Firecracker offers the guest's vsock as a Unix socket: the host connects, writes `CONNECT port`
//! and reads `OK` with a number; from then on the stream is the guest's. If nobody in the guest
//! listens yet, Firecracker closes the connection. If the guest has no driver yet, it does not even
//! accept it, and the answer comes once it does: so a connection made right after the start waits
//! out most of the boot by itself.
//!
//! The jail's directory belongs to the VMM's user. A VMM taken over by its guest could put a symlink
//! where its socket was, so a socket is opened by its inode, checked, and connected through that.
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nova_proto::AGENT_VSOCK_PORT;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Most bytes of Firecracker's answer: `OK `, a 32-bit number, a newline.
const ANSWER_MAX_BYTES: usize = 16;

/// Connects to the socket at `path`, which must be a socket that belongs to `uid`.
pub(crate) async fn connect(path: &Path, uid: u32) -> io::Result<UnixStream> {
    let inode = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let stat = fstat(&inode)?;
    let is_socket = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFSOCK.bits();
    if !is_socket || stat.st_uid != uid {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not a socket of uid {uid}", path.display()),
        ));
    }
    // Also frees the path from the 108 bytes that a socket address has room for.
    UnixStream::connect(format!("/proc/self/fd/{}", inode.as_raw_fd())).await
}

/// Asks for the agent's port. An error means that the guest does not listen, or not yet.
pub(crate) async fn to_agent(mut stream: UnixStream) -> io::Result<UnixStream> {
    stream.write_all(format!("CONNECT {AGENT_VSOCK_PORT}\n").as_bytes()).await?;
    // Byte by byte: what follows the newline belongs to the agent's conversation.
    let mut answer = Vec::with_capacity(ANSWER_MAX_BYTES);
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if answer.len() < ANSWER_MAX_BYTES => answer.push(byte),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long")),
        }
    }
    if answer.starts_with(b"OK ") {
        return Ok(stream);
    }
    let text = String::from_utf8_lossy(&answer).escape_debug().to_string();
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("the answer is \"{text}\", not OK")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    fn own_uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[tokio::test]
    async fn what_the_agent_says_after_the_answer_is_left_in_the_stream() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"OK 1073741824\nhello").await.unwrap();
        let mut stream = to_agent(ours).await.unwrap();
        let mut request = [0; 13];
        theirs.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"CONNECT 9999\n");
        drop(theirs);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_ok_is_refused() {
        for (answer, expected) in [
            ("", "end of file"),
            ("NO\n", "not OK"),
            ("OK 11111111111111111111111111\n", "too long"),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            let error = to_agent(ours).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{answer:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(200));
        std::fs::create_dir(&long).unwrap();
        let short = dir.path().join("s");
        let _listener = UnixListener::bind(&short).unwrap();
        std::fs::rename(&short, long.join("s")).unwrap();
        connect(&long.join("s"), own_uid()).await.unwrap();
    }

    #[tokio::test]
    async fn a_symlink_and_a_foreign_socket_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        assert!(connect(&link, own_uid()).await.is_err());
        assert!(connect(&socket, own_uid() + 1).await.is_err());
        assert!(connect(dir.path(), own_uid()).await.is_err());
    }
}
