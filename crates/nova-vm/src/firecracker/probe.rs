//! The question whether this host can run guests, answered by booting one.
//!
//! Being able to open `/dev/kvm`, or to create a VM and a vCPU, proves nothing: there are hosts where
//! both work and no ordinary kernel reaches user space. The probe's guest is the real kernel with the
//! real agent and nothing else: no drives, no network. That it answers a ping is the proof.
use super::belongings::Place;
use super::boot::Files;
use super::kvm::kvm_problem;
use super::plan::Plan;
use super::{FirecrackerConfig, Host, reconcile};
use crate::VmId;
use crate::driver::BootError;
use crate::slots::SlotAllocator;
use nova_domain::Limits;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// Boots a guest, and ends it. Returns how long the boot took, or an error as soon as `interrupted`
/// is cancelled. Nothing is left when it returns; to drop the future instead leaves the removal to
/// run as long as the runtime does. Must not run while the owner has other guests.
pub async fn probe(
    mut config: FirecrackerConfig,
    slots: &SlotAllocator,
    timeout: Duration,
    interrupted: &CancellationToken,
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
    let boot = host.boot(plan, Place::Alone(slot), files, None);
    let result = match interrupted.run_until_cancelled(boot).await {
        Some(Ok(_guest)) => Ok(start.elapsed()),
        // That there is no KVM at all explains a failure better than Firecracker does.
        Some(Err(error)) => Err(kvm_problem()
            .map_or(error, |kvm| BootError::Unavailable(format!("{}; {}", kvm.problem, kvm.fix)))),
        None => Err(BootError::Unavailable("the probe was interrupted".into())),
    };
    // The guest, or as much of it as there was, was dropped: its removal is under way.
    host.removals.close();
    host.removals.wait().await;
    if let Err(error) = spawn_blocking(move || reconcile::remove_shared(&host)).await {
        tracing::error!(%error, "removing the probe's directory was cut short");
    }
    result
}
