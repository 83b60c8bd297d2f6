//! What a VM is made of, worked out before anything is made: the jailer's arguments and the bodies
//! of the API calls. Pure.
use super::api_types::{
    BootSource, Drive, IoEngine, MachineConfig, NetworkInterface, RateLimiter, Vsock,
};
use crate::cgroup::Version;
use nova_domain::Limits;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Memory that a guest needs beside the function's, MiB, however large that is: the stock kernel
/// and its tables, the unpacked initramfs, the agent. Measured: the kernel of a guest of 208 MiB
/// leaves 170 MiB, and a Python function in it finds 138 MiB available beside itself, so that a
/// function reaches its own limit of 128 MiB well before the guest runs out.
pub const GUEST_OVERHEAD_MB: u32 = 80;

/// One part in this many of a guest's memory goes to the kernel's table of pages, 64 bytes of 4096.
const GUEST_MEMORY_PER_TABLE: u32 = 64;

/// Memory of the VMM outside its guest's, MiB: its heap and stacks, the buffers of its devices and
/// sockets. Measured: 5 MiB, and 1 MiB in the kernel; the rest is for bursts, because a VMM over its
/// limit dies with its guest.
pub(crate) const VMM_OVERHEAD_MB: u32 = 24;

/// One part in this many of a guest's memory goes to the host's tables for it: 8 bytes of 4096 in
/// the VMM's page tables and as many in those of the virtual machine, rounded up.
const VMM_MEMORY_PER_TABLE: u32 = 128;

/// Threads of a VMM beside one per vCPU: the event loop, the API, and kernel threads of KVM that
/// are counted with it. Twice what was seen.
const VMM_THREADS_MAX: u32 = 16;

/// Files and sockets that a VMM may have open: drives, TAP, vsock connections. Firecracker's own
/// default; one VM has one long-lived connection.
const OPEN_FILES_MAX: u32 = 2048;

/// Largest file that a VMM may write, bytes. It has nothing to write but its console, a pipe.
const FILE_SIZE_MAX_BYTES: u32 = 1024 * 1024;

/// What the kernel of a guest sees whose function has `memory_mb`, MiB.
pub(crate) fn guest_memory_mb(memory_mb: u32) -> u32 {
    memory_mb + memory_mb / GUEST_MEMORY_PER_TABLE + GUEST_OVERHEAD_MB
}

/// What that guest costs the host, MiB.
pub(crate) fn vmm_memory_mb(memory_mb: u32) -> u32 {
    let guest_mb = guest_memory_mb(memory_mb);
    guest_mb + VMM_OVERHEAD_MB + guest_mb / VMM_MEMORY_PER_TABLE
}

/// Names of the files in the jail, the same for each VM.
pub(crate) mod name {
    pub(crate) const KERNEL: &str = "vmlinux";
    pub(crate) const INITRAMFS: &str = "initramfs";
    pub(crate) const IMAGE: &str = "image.erofs";
    pub(crate) const CODE: &str = "code.erofs";
    pub(crate) const LAYERS: &str = "layers.erofs";
    pub(crate) const API_SOCKET: &str = "api.sock";
    pub(crate) const VSOCK: &str = "v.sock";
}

/// Where the drives appear in the guest, in the order they are attached.
pub(crate) const IMAGE_DEVICE: &str = "/dev/vda";
/// See [`IMAGE_DEVICE`].
pub(crate) const CODE_DEVICE: &str = "/dev/vdb";
/// See [`IMAGE_DEVICE`].
pub(crate) const LAYERS_DEVICE: &str = "/dev/vdc";

/// A VM's drives: their ids, and their files in the jail. In the order of the devices above, of which a
/// guest has the first so many.
pub(crate) const DRIVES: [(&str, &str); 3] =
    [("image", name::IMAGE), ("code", name::CODE), ("layers", name::LAYERS)];

