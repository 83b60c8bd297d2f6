//! `process` mode, by what a caller notices: the real agent, real processes.
mod support;

use nova_proto::{FunctionErrorKind as Kind, LogStream, Message, PAYLOAD_MAX_BYTES, SecretFile};
use support::{Guest, exec, exec_within, json, process};

#[test]
fn input_comes_in_a_file_and_the_result_is_what_is_printed() {
    let guest = Guest::start(&[("handler", "#!/bin/sh\ncat \"$1\"\n")]);
    let mut host = guest.ready(process(&["/code/handler", "{input}"]));
    assert_eq!(host.call(r#"{"name": "Ada"}"#).output(), r#"{"name": "Ada"}"#);
    assert_eq!(host.call("null").output(), "null");
}

#[test]
fn what_is_printed_before_the_result_is_a_log() {
    let script = "echo starting; echo careful >&2; echo '{\"ok\":true}'";
    let guest = Guest::start(&[]);
    let outcome = guest.ready(process(&["sh", "-c", script])).call("{}");
    assert_eq!(outcome.output(), r#"{"ok":true}"#);
    assert_eq!(outcome.from(LogStream::Stdout), ["starting"]);
    assert_eq!(outcome.from(LogStream::Stderr), ["careful"]);
    assert!(!outcome.report.log_truncated);
}

#[test]
fn output_that_is_no_json_is_an_error_that_quotes_it() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["sh", "-c", "cat $0 | tr -d '\"'", "{input}"]));
    let outcome = host.call("\"hello\"");
    assert_eq!(outcome.error().0, Kind::InvalidOutput);
    assert!(outcome.error().1.ends_with("it begins with: hello"), "{}", outcome.error().1);
    assert_eq!(host.call("\"\"").error().1, "the function printed nothing; print one JSON value");
    assert_eq!(host.call("\"NaN\"").error().0, Kind::InvalidOutput);
}

#[test]
fn the_function_is_an_unprivileged_user_with_nothing_but_its_own() {
    let script = r#"
import json, os
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print(json.dumps({
    "ids": status["Uid"] + status["Gid"], "groups": status["Groups"].strip(),
    "new_privileges": status["NoNewPrivs"], "capabilities": status["CapEff"],
    "cwd": os.getcwd(), "session": os.getsid(0) == os.getpid(), "umask": status["Umask"],
    "descriptors": [fd for fd in sorted(map(int, os.listdir("/proc/self/fd"))) if fd > 2][:-1],
    "stdin": os.read(0, 1).decode(), "core": __import__("resource").getrlimit(4)[0],
    "oom": open("/proc/self/oom_score_adj").read().strip(),
    "socket": os.access("/nova/agent.sock", os.F_OK),
    "agent_capabilities": [line.split()[1] for line in open("/proc/1/status") if line.startswith("CapEff")],
}))
"#;
    let guest = Guest::start(&[("handler.py", script)]);
    let outcome = guest.ready(process(&["python3", "/code/handler.py"])).call("{}");
    let expected = serde_json::json!({
        "ids": "1000\t1000\t1000\t10001000\t1000\t1000\t1000", "groups": "",
        "new_privileges": "1", "capabilities": "0000000000000000",
        "cwd": "/code", "session": true, "umask": "0022", "descriptors": [], "stdin": "", "core": 0,
        "oom": "0", "socket": false,
        // KILL, SETGID and SETUID are all that it needs.
        "agent_capabilities": ["00000000000000e0"],
    });
    assert_eq!(json(outcome.output()), expected);
}

