//! `http` mode, by what a caller notices: the real agent, a server in the guest.
mod support;

use nova_proto::{FunctionErrorKind as Kind, FunctionSetup, LogStream, Mode, OwnImage};
use serde_json::json as value;
use std::net::TcpListener;
use support::{Guest, Host, exec_within, json, process};

/// A server that does what the body says.
const SERVER: &str = r#"
import http.server, json, os, sys, time
count = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        global count
        count += 1
        what = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if what == "exit": print("bye", file=sys.stderr, flush=True); os._exit(3)
        if what == "hang up": return
        if what == "sleep": time.sleep(4321)
        if what == "log": print("on stdout", flush=True); print("on stderr", file=sys.stderr, flush=True)
        status = what.get("status", 200) if isinstance(what, dict) else 200
        if what == "page": body, kind = b"<p>hi</p>", "text/html"
        elif what == "large": body, kind = b'"%s"' % (b"a" * (7 << 20)), "application/json"
        else:
            seen = {"pid": os.getpid(), "count": count, "path": self.path, "cwd": os.getcwd(), "input": what,
                    "request": self.headers["X-Nova-Request-Id"], "uid": os.getuid()}
            body, kind = json.dumps(seen).encode(), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)
if "LATE" in os.environ: time.sleep(0.2)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A server on a port that is free: the guests of these tests share the host's network.
fn function(env: &[(&str, &str)]) -> FunctionSetup {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port().to_string();
    let mut setup = process(&["python3", "/code/server.py"]);
    setup.mode = Mode::Http;
    setup.env.insert("PORT".into(), port);
    setup.env.extend(env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    setup.own_image = Some(OwnImage { working_dir: "/usr/lib".into(), has_code: true });
    setup
}

fn start(setup: FunctionSetup) -> (Guest, Host) {
    let guest = Guest::start(&[("server.py", SERVER)]);
    let host = guest.ready(setup);
    (guest, host)
}

#[test]
fn a_server_answers_many_calls_and_the_first_waits_until_it_listens() {
    let (_guest, mut host) = start(function(&[("LATE", "1")]));
    let first = host.call(r#"{"a": "b"}"#);
    let second = host.call("2");
    let (one, two) = (json(first.output()), json(second.output()));
    assert_eq!((&one["input"], &one["path"]), (&value!({"a": "b"}), &value!("/")));
    assert_eq!((&one["cwd"], &one["uid"]), (&value!("/usr/lib"), &value!(1000)));
    assert_eq!((&one["pid"], &two["count"]), (&two["pid"], &value!(2)));
    assert!(one["request"].as_str().is_some_and(|id| !id.is_empty()), "{one}");
    assert!(first.report.phases.init_us > 100_000, "it slept before it listened");
    assert_eq!(second.report.phases.init_us, 0);
}

#[test]
fn statuses_and_bodies_are_told_apart() {
    let (_guest, mut host) = start(function(&[]));
    let page = json(host.call("\"page\"").output());
    assert_eq!((&page["statusCode"], &page["body"]), (&value!(200), &value!("<p>hi</p>")));
    let failed = host.call(r#"{"status": 503}"#);
    let (kind, message) = failed.error();
    assert_eq!(kind, Kind::FunctionFailed);
    assert!(message.contains("answered 503"), "{message}");
    let detail = failed.report.error.as_ref().and_then(|error| error.detail.as_ref());
    let detail = detail.expect("a detail");
    assert_eq!((&detail["statusCode"], &detail["body"]["count"]), (&value!(503), &value!(2)));
    assert_eq!(host.call("\"large\"").error().0, Kind::OutputTooLarge);
    let logged = host.call("\"log\"");
    assert_eq!(logged.from(LogStream::Stdout), ["on stdout"]);
    assert_eq!(logged.from(LogStream::Stderr), ["on stderr"]);
}

#[test]
fn a_server_that_hangs_up_exits_or_takes_too_long_fails_its_call_only() {
    let (_guest, mut host) = start(function(&[]));
    let first = json(host.call("1").output())["pid"].clone();
    let hung_up = host.call("\"hang up\"");
    assert_eq!(hung_up.error().0, Kind::InvalidOutput);
    assert!(hung_up.error().1.contains("closed the connection"), "{:?}", hung_up.error());
    assert_eq!(json(host.call("1").output())["pid"], first, "the server lives on");
    let exited = host.call("\"exit\"");
    assert_eq!(exited.error().0, Kind::FunctionExited);
    assert!(exited.error().1.ends_with("bye"), "{:?}", exited.error());
    let second = json(host.call("1").output())["pid"].clone();
    assert_ne!(second, first, "another one was started");
    let id = host.begin(exec_within("\"sleep\"", 300));
    assert_eq!(host.outcome(id).error().0, Kind::Timeout);
    assert_ne!(json(host.call("1").output())["pid"], second);
}

#[test]
fn a_program_that_listens_elsewhere_is_told_where_it_should() {
    let mut setup = function(&[]);
    setup.command = ["/bin/sleep", "4321"].map(str::to_owned).to_vec();
    let (_guest, mut host) = start(setup);
    let id = host.begin(exec_within("1", 300));
    let overdue = host.outcome(id);
    let (_, message) = overdue.error();
    assert!(message.contains("before it listened at port"), "{message}");
}
