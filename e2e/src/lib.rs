//! Helpers of the end-to-end suite. They know Nova only from outside: its HTTP API, its command
//! line, and for the tests of a whole host its processes.
//!
//! `NOVA_URL`, `NOVA_API_KEY` and `NOVA_BIN` say which daemon is tested; `NOVA_E2E_BACKEND` which
//! backend it must have, `NOVA_E2E_AUTO` which one `auto` must choose here. The tests of [`daemon`] start daemons of their own.
#![forbid(unsafe_code)]

mod cli;
pub mod daemon;
mod examples;
mod go;
mod http;
mod lambda;
pub mod own_image;

pub use cli::{CliOutput, cli, cli_with_input, command, run};
pub use examples::static_binary;
pub use go::go_function;
pub use http::{Answer, FunctionUnderTest, Nova};
pub use lambda::{install_awslambdaric, node_client, rust_function};

use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up: the testbed is about fifty times slower
/// than hardware, and no test asserts a time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A setting of the suite; says what to run where it is missing.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the suite with `make test`, which starts a daemon for it")
    })
}

/// Waits until `condition` gives a value; fails with `what` when it never does.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "still not true after {PATIENCE:?}: {what}");
        // Not a wait for a time: the pause between two looks at the condition.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
