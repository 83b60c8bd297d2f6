//! The conversation with the host: its rules, and what hostile or broken peers get.
mod support;

use nova_proto::{Chunk, Message, PROTOCOL_VERSION, RefusalKind, Reply};
use std::io::Write;
use std::net::Shutdown;
use support::{Guest, exec, exec_within, persistent, process, raw_frame, wait_for};

#[test]
fn another_protocol_version_is_refused_with_both_named() {
    let guest = Guest::start(&[]);
    let mut host = guest.connect();
    let mut init = guest.init(process(&["true"]));
    init.protocol = PROTOCOL_VERSION + 1;
    let refusal = host.refused(Message::Init(Box::new(init)));
    assert_eq!(refusal.kind, RefusalKind::ProtocolMismatch);
    assert!(refusal.message.contains("version 2, this agent 1"), "{}", refusal.message);
    // It is still free to become a machine.
    guest.ready(process(&["true"]));
}

#[test]
fn calls_wait_for_init_and_init_comes_once() {
    let guest = Guest::start(&[]);
    let mut host = guest.connect();
    assert!(matches!(host.ask(Message::Ping), Reply::Pong {}));
    assert_eq!(host.refused(Message::Exec(exec("1"))).kind, RefusalKind::WrongState);
    let mut host = guest.ready(process(&["echo", "1"]));
    let again = Message::Init(Box::new(guest.init(process(&["echo", "2"]))));
    assert_eq!(host.refused(again).kind, RefusalKind::WrongState);
    assert_eq!(host.call("0").output(), "1");
}

#[test]
fn a_set_up_that_fails_says_what() {
    let guest = Guest::start(&[]);
    let mut init = guest.init(process(&["true"]));
    init.cgroup = nova_proto::CgroupSetup::Given {
        procs_files: vec!["/no/cgroup.procs".into()],
        oom_counter: nova_proto::OomCounter { path: "/dev/null".into() },
    };
    let mut host = guest.connect();
    let refusal = host.refused(Message::Init(Box::new(init)));
    assert_eq!(refusal.kind, RefusalKind::SetupFailed);
    assert!(refusal.message.contains("/no/cgroup.procs: No such file"), "{}", refusal.message);
    assert_eq!(host.refused(Message::Exec(exec("1"))).kind, RefusalKind::WrongState);
}

#[test]
fn an_attempt_runs_at_most_once() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["sh", "-c", "echo x >> /tmp/runs; wc -l < /tmp/runs"]));
    let mut request = exec("1");
    let id = host.begin(request.clone());
    assert_eq!(host.outcome(id).output(), "1");
    assert_eq!(host.refused(Message::Exec(request.clone())).kind, RefusalKind::Duplicate);
    // Nor over another connection.
    let mut host = guest.connect();
    assert_eq!(host.refused(Message::Exec(request.clone())).kind, RefusalKind::Duplicate);
    request.attempt = 2;
    let id = host.begin(request);
    assert_eq!(host.outcome(id).output(), "2");
}

