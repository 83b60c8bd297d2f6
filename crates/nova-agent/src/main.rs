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
//!                └─▶ process | persistent ─▶ child ─▶ reaper
//!                        │                             the function's processes
//!                        └─▶ output, logs ─▶ outgoing ─▶ the host
//! ```
//!
//! Nothing that the host or the function does may end it: a panic ends a thread, which answers for
//! what it was doing.

mod attempts;
mod call;
mod cgroup;
mod child;
mod event;
mod files;
mod function_process;
mod identity;
mod line_protocol;
mod listen;
mod logs;
mod machine;
mod network;
mod outgoing;
mod output;
mod persistent;
mod pipes;
mod place;
mod process;
mod reaper;
mod rootfs;
mod server;
mod session;
mod set_up;

use listen::Listener;
use place::Place;
use reaper::Reaper;
use server::Server;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if std::process::id() != 1 {
        eprintln!(
            "nova-agent: runs as PID 1 of a microVM or a container only, for it kills all others"
        );
        return ExitCode::from(2);
    }
    let error = match words[..] {
        [] => start(Place::MicroVm, Listener::vsock()),
        ["--socket", path] => start(Place::Container, Listener::unix(Path::new(path))),
        _ => "usage: nova-agent [--socket PATH]".into(),
    };
    eprintln!("nova-agent: {error}");
    ExitCode::FAILURE
}

/// Serves until Stop; comes back only with the reason why it cannot.
fn start(place: Place, listener: std::io::Result<Listener>) -> String {
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return format!("cannot listen for the host: {error}"),
    };
    match Reaper::start() {
        Ok(reaper) => Server::new(place, reaper).serve(&listener),
        Err(error) => format!("cannot start the reaper: {error}"),
    }
}