#[test]
fn the_environment_is_novas_and_the_functions_own() {
    let script = "import json, os; print(json.dumps(dict(os.environ)))";
    let guest = Guest::start(&[]);
    let mut function = process(&["python3", "-c", script]);
    for (name, value) in
        [("GREETING", "hi"), ("NOVA_MEMORY_MB", "1"), ("LANG", "de"), ("LC_CTYPE", "C.UTF-8")]
    {
        function.env.insert(name.into(), value.into());
    }
    let mut host = guest.ready(function);
    let mut request = exec_within("{}", 50_000);
    request.traceparent = Some("00-trace".into());
    let request_id = request.request_id.clone();
    let before = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_millis() as u64;
    let id = host.begin(request);
    let mut seen = json(host.outcome(id).output());
    let deadline: u64 = seen["NOVA_DEADLINE_MS"].as_str().expect("set").parse().expect("a number");
    assert!(deadline >= before + 50_000);
    seen.as_object_mut().expect("an object").remove("NOVA_DEADLINE_MS");
    let expected = serde_json::json!({
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin", "HOME": "/tmp",
        "LANG": "de", "LC_CTYPE": "C.UTF-8", "GREETING": "hi", "NOVA_FUNCTION_NAME": "hello",
        "NOVA_FUNCTION_VERSION": "7", "NOVA_REQUEST_ID": request_id, "NOVA_MEMORY_MB": "128",
        "NOVA_CODE_DIR": "/code", "TRACEPARENT": "00-trace",
    });
    assert_eq!(seen, expected);
}

#[test]
fn secrets_are_files_for_the_function_alone_and_inputs_do_not_stay() {
    let script = r#"
import json, os
d = "/run/nova/secrets"
info = os.stat(d + "/token")
print(json.dumps({
    "value": open(d + "/token").read(), "mode": oct(info.st_mode), "owner": info.st_uid,
    "listed": os.listdir(d), "directory": oct(os.stat(d).st_mode), "writable": os.access(d, os.W_OK),
    "parent_listable": os.access("/run/nova", os.R_OK), "old_input": os.path.exists("/run/nova/input-0.json"),
    "type": os.popen("stat -f -c %T /run/nova/secrets").read().strip(),
}))
"#;
    let guest = Guest::start(&[("handler.py", script)]);
    let mut function = process(&["python3", "/code/handler.py"]);
    function.secrets.push(SecretFile { name: "token".into(), value: b"s3cret".to_vec() });
    let mut host = guest.ready(function);
    host.call("{}");
    let expected = serde_json::json!({
        "value": "s3cret", "mode": "0o100400", "owner": 1000, "listed": ["token"],
        "directory": "0o40750", "writable": false, "parent_listable": false, "old_input": false,
        "type": "tmpfs",
    });
    assert_eq!(json(host.call("{}").output()), expected);
}

#[test]
fn a_timeout_kills_even_what_made_a_session_of_its_own() {
    let script = "setsid sh -c 'setsid sleep 7654 & sleep 7654' & echo before; sleep 7654";
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&[
        "sh",
        "-c",
        "[ $(cat $0) = 1 ] && echo 1 && exit; eval \"$1\"",
        "{input}",
        script,
    ]));
    let id = host.begin(exec_within("2", 300));
    let outcome = host.outcome(id);
    assert_eq!(outcome.error(), (Kind::Timeout, "the function ran past its timeout of 300 ms"));
    assert_eq!(outcome.texts(), ["before"]);
    assert_eq!(guest.processes_with("7654"), 0);
    assert_eq!(host.call("1").output(), "1");
}

#[test]
fn what_a_finished_call_left_running_is_gone_before_the_next() {
    let guest = Guest::start(&[]);
    // The child keeps stdout open, which must not keep the call.
    let mut host = guest.ready(process(&["sh", "-c", "setsid sleep 6543 & echo 1"]));
    for _ in 0..3 {
        assert_eq!(host.call("{}").output(), "1");
        assert_eq!(guest.processes_with("6543"), 0);
    }
}