#[test]
fn messages_that_make_no_sense_are_refused_one_by_one() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["echo", "1"]));
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for (kind, payload) in [
        (99, "{}".to_owned()),
        (0, "{}".into()),
        (2, "{}".into()),
        (2, "null".into()),
        (2, deep.clone()),
        (2, r#"{"request_id":"a","attempt":1,"timeout_ms":1,"input":1,"extra":1}"#.into()),
        (2, r#"{"request_id":"","attempt":1,"timeout_ms":1,"input":1}"#.into()),
        (2, r#"{"request_id":"a\u0000b","attempt":1,"timeout_ms":1,"input":1}"#.into()),
        (2, r#"{"request_id":"a","attempt":1,"timeout_ms":0,"input":1}"#.into()),
        (2, r#"{"request_id":"a","attempt":1,"timeout_ms":18446744073709551615,"input":1}"#.into()),
        (
            2,
            format!(
                r#"{{"request_id":"{}","attempt":1,"timeout_ms":1,"input":1}}"#,
                "a".repeat(129)
            ),
        ),
        (1, deep),
        (4, r#"{"extra":1}"#.into()),
    ] {
        host.stream.write_all(&raw_frame(kind, 1000, &payload)).expect("sent");
        match host.answer(1000).0 {
            Reply::Refused(refusal) => {
                assert_eq!(refusal.kind, RefusalKind::Malformed, "{payload:.80}")
            }
            other => panic!("not refused but {other:?}: {payload:.80}"),
        }
    }
    for message in
        [Message::Resp(Reply::Pong {}), Message::Chunk(Chunk { data: vec![1], last: true })]
    {
        assert_eq!(host.refused(message).kind, RefusalKind::Malformed);
    }
    host.send_as(77, Message::Cancel);
    assert_eq!(host.call("0").output(), "1");
}

#[test]
fn garbage_ends_the_connection_and_not_the_agent() {
    let mut guest = Guest::start(&[]);
    drop(guest.ready(process(&["echo", "1"])));
    let frames: [&[u8]; 5] = [
        b"\xff\xff\xff\xffGET / HTTP/1.1\r\n\r\n",
        b"\x00\x61\x00\x00",
        b"\x00\x00\x00\x04nope",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x02\xff\xfe",
    ];
    for bytes in frames {
        let mut host = guest.connect();
        assert!(matches!(host.ask(Message::Ping), Reply::Pong {}));
        host.stream.write_all(bytes).expect("sent");
        // A frame at the limit of sizes is waited for, not refused.
        host.stream.shutdown(Shutdown::Write).expect("shut down");
        assert!(host.receive().is_none());
    }
    let mut seed = 1_u64;
    for _ in 0..50 {
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u8
        })
        .take(4096)
        .collect();
        // It may be cut off while it still sends.
        let _ = guest.connect().stream.write_all(&noise);
    }
    assert!(guest.is_alive());
    assert_eq!(guest.connect().call("0").output(), "1");
}

#[test]
fn a_console_that_nobody_reads_or_that_is_gone_stops_nothing() {
    for keep_reader in [true, false] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let reader = keep_reader.then_some(reader);
        let guest = Guest::start_with_console(&[], writer.into());
        drop(guest.ready(process(&["echo", "1"])));
        // Each is worth a line of about 60 bytes; a pipe holds 64 KiB.
        for _ in 0..1500 {
            let mut host = guest.connect();
            host.stream.write_all(b"\xff\xff\xff\xff").expect("sent");
            assert!(host.receive().is_none());
        }
        assert_eq!(guest.connect().call("0").output(), "1");
        drop(reader);
    }
}

#[test]
fn the_latest_connection_counts() {
    let guest = Guest::start(&[]);
    let mut old = guest.ready(process(&["echo", "1"]));
    let mut new = guest.connect();
    assert_eq!(new.call("0").output(), "1");
    assert!(old.receive().is_none());
}

#[test]
fn a_lost_connection_cancels_its_calls_and_frees_their_slots() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&[
        "sh",
        "-c",
        "[ $(cat $0) = 1 ] && echo 1 && exit; sleep 2109",
        "{input}",
    ]));
    host.begin(exec("2"));
    wait_for("the call to run", || (guest.processes_with("2109") > 0).then_some(()));
    drop(host);
    let mut host = guest.connect();
    assert_eq!(host.call("1").output(), "1");
    assert_eq!(guest.processes_with("2109"), 0);
}

#[test]
fn a_slow_reader_stalls_neither_pings_nor_the_timeout() {
    let guest = Guest::start(&[]);
    // Each answer is 6 MiB; nobody reads them while the pings are asked.
    let handler = r#"
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"request_id": request["request_id"], "output": "a" * (6 * 1024 * 1024 - 2)}), flush=True)
"#;
    let mut host = guest.ready(persistent(&["python3", "-c", handler], 8));
    let calls: Vec<u64> = (0..8).map(|_| host.begin(exec("1"))).collect();
    let ping = host.send(Message::Ping);
    let mut results_before_pong = 0;
    loop {
        match host.receive().expect("open") {
            (id, Message::Resp(Reply::Pong {})) if id == ping => break,
            (id, Message::Resp(Reply::Done(_))) if calls.contains(&id) => results_before_pong += 1,
            other => panic!("unexpected {other:?}"),
        }
    }
    // The pong went past all that was not on its way already.
    assert!(results_before_pong <= 2, "{results_before_pong}");
}

#[test]
fn a_slow_reader_does_not_put_off_a_timeout() {
    let guest = Guest::start(&[]);
    let handler = r#"
import json, subprocess, sys, threading
lock = threading.Lock()
def handle(request):
    if request["input"] == "sleep": subprocess.run(["sleep", "8765"])
    output = "a" * (6 * 1024 * 1024 - 2)
    with lock: print(json.dumps({"request_id": request["request_id"], "output": output}), flush=True)
for line in sys.stdin: threading.Thread(target=handle, args=(json.loads(line),)).start()
"#;
    let mut host = guest.ready(persistent(&["python3", "-c", handler], 8));
    let sleeping = host.begin(exec_within("\"sleep\"", 2000));
    wait_for("the call to run", || (guest.processes_with("8765") > 0).then_some(()));
    for _ in 0..6 {
        host.begin(exec("1"));
    }
    // Nothing is read until then.
    wait_for("the timeout", || (guest.processes_with("8765") == 0).then_some(()));
    assert_eq!(host.outcome(sleeping).error().0, nova_proto::FunctionErrorKind::Timeout);
}

#[test]
fn stop_answers_and_ends_the_container_with_all_in_it() {
    let mut guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["sleep", "1098"]));
    host.begin(exec("1"));
    assert!(matches!(host.ask(Message::Stop), Reply::Stopping {}));
    while let Some((_, message)) = host.receive() {
        // The call that was running.
        assert!(matches!(message, Message::Resp(Reply::Done(_))), "{message:?}");
    }
    guest.wait_for_end();
}

#[test]
fn outside_of_a_guest_it_refuses_to_run() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_nova-agent"))
        .args(["--socket", "/tmp/never-made.sock"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("runs as PID 1"));
}