/// The kernel's command line.
///
/// `quiet` and one serial port: a healthy boot writes next to nothing, which costs nothing, and a
/// panic still reaches the console. `panic=-1 reboot=k`: a guest whose kernel or agent dies is gone
/// at once and its VMM with it. The `i8042` words skip probes for a keyboard that is not there. The
/// address is configured by the agent, as `ip=` costs 20 ms.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off tsc=reliable \
    random.trust_cpu=on i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd";

/// Where a VM's network comes from.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    /// The network namespace that holds the TAP.
    pub(crate) netns: PathBuf,
    /// Name of the TAP.
    pub(crate) tap: String,
    /// The guest's address on it.
    pub(crate) guest_mac: String,
}

/// Everything that distinguishes one VM from another.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) id: String,
    /// Uid and gid of the VMM.
    pub(crate) uid: u32,
    /// Path of the cgroup above the VM's, in each hierarchy.
    pub(crate) parent_cgroup: String,
    /// The function's memory, MiB; 0 for a guest without one.
    pub(crate) memory_mb: u32,
    pub(crate) limits: Limits,
    /// How many of [`DRIVES`] there are.
    pub(crate) drives: usize,
    pub(crate) nic: Option<Nic>,
}

impl Plan {
    /// The jailer's command line.
    pub(crate) fn jailer_arguments(
        &self,
        firecracker: &Path,
        jail_base: &Path,
        version: Version,
    ) -> Vec<OsString> {
        let uid = self.uid.to_string();
        let mut arguments: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        flag("--id", self.id.clone().into());
        flag("--exec-file", firecracker.into());
        flag("--uid", uid.clone().into());
        flag("--gid", uid.into());
        flag("--chroot-base-dir", jail_base.into());
        if let Some(nic) = &self.nic {
            flag("--netns", nic.netns.clone().into());
        }
        flag("--cgroup-version", if version == Version::V1 { "1" } else { "2" }.into());
        flag("--parent-cgroup", self.parent_cgroup.clone().into());
        for limit in self.cgroup_limits(version) {
            flag("--cgroup", limit.into());
        }
        flag("--resource-limit", format!("no-file={OPEN_FILES_MAX}").into());
        flag("--resource-limit", format!("fsize={FILE_SIZE_MAX_BYTES}").into());
        // Its log goes where the guest's console goes: only what explains a failure belongs there.
        let firecracker = ["--", "--api-sock", name::API_SOCKET, "--level", "Warn"];
        arguments.extend(firecracker.map(OsString::from));
        arguments
    }

    /// Limits that hold from the first instruction on. The weight makes the jailer join the CPU
    /// controller's cgroup, whose quota is set once the guest is up.
    fn cgroup_limits(&self, version: Version) -> [String; 3] {
        let memory = self.memory_limit_bytes();
        let pids = VMM_THREADS_MAX + self.limits.vcpus;
        match version {
            Version::V1 => [
                format!("memory.limit_in_bytes={memory}"),
                format!("pids.max={pids}"),
                "cpu.shares=1024".into(),
            ],
            Version::V2 => [
                format!("memory.max={memory}"),
                format!("pids.max={pids}"),
                "cpu.weight=100".into(),
            ],
        }
    }

    /// What the VMM may use, its guest's memory included.
    pub(crate) fn memory_limit_bytes(&self) -> u64 {
        u64::from(vmm_memory_mb(self.memory_mb)) * 1024 * 1024
    }

    pub(crate) fn machine_config(&self) -> MachineConfig {
        MachineConfig {
            vcpu_count: self.limits.vcpus,
            mem_size_mib: guest_memory_mb(self.memory_mb),
            smt: false,
        }
    }

    pub(crate) fn boot_source(&self) -> BootSource {
        BootSource {
            kernel_image_path: in_jail(name::KERNEL),
            initrd_path: in_jail(name::INITRAMFS),
            boot_args: KERNEL_ARGUMENTS.into(),
        }
    }

