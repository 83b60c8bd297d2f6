//! `lambda` mode, by what a caller notices: the real agent, and a runtime that does as it is told.
mod support;

use nova_proto::{Exec, FunctionErrorKind as Kind, LogStream, Message, PAYLOAD_MAX_BYTES};
use serde_json::{Value, json as value};
use support::{Guest, Host, Outcome, exec, exec_within, json, lambda, wait_for};

/// A runtime client of thirty lines: requests over sockets of its own, so that tests can break each of
/// them. `request` returns status, headers and body.
const CLIENT: &str = r#"
import base64, json, os, signal, socket, subprocess, sys, threading, time
HOST, PORT = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
RUNTIME = "/2018-06-01/runtime"
def connect():
    s = socket.create_connection((HOST, int(PORT)))
    return s
def read_answer(s):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = s.recv(65536)
        if not piece: return 0, {}, data
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        body += s.recv(65536)
    return int(lines[0].split()[1]), headers, body
def request(method, path, body=b"", headers={}, s=None):
    s = s or connect()
    if isinstance(body, str): body = body.encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
    if "Transfer-Encoding" not in headers: lines.append(f"Content-Length: {len(body)}")
    s.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return read_answer(s)
def chunked(*pieces, trailers=""):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)
    return chunks + b"0\r\n" + trailers.encode() + b"\r\n"
def fetch(s=None):
    status, headers, body = request("GET", RUNTIME + "/invocation/next", s=s)
    assert status == 200, (status, body)
    return headers["lambda-runtime-aws-request-id"], headers, json.loads(body)
def respond(id, body, headers={}, what="response", s=None):
    return request("POST", f"{RUNTIME}/invocation/{id}/{what}", body, headers, s)
"#;

/// Does what the event says.
const RUNTIME: &str = r#"
print("runtime starts", flush=True)
count = 0
while True:
    id, headers, event = fetch()
    count += 1
    do = event.get("do") if isinstance(event, dict) else None
    if do == "fail":
        error = {"errorMessage": "no such order", "errorType": "ValueError", "stackTrace": ["line 1"]}
        respond(id, json.dumps(error), {"Lambda-Runtime-Function-Error-Type": "unhandled"}, "error")
    elif do == "exit": print("bye", file=sys.stderr, flush=True); os._exit(3)
    elif do == "sleep": subprocess.Popen(["setsid", "sleep", "4321"]); time.sleep(4321)
    elif do == "big": respond(id, b'"' + b"a" * event["size"] + b'"')
    elif do == "raw": respond(id, event["body"], event.get("headers", {}))
    elif do == "log":
        print("on stdout", flush=True); print("on stderr", file=sys.stderr, flush=True)
        respond(id, "1")
    elif do == "environment": respond(id, json.dumps(dict(os.environ, cwd=os.getcwd())))
    elif do == "headers": respond(id, json.dumps(headers))
    elif do == "twice":
        first, second = respond(id, '"first"')[0], respond(id, '"second"')
        print(first, second[0], json.loads(second[2])["errorType"], file=sys.stderr, flush=True)
    elif do == "answer and exit": respond(id, '"last words"'); os._exit(0)
    else: respond(id, json.dumps({"event": event, "pid": os.getpid(), "count": count}))
"#;

fn start_runtime(runtime: &str, concurrency: u32) -> (Guest, Host) {
    let program = format!("#!/usr/bin/python3 -u\n{CLIENT}{runtime}");
    let guest = Guest::start(&[("bootstrap", &program)]);
    let host = guest.ready(lambda(&["/code/bootstrap"], concurrency));
    (guest, host)
}

fn start() -> (Guest, Host) {
    start_runtime(RUNTIME, 1)
}

fn pid(host: &mut Host) -> u64 {
    json(host.call("{}").output())["pid"].as_u64().expect("a pid")
}

fn raw(host: &mut Host, body: &str, headers: Value) -> Outcome {
    host.call(&value!({"do": "raw", "body": body, "headers": headers}).to_string())
}

