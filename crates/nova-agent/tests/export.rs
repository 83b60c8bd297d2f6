//! The result of a build leaves the guest as a tar, whole, in pieces, and nothing else does.
mod support;

use nova_proto::{CHUNK_MAX_BYTES, CREDIT_BYTES, Credit, Message, RefusalKind, Reply};
use std::collections::BTreeMap;
use std::io::Read;
use support::{Guest, Host, build, exec, process, wait_for};

/// The bytes of an export, granting each chunk's when it has come, and the answer.
fn export(host: &mut Host) -> (Vec<u8>, Reply) {
    let id = host.send(Message::Export);
    let (mut bytes, mut ended) = (Vec::new(), false);
    loop {
        match host.receive().expect("the agent goes on") {
            (from, Message::Chunk(chunk)) if from == id => {
                assert!(!ended && chunk.data.len() <= CHUNK_MAX_BYTES);
                ended = chunk.last;
                bytes.extend_from_slice(&chunk.data);
                host.send_as(id, Message::Credit(Credit { bytes: chunk.data.len() as u32 }));
            }
            (from, Message::Resp(reply)) if from == id => {
                assert_eq!(ended, matches!(reply, Reply::Exported {}), "{reply:?}");
                return (bytes, reply);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Lengths by path, and the targets of links.
fn listing(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("an archive").map(|entry| {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let target = entry.link_name().expect("a target").map(|to| format!("-> {}", to.display()));
        let name = entry.path().expect("a path").display().to_string();
        (name, target.unwrap_or_else(|| content.len().to_string()))
    });
    entries.collect()
}

#[test]
fn what_a_build_writes_arrives_whole_and_its_links_as_links() {
    let script = "mkdir /out/lib && head -c 1000000 /dev/zero > /out/lib/big && ln -s /etc/shadow \
                  /out/shadow && echo built >&2 && echo null";
    let guest = Guest::start(&[]);
    let mut host = guest.ready(build(&["/bin/sh", "-c", script]));
    assert_eq!(host.call("null").output(), "null");
    let (tar, reply) = export(&mut host);
    assert!(matches!(reply, Reply::Exported {}));
    let found = listing(&tar);
    assert_eq!(found["lib/big"], "1000000");
    assert_eq!(found["shadow"], "-> /etc/shadow");
    // The guest goes on: once more, and a call.
    assert_eq!(export(&mut host).0, tar);
    let failed = host.call("null");
    assert!(failed.error().1.contains("exited with status 1"), "mkdir: {:?}", failed.error());
}

#[test]
fn a_host_that_grants_nothing_gets_no_more_than_the_first_credit_and_may_leave() {
    let script = "head -c 3000000 /dev/zero > /out/big && echo null";
    let guest = Guest::start(&[]);
    let mut host = guest.ready(build(&["/bin/sh", "-c", script]));
    assert_eq!(host.call("null").output(), "null");
    let id = host.send(Message::Export);
    let mut bytes = 0;
    while bytes < CREDIT_BYTES {
        match host.receive() {
            Some((_, Message::Chunk(chunk))) => bytes += chunk.data.len(),
            other => panic!("{other:?}"),
        }
    }
    // A ping is answered although the export waits, and nothing comes between.
    assert!(matches!(host.ask(Message::Ping), Reply::Pong {}));
    assert_eq!(host.refused(Message::Exec(exec("null"))).kind, RefusalKind::Busy);
    host.send_as(id, Message::Cancel);
    let (reply, _) = host.answer(id);
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    assert!(matches!(export(&mut host).1, Reply::Exported {}));
}

#[test]
fn nothing_of_the_build_runs_while_its_result_is_read() {
    let script = "(setsid sh -c 'while :; do date > /out/late; done' & ) ; echo null";
    let guest = Guest::start(&[]);
    let mut host = guest.ready(build(&["/bin/sh", "-c", script]));
    assert_eq!(host.call("null").output(), "null");
    export(&mut host);
    wait_for("the build's processes to be gone", || {
        (guest.processes_with("/out/late") == 0).then_some(())
    });
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(build(&["/bin/sh", "-c", "mkfifo /out/pipe; echo null"]));
    assert_eq!(host.call("null").output(), "null");
    let (_, reply) = export(&mut host);
    let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert!(refusal.message.contains("/out/pipe"), "{refusal:?}");
}

#[test]
fn a_guest_that_builds_nothing_exports_nothing() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["/bin/sh", "-c", "echo null"]));
    assert_eq!(host.refused(Message::Export).kind, RefusalKind::WrongState);
    assert_eq!(host.call("null").output(), "null");
}
