//! The agent's own messages, for the guest's console: few, and never a reason to stop.
//!
//! The console may be a pipe that nobody reads or that is closed. `eprintln!` would block or panic
//! there; a message that cannot be written now is dropped instead.
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt;
use std::io::stderr;
use std::os::fd::AsFd;

/// Most bytes that a pipe takes at once if it takes any (`PIPE_BUF`).
const MESSAGE_MAX_BYTES: usize = 4096;

/// Writes one line.
pub fn say(message: fmt::Arguments<'_>) {
    let mut line = format!("nova-agent: {message}");
    line.truncate(line.floor_char_boundary(MESSAGE_MAX_BYTES - 1));
    line.push('\n');
    let stderr = stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let writable = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    if writable {
        // A console that is gone has no reader to miss the message.
        let _ = nix::unistd::write(&stderr, line.as_bytes());
    }
}

/// Sends what panics say the same way.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| say(format_args!("bug: {panic}"))));
}