#[test]
fn one_process_fetches_many_events() {
    let (_guest, mut host) = start();
    let first = host.call("{\"a\": \"\u{e9}\"}");
    let second = host.call("[2]");
    let (one, two) = (json(first.output()), json(second.output()));
    assert_eq!((&one["event"], &two["event"]), (&value!({"a": "\u{e9}"}), &value!([2])));
    assert_eq!((&one["pid"], &two["count"]), (&two["pid"], &value!(2)));
    assert!(first.report.phases.init_us > 0);
    assert_eq!(second.report.phases.init_us, 0);
}

#[test]
fn stdout_and_stderr_are_logs_of_the_call() {
    let (_guest, mut host) = start();
    assert_eq!(host.call("{}").from(LogStream::Stdout), ["runtime starts"]);
    for _ in 0..20 {
        let outcome = host.call(r#"{"do": "log"}"#);
        assert_eq!(outcome.from(LogStream::Stdout), ["on stdout"]);
        assert_eq!(outcome.from(LogStream::Stderr), ["on stderr"]);
    }
}

#[test]
fn the_environment_is_that_of_aws() {
    let (guest, _host) = start();
    drop(guest);
    let program = format!("#!/usr/bin/python3 -u\n{CLIENT}{RUNTIME}");
    let guest = Guest::start(&[("bootstrap", &program)]);
    let mut function = lambda(&["/code/bootstrap"], 3);
    for (name, text) in [("AWS_REGION", "eu-west-1"), ("_HANDLER", "evil"), ("TZ", "Asia/Tokyo")] {
        function.env.insert(name.into(), text.into());
    }
    let mut host = guest.ready(function);
    let outcome = host.call(r#"{"do": "environment"}"#);
    let env = json(outcome.output());
    for (name, text) in [
        ("_HANDLER", "main.handler"),
        ("AWS_LAMBDA_FUNCTION_NAME", "hello"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "7"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/hello"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "3"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("NOVA_FUNCTION_NAME", "hello"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("TZ", "Asia/Tokyo"),
        ("cwd", "/var/task"),
    ] {
        assert_eq!(env[name], text, "{name}");
    }
    assert!(env["AWS_LAMBDA_LOG_STREAM_NAME"].as_str().is_some_and(|name| name.contains("[7]")));
}

#[test]
fn an_event_comes_with_its_headers() {
    let (_guest, mut host) = start();
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    let call = Exec { traceparent, ..exec(r#"{"do": "headers"}"#) };
    let request_id = call.request_id.clone();
    let id = host.begin(call);
    let outcome = host.outcome(id);
    let headers = json(outcome.output());
    assert_eq!(headers["lambda-runtime-aws-request-id"], request_id.as_str());
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:hello";
    assert_eq!(headers["lambda-runtime-invoked-function-arn"], arn);
    let trace = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";
    assert_eq!(headers["lambda-runtime-trace-id"], trace);
    assert_eq!(headers["content-type"], "application/json");
    let deadline = headers["lambda-runtime-deadline-ms"].as_str().expect("a deadline");
    assert!(deadline.parse::<u64>().is_ok_and(|ms| ms > 1_700_000_000_000));
}

#[test]
fn an_error_is_passed_on_whole_and_the_process_lives() {
    let (_guest, mut host) = start();
    let before = pid(&mut host);
    let outcome = host.call(r#"{"do": "fail"}"#);
    assert_eq!(outcome.error(), (Kind::FunctionFailed, "ValueError: no such order"));
    let detail = outcome.report.error.as_ref().and_then(|error| error.detail.clone());
    let expected = value!({
        "errorMessage": "no such order", "errorType": "ValueError", "stackTrace": ["line 1"],
    });
    assert_eq!(detail, Some(expected));
    assert_eq!(pid(&mut host), before);
}

#[test]
fn a_second_answer_to_an_event_is_refused() {
    let (_guest, mut host) = start();
    assert_eq!(host.call(r#"{"do": "twice"}"#).output(), "\"first\"");
    assert_eq!(host.call("{}").from(LogStream::Stderr), ["202 400 InvalidRequestID"]);
}

#[test]
fn a_process_that_exits_fails_its_call_and_the_next_starts_another() {
    let (_guest, mut host) = start();
    let before = pid(&mut host);
    // What an earlier call wrote is not quoted.
    host.call(r#"{"do": "log"}"#);
    let outcome = host.call(r#"{"do": "exit"}"#);
    let message = "the function exited with status 3; its stderr ends with: bye";
    assert_eq!(outcome.error(), (Kind::FunctionExited, message));
    assert_ne!(pid(&mut host), before);
    assert_eq!(host.call(r#"{"do": "answer and exit"}"#).output(), "\"last words\"");
    pid(&mut host);
}

#[test]
fn a_timeout_kills_the_process_and_the_next_call_starts_another() {
    let (guest, mut host) = start();
    let before = pid(&mut host);
    let id = host.begin(exec_within(r#"{"do": "sleep"}"#, 500));
    let expected = (Kind::Timeout, "the function ran past its timeout of 500 ms");
    assert_eq!(host.outcome(id).error(), expected);
    assert_eq!(guest.processes_with("bootstrap"), 0);
    assert_ne!(pid(&mut host), before);
}

#[test]
fn a_cancel_kills_the_process_and_the_next_call_starts_another() {
    let (guest, mut host) = start();
    let before = pid(&mut host);
    let id = host.begin(exec(r#"{"do": "sleep"}"#));
    wait_for("the call to run", || (guest.processes_with("4321") > 0).then_some(()));
    host.send_as(id, Message::Cancel);
    assert_eq!(host.outcome(id).error().0, Kind::Cancelled);
    assert_eq!(guest.processes_with("4321"), 0);
    assert_ne!(pid(&mut host), before);
}

#[test]
fn large_payloads_pass_and_larger_ones_are_errors() {
    let (_guest, mut host) = start();
    let before = pid(&mut host);
    let largest = format!("\"{}\"", "a".repeat(PAYLOAD_MAX_BYTES - 2));
    let big = |size: usize| value!({"do": "big", "size": size}).to_string();
    assert_eq!(host.call(&big(PAYLOAD_MAX_BYTES - 2)).output(), largest);
    // A little over Nova's limit, then over what the API takes at all.
    assert_eq!(host.call(&big(PAYLOAD_MAX_BYTES)).error().0, Kind::OutputTooLarge);
    assert_eq!(host.call(&big(PAYLOAD_MAX_BYTES + (1 << 20))).error().0, Kind::OutputTooLarge);
    let large = format!("\"{}\"", "a".repeat(PAYLOAD_MAX_BYTES - 1024));
    assert_eq!(json(host.call(&large).output())["event"], json(&large));
    assert_eq!(pid(&mut host), before);
}

#[test]
fn a_response_that_is_no_json_is_named_and_quoted() {
    let (_guest, mut host) = start();
    let outcome = raw(&mut host, "Hello, world", value!({}));
    let message = "the response is not JSON; it begins with: Hello, world";
    assert_eq!(outcome.error(), (Kind::InvalidOutput, message));
    assert_eq!(raw(&mut host, "NaN", value!({})).error().0, Kind::InvalidOutput);
    assert_eq!(raw(&mut host, "", value!({})).output(), "null");
}

#[test]
fn an_http_response_becomes_an_object() {
    let (_guest, mut host) = start();
    let http = "application/vnd.awslambda.http-integration-response";
    let body = format!("{{\"statusCode\": 404}}{}gone", "\0".repeat(8));
    let outcome = raw(&mut host, &body, value!({"Content-Type": http}));
    let response = json(outcome.output());
    assert_eq!((&response["statusCode"], &response["body"]), (&value!(404), &value!("gone")));
}

/// Streams its answers, well or badly.
const STREAMING: &str = r#"
STREAM = {"Lambda-Runtime-Function-Response-Mode": "streaming", "Transfer-Encoding": "chunked"}
while True:
    id, _, event = fetch()
    if event == "stream": respond(id, chunked(b'{"a":', b' [1, 2]}'), STREAM)
    elif event == "fail":
        body = base64.b64encode(b'{"errorMessage": "half way", "errorType": "StreamError"}').decode()
        trailers = f"Lambda-Runtime-Function-Error-Type: Function.StreamError\r\n" \
                   f"Lambda-Runtime-Function-Error-Body: {body}\r\n"
        respond(id, chunked(b'{"a":', trailers=trailers), STREAM)
    elif event == "mode":
        status, _, body = respond(id, "1", {"Lambda-Runtime-Function-Response-Mode": "sideways"})
        respond(id, json.dumps([status, json.loads(body)["errorType"]]))
    elif event == "break":
        s = connect()
        path = f"{RUNTIME}/invocation/{id}/response"
        s.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: 100\r\n\r\n[1,".encode())
        s.shutdown(socket.SHUT_WR)
        status, _, body = read_answer(s)
        respond(id, json.dumps([status, json.loads(body)["errorType"]]))
"#;

#[test]
fn a_response_may_be_streamed() {
    let (_guest, mut host) = start_runtime(STREAMING, 1);
    assert_eq!(host.call("\"stream\"").output(), r#"{"a": [1, 2]}"#);
    let outcome = host.call("\"fail\"");
    assert_eq!(outcome.error(), (Kind::FunctionFailed, "StreamError: half way"));
    assert_eq!(host.call("\"mode\"").output(), r#"[400, "InvalidFunctionResponseMode"]"#);
    assert_eq!(host.call("\"break\"").output(), r#"[400, "TruncatedHTTPRequest"]"#);
}

/// Dies in ways of its own: each start leaves a mark, and the first two do not live.
const SHORT_LIVED: &str = r#"
starts = len(os.listdir("/tmp/starts")) if os.path.exists("/tmp/starts") else 0
os.makedirs("/tmp/starts", exist_ok=True)
open(f"/tmp/starts/{starts}", "w").close()
if starts == 0:
    # Answers one event, and dies while it waits for the next one.
    id, _, event = fetch()
    respond(id, '"first"')
    s = connect()
    s.sendall(f"GET {RUNTIME}/invocation/next HTTP/1.1\r\n\r\n".encode())
    while not os.path.exists("/tmp/die"): time.sleep(0.01)
    os._exit(1)
if starts == 1:
    # Lets an event come, and dies without having read it.
    s = connect()
    s.sendall(f"GET {RUNTIME}/invocation/next HTTP/1.1\r\n\r\n".encode())
    while s.recv(1, socket.MSG_PEEK) == b"": pass
    os._exit(1)
while True:
    id, _, event = fetch()
    if event == "die": os._exit(1)
    respond(id, json.dumps({"event": event, "starts": starts}))
"#;

#[test]
fn an_event_that_nobody_has_read_goes_to_the_next_process() {
    let (guest, mut host) = start_runtime(SHORT_LIVED, 1);
    assert_eq!(host.call("1").output(), "\"first\"");
    let die = guest.inside("/tmp/die");
    std::fs::write(die, "").expect("a mark");
    wait_for("the runtime to die", || (guest.processes_with("bootstrap") == 0).then_some(()));
    // The second one is given the event and dies before it has read it; the third one gets it again.
    assert_eq!(json(host.call("2").output()), value!({"event": 2, "starts": 2}));
    // What was read is never given to another.
    assert_eq!(host.call("\"die\"").error().0, Kind::FunctionExited);
}

/// Never reads what it asked for.
const DEAF: &str = r#"
s = connect()
s.sendall(f"GET {RUNTIME}/invocation/next HTTP/1.1\r\n\r\n".encode())
s.recv(1, socket.MSG_PEEK)
print("deaf", file=sys.stderr, flush=True)
os._exit(1)
"#;

#[test]
fn a_runtime_that_never_reads_its_events_fails_the_call() {
    let (_guest, mut host) = start_runtime(DEAF, 1);
    let outcome = host.call("1");
    let message = "the function exited with status 1; its stderr ends with: deaf";
    assert_eq!(outcome.error(), (Kind::FunctionExited, message));
    assert_eq!(outcome.from(LogStream::Stderr), ["deaf"; 3]);
}

#[test]
fn an_error_of_the_initialisation_is_the_calls_error() {
    let runtime = r#"
error = {"errorMessage": "No module named 'nothing'", "errorType": "Runtime.ImportModuleError", "stackTrace": []}
print("cannot start", file=sys.stderr, flush=True)
print(request("POST", RUNTIME + "/init/error", json.dumps(error))[0],
      request("POST", RUNTIME + "/init/error", json.dumps(error))[0], flush=True)
sys.exit(1)
"#;
    let (_guest, mut host) = start_runtime(runtime, 1);
    for _ in 0..2 {
        let outcome = host.call("1");
        let message = "Runtime.ImportModuleError: No module named 'nothing'";
        assert_eq!(outcome.error(), (Kind::FunctionNotStarted, message));
        let detail = outcome.report.error.as_ref().and_then(|error| error.detail.clone());
        assert_eq!(detail.expect("a detail")["stackTrace"], value!([]));
        assert_eq!(outcome.from(LogStream::Stderr), ["cannot start"]);
        assert_eq!(outcome.from(LogStream::Stdout), ["202 403"]);
    }
}

#[test]
fn a_runtime_that_fails_to_initialise_and_stays_is_ended() {
    let runtime = "request('POST', RUNTIME + '/init/error', '{\"errorMessage\": \"no\"}')\ntime.sleep(4321)\n";
    let (guest, mut host) = start_runtime(runtime, 1);
    assert_eq!(host.call("1").error(), (Kind::FunctionNotStarted, "no"));
    assert_eq!(guest.processes_with("bootstrap"), 0);
}

#[test]
fn a_runtime_that_ends_before_it_asks_is_the_calls_error() {
    let (_guest, mut host) = start_runtime("print('no', file=sys.stderr)\nsys.exit(4)\n", 1);
    let message = "the function exited with status 4; its stderr ends with: no";
    assert_eq!(host.call("1").error(), (Kind::FunctionExited, message));
    let guest = Guest::start(&[]);
    let outcome = guest.ready(lambda(&["/code/bootstrap"], 1)).call("1");
    assert_eq!(outcome.error().0, Kind::FunctionNotStarted);
    assert!(outcome.error().1.contains("/code/bootstrap"), "{:?}", outcome.error());
}

#[test]
fn a_function_may_bring_its_own_bootstrap_and_a_wrapper() {
    let program = format!("#!/usr/bin/python3 -u\n{CLIENT}{RUNTIME}");
    let wrapper = "#!/bin/sh\nexport TZ=wrapped\nexec \"$@\"\n";
    let guest = Guest::start(&[("bootstrap", &program), ("wrapper", wrapper)]);
    let mut function = lambda(&["/var/runtime/bootstrap-of-the-runtime"], 1);
    function.env.insert("AWS_LAMBDA_EXEC_WRAPPER".into(), "/code/wrapper".into());
    let outcome = guest.ready(function).call(r#"{"do": "environment"}"#);
    assert_eq!(json(outcome.output())["TZ"], "wrapped");
}

/// As many workers as AWS_LAMBDA_MAX_CONCURRENCY says, each with a connection of its own.
const WORKERS: &str = r#"
def work():
    s = connect()
    while True:
        id, _, event = fetch(s)
        if event.get("touch"): open(event["touch"], "w").close()
        while event.get("until") and not os.path.exists(event["until"]): time.sleep(0.01)
        respond(id, json.dumps(event), s=s)
for _ in range(int(os.environ["AWS_LAMBDA_MAX_CONCURRENCY"])):
    threading.Thread(target=work).start()
"#;

#[test]
fn several_events_are_out_at_once() {
    let (_guest, mut host) = start_runtime(WORKERS, 3);
    let waiting = [(); 2].map(|()| host.begin(exec(r#"{"until": "/tmp/go"}"#)));
    assert_eq!(json(host.call(r#"{"touch": "/tmp/go"}"#).output()), value!({"touch": "/tmp/go"}));
    for id in waiting {
        assert_eq!(json(host.outcome(id).output()), value!({"until": "/tmp/go"}));
    }
}

/// One loop that asks for the next event before it has answered the last one.
const EAGER: &str = r#"
def answer(id, event):
    if event.get("touch"): open(event["touch"], "w").close()
    while event.get("until") and not os.path.exists(event["until"]): time.sleep(0.01)
    respond(id, json.dumps(event))
s = connect()
while True:
    id, _, event = fetch(s)
    threading.Thread(target=answer, args=(id, event)).start()
"#;

#[test]
fn one_who_takes_several_events_may_ask_ahead() {
    let (_guest, mut host) = start_runtime(EAGER, 2);
    for round in 0..3 {
        let waiting = host.begin(exec(&format!(r#"{{"until": "/tmp/{round}"}}"#)));
        // With this one both are out, and the runtime asks for a third.
        let touch = value!({"touch": format!("/tmp/{round}")});
        assert_eq!(json(host.call(&touch.to_string()).output()), touch);
        host.outcome(waiting).output();
    }
    assert_eq!(host.call("{}").report.phases.init_us, 0, "it is the same process");
}

/// Two workers that cannot start: the first one's word counts. Then one that asks all the same.
const TWO_FAILURES: &str = r#"
def fail(what): return request("POST", RUNTIME + "/init/error", json.dumps({"errorMessage": what}))[0]
first, second = fail("first"), fail("second")
asked = request("GET", RUNTIME + "/invocation/next")[0]
print(first, second, asked, flush=True)
"#;

#[test]
fn a_second_error_of_the_initialisation_is_refused() {
    let (_guest, mut host) = start_runtime(TWO_FAILURES, 2);
    let outcome = host.call("1");
    assert_eq!(outcome.error(), (Kind::FunctionNotStarted, "first"));
    assert_eq!(outcome.from(LogStream::Stdout), ["202 403 403"]);
}

#[test]
fn one_that_cannot_go_on_after_a_restore_says_so() {
    // As clients with hooks do: they wait for the restore before they ask for an event.
    let runtime = r#"
print(request("GET", RUNTIME + "/restore/next")[0], flush=True)
error = {"errorMessage": "hook", "errorType": "Runtime.AfterRestoreError"}
print(request("POST", RUNTIME + "/restore/error", json.dumps(error))[0], flush=True)
sys.exit(1)
"#;
    let (_guest, mut host) = start_runtime(runtime, 1);
    let outcome = host.call("1");
    let message = "Runtime.AfterRestoreError: hook";
    assert_eq!(outcome.error(), (Kind::FunctionNotStarted, message));
    assert_eq!(outcome.from(LogStream::Stdout), ["200", "202"]);
}

/// Two workers; one of them dies while it waits for an event, together with its connection.
const DYING_WORKER: &str = r#"
if os.fork() == 0:
    connect().sendall(f"GET {RUNTIME}/invocation/next HTTP/1.1\r\n\r\n".encode())
    open("/tmp/parked", "w").close()
    while not os.path.exists("/tmp/die"): time.sleep(0.01)
    os._exit(1)
while not os.path.exists("/tmp/parked"): time.sleep(0.01)
open("/tmp/die", "w").close()
os.wait()
while True:
    id, _, event = fetch()
    respond(id, json.dumps(event))
"#;

#[test]
fn a_worker_that_dies_while_it_waits_swallows_no_event() {
    let (_guest, mut host) = start_runtime(DYING_WORKER, 2);
    for number in 1..=5 {
        assert_eq!(host.call(&number.to_string()).output(), number.to_string());
    }
}

#[test]
fn an_events_deadline_is_its_timeout_from_now() {
    let runtime = r#"
while True:
    id, headers, _ = fetch()
    respond(id, json.dumps(int(headers["lambda-runtime-deadline-ms"]) - time.time() * 1000))
"#;
    let (_guest, mut host) = start_runtime(runtime, 1);
    let mut left_of = |timeout_ms: u64| {
        let id = host.begin(exec_within("1", timeout_ms));
        json(host.outcome(id).output()).as_f64().expect("a number")
    };
    let (longer, shorter) = (left_of(3_600_000), left_of(60_000));
    assert!(shorter > 0.0 && shorter <= 60_001.0, "{shorter}");
    assert!(longer > 60_001.0 && longer <= 3_600_001.0, "{longer}");
}

#[test]
fn a_caller_who_leaves_takes_nobody_along() {
    let (_guest, mut host) = start_runtime(WORKERS, 2);
    let other = host.begin(exec(r#"{"until": "/tmp/go"}"#));
    let leaver = host.begin(exec(r#"{"touch": "/tmp/here", "until": "/tmp/go"}"#));
    host.send_as(leaver, Message::Cancel);
    assert_eq!(host.outcome(leaver).error().0, Kind::Cancelled);
    std::fs::write(_guest.inside("/tmp/go"), "").expect("a mark");
    assert_eq!(json(host.outcome(other).output()), value!({"until": "/tmp/go"}));
}

/// Says everything wrong that can be said, and reports what it was told.
const HOSTILE: &str = r#"
def send(data):
    s = connect()
    try: s.sendall(data)
    except OSError: pass
    return read_answer(s)
parked = []
for _ in range(5): parked.append(connect())
id, _, event = fetch()
told = []
def tell(answer):
    try: told.append([answer[0], json.loads(answer[2]).get("errorType")])
    except ValueError: told.append([answer[0], answer[2].decode()])
tell(request("GET", "/2018-06-01/ping"))
tell(request("GET", "/2018-06-01/elsewhere"))
tell(request("DELETE", RUNTIME + "/invocation/next"))
tell(request("GET", RUNTIME + "/invocation/next"))
tell(respond("nobody", "1"))
tell(respond("nobody", b"x" * (7 << 20)))
tell(respond("nobody", "1", what="error"))
tell(request("POST", RUNTIME + "/init/error", "{}"))
tell(send(b"hello\r\n\r\n"))
tell(send(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n"))
tell(send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"))
tell(request("GET", RUNTIME + "/restore/next"))
tell(request("PUT", "/2022-07-01/telemetry", "{}"))
tell(request("PUT", "/2020-08-15/logs", "{}"))
respond(id, json.dumps(told))
fetch()
"#;

#[test]
fn a_hostile_client_is_told_what_is_wrong() {
    let (_guest, mut host) = start_runtime(HOSTILE, 1);
    let expected = value!([
        [200, "pong"],
        [404, "NotFound"],
        [404, "NotFound"],
        [403, "InvalidStateTransition"],
        [400, "InvalidRequestID"],
        [400, "InvalidRequestID"],
        [400, "InvalidRequestID"],
        [403, "InvalidStateTransition"],
        [400, "InvalidRequest"],
        [400, "InvalidRequest"],
        [400, "InvalidRequest"],
        [200, ""],
        [202, "Telemetry.NotSupported"],
        [202, "Logs.NotSupported"],
    ]);
    assert_eq!(json(host.call("1").output()), expected);
}

/// A runtime with an extension in its own process.
const EXTENSION: &str = r#"
E = "/2020-01-01/extension"
status, headers, body = request("POST", E + "/register", '{"events": ["INVOKE"]}', {
    "Lambda-Extension-Name": "watcher", "Lambda-Extension-Accept-Feature": "accountId"})
about = json.loads(body)
again = request("POST", E + "/register", '{"events": []}', {"Lambda-Extension-Name": "watcher"})
stranger = request("GET", E + "/event/next", headers={"Lambda-Extension-Identifier": "nobody"})
key = {"Lambda-Extension-Identifier": headers["lambda-extension-identifier"]}
seen = []
def watch():
    while True: seen.append(json.loads(request("GET", E + "/event/next", headers=key)[2]))
threading.Thread(target=watch, daemon=True).start()
while True:
    id, headers, event = fetch()
    while not any(one["requestId"] == id for one in seen): time.sleep(0.01)
    told = {"status": status, "about": about, "again": again[0], "stranger": stranger[0], "event": seen[-1]}
    respond(id, json.dumps(told))
"#;

#[test]
fn an_extension_is_told_of_each_event() {
    let (_guest, mut host) = start_runtime(EXTENSION, 1);
    host.call("1");
    let outcome = host.call("2");
    let told = json(outcome.output());
    let about = value!({
        "functionName": "hello", "functionVersion": "7", "handler": "main.handler",
        "accountId": "000000000000",
    });
    assert_eq!(told["about"], about);
    assert_eq!(
        (&told["status"], &told["again"], &told["stranger"]),
        (&value!(200), &value!(403), &value!(403))
    );
    assert_eq!(told["event"]["eventType"], "INVOKE");
    assert!(told["event"]["deadlineMs"].is_u64());
}

#[test]
fn an_out_of_memory_is_named_and_the_next_call_runs() {
    let runtime = r#"
while True:
    id, _, event = fetch()
    held = b"x" * (event << 20)
    respond(id, json.dumps(len(held)))
"#;
    let program = format!("#!/usr/bin/python3 -u\n{CLIENT}{runtime}");
    let mut guest = Guest::start(&[("bootstrap", &program)]);
    guest.limit_memory(64 << 20);
    let mut host = guest.ready(lambda(&["/code/bootstrap"], 1));
    let outcome = host.call("512");
    assert_eq!(outcome.error().0, Kind::OutOfMemory, "{:?}", outcome.error());
    assert_eq!(host.call("1").output(), "1048576");
}
