//! The TAP that Firecracker opens: persistent, in the guest's namespace, owned by the jail's uid.
//!
//! Firecracker runs without privileges; `TUNSETOWNER` lets exactly its uid attach to the device.
//! The only `unsafe` of the network is here.
use super::NetworkError;
use nix::errno::Errno;
use nix::libc;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

/// Makes the TAP in the calling thread's namespace. It goes with the namespace.
pub(super) fn create(name: &str, owner_uid: u32) -> Result<(), NetworkError> {
    let failed = |step: &str, error: &dyn std::fmt::Display| {
        NetworkError::failed(format!("tap device {name}"), format!("{step}: {error}"))
    };
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| failed("opening /dev/net/tun (load the kernel module tun)", &error))?;
    attach(&device, name).map_err(|error| failed("making it", &error))?;
    set(&device, libc::TUNSETOWNER, owner_uid).map_err(|error| failed("owner", &error))?;
    set(&device, libc::TUNSETPERSIST, 1).map_err(|error| failed("keeping it", &error))
}

fn attach(device: &File, name: &str) -> Result<(), Errno> {
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the name is a C string in a fixed array.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one `ifreq`, which lives
    // until the call returns.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(())
}

fn set(device: &File, request: libc::Ioctl, value: u32) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, and both requests used here take a plain number.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), request, libc::c_ulong::from(value)) })?;
    Ok(())
}
