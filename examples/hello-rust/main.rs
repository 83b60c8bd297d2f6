//! Echoes its input. A static binary needs nothing but the `base` image:
//! `rustc -O -C target-feature=+crt-static -o handler main.rs`
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: handler input.json");
        return ExitCode::from(2);
    };
    match std::fs::read_to_string(&path) {
        Ok(input) => {
            eprintln!("echoing {} bytes", input.len()); // stderr is the log
            println!("{{\"message\": \"Hello from a static binary!\", \"input\": {input}}}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{path}: {error}");
            ExitCode::FAILURE
        }
    }
}
