//! What a user of a running daemon notices, on whatever backend it has. Needs `NOVA_URL`,
//! `NOVA_API_KEY` and `NOVA_BIN`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod bootstraps;
mod builds;
mod capacity;
mod command_line;
mod failures;
mod first_calls;
mod isolation;
mod lambda;
mod lifecycle;
mod misbehaving;
mod output;
mod records;
mod secrets;
