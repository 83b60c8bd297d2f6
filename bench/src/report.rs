//! Results as JSON, and the page that is generated from it.
use crate::statistics::Times;
use crate::warm::Warm;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// Writes both files.
pub fn write(warm: &Warm, git_sha: &str, results: &Path, page: &Path) -> Result<()> {
    let machine = machine()?;
    let all = json!({"git_sha": git_sha, "ground": "G0", "machine": machine, "warm": warm});
    std::fs::write(results, serde_json::to_string_pretty(&all)? + "\n")
        .with_context(|| format!("writing {}", results.display()))?;
    std::fs::write(page, render(warm, git_sha, &machine)?)
        .with_context(|| format!("writing {}", page.display()))
}

fn machine() -> Result<Value> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(json!({
        "cpu": model.map(|text| text.trim_start_matches([' ', '\t', ':'])),
        "cpus": std::thread::available_parallelism()?.get(),
        "kernel": kernel.trim(),
    }))
}

fn render(warm: &Warm, git_sha: &str, machine: &Value) -> Result<String> {
    let mut page = String::from(
        "# Benchmarks\n\nMade by `make bench`; do not edit. Ratios compare what ran interleaved on one machine; absolute times\n\
         say little about another machine.\n\n",
    );
    writeln!(
        page,
        "Source {git_sha}, container backend, {} × {}, Linux {}.\n",
        machine["cpus"],
        machine["cpu"].as_str().unwrap_or("unknown processor"),
        machine["kernel"].as_str().unwrap_or("unknown")
    )?;
    page += "## B3: warm call at concurrency 1\n\nA persistent Python function that sends its input back, beside (a) a plain axum POST and (b) a line over a Unix\n\
             socket. The mark: Nova's p50 is at most a + 6 b.\n\n\
             | payload | | n | p50 µs | p90 | p99 | max |\n|---|---|---|---|---|---|---|\n";
    for size in &warm.sizes {
        for (what, times) in
            [("nova", &size.nova), ("(a) POST", &size.http), ("(b) Unix", &size.unix)]
        {
            let Times { n, p50_us, p90_us, p99_us, max_us } = times;
            writeln!(
                page,
                "| {} B | {what} | {n} | {p50_us:.0} | {p90_us:.0} | {p99_us:.0} | {max_us:.0} |",
                size.bytes
            )?;
        }
    }
    page += "\n| payload | nova ÷ (a + 6 b), median of rounds | spread | added to (a), µs | mark |\n|---|---|---|---|---|\n";
    for size in &warm.sizes {
        let met = if size.ratio.median <= 1.0 { "met" } else { "missed" };
        writeln!(
            page,
            "| {} B | {:.2} | {:.2} to {:.2} | {:.0} | {met} |",
            size.bytes, size.ratio.median, size.ratio.low, size.ratio.high, size.added_us.median
        )?;
    }
    let cpu = &warm.cpu;
    let met = if cpu.ratio.median <= 3.0 { "met" } else { "missed" };
    writeln!(
        page,
        "\nProcessor time of the gateway per call at concurrency 16: nova {:.0} µs, plain axum {:.0} µs, ratio {:.1} \
         ({:.1} to {:.1}); the mark of 3 is {met}.",
        cpu.nova_us.median, cpu.http_us.median, cpu.ratio.median, cpu.ratio.low, cpu.ratio.high
    )?;
    Ok(page)
}
