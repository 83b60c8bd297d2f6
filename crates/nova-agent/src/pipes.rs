//! Reading the function's stdout and stderr, and writing its stdin, without ever blocking.
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Bytes read at a time: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// What a pipe of a `persistent` function is asked to hold, bytes: most payloads whole, so that agent and
/// function do not take turns over every 64 KiB, or over every 8 KiB that Python reads. The most
/// that the kernel gives without privileges by default; memory is taken only by what waits in it.
const PIPE_BYTES: i32 = 1024 * 1024;

/// How often a call that is held back by a slow host looks whether there is room again.
const HELD_BACK_TICK: Duration = Duration::from_millis(10);

/// The reading end of a pipe from the function.
pub struct PipeReader<R> {
    /// `None` after its end.
    pipe: Option<R>,
    /// Kept, as clearing a new one for each read would cost more than the read.
    buffer: Box<[u8]>,
}

impl<R: Read + AsFd> PipeReader<R> {
    /// Takes over a pipe.
    ///
    /// # Errors
    /// When the pipe cannot be made non-blocking.
    pub fn new(pipe: R) -> std::io::Result<Self> {
        set_nonblocking(&pipe)?;
        Ok(Self { pipe: Some(pipe), buffer: vec![0; READ_BYTES].into() })
    }

    /// What to poll, unless it has ended.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Hands the next bytes to `take`, without waiting. False when there are none for now, or no more.
    pub fn read_some(&mut self, take: impl FnOnce(&[u8])) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        loop {
            match pipe.read(&mut self.buffer) {
                Ok(length) if length > 0 => {
                    take(&self.buffer[..length]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Its end; a pipe knows no other errors.
                _ => {
                    self.pipe = None;
                    return false;
                }
            }
        }
    }
}

/// Has the kernel keep more in this pipe. One that stays small is slower, and no error.
pub fn enlarge(pipe: &impl AsFd) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
}

/// Makes reads or writes return at once.
///
/// # Errors
/// When the kernel refuses.
pub fn set_nonblocking(fd: &impl AsFd) -> std::io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Sleeps until one of these can be read (or `writable` be written), or the deadline. The caller looks
/// at all of them afterwards: a wakeup without a reason does no harm.
pub fn wait(
    readable: &[BorrowedFd<'_>],
    writable: Option<BorrowedFd<'_>>,
    deadline: Option<Instant>,
    held_back: bool,
) {
    let mut fds: Vec<_> = readable.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    fds.extend(writable.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
    let mut left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if held_back {
        left = Some(left.map_or(HELD_BACK_TICK, |left| left.min(HELD_BACK_TICK)));
    }
    let timeout = left.map_or(PollTimeout::NONE, |left| {
        // Rounded up, or the last millisecond would be spent spinning.
        let ms = left.as_millis().saturating_add(1).min(i32::MAX as u128) as i32;
        PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
    });
    // An interrupted or failed poll is a wakeup without a reason.
    let _ = poll(&mut fds, timeout);
}
