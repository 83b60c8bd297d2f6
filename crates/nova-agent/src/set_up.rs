//! Init: from a bare guest to one that can run calls, in order.
use crate::cgroup::FunctionCgroup;
use crate::machine::Machine;
use crate::place::Place;
use crate::reaper::Reaper;
use crate::{files, identity, network, rootfs};
use nova_proto::{FunctionSetup, Init, Rootfs};
use std::sync::Arc;

/// Sets the machine up.
///
/// # Errors
/// Which step failed and why, for Nova's log. Nothing of it names a value of the environment.
pub fn machine(place: &Place, init: Init, reaper: Arc<Reaper>) -> Result<Machine, String> {
    check(&init.function)?;
    if let Some(clock_unix_ns) = init.clock_unix_ns {
        identity::set_clock(clock_unix_ns)?;
    }
    identity::add_entropy(&init.entropy)?;
    match (&init.rootfs, place) {
        (Rootfs::Drives { image_device, code_device, layers_device }, Place::MicroVm) => {
            let layers = layers_device.as_deref();
            rootfs::assemble(image_device, code_device, layers, &init.function)?;
            identity::set_hostname(&init.hostname)?;
            identity::write_machine_id()?;
        }
        (Rootfs::Mounted, Place::Container) => {}
        (Rootfs::Drives { .. }, Place::Container) => {
            return Err("a container has no drives; its rootfs must be `mounted`".into());
        }
        (Rootfs::Mounted, Place::MicroVm) => {
            return Err("a microVM has nothing mounted; its rootfs must be `drives`".into());
        }
    }
    network::set_up(*place, init.network.as_ref())?;
    let cgroup = FunctionCgroup::set_up(&init.cgroup, &init.function)?;
    files::set_up(&init.function.secrets)?;
    Ok(Machine { function: init.function, cgroup, reaper })
}

/// What the host has validated already, as far as breaking it would break the agent.
fn check(function: &FunctionSetup) -> Result<(), String> {
    if function.command.is_empty() {
        return Err("the function's command is empty".into());
    }
    for (name, value) in &function.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("the environment variable {name:?} cannot be set"));
        }
    }
    Ok(())
}
