//! Where the host comes in: vsock in a microVM, a Unix socket in a container. Nobody else does.
use crate::console::say;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, getpeername, getsockopt, listen,
    socket, sockopt::PeerCredentials,
};
use nova_proto::AGENT_VSOCK_PORT;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// The user that the kernel shows for one who is outside of this user namespace, as the host is.
const OVERFLOW_UID: u32 = 65534;

/// A listening socket that lets the host in and refuses the function.
pub enum Listener {
    /// In a microVM.
    Vsock(OwnedFd),
    /// In a container.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on the agent's vsock port.
    ///
    /// # Errors
    /// When the kernel has no vsock: a module is missing.
    pub fn vsock() -> io::Result<Self> {
        let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, AGENT_VSOCK_PORT))?;
        listen(&fd, Backlog::new(16)?)?;
        Ok(Self::Vsock(fd))
    }

    /// Listens on a new Unix socket, in place of one that an earlier agent left.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn unix(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self::Unix(UnixListener::bind(path)?)),
        }
    }

    /// Waits for the host. A peer that is not the host is dropped and waited on.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let accepted = match self {
                Self::Vsock(fd) => accept_vsock(fd)?,
                Self::Unix(listener) => {
                    let (stream, _) = listener.accept()?;
                    let peer = getsockopt(&stream, PeerCredentials)?;
                    let is_host = peer.uid() == 0 || peer.uid() == OVERFLOW_UID;
                    if is_host { Ok(stream) } else { Err(format!("uid {}", peer.uid())) }
                }
            };
            match accepted {
                Ok(stream) => return Ok(stream),
                Err(peer) => say(format_args!("refused a connection from {peer}")),
            }
        }
    }
}

/// A connection from the host, or else who it was.
fn accept_vsock(fd: &OwnedFd) -> io::Result<Result<UnixStream, String>> {
    // SAFETY: accept4 takes no pointers here; a result that is not negative is a new descriptor.
    let raw = unsafe {
        libc::accept4(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` is open and nobody else's. A UnixStream makes the same calls on any stream socket.
    let stream = unsafe { UnixStream::from_raw_fd(raw) };
    let peer: VsockAddr = getpeername(stream.as_raw_fd())?;
    let is_host = peer.cid() == libc::VMADDR_CID_HOST;
    Ok(if is_host { Ok(stream) } else { Err(format!("vsock cid {}", peer.cid())) })
}
