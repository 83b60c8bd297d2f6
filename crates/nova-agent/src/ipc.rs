//! System V shared memory, message queues and semaphores that the function left.
//!
//! They outlive every process and are memory of the function's, which no later call could use: a warm
//! guest would stay short of it, or out of it, for good.
use crate::child::FUNCTION_ID;
use crate::console::say;
use libc::{IPC_RMID, c_int};
use std::fs::File;
use std::io::{self, BufRead, BufReader};

/// Where the kernel lists a kind, and what removes one.
type Kind = (&'static str, fn(c_int) -> c_int);

const KINDS: [Kind; 3] = [
    // SAFETY: as in the lines below: IPC_RMID takes no argument, so that no pointer is followed.
    ("/proc/sysvipc/shm", |id| unsafe { libc::shmctl(id, IPC_RMID, std::ptr::null_mut()) }),
    // SAFETY: see above.
    ("/proc/sysvipc/msg", |id| unsafe { libc::msgctl(id, IPC_RMID, std::ptr::null_mut()) }),
    // SAFETY: see above.
    ("/proc/sysvipc/sem", |id| unsafe { libc::semctl(id, 0, IPC_RMID) }),
];

/// Removes all that the function's user made. Nothing of the function may run meanwhile. Best effort,
/// as for its files; a kernel without System V IPC has nothing to remove.
pub fn remove_left() {
    for (list, remove) in KINDS {
        let left = match ids(list) {
            Ok(left) if left.is_empty() => continue,
            Ok(left) => left,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                say(format_args!("cannot read {list}: {error}"));
                continue;
            }
        };
        let failed = as_user(|| left.into_iter().filter(|id| remove(*id) != 0).count());
        if failed > 0 {
            say(format_args!("{failed} objects of {list} cannot be removed"));
        }
    }
}

/// The ids in a list of the kernel: the second column below a heading.
fn ids(list: &str) -> io::Result<Vec<c_int>> {
    let lines = BufReader::new(File::open(list)?).lines().skip(1);
    let ids = lines.map(|line| Ok(line?.split_whitespace().nth(1).and_then(|id| id.parse().ok())));
    ids.filter_map(io::Result::transpose).collect()
}

/// Acts with the function's user as this thread's effective one: in a container the agent may not remove
/// what belongs to others.
fn as_user<T>(act: impl FnOnce() -> T) -> T {
    const UNCHANGED: libc::uid_t = libc::uid_t::MAX;
    // Raw calls: the wrapper of libc would change all threads.
    // SAFETY: the call takes no pointers.
    let change =
        |id: libc::uid_t| unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, id, UNCHANGED) };
    if change(FUNCTION_ID) != 0 {
        say(format_args!("cannot act as the function's user: {}", io::Error::last_os_error()));
    }
    let done = act();
    assert_eq!(change(0), 0, "the agent stays root");
    done
}