#[test]
fn exit_codes_and_signals_are_named() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["sh", "-c", "eval $(tr -d '\"' < $0)", "{input}"]));
    let outcome = host.call("\"echo 1; echo no such user >&2; exit 3\"");
    assert_eq!(
        outcome.error(),
        (
            Kind::FunctionExited,
            "the function exited with status 3; its stderr ends with: no such user"
        )
    );
    assert_eq!(outcome.from(LogStream::Stdout), ["1"]);
    let segv = host.call("\"kill -SEGV $$\"");
    assert_eq!(
        segv.error(),
        (Kind::FunctionCrashed, "the function was killed by signal 11 (SIGSEGV)")
    );
    let real_time = host.call("\"kill -40 $$\"");
    assert_eq!(real_time.error(), (Kind::FunctionCrashed, "the function was killed by signal 40"));
    assert_eq!(host.call("\"echo 1\"").output(), "1");
}

#[test]
fn a_program_that_cannot_start_is_named_with_the_reason() {
    let files = [
        ("no-interpreter", "#!/missing/interpreter\n"),
        ("no-first-line", "echo 1\n"),
        ("plain", "#!/bin/sh\n"),
    ];
    for (program, reason) in [
        (
            "/code/missing",
            "cannot start `/code/missing`: no such file; check the function's handler",
        ),
        ("no-such-program", "cannot start `no-such-program`: no such program in PATH (/"),
        (
            "/code/no-interpreter",
            "cannot start `/code/no-interpreter`: it is there, but the interpreter",
        ),
        (
            "/code/no-first-line",
            "cannot start `/code/no-first-line`: not a program for this machine",
        ),
        ("/code", "cannot start `/code`: it is a directory"),
        ("/etc/shadow", "cannot start `/etc/shadow`: permission denied; is it executable"),
    ] {
        let guest = Guest::start(&files);
        let mut host = guest.ready(process(&[program, "{input}"]));
        for _ in 0..2 {
            let outcome = host.call("{}");
            let (kind, message) = outcome.error();
            assert_eq!(kind, Kind::FunctionNotStarted);
            assert!(message.starts_with(reason), "{message}");
        }
    }
}

#[test]
fn an_out_of_memory_is_named_with_the_limit_and_the_guest_lives_on() {
    let script = "import json, sys; n = json.load(open(sys.argv[1])); x = b'x' * n; print(len(x))";
    let mut guest = Guest::start(&[]);
    guest.limit_memory(64 << 20);
    let mut function = process(&["python3", "-c", script, "{input}"]);
    function.memory_mb = 64;
    let mut host = guest.ready(function);
    let outcome = host.call("200000000");
    assert_eq!(
        outcome.error(),
        (Kind::OutOfMemory, "the function ran out of memory: its limit is 64 MiB (memory_mb)")
    );
    assert_eq!(host.call("1000").output(), "1000");
}

#[test]
fn tmp_stays_between_calls_until_it_uses_up_the_memory() {
    let script = r#"
import os, sys
os.makedirs("/tmp/private/deep", mode=0o700, exist_ok=True)
count = len(os.listdir("/tmp/private"))
for n in range(open(sys.argv[1]).read().count("fill") * 100):
    open(f"/tmp/private/deep/{n}", "wb").write(b"x" * (1 << 20))
open(f"/tmp/private/{count}", "w")
print(count)
"#;
    let mut guest = Guest::start(&[("handler.py", script)]);
    guest.limit_memory(64 << 20);
    let mut host = guest.ready(process(&["python3", "/code/handler.py", "{input}"]));
    assert_eq!(host.call("1").output(), "1");
    assert_eq!(host.call("1").output(), "2");
    assert_eq!(host.call("\"fill\"").error().0, Kind::OutOfMemory);
    assert_eq!(host.call("1").output(), "1");
}

#[test]
fn a_tree_without_end_in_tmp_does_not_take_the_guest_down() {
    let script = r#"
import os, sys
print(len(os.listdir("/tmp")))
sys.stdout.flush()
if "fill" in open(sys.argv[1]).read():
    os.chdir("/tmp")
    for n in range(20_000):
        os.mkdir("d")
        os.chdir("d")
    os.chmod("/tmp/d/d", 0)
    x = b"x" * 200_000_000
"#;
    let mut guest = Guest::start(&[("handler.py", script)]);
    guest.limit_memory(64 << 20);
    let mut host = guest.ready(process(&["python3", "/code/handler.py", "{input}"]));
    assert_eq!(host.call("\"fill\"").error().0, Kind::OutOfMemory);
    assert_eq!(host.call("1").output(), "0");
}

