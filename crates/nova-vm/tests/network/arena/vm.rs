//! A stand-in for a microVM: a namespace with a TAP of its own, and a thread that carries frames
//! between it and the TAP of a slot, as Firecracker does.
use super::{inside, ip, run, wait_until_carrying};
use nix::libc;
use nova_vm::network::NetworkSlot;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Larger than any frame of these links.
const FRAME_MAX: usize = 65_536;

pub struct Vm {
    netns: String,
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Vm {
    /// Boots into the network that the slot gives.
    pub fn boot(slot: &NetworkSlot) -> Self {
        let netns = format!("nvt{:08x}-vm", rand::random::<u32>());
        run(&["ip", "netns", "add", &netns]);
        let outside = inside(slot.netns_name(), || open_tap(NetworkSlot::TAP));
        let within = inside(&netns, || open_tap("eth0"));
        let setup = slot.guest().unwrap();
        ip(&netns, &format!("link set eth0 address {} up", NetworkSlot::GUEST_MAC));
        ip(&netns, &format!("address add {}/{} dev eth0", setup.address, setup.prefix_length));
        ip(&netns, &format!("route add default via {}", setup.gateway));
        wait_until_carrying(&netns, "eth0");
        wait_until_carrying(slot.netns_name(), NetworkSlot::TAP);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let carrier = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let moved = carry(&outside, &within) | carry(&within, &outside);
                if !moved {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { netns, stop, carrier: Some(carrier) }
    }

    pub fn netns(&self) -> &str {
        &self.netns
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

/// Moves one frame, if there is one.
fn carry(mut from: &File, mut to: &File) -> bool {
    let mut frame = vec![0; FRAME_MAX];
    match from.read(&mut frame) {
        Ok(length) => {
            // A link that is down refuses frames, as a wire without an end does.
            let _ = to.write(&frame[..length]);
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        // The device went with its namespace.
        Err(_) => false,
    }
}

fn open_tap(name: &str) -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and the request lives until the call returns.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    device
}
