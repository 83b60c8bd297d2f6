//! What a daemon leaves when it is killed is found by its owner id and removed; nothing else is.
use crate::rig::{Rig, oci_runtime, output, possible};
use nova_vm::container::reconcile;
use std::path::Path;

#[tokio::test]
async fn everything_of_a_killed_daemon_is_removed_and_another_daemons_guest_is_not() {
    if !possible() {
        return;
    }
    let (crashed, other) = (Rig::new(), Rig::new());
    let theirs = other.boot("echo 1").await;
    // As after kill -9: nobody runs any destructor.
    std::mem::forget(crashed.boot("sleep 600").await);
    std::mem::forget(crashed.boot("echo 1").await);
    let before = crashed.left();
    assert!(before.iter().any(|what| what.contains("erofs")), "{before:?}");

    let report = reconcile(&crashed.owner, &oci_runtime()).await;
    assert_eq!(report.failed, Vec::<String>::new());
    assert_eq!(crashed.left(), Vec::<String>::new());
    assert!(report.removed.len() >= 6, "{:?}", report.removed);

    assert_eq!(output(&*theirs, "0").await, "1");
    theirs.stop().await;
    other.finish().await;
}

#[tokio::test]
async fn an_oci_runtime_still_at_work_is_ended_first() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    // One that was caught by the crash in the middle of its work, and does not end: it waits for
    // input that never comes.
    let mut runtime = std::process::Command::new("/bin/sh")
        .args(["-c", "read line", "runc", "--root"])
        .arg(rig.owner.runc_root())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let report = reconcile(&rig.owner, &oci_runtime()).await;
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(!runtime.wait().unwrap().success());
    rig.finish().await;
}

#[tokio::test]
async fn leftovers_are_removed_without_the_runtime_that_made_them() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    std::mem::forget(rig.boot("sleep 600").await);
    let report = reconcile(&rig.owner, Path::new("/nonexistent/runc")).await;
    assert_eq!(report.failed, Vec::<String>::new());
    assert_eq!(rig.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_clean_host_has_nothing_to_remove() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let report = reconcile(&rig.owner, &oci_runtime()).await;
    assert_eq!((report.removed, report.failed), (vec![], vec![]));
    rig.finish().await;
}
