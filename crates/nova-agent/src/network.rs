//! The guest's network (first step: a container's is there already).
use crate::place::Place;
use nova_proto::NetworkSetup;

/// Configures what a microVM was given.
///
/// # Errors
/// What the kernel refused.
pub fn set_up(_place: Place, _network: Option<&NetworkSetup>) -> Result<(), String> {
    Ok(())
}
