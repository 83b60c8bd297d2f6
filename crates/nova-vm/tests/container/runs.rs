//! Calls that run, well or badly, and guests that end.
use crate::rig::{Rig, call, call_with_logs, call_within, output, possible, request};
use nova_domain::{FunctionErrorKind, LogStream};
use nova_vm::{ExecError, MicroVm, VmDriver};
use std::time::Duration;
use tokio::sync::mpsc;

/// The kind of failure of a call that fails.
async fn error_kind(vm: &dyn MicroVm, input: &str) -> FunctionErrorKind {
    call(vm, input).await.unwrap().error.expect("the call was to fail").kind
}

#[tokio::test]
async fn a_guest_answers_call_after_call_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let vm = rig.boot(r#"cat "$1""#).await;
    assert_eq!(output(&*vm, r#"{"a": 1}"#).await, r#"{"a": 1}"#);
    assert_eq!(output(&*vm, "[2]").await, "[2]");
    vm.stop().await;
    assert_eq!(rig.guests_left(), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test]
async fn what_a_function_writes_to_its_standard_error_is_its_log() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let vm = rig.boot("echo one >&2; echo two >&2; echo 3").await;
    let (report, lines) = call_with_logs(&*vm, "0").await;
    assert_eq!(report.output.unwrap().get(), "3");
    let texts: Vec<_> = lines.iter().map(|line| (line.stream, line.text.as_str())).collect();
    assert_eq!(texts, [(LogStream::Stderr, "one"), (LogStream::Stderr, "two")]);
    vm.stop().await;
    rig.finish().await;
}

#[tokio::test]
async fn a_persistent_function_is_one_process_for_many_calls() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let script = r#"n=0; while read -r line; do n=$((n+1)); echo "{\"output\": $n}"; done"#;
    let vm = rig.driver.boot(rig.persistent(script)).await.unwrap();
    for count in 1..=20 {
        assert_eq!(output(&*vm, "null").await, count.to_string());
    }
    vm.stop().await;
    rig.finish().await;
}

#[tokio::test]
async fn a_call_over_the_memory_limit_is_named_and_the_guest_survives() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let script = r#"if grep -q big "$1"; then head -c 200000000 /dev/zero | tail -c 190000000; else echo 1; fi"#;
    let vm = rig.boot(script).await;
    assert_eq!(error_kind(&*vm, r#""big""#).await, FunctionErrorKind::OutOfMemory);
    assert_eq!(output(&*vm, "0").await, "1");
    vm.stop().await;
    rig.finish().await;
}

#[tokio::test]
async fn a_call_over_its_time_is_killed_and_the_guest_survives() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let vm = rig.boot(r#"if grep -q long "$1"; then sleep 600; else echo 1; fi"#).await;
    let report = call_within(&*vm, r#""long""#, 200).await.unwrap();
    assert_eq!(report.error.unwrap().kind, FunctionErrorKind::Timeout);
    assert_eq!(output(&*vm, "0").await, "1");
    vm.stop().await;
    rig.finish().await;
}

/// Runs a fork bomb in a guest of this much memory, beside another guest; returns how it ended.
async fn fork_bomb(memory_mb: u32) -> FunctionErrorKind {
    let rig = Rig::new();
    // A shell that cannot fork gives up; the loop around it does not.
    let script = r#"b() { b & b & wait; }; if grep -q bomb "$1"; then while :; do (b); done; else echo 1; fi"#;
    let mut spec = rig.spec(script);
    (spec.memory_mb, spec.setup.memory_mb) = (memory_mb, memory_mb);
    let bomb = rig.driver.boot(spec).await.unwrap();
    let other = rig.boot("echo 1").await;
    let (report, neighbours_answer) =
        tokio::join!(call_within(&*bomb, r#""bomb""#, 2_000), output(&*other, "0"));
    assert_eq!(neighbours_answer, "1");
    assert_eq!(output(&*bomb, "0").await, "1", "the guest takes the next call");
    bomb.stop().await;
    other.stop().await;
    rig.finish().await;
    report.unwrap().error.unwrap().kind
}

#[tokio::test]
async fn a_fork_bomb_ends_at_the_timeout_and_harms_no_neighbour() {
    if !possible() {
        return;
    }
    // Enough for every process that it may have.
    assert_eq!(fork_bomb(1024).await, FunctionErrorKind::Timeout);
}

#[tokio::test]
async fn a_fork_bomb_in_little_memory_harms_no_neighbour() {
    if !possible() {
        return;
    }
    // It is out of memory once the kernel picks the first of its processes, and not another one.
    let kind = fork_bomb(64).await;
    assert!(
        matches!(kind, FunctionErrorKind::OutOfMemory | FunctionErrorKind::Timeout),
        "{kind:?}"
    );
}

#[tokio::test]
async fn a_caller_who_leaves_has_the_call_killed_and_the_guest_takes_the_next() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let vm =
        rig.boot(r#"if grep -q long "$1"; then echo begun >&2; sleep 600; else echo 1; fi"#).await;
    let (sink, mut events) = mpsc::channel(1);
    tokio::select! {
        result = vm.exec(request(r#""long""#, 600_000), sink) => panic!("{result:?}"),
        line = events.recv() => assert_eq!(line.unwrap().text, "begun"),
    }
    let report = loop {
        match call(&*vm, "0").await {
            // The killed call may still hold the guest's only place.
            Err(ExecError::Refused(why)) if why.contains("slots are taken") => {}
            result => break result.unwrap(),
        }
    };
    assert_eq!(report.output.unwrap().get(), "1");
    vm.stop().await;
    rig.finish().await;
}

#[tokio::test]
async fn a_guest_whose_agent_is_killed_is_dead_and_its_call_is_lost() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let vm = rig.boot("echo begun >&2; sleep 600").await;
    let pid = std::fs::read_to_string(rig.owner.vm_dir(vm.id()).join("pid")).unwrap();
    let (sink, mut events) = mpsc::channel(1);
    let kill = async {
        events.recv().await.unwrap();
        let killed = std::process::Command::new("/bin/kill").args(["-9", &pid]).status().unwrap();
        assert!(killed.success());
        vm.died().await
    };
    let (result, died) = tokio::join!(vm.exec(request("0", 600_000), sink), kill);
    assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
    assert!(!died.is_empty());
    vm.stop().await;
    rig.finish().await;
}

#[tokio::test]
async fn a_guest_that_is_dropped_removes_itself() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let vm = rig.boot("echo 1").await;
    assert!(!rig.guests_left().is_empty());
    drop(vm);
    rig.until_no_guests().await;
    rig.finish().await;
}

#[tokio::test]
async fn a_boot_whose_caller_leaves_at_any_moment_leaves_nothing() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    // How often a boot is polled depends on the machine; by 60 it has long succeeded.
    for polls in 0..60 {
        let mut boot = rig.driver.boot(rig.spec("echo 1"));
        let mut left = polls;
        let booted = std::future::poll_fn(|context| {
            if left == 0 {
                return std::task::Poll::Ready(None);
            }
            left -= 1;
            boot.as_mut().poll(context).map(Some)
        });
        match booted.await {
            None => drop(boot),
            Some(vm) => {
                vm.unwrap().stop().await;
                break;
            }
        }
        rig.until_no_guests().await;
    }
    rig.finish().await;
}

#[tokio::test]
async fn many_guests_at_once_come_and_go() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let one = |number: usize| {
        let rig = &rig;
        async move {
            let vm = rig.boot(r#"cat "$1""#).await;
            assert_eq!(output(&*vm, &number.to_string()).await, number.to_string());
            vm.stop().await;
        }
    };
    let all = futures::future::join_all((0..12).map(one));
    tokio::time::timeout(Duration::from_secs(120), all).await.unwrap();
    rig.finish().await;
}

#[tokio::test]
async fn the_largest_payload_travels_both_ways() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let vm = rig.boot(r#"cat "$1""#).await;
    let largest = format!("\"{}\"", "x".repeat(nova_proto::PAYLOAD_MAX_BYTES - 2));
    assert_eq!(output(&*vm, &largest).await, largest);
    vm.stop().await;
    rig.finish().await;
}
