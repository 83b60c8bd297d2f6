//! Settings of the host that cost speed or safety. None of them keeps Nova from working, and a host
//! that does not have a setting is fine.
use super::{Finding, Status};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Mounts of the host from which on each jail is noticeably slower to make.
const MOUNTS_MANY: usize = 200;

/// 2026-01-01: a clock before it has never been set.
const CLOCK_EARLIEST: Duration = Duration::from_secs(1_767_225_600);

pub(super) fn all() -> Vec<Finding> {
    vec![
        memory_merging(&read("/sys/kernel/mm/ksm/run")),
        huge_pages(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        governor(&read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        swap(&read("/proc/swaps")),
        mounts(read("/proc/self/mounts").lines().count()),
        clock_source(&read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        clock(SystemTime::now()),
    ]
}

/// The file's text; nothing where the host has no such setting.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn memory_merging(run: &str) -> Finding {
    match run {
        "1" => Finding::bad(
            "memory_merging",
            Status::Warn,
            "the kernel merges equal pages (KSM), by which guests can learn of each other",
            "echo 0 > /sys/kernel/mm/ksm/run",
        ),
        _ => Finding::ok("memory_merging", "off"),
    }
}

fn huge_pages(enabled: &str) -> Finding {
    if enabled.contains("[never]") {
        return Finding::bad(
            "huge_pages",
            Status::Warn,
            "transparent huge pages are off: guests spend more time on page faults",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        );
    }
    Finding::ok("huge_pages", if enabled.is_empty() { "not configurable" } else { enabled })
}

fn governor(governor: &str) -> Finding {
    match governor {
        "powersave" | "conservative" => Finding::bad(
            "cpu_governor",
            Status::Warn,
            format!("{governor}: CPUs wake up slowly, which every cold start feels"),
            "cpupower frequency-set -g performance",
        ),
        "" => Finding::ok("cpu_governor", "not configurable"),
        other => Finding::ok("cpu_governor", other),
    }
}

/// The first line of the file is a heading.
fn swap(swaps: &str) -> Finding {
    match swaps.lines().skip(1).count() {
        0 => Finding::ok("swap", "none"),
        count => Finding::bad(
            "swap",
            Status::Warn,
            format!("{count} swap areas: what a guest had in memory can reach a disk"),
            "swapoff -a, or encrypt the swap",
        ),
    }
}

fn mounts(count: usize) -> Finding {
    if count < MOUNTS_MANY {
        return Finding::ok("mounts", count);
    }
    Finding::bad(
        "mounts",
        Status::Warn,
        format!("{count} mounts, which every jail copies"),
        "unmount what is not used, or run the daemon in a mount namespace of its own",
    )
}

fn clock_source(source: &str) -> Finding {
    match source {
        "hpet" | "acpi_pm" | "jiffies" => Finding::bad(
            "clock_source",
            Status::Warn,
            format!("{source}: reading the time is a system call, for guests too"),
            "boot with a stable tsc: clocksource=tsc",
        ),
        "" => Finding::ok("clock_source", "unknown"),
        other => Finding::ok("clock_source", other),
    }
}

fn clock(now: SystemTime) -> Finding {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if seconds >= CLOCK_EARLIEST {
        return Finding::ok("clock", "set (whether it is kept in step is not checked)");
    }
    Finding::bad(
        "clock",
        Status::Warn,
        "the clock is years behind: certificates fail, and guests get the wrong time",
        "set it, and install an NTP client",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_the_host_does_not_have_is_no_problem() {
        let all = [memory_merging(""), huge_pages(""), governor(""), swap(""), clock_source("")];
        assert!(all.iter().all(|finding| finding.status == Status::Ok), "{all:?}");
    }

    #[test]
    fn settings_that_cost_something_are_found() {
        let all = [
            memory_merging("1"),
            huge_pages("always madvise [never]"),
            governor("powersave"),
            swap("Filename Type Size\n/dev/sda2 partition 1000"),
            mounts(500),
            clock_source("hpet"),
            clock(UNIX_EPOCH),
        ];
        assert!(all.iter().all(|finding| finding.status == Status::Warn), "{all:?}");
    }
}
