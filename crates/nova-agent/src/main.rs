//! `nova-agent`: PID 1 of every guest, the other end of the host's line.
//!
//! Started without arguments it is `/init` of a microVM; with `--socket PATH` it is the first process
//! of a container. Either way it is set up by one `Init`, runs calls until it is told to stop, and
//! depends on nothing in the image: threads and blocking calls, one static binary.
//!
//! ```text
//!   listen ─▶ server ─▶ session (pure)           who speaks, what is allowed
//!                │
//!                ├─▶ set_up ─▶ rootfs, network, cgroup, files, identity
//!                ├─▶ export                           what a build has written
//!                └─▶ process | persistent | lambda | http ─▶ child ─▶ reaper
//!                        │                             the function's processes
//!                        └─▶ output, logs ─▶ outgoing ─▶ the host
//! ```
//!
//! Nothing that the host or the function does may end it: a panic ends a thread, which answers for
//! what it was doing.

mod attempts;
mod boot;
mod call;
mod calls;
mod cgroup;
mod child;
mod console;
mod event;
mod export;
mod files;
mod function_process;
mod http;
mod identity;
mod ipc;
mod lambda;
mod line_protocol;
mod listen;
mod logs;
mod machine;
mod netlink;
mod network;
mod outgoing;
mod output;
mod persistent;
mod pipes;
mod place;
mod process;
mod reaper;
mod remove_tree;
mod rootfs;
mod runner;
mod server;
mod session;
mod set_up;

use console::say;
use listen::Listener;
use place::Place;
use reaper::Reaper;
use server::Server;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if std::process::id() != 1 {
        say(format_args!(
            "runs as PID 1 of a microVM or a container only, for it kills all others"
        ));
        return ExitCode::from(2);
    }
    console::report_panics();
    return_large_buffers();
    let (place, listener) = match words[..] {
        [] => (Place::MicroVm, boot::prepare().and_then(|()| listening(Listener::vsock()))),
        ["--socket", path] => (Place::Container, listening(Listener::unix(Path::new(path)))),
        _ => {
            say(format_args!("usage: nova-agent [--socket PATH]"));
            return ExitCode::from(2);
        }
    };
    let error = match listener.and_then(|listener| Ok((listener, start_reaper()?))) {
        Ok((listener, reaper)) => Server::new(place, reaper).serve(&listener),
        Err(error) => error,
    };
    say(format_args!("{error}"));
    place.power_off()
}

fn listening(listener: std::io::Result<Listener>) -> Result<Listener, String> {
    listener.map_err(|error| format!("cannot listen for the host: {error}"))
}

fn start_reaper() -> Result<Arc<Reaper>, String> {
    Reaper::start().map_err(|error| format!("cannot start the reaper: {error}"))
}

/// Keeps the agent small: a buffer for a large payload goes back to the kernel when it is freed. Those of
/// smaller ones are used again: the kernel's zeroing of fresh pages was most of such a call's time.
fn return_large_buffers() {
    /// Buffers from this size on are mapped by themselves, bytes. Without it the allocator would raise
    /// its own value to the size of the first payload it sees.
    const MAPPED_FROM_BYTES: libc::c_int = 1024 * 1024;
    /// What may stay unused at the end of each of two arenas, bytes: the buffers that one such payload is in.
    const KEPT_BYTES: libc::c_int = 2 * 1024 * 1024;
    // SAFETY: no other thread runs yet; these only change numbers of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
