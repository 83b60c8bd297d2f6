//! The question whether this host can run guests, answered by booting one.
//!
//! Being able to open `/dev/kvm`, or to create a VM and a vCPU, proves nothing: there are hosts where
//! both work and no ordinary kernel reaches user space. The probe's guest is the real kernel with the
//! real agent and nothing else: no drives, no network. That it answers a ping is the proof.
use super::belongings::Place;
use super::boot::Files;
use super::plan::Plan;
use super::{FirecrackerConfig, Host, reconcile};
use crate::VmId;
use crate::driver::BootError;
use crate::slots::SlotAllocator;
use nova_domain::Limits;
use std::time::Duration;
use tokio::task::spawn_blocking;

/// The kernel's door to hardware virtualisation.
const KVM: &str = "/dev/kvm";

/// Boots a guest, and ends it. Returns how long the boot took. Nothing is left, whatever happens.
/// Must not run while the owner has other guests.
pub async fn probe(
    mut config: FirecrackerConfig,
    slots: &SlotAllocator,
    timeout: Duration,
) -> Result<Duration, BootError> {
    config.boot_timeout = timeout;
    config.api_timeout = timeout;
    let host = Host::new(config)?;
    let slot = slots.take().ok_or_else(|| {
        BootError::Unavailable("every slot of this host is in use; try again later".into())
    })?;
    let plan = Plan {
        id: VmId::from_random(rand::random()).to_string(),
        uid: slot.uid_root(),
        parent_cgroup: host.config.owner.cgroup_name(),
        memory_mb: 0,
        limits: Limits::default(),
        drives: 0,
        nic: None,
    };
    let files = Files {
        kernel: host.config.kernel.clone(),
        initramfs: host.config.initramfs.clone(),
        drives: Vec::new(),
    };
    let start = std::time::Instant::now();
    let booted = host.boot(plan, Place::Alone(slot), files, None).await;
    let took = start.elapsed();
    let result = match booted {
        Ok((ready, gone)) => {
            drop(ready);
            gone.wait().await;
            Ok(took)
        }
        Err(error) => Err(kvm_problem().unwrap_or(error)),
    };
    if let Err(error) = spawn_blocking(move || reconcile::remove_shared(&host)).await {
        tracing::error!(%error, "removing the probe's directory was cut short");
    }
    result
}

/// What explains a failure better than Firecracker does: that there is no KVM at all.
fn kvm_problem() -> Option<BootError> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(KVM);
    let error = opened.err()?;
    Some(BootError::Unavailable(format!(
        "{KVM}: {error}; enable virtualisation in the firmware, load kvm_intel or kvm_amd, and run \
         as root"
    )))
}