#[test]
fn system_v_objects_do_not_outlive_their_call() {
    let script = r#"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
there = sum(len(open("/proc/sysvipc/" + kind).readlines()) - 1 for kind in ("shm", "msg", "sem"))
made = [libc.shmget(0, 1 << 20, 0o1600), libc.msgget(0, 0o1600), libc.semget(0, 1, 0o1600)]
assert min(made) >= 0, (made, ctypes.get_errno())
print(there)
"#;
    let guest = Guest::start(&[("handler.py", script)]);
    let mut host = guest.ready(process(&["python3", "/code/handler.py"]));
    assert_eq!(host.call("1").output(), "0");
    assert_eq!(host.call("1").output(), "0");
}

#[test]
fn six_mebibytes_go_in_and_out_and_one_byte_more_does_not() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["cat", "{input}"]));
    let largest = format!("\"{}\"", "a".repeat(PAYLOAD_MAX_BYTES - 2));
    assert_eq!(host.call(&largest).output().len(), PAYLOAD_MAX_BYTES);

    let script = "print('\"' + 'a' * (6 * 1024 * 1024 - 1) + '\"')";
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["python3", "-c", script]));
    let outcome = host.call("{}");
    assert_eq!(
        outcome.error(),
        (Kind::OutputTooLarge, "the result is over the limit of 6291456 bytes")
    );
}

#[test]
fn output_without_end_is_stopped_without_waiting_for_the_timeout() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&["sh", "-c", "tr '\\0' 'a' < /dev/zero"]));
    assert_eq!(host.call("{}").error().0, Kind::OutputTooLarge);
}

#[test]
fn a_flood_of_logs_is_cut_off_with_a_marker_and_the_result_stands() {
    let guest = Guest::start(&[]);
    let script =
        "for stream in 1 2; do yes 'all work and no play' | head -n 200000 >&$stream; done; echo 5";
    let mut host = guest.ready(process(&["sh", "-c", script]));
    let outcome = host.call("{}");
    assert_eq!(outcome.output(), "5");
    assert!(outcome.report.log_truncated);
    assert_eq!(outcome.from(LogStream::System), ["log truncated: a call may log 1048576 bytes"]);
    assert!(outcome.texts().iter().map(|text| text.len()).sum::<usize>() < 1024 * 1024 + 100);
}

#[test]
fn a_caller_who_leaves_ends_the_call_and_not_the_guest() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(process(&[
        "sh",
        "-c",
        "[ $(cat $0) = 1 ] && echo 1 && exit; echo up >&2; sleep 5432",
        "{input}",
    ]));
    let id = host.begin(exec("2"));
    let (_, first) = host.receive().expect("a log line");
    assert!(matches!(first, Message::Log(_)), "{first:?}");
    host.send_as(id, Message::Cancel);
    assert_eq!(host.outcome(id).error().0, Kind::Cancelled);
    assert_eq!(guest.processes_with("5432"), 0);
    assert_eq!(host.call("1").output(), "1");
}

#[test]
fn logs_arrive_while_the_call_runs() {
    let guest = Guest::start(&[]);
    let script =
        "echo one; echo two >&2; echo three; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo 1";
    let mut host = guest.ready(process(&["sh", "-c", script]));
    let id = host.begin(exec("{}"));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match host.receive() {
            Some((from, Message::Log(log))) if from == id => {
                seen.extend(log.lines.into_iter().map(|line| line.text));
            }
            other => panic!("not a log but {other:?}"),
        }
    }
    seen.sort();
    // The last line could be the result still.
    assert_eq!(seen, ["one", "two"]);
    host.send_as(id, Message::Cancel);
    assert_eq!(host.outcome(id).texts(), ["three"]);
}
