use super::*;
use nova_proto::{CgroupSetup, FunctionSetup, Mode, OomCounter, Rootfs};
use proptest::prelude::*;
use serde_json::value::RawValue;

fn init() -> Message {
    Message::Init(Box::new(Init {
        protocol: nova_proto::PROTOCOL_VERSION,
        hostname: "guest".into(),
        clock_unix_ns: None,
        entropy: vec![],
        rootfs: Rootfs::Mounted,
        network: None,
        cgroup: CgroupSetup::Given {
            procs_files: vec![],
            oom_counter: OomCounter { path: "/dev/null".into() },
        },
        function: FunctionSetup {
            name: "hello".into(),
            version: "1".into(),
            mode: Mode::Persistent,
            handler: "handler".into(),
            command: vec!["true".into()],
            env: [].into(),
            secrets: vec![],
            memory_mb: 128,
            tmp_mb: 0,
            out_mb: 0,
            instance_concurrency: 2,
            own_image: None,
        },
    }))
}

fn exec(request_id: &str, attempt: u32) -> Message {
    Message::Exec(Exec {
        request_id: request_id.into(),
        attempt,
        timeout_ms: 1000,
        traceparent: None,
        input: RawValue::NULL.to_owned(),
    })
}

/// A session that is ready for two calls at once.
fn ready() -> Session {
    let mut session = Session::new();
    assert!(matches!(session.on_message(1, init())[..], [Action::SetUp { id: 1, .. }]));
    session.set_up_finished(Ok(2));
    session
}

/// Which refusal the only action is.
#[track_caller]
fn refusal(actions: &[Action]) -> RefusalKind {
    match actions {
        [Action::Reply { reply: Reply::Refused(refusal), .. }] => refusal.kind,
        other => panic!("not a refusal but {other:?}"),
    }
}

#[test]
fn calls_run_between_init_and_stop() {
    let mut session = Session::new();
    assert_eq!(refusal(&session.on_message(1, exec("a", 1))), RefusalKind::WrongState);
    session.on_message(2, init());
    assert_eq!(refusal(&session.on_message(3, exec("a", 1))), RefusalKind::WrongState);
    session.set_up_finished(Ok(1));
    assert!(matches!(session.on_message(4, exec("a", 1))[..], [Action::Run { id: 4, .. }]));
    let stop = session.on_message(5, Message::Stop);
    assert!(matches!(
        stop[..],
        [
            Action::Cancel { id: 4 },
            Action::Reply { id: 5, reply: Reply::Stopping {} },
            Action::PowerOff
        ]
    ));
    assert_eq!(refusal(&session.on_message(6, exec("b", 1))), RefusalKind::WrongState);
    assert_eq!(refusal(&session.on_message(7, init())), RefusalKind::WrongState);
}

#[test]
fn a_failed_set_up_is_final() {
    let mut session = Session::new();
    session.on_message(1, init());
    session.set_up_finished(Err(()));
    assert_eq!(refusal(&session.on_message(2, exec("a", 1))), RefusalKind::WrongState);
    assert_eq!(refusal(&session.on_message(3, init())), RefusalKind::WrongState);
    assert!(matches!(session.on_message(4, Message::Stop)[..], [_, Action::PowerOff]));
}

#[test]
fn a_refused_call_uses_up_neither_its_attempt_nor_a_slot() {
    let mut session = ready();
    session.on_message(2, exec("a", 1));
    session.on_message(3, exec("b", 1));
    assert_eq!(refusal(&session.on_message(4, exec("c", 1))), RefusalKind::Busy);
    session.finished(2);
    assert!(matches!(session.on_message(5, exec("c", 1))[..], [Action::Run { id: 5, .. }]));
}

#[test]
fn a_request_runs_once_at_a_time_and_an_attempt_once() {
    let mut session = ready();
    session.on_message(2, exec("a", 1));
    assert_eq!(refusal(&session.on_message(3, exec("a", 1))), RefusalKind::Duplicate);
    assert_eq!(refusal(&session.on_message(4, exec("a", 2))), RefusalKind::Duplicate);
    assert_eq!(refusal(&session.on_message(2, exec("b", 1))), RefusalKind::Malformed);
    session.finished(2);
    assert_eq!(refusal(&session.on_message(5, exec("a", 1))), RefusalKind::Duplicate);
    assert!(matches!(session.on_message(6, exec("a", 2))[..], [Action::Run { id: 6, .. }]));
}

