//! The network of guests with real namespaces, links and firewall. Needs root.
//!
//! Each test has a host and an internet of its own ([`arena`]); no packet leaves the machine.
#![allow(clippy::unwrap_used, reason = "in a test's helpers a panic is the failed test")]
mod arena;
mod life;
mod reach;
