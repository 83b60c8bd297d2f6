//! Named network namespaces, made and entered on threads of their own.
//!
//! A namespace belongs to a thread, so whoever changes it must never be a worker of an async
//! runtime: the next task on that worker would run in a guest's network. Every function here that
//! changes namespaces starts a fresh thread and ends it. Nothing forks.
//!
//! Names are bind mounts below `/run/netns`, as `ip netns` makes them, so that an operator can look
//! inside with `ip netns exec`.
use super::NetworkError;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where named namespaces are mounted, for `ip netns` as for us.
const DIRECTORY: &str = "/run/netns";
/// The calling thread's namespace.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// The path of a named namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// A handle on the calling thread's namespace.
pub(crate) fn current() -> Result<File, NetworkError> {
    File::open(OF_THIS_THREAD).map_err(|error| NetworkError::failed(OF_THIS_THREAD, error))
}

/// Makes the directory a shared mount, so that unmounting a name here also unmounts the copies that
/// jails and containers got of it; a copy left over would keep the namespace alive.
pub(crate) fn prepare_directory() -> Result<(), NetworkError> {
    let failed = |error: &dyn std::fmt::Display| NetworkError::failed(DIRECTORY, error);
    std::fs::create_dir_all(DIRECTORY).map_err(|error| failed(&error))?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, DIRECTORY, None::<&str>, flags, None::<&str>)
    };
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(DIRECTORY), DIRECTORY, None::<&str>, flags, None::<&str>)
                .and_then(|()| share())
                .map_err(|error| failed(&error))
        }
        other => other.map_err(|error| failed(&error)),
    }
}

/// Runs `work` on a new thread, in the caller's namespace.
pub(crate) fn on_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("nova-netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| NetworkError::failed("a thread for a namespace", error))?;
        let panicked = |_| NetworkError::failed("a namespace's thread", "it panicked");
        thread.join().map_err(panicked)?
    })
}

/// Runs `work` on a new thread in a namespace that exists.
pub(crate) fn inside<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    on_thread(|| {
        let failed = |error: &dyn std::fmt::Display| {
            NetworkError::failed(format!("namespace {name}"), error)
        };
        let namespace = File::open(path(name)).map_err(|error| failed(&error))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))?;
        work()
    })
}

/// Moves the calling thread, which must be a fresh one, into a new namespace with this name.
/// What it made when it fails is taken away by [`remove`].
pub(crate) fn enter_new(name: &str) -> Result<(), NetworkError> {
    let path = path(name);
    let failed =
        |error: &dyn std::fmt::Display| NetworkError::failed(format!("namespace {name}"), error);
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o444)
        .open(&path)
        .map_err(|error| failed(&error))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))?;
    mount(Some(OF_THIS_THREAD), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| failed(&error))
}

/// Takes the name away. The kernel removes the namespace with its last process.
pub(crate) fn remove(name: &str) -> Result<(), NetworkError> {
    let path = path(name);
    let failed =
        |error: &dyn std::fmt::Display| NetworkError::failed(format!("namespace {name}"), error);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Made, but not mounted yet; or gone already.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(failed(&error)),
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&error)),
        _ => Ok(()),
    }
}

/// Names of all namespaces that start with `prefix`.
pub(crate) fn names(prefix: &str) -> Result<Vec<String>, NetworkError> {
    match std::fs::read_dir(DIRECTORY) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(NetworkError::failed(DIRECTORY, error)),
    }
}

/// Writes a setting of the calling thread's namespace, for example `net/ipv4/ip_forward`.
pub(crate) fn write_setting(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value)
        .map_err(|error| NetworkError::failed(path.display().to_string(), error))
}

/// Turns IPv6 off for a link, or for `all` of the calling thread's namespace: Nova's firewall and
/// addresses are IPv4, and what is not there cannot be reached round them.
pub(crate) fn disable_ipv6(link: &str) -> Result<(), NetworkError> {
    let setting = format!("net/ipv6/conf/{link}/disable_ipv6");
    // A kernel without IPv6 has no such setting, and needs none.
    if Path::new("/proc/sys").join(&setting).exists() {
        write_setting(&setting, "1")
    } else {
        Ok(())
    }
}
