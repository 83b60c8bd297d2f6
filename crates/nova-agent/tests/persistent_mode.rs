//! `persistent` mode, by what a caller notices: the real agent, one process for many calls.
mod support;

use nova_proto::{FunctionErrorKind as Kind, LogStream, Message, PAYLOAD_MAX_BYTES};
use support::{Guest, Host, exec, exec_within, json, persistent, wait_for};

/// Does what its input says; answers with its pid, how often it was called, and what it was given.
const HANDLER: &str = r#"
import json, os, signal, subprocess, sys, threading, time
count = 0
lock = threading.Lock()
def answer(request, **fields):
    with lock:
        print(json.dumps({"request_id": request["request_id"], **fields}), flush=True)
def handle(request):
    global count
    count += 1
    what = request["input"]
    if what == "fail": answer(request, error={"message": "it broke", "code": 7})
    elif what == "exit": print("bye", file=sys.stderr, flush=True); os._exit(3)
    elif what == "sleep": subprocess.Popen(["setsid", "sleep", "4321"]); time.sleep(4321)
    elif what == "log": print("on stderr", file=sys.stderr, flush=True); print("on stdout"); answer(request, output=1)
    elif what == "null": answer(request, output=None)
    elif what == "big": answer(request, output="a" * (6 << 20))
    elif what == "bigger": answer(request, output="a" * (7 << 20))
    elif what == "anonymous": print('{"output": "whose?"}', flush=True)
    elif what == "stranger": print('{"output": 1, "request_id": "somebody"}', flush=True)
    elif isinstance(what, dict) and "until" in what:
        print("waiting", file=sys.stderr, flush=True)
        while not os.path.exists(what["until"]): time.sleep(0.005)
        answer(request, output=what["until"])
    elif isinstance(what, dict) and "touch" in what: open(what["touch"], "w"); answer(request, output=1)
    elif isinstance(what, str) and len(what) > 100: answer(request, output=what)
    else: answer(request, output={"pid": os.getpid(), "count": count, "input": what})
for line in sys.stdin:
    threading.Thread(target=handle, args=(json.loads(line),)).start()
"#;

fn start(instance_concurrency: u32) -> (Guest, Host) {
    let guest = Guest::start(&[("handler.py", HANDLER)]);
    let host = guest.ready(persistent(&["python3", "/code/handler.py"], instance_concurrency));
    (guest, host)
}

/// The pid of the process that answers.
fn pid(host: &mut Host) -> u64 {
    json(host.call("1").output())["pid"].as_u64().expect("a pid")
}

#[test]
fn one_process_answers_many_calls() {
    let (_guest, mut host) = start(1);
    let first = host.call("{\n \"a\": \"b\\n\"\n}");
    let second = host.call("2");
    let (first_output, second_output) = (json(first.output()), json(second.output()));
    assert_eq!(first_output["input"], serde_json::json!({"a": "b\n"}));
    assert_eq!(first_output["pid"], second_output["pid"]);
    assert_eq!(second_output["count"], 2);
    assert!(first.report.phases.init_us > 0);
    assert_eq!(second.report.phases.init_us, 0);
    assert_eq!(host.call("\"null\"").output(), "null");
}

#[test]
fn other_lines_and_stderr_are_logs_of_the_call() {
    let (_guest, mut host) = start(1);
    for _ in 0..20 {
        let outcome = host.call("\"log\"");
        assert_eq!(outcome.output(), "1");
        assert_eq!(outcome.from(LogStream::Stdout), ["on stdout"]);
        assert_eq!(outcome.from(LogStream::Stderr), ["on stderr"]);
    }
}

#[test]
fn an_error_of_the_function_is_passed_on_and_the_process_lives() {
    let (_guest, mut host) = start(1);
    let before = pid(&mut host);
    let outcome = host.call("\"fail\"");
    assert_eq!(outcome.error(), (Kind::FunctionFailed, "it broke"));
    let detail = outcome.report.error.as_ref().and_then(|error| error.detail.clone());
    assert_eq!(detail.expect("a detail")["code"], 7);
    assert_eq!(pid(&mut host), before);
}

#[test]
fn a_process_that_exits_fails_its_call_and_the_next_starts_another() {
    let (_guest, mut host) = start(1);
    let before = pid(&mut host);
    assert_eq!(
        host.call("\"exit\"").error(),
        (Kind::FunctionExited, "the function exited with status 3; its stderr ends with: bye")
    );
    let outcome = host.call("1");
    assert_ne!(json(outcome.output())["pid"].as_u64(), Some(before));
    assert!(outcome.report.phases.init_us > 0);
}

#[test]
fn a_timeout_kills_the_process_and_the_next_call_starts_another() {
    let (guest, mut host) = start(1);
    let before = pid(&mut host);
    let id = host.begin(exec_within("\"sleep\"", 500));
    assert_eq!(
        host.outcome(id).error(),
        (Kind::Timeout, "the function ran past its timeout of 500 ms")
    );
    assert_eq!(guest.processes_with("4321"), 0);
    assert_ne!(pid(&mut host), before);
}

#[test]
fn a_cancel_kills_the_process_and_the_next_call_starts_another() {
    let (guest, mut host) = start(1);
    let before = pid(&mut host);
    let id = host.begin(exec("\"sleep\""));
    wait_for("the call to run", || (guest.processes_with("4321") > 0).then_some(()));
    host.send_as(id, Message::Cancel);
    assert_eq!(host.outcome(id).error().0, Kind::Cancelled);
    assert_ne!(pid(&mut host), before);
}

