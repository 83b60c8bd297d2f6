//! What a user of a running daemon notices, on whatever backend it has. Needs `NOVA_URL`,
//! `NOVA_API_KEY` and `NOVA_BIN`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod aws_clients;
mod bad_input;
mod bootstraps;
mod builds;
mod capacity;
mod code_packages;
mod command_line;
mod failures;
mod first_calls;
mod isolation;
mod lambda;
mod layers;
mod lifecycle;
mod local;
mod misbehaving;
mod output;
mod projects;
mod records;
mod secrets;
