//! The kernel's door to hardware virtualisation, and what to do where it is shut.
use std::fs::OpenOptions;
use std::io::{self, ErrorKind};

/// The device.
const PATH: &str = "/dev/kvm";

/// Why KVM cannot be used.
#[derive(Debug)]
pub(crate) struct KvmProblem {
    /// What was seen.
    pub(crate) problem: String,
    /// What to do about it.
    pub(crate) fix: &'static str,
}

/// Opens the device, as Firecracker will. That it can be opened does not mean that it works.
pub(crate) fn kvm_problem() -> Option<KvmProblem> {
    let error = OpenOptions::new().read(true).write(true).open(PATH).err()?;
    Some(KvmProblem { problem: format!("{PATH}: {error}"), fix: fix(&error) })
}

fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "run nova as root; inside a container, hand the device to it (--device /dev/kvm)"
        }
        ErrorKind::ResourceBusy => "stop the other hypervisor that uses the processor",
        _ => {
            "enable virtualisation in the firmware (for a virtual machine: nested virtualisation on its \
             host), and load kvm_intel or kvm_amd"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_to_do_depends_on_what_is_wrong() {
        let fix = |errno: Errno| fix(&io::Error::from(errno));
        for errno in [Errno::ACCESS, Errno::PERM] {
            assert!(fix(errno).contains("root") && !fix(errno).contains("firmware"), "{errno}");
        }
        for errno in [Errno::NOENT, Errno::NODEV, Errno::NXIO] {
            assert!(fix(errno).contains("firmware") && !fix(errno).contains("root"), "{errno}");
        }
        assert!(fix(Errno::BUSY).contains("hypervisor"));
    }
}