#[test]
fn calls_run_at_once_up_to_the_concurrency() {
    let (_guest, mut host) = start(3);
    let waiting =
        [host.begin(exec(r#"{"until": "/tmp/go"}"#)), host.begin(exec(r#"{"until": "/tmp/go"}"#))];
    assert_eq!(host.call(r#"{"touch": "/tmp/go"}"#).output(), "1");
    for id in waiting {
        assert_eq!(host.outcome(id).output(), "\"/tmp/go\"");
    }
}

#[test]
fn one_call_more_than_there_are_slots_is_refused() {
    let (_guest, mut host) = start(2);
    let waiting =
        [host.begin(exec(r#"{"until": "/tmp/go"}"#)), host.begin(exec(r#"{"until": "/tmp/go"}"#))];
    assert_eq!(host.refused(Message::Exec(exec("1"))).kind, nova_proto::RefusalKind::Busy);
    host.send_as(waiting[0], Message::Cancel);
    assert_eq!(host.outcome(waiting[0]).error().0, Kind::Cancelled);
    // The other went on, and its process takes the next call.
    assert_eq!(host.call(r#"{"touch": "/tmp/go"}"#).output(), "1");
    assert_eq!(host.outcome(waiting[1]).output(), "\"/tmp/go\"");
}

#[test]
fn an_exit_fails_every_call_in_the_process() {
    let (_guest, mut host) = start(2);
    let waiting = host.begin(exec(r#"{"until": "/tmp/never"}"#));
    assert_eq!(host.call("\"exit\"").error().0, Kind::FunctionExited);
    assert_eq!(host.outcome(waiting).error().0, Kind::FunctionExited);
    pid(&mut host);
}

#[test]
fn a_timeout_takes_the_other_calls_along_and_says_so() {
    let (_guest, mut host) = start(2);
    let other = host.begin(exec(r#"{"until": "/tmp/never"}"#));
    let id = host.begin(exec_within("\"sleep\"", 500));
    assert_eq!(host.outcome(id).error().0, Kind::Timeout);
    let outcome = host.outcome(other);
    let reason = "the function's process was ended with another call that ran past its timeout";
    assert_eq!(outcome.error(), (Kind::FunctionCrashed, reason));
}

#[test]
fn an_answer_that_names_no_call_is_an_error() {
    let (_guest, mut host) = start(2);
    let outcome = host.call("\"anonymous\"");
    assert_eq!(outcome.error().0, Kind::InvalidOutput);
    assert!(outcome.error().1.contains("without the request_id"));
    assert_eq!(host.call("\"stranger\"").error().0, Kind::InvalidOutput);
    pid(&mut host);

    let (_guest, mut host) = start(1);
    assert_eq!(host.call("\"anonymous\"").output(), "\"whose?\"");
    let outcome = host.call("\"stranger\"");
    assert_eq!(
        outcome.error(),
        (Kind::InvalidOutput, "the function answered request `somebody`, which is not running")
    );
    pid(&mut host);
}

#[test]
fn large_payloads_pass_and_larger_ones_are_errors() {
    let (_guest, mut host) = start(1);
    let largest = format!("\"{}\"", "a".repeat(PAYLOAD_MAX_BYTES - 2));
    assert_eq!(host.call(&largest).output(), largest);
    // Two bytes over the limit, the quotes; then far over, where the line itself is too long.
    assert_eq!(host.call("\"big\"").error().0, Kind::OutputTooLarge);
    assert_eq!(host.call("\"bigger\"").error().0, Kind::OutputTooLarge);
    pid(&mut host);
}

#[test]
fn an_out_of_memory_is_named_and_the_next_call_starts_another_process() {
    let handler = "import json, sys\nfor line in sys.stdin: x = b'x' * json.loads(line)['input']; print(json.dumps({'output': len(x)}), flush=True)";
    let mut guest = Guest::start(&[("handler.py", handler)]);
    guest.limit_memory(64 << 20);
    let mut function = persistent(&["python3", "/code/handler.py"], 1);
    function.memory_mb = 64;
    let mut host = guest.ready(function);
    assert_eq!(host.call("1000").output(), "1000");
    let outcome = host.call("200000000");
    assert_eq!(
        outcome.error(),
        (Kind::OutOfMemory, "the function ran out of memory: its limit is 64 MiB (memory_mb)")
    );
    assert_eq!(host.call("1000").output(), "1000");
}

#[test]
fn a_function_that_reads_nothing_runs_into_its_timeout() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(persistent(&["sleep", "3210"], 1));
    let input = format!("\"{}\"", "a".repeat(1 << 20));
    for _ in 0..2 {
        let id = host.begin(exec_within(&input, 300));
        assert_eq!(host.outcome(id).error().0, Kind::Timeout);
    }
    assert_eq!(guest.processes_with("3210"), 0);
}

#[test]
fn a_process_that_cannot_start_fails_each_call() {
    let guest = Guest::start(&[]);
    let mut host = guest.ready(persistent(&["/code/missing"], 1));
    for _ in 0..2 {
        assert_eq!(host.call("1").error().0, Kind::FunctionNotStarted);
    }
}