#[test]
fn a_reconfigure_is_for_an_idle_guest() {
    let reconfigure = || {
        let hostname = "new".into();
        Message::Reconfigure(Reconfigure { hostname, clock_unix_ns: 1, entropy: vec![] })
    };
    let mut session = ready();
    assert!(matches!(session.on_message(2, reconfigure())[..], [Action::Reconfigure { .. }]));
    session.on_message(3, exec("a", 1));
    assert_eq!(refusal(&session.on_message(4, reconfigure())), RefusalKind::WrongState);
}

#[test]
fn an_export_has_the_guest_for_itself() {
    let mut session = Session::new();
    assert_eq!(refusal(&session.on_message(1, Message::Export)), RefusalKind::WrongState);
    let mut session = ready();
    session.on_message(2, exec("a", 1));
    assert_eq!(refusal(&session.on_message(3, Message::Export)), RefusalKind::Busy);
    session.finished(2);
    assert!(matches!(session.on_message(4, Message::Export)[..], [Action::Export { id: 4 }]));
    assert!(!session.is_idle());
    assert_eq!(refusal(&session.on_message(5, Message::Export)), RefusalKind::Busy);
    assert_eq!(refusal(&session.on_message(6, exec("b", 1))), RefusalKind::Busy);
    session.finished(4);
    assert!(matches!(session.on_message(7, exec("b", 1))[..], [Action::Run { id: 7, .. }]));
}

#[test]
fn credit_and_cancel_reach_the_export_that_they_name_and_no_other() {
    let credit = || Message::Credit(Credit { bytes: 9 });
    let mut session = ready();
    assert!(session.on_message(2, credit()).is_empty());
    session.on_message(3, Message::Export);
    let granted = session.on_message(3, credit());
    assert!(matches!(granted[..], [Action::Credit { bytes: 9 }]), "{granted:?}");
    assert!(session.on_message(2, credit()).is_empty());
    assert!(matches!(session.on_message(3, Message::Cancel)[..], [Action::Cancel { id: 3 }]));
    assert!(matches!(session.on_disconnect()[..], [Action::Cancel { id: 3 }]));
    session.finished(3);
    assert!(session.on_message(3, credit()).is_empty());
}

proptest! {
    /// Whatever the host sends in whatever order: slots hold, no attempt runs twice, every request
    /// gets exactly one answer or one start, and a disconnect cancels exactly what runs.
    #[test]
    fn the_rules_hold_for_any_history(steps in prop::collection::vec((0_u8..9, 0_u8..5, 1_u32..3), 0..60)) {
        let mut session = Session::new();
        let mut running = std::collections::BTreeSet::new();
        let mut run = std::collections::BTreeSet::new();
        let mut exporting = None;
        for (number, (kind, request, attempt)) in steps.into_iter().enumerate() {
            let id = number as u64 + 1;
            let actions = match kind {
                0 => session.on_message(id, init()),
                1 => { session.set_up_finished(Ok(2)); vec![] }
                2..=4 => session.on_message(id, exec(&request.to_string(), attempt)),
                5 => session.on_message(id, Message::Ping),
                6 => {
                    let cancelled: Vec<_> = session.on_disconnect().iter().map(|action| match action {
                        Action::Cancel { id } => *id,
                        other => panic!("{other:?}"),
                    }).collect();
                    prop_assert_eq!(cancelled, running.iter().copied().collect::<Vec<u64>>());
                    vec![]
                }
                7 => session.on_message(id, Message::Export),
                _ => {
                    if let Some(first) = running.pop_first() { session.finished(first); }
                    vec![]
                }
            };
            prop_assert!(actions.len() <= 1);
            for action in actions {
                if let Action::Export { id } = action {
                    prop_assert!(running.is_empty(), "an export has the guest for itself");
                    exporting = Some(id);
                    running.insert(id);
                }
                if let Action::Run { id, exec } = action {
                    prop_assert!(exporting.is_none_or(|exporting| !running.contains(&exporting)));
                    prop_assert!(run.insert((exec.request_id, exec.attempt)));
                    running.insert(id);
                    prop_assert!(running.len() <= 2);
                }
            }
            prop_assert_eq!(session.is_idle(), running.is_empty());
        }
    }
}
