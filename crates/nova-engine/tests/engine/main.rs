//! What a caller notices of the engine: through its public API, with a fake driver and a fake store
//! at the outermost boundary, on a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod capacity;
mod changes;
mod failures;
mod fake_driver;
mod fake_store;
mod records;
mod shutdown;
mod starts;
mod world;
