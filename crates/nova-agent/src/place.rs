//! Where the agent runs, and what differs by it: a machine of its own, or a container.
use crate::console::say;
use crate::identity;
use nix::sys::reboot::{RebootMode, reboot};
use nova_proto::Reconfigure;

/// A microVM belongs to the agent; a container has been set up by the OCI runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// PID 1 of a kernel.
    MicroVm,
    /// PID 1 of a container.
    Container,
}

impl Place {
    /// Takes on a new identity after a snapshot restore.
    ///
    /// # Errors
    /// What could not be changed. A container shares its host's clock and entropy.
    pub fn reconfigure(self, new: &Reconfigure) -> Result<(), String> {
        match self {
            Self::Container => Err("a container is never restored from a snapshot".into()),
            Self::MicroVm => {
                identity::set_clock(new.clock_unix_ns)?;
                identity::add_entropy(&new.entropy)?;
                identity::set_hostname(&new.hostname)?;
                identity::write_machine_id()
            }
        }
    }

    /// Ends the guest.
    pub fn power_off(self) -> ! {
        if self == Self::MicroVm {
            nix::unistd::sync();
            // Firecracker has no power switch; it ends when its guest resets (`reboot=k`).
            let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
            say(format_args!("cannot reset the machine: {error}"));
        }
        // In a container the kernel ends everything else with PID 1; in a microVM it panics, and resets.
        std::process::exit(0)
    }
}