    /// Image, code and layers, as far as there are. Each has the limits for itself: the kernel reads
    /// from one of them at a time.
    pub(crate) fn drives(&self) -> Vec<Drive> {
        let drive = |(id, file): &(&str, &str)| Drive {
            drive_id: (*id).into(),
            path_on_host: in_jail(file),
            is_root_device: false,
            is_read_only: true,
            io_engine: IoEngine::Sync,
            rate_limiter: RateLimiter::per_second(
                self.limits.disk_bandwidth,
                self.limits.disk_iops,
            ),
        };
        DRIVES.iter().take(self.drives).map(drive).collect()
    }

    pub(crate) fn network_interface(&self) -> Option<NetworkInterface> {
        let nic = self.nic.as_ref()?;
        Some(NetworkInterface {
            iface_id: "eth0".into(),
            host_dev_name: nic.tap.clone(),
            guest_mac: nic.guest_mac.clone(),
            rx_rate_limiter: RateLimiter::per_second(self.limits.net_rx_bandwidth, 0),
            tx_rate_limiter: RateLimiter::per_second(self.limits.net_tx_bandwidth, 0),
        })
    }

    pub(crate) fn vsock(&self) -> Vsock {
        // 3 is the first address that a guest may have; every guest has its own host side.
        Vsock { guest_cid: 3, uds_path: name::VSOCK.into() }
    }
}

fn in_jail(file: &str) -> String {
    format!("/{file}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            id: "0123456789ab".into(),
            uid: 0x7000_0002,
            parent_cgroup: "nova-abcdef".into(),
            memory_mb: 128,
            limits: Limits { vcpus: 2, net_rx_bandwidth: 1000, disk_iops: 50, ..Limits::default() },
            drives: 2,
            nic: Some(Nic {
                netns: "/run/netns/nova-abcdef-0001".into(),
                tap: "tap0".into(),
                guest_mac: "06:00:ac:1d:ff:02".into(),
            }),
        }
    }

    fn arguments(plan: &Plan, version: Version) -> String {
        let list =
            plan.jailer_arguments(Path::new("/bin/firecracker"), Path::new("/jail"), version);
        list.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_jailer_is_told_who_where_and_how_much() {
        let line = arguments(&plan(), Version::V2);
        let memory = (128 + 2 + GUEST_OVERHEAD_MB + 1 + VMM_OVERHEAD_MB) * 1024 * 1024;
        for expected in [
            "--id 0123456789ab --exec-file /bin/firecracker --uid 1879048194 --gid 1879048194",
            "--chroot-base-dir /jail --netns /run/netns/nova-abcdef-0001",
            "--cgroup-version 2 --parent-cgroup nova-abcdef",
            &format!("--cgroup memory.max={memory} --cgroup pids.max=18 --cgroup cpu.weight=100"),
        ] {
            assert!(line.contains(expected), "{line}");
        }
        // A fork in the jailer would make somebody else's child of the VMM.
        assert!(!line.contains("--daemonize") && !line.contains("--new-pid-ns"));
        assert!(line.ends_with(" -- --api-sock api.sock --level Warn"));
        assert!(arguments(&plan(), Version::V1).contains("memory.limit_in_bytes="));
    }

    #[test]
    fn a_guest_without_network_joins_no_namespace_and_has_no_card() {
        let plan = Plan { nic: None, ..plan() };
        assert!(!arguments(&plan, Version::V2).contains("--netns"));
        assert_eq!(plan.network_interface(), None);
    }

    #[test]
    fn drives_are_read_only_and_every_limit_reaches_its_device() {
        let drives = plan().drives();
        assert_eq!(drives.len(), 2);
        let with_layers = Plan { drives: 3, ..plan() }.drives();
        assert_eq!((&with_layers[..2], with_layers[2].drive_id.as_str()), (&drives[..], "layers"));
        assert!(drives.iter().all(|drive| drive.is_read_only && !drive.is_root_device));
        assert_eq!(drives[0].rate_limiter, RateLimiter::per_second(0, 50));
        let nic = plan().network_interface().unwrap();
        assert_eq!(nic.rx_rate_limiter, RateLimiter::per_second(1000, 0));
        assert_eq!(nic.tx_rate_limiter, None);
    }
}
