//! Where code runs. Everything that touches the host's kernel is in this crate: drivers that make
//! isolated guests, the network they get, the images they boot from, and the line to the agent in
//! them. The engine above sees the two traits of [`driver`] and plain data.
pub mod agent_line;
pub mod backend;
pub mod cgroup;
pub mod container;
pub mod doctor;
pub mod driver;
pub mod firecracker;
pub mod host;
pub mod images;
pub mod lease;
pub mod network;
pub mod owner;
pub mod reconcile;
pub mod slots;

pub use driver::{
    BootError, CodeSource, EventSink, ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec,
};
