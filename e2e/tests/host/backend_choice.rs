//! `auto` takes Firecracker where a guest really boots, and says why where none does.
use crate::scratch;
use nova_e2e::daemon::DaemonOptions;
use nova_e2e::setting;
use serde_json::json;
use std::os::unix::fs::DirBuilderExt;

#[tokio::test]
async fn auto_chooses_what_works_here_and_says_why() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions {
        backend: Some("auto"),
        environment: &[("NOVA_PROBE_TIMEOUT", if guests_boot() { "60s" } else { "3s" })],
        ..DaemonOptions::new(&data)
    };
    let daemon = options.start().await;
    let health = daemon.nova.get("/health").await.ok();
    assert_eq!(health["backend"], setting("NOVA_E2E_AUTO"), "{health}");
    if !guests_boot() {
        let warning = health["warnings"][0].as_str().expect("a warning");
        assert!(warning.contains("share the host's kernel"), "{warning}");
        assert!(warning.contains("a probe guest did not boot: "), "it says why: {warning}");
        assert!(!warning.contains("VcpuEvent"), "firecracker's log explains nothing: {warning}");
        assert!(daemon.log().contains("share the host's kernel"), "{}", daemon.log());
    }
    assert!(daemon.terminate().success());
}

#[tokio::test]
async fn a_directory_that_ran_firecracker_never_falls_back() {
    let home = scratch();
    let data = home.path().join("data");
    let probe_timeout = ("NOVA_PROBE_TIMEOUT", if guests_boot() { "60s" } else { "3s" });
    if guests_boot() {
        let probed = DaemonOptions {
            backend: Some("auto"),
            environment: &[probe_timeout],
            ..DaemonOptions::new(&data)
        };
        assert!(probed.start().await.terminate().success());
    } else {
        // What a daemon leaves here once a guest has run in a microVM.
        std::fs::DirBuilder::new().mode(0o700).create(&data).unwrap();
        std::fs::write(data.join("ran-firecracker"), "").unwrap();
    }
    let broken = DaemonOptions {
        backend: Some("auto"),
        environment: &[("NOVA_FIRECRACKER_DIR", "/nonexistent"), probe_timeout],
        ..DaemonOptions::new(&data)
    };
    let output = broken.command().stderr(std::process::Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent/firecracker"), "{said}");
    assert!(said.contains("does not move them to weaker isolation by itself"), "{said}");

    std::fs::remove_file(data.join("ran-firecracker")).expect("it is what kept the daemon back");
    if !guests_boot() {
        let daemon = broken.start().await;
        assert_eq!(daemon.nova.get("/health").await.ok()["backend"], "container");
        assert!(daemon.terminate().success());
    }
}

#[tokio::test]
async fn firecracker_asked_for_by_name_is_never_replaced() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions {
        backend: Some("firecracker"),
        environment: &[("NOVA_FIRECRACKER_DIR", "/nonexistent")],
        ..DaemonOptions::new(&data)
    };
    let output = options.command().stderr(std::process::Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent/firecracker"), "{said}");
}

#[tokio::test]
async fn without_a_backend_the_control_plane_works_and_calls_are_503() {
    let home = scratch();
    let data = home.path().join("data");
    let options = DaemonOptions { backend: Some("none"), ..DaemonOptions::new(&data) };
    let daemon = options.start().await;
    let body = json!({"name": "f", "runtime": "python", "code": "print(1)"});
    daemon.nova.post("/functions", &body).await.ok();
    let answer = daemon.nova.post("/functions/f/invoke", &json!({})).await;
    answer.problem(503, "backend_unavailable");
    assert!(daemon.terminate().success());
}

#[tokio::test]
async fn the_doctor_names_what_it_checked_and_its_exit_code_tells() {
    let home = scratch();
    let output = std::process::Command::new(setting("NOVA_BIN"))
        .args(["doctor", "--json", "--data-dir"])
        .arg(home.path().join("data"))
        .env("NOVA_PROBE_TIMEOUT", if guests_boot() { "60s" } else { "3s" })
        .output()
        .unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings["findings"].as_array().expect("a list of findings");
    let probe =
        findings.iter().find(|finding| finding["check"] == "probe").expect("a guest is tried");
    assert_eq!(probe["status"] == "ok", guests_boot(), "{probe}");
    for finding in findings.iter().filter(|finding| finding["status"] != "ok") {
        assert!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{finding}");
    }
    let failed = findings.iter().any(|finding| finding["status"] == "fail");
    assert_eq!(output.status.success(), !failed);
}

#[tokio::test]
async fn where_a_daemon_cannot_start_the_doctor_fails() {
    let home = scratch();
    let data = home.path().join("data");
    let nothing =
        [("NOVA_FIRECRACKER_DIR", "/nonexistent"), ("NOVA_OCI_RUNTIME", "/nonexistent/runc")];
    let options =
        DaemonOptions { backend: Some("auto"), environment: &nothing, ..DaemonOptions::new(&data) };
    assert!(!options.command().status().unwrap().success());
    let output = std::process::Command::new(setting("NOVA_BIN"))
        .args(["doctor", "--backend", "auto", "--data-dir"])
        .arg(&data)
        .envs(nothing)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("FAIL  backend "), "{said}");
}

/// Whether Firecracker works on this machine, whatever backend the suite is run for.
fn guests_boot() -> bool {
    setting("NOVA_E2E_AUTO") == "firecracker"
}
