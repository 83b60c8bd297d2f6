//! What makes a guest this one and no other: its clock, its randomness, its name.
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use std::fs::{self, File};
use std::os::fd::AsRawFd;

/// Most entropy taken from one message, bytes: the kernel's pool holds less.
const ENTROPY_MAX_BYTES: usize = 4096;

/// Sets the wall clock, nanoseconds since the Unix epoch.
///
/// # Errors
/// When the kernel refuses.
pub fn set_clock(unix_ns: u64) -> Result<(), String> {
    const NS: u64 = 1_000_000_000;
    let time = TimeSpec::new((unix_ns / NS) as i64, (unix_ns % NS) as i64);
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(|error| format!("set the clock: {error}"))
}

/// Gives the kernel randomness from the host, counted in full, and makes it use that at once.
///
/// # Errors
/// When the kernel refuses.
pub fn add_entropy(bytes: &[u8]) -> Result<(), String> {
    /// `struct rand_pool_info` with room for the bytes.
    #[repr(C)]
    struct Pool {
        entropy_bits: libc::c_int,
        length: libc::c_int,
        bytes: [u8; ENTROPY_MAX_BYTES],
    }
    // _IOW('R', 0x03, int[2]) and _IO('R', 0x07) of <linux/random.h>; the first is older than its size.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

    if bytes.is_empty() {
        return Ok(());
    }
    let bytes = &bytes[..bytes.len().min(ENTROPY_MAX_BYTES)];
    let mut pool = Box::new(Pool {
        entropy_bits: bytes.len() as libc::c_int * 8,
        length: bytes.len() as libc::c_int,
        bytes: [0; ENTROPY_MAX_BYTES],
    });
    pool.bytes[..bytes.len()].copy_from_slice(bytes);
    let failed = |error: std::io::Error| format!("add entropy: {error}");
    let random = File::options().write(true).open("/dev/urandom").map_err(failed)?;
    // SAFETY: `pool` is laid out as the kernel wants it, and `length` is not more than it holds.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const *pool) };
    if added < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    // SAFETY: this one takes no argument.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    Ok(())
}

/// Sets the host name, in the kernel and in `/etc`.
///
/// # Errors
/// What could not be set or written.
pub fn set_hostname(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
        return Err(format!("{name:?} is not a host name"));
    }
    nix::unistd::sethostname(name).map_err(|error| format!("set the host name: {error}"))?;
    replace("/etc/hostname", &format!("{name}\n"))?;
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost\n");
    replace("/etc/hosts", &hosts)
}

/// Writes a new random machine id.
///
/// # Errors
/// When it cannot be made or written.
pub fn write_machine_id() -> Result<(), String> {
    // The kernel makes it from its own randomness; an id has no hyphens.
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map_err(|error| format!("make a machine id: {error}"))?;
    replace("/etc/machine-id", &format!("{}\n", uuid.trim().replace('-', "")))
}

/// Writes a file in place of what the image has there, be it a link to elsewhere.
///
/// # Errors
/// A message that names the file.
pub fn replace(path: &str, content: &str) -> Result<(), String> {
    let failed = |error| format!("write {path}: {error}");
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::write(path, content).map_err(failed)
}
