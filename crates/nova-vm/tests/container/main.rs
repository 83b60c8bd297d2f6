//! The container driver with a real OCI runtime, a real agent and a real image, as root.
//!
//! Each test has a data directory, and with it an owner id, of its own; at its end it looks at the
//! host for anything that carries this id.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod crash;
mod failures;
mod isolation;
mod rig;
mod runs;
