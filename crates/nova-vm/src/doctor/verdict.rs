//! What the findings come to: which backend a daemon would take here, if any.
use super::{Finding, Status, Subject};
use crate::backend::{Backend, has_run_firecracker};

/// Decides as [`crate::backend::choose`] does, from what the other checks found.
pub(super) fn backend(subject: &Subject, findings: &[Finding]) -> Finding {
    const CHECK: &str = "backend";
    let is_ok = |check: &str| {
        findings.iter().any(|finding| finding.check == check && finding.status == Status::Ok)
    };
    let (firecracker, containers) = (is_ok("probe"), is_ok("oci_runtime"));
    let fail = |detail: &str, fix: &str| Finding::bad(CHECK, Status::Fail, detail, fix);
    match subject.backend {
        Backend::None => Finding::ok(CHECK, "none: no functions are run, as chosen"),
        Backend::Firecracker if firecracker => Finding::ok(CHECK, "firecracker, as chosen"),
        Backend::Firecracker => {
            fail("firecracker was chosen and does not work here", "do what `probe` says")
        }
        Backend::Container if containers => Finding::ok(CHECK, "container, as chosen"),
        Backend::Container => {
            fail("container was chosen and does not work here", "do what `oci_runtime` says")
        }
        Backend::Auto if firecracker => Finding::ok(CHECK, "auto takes firecracker"),
        Backend::Auto if !containers => fail(
            "auto has nothing to take: neither firecracker nor containers work here",
            "do what `probe` says, or for weaker isolation what `oci_runtime` says",
        ),
        Backend::Auto if has_run_firecracker(&subject.data_dir) => fail(
            "functions of this data directory have run in microVMs, and auto does not move them to \
             containers",
            "do what `probe` says; --backend container accepts containers",
        ),
        Backend::Auto => Finding::bad(
            CHECK,
            Status::Warn,
            "auto takes containers, which share the host's kernel",
            "do what `probe` says",
        ),
    }
}
