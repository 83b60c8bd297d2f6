//! The line against a scripted guest: a polite one, and the hostile ones.
use super::*;
use nova_domain::RequestId;
use nova_proto::{
    CgroupSetup, Frame, FrameDecoder, FunctionSetup, GuestPhases, Log, LogLine, LogStream, Mode,
    RefusalKind, Rootfs,
};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

mod export;

/// Long enough for anything here on a busy machine; nothing waits it out unless a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

struct Guest {
    stream: UnixStream,
    decoder: FrameDecoder,
}

fn connect() -> (AgentLine, Guest) {
    let (host, guest) = UnixStream::pair().unwrap();
    (AgentLine::start(host), Guest { stream: guest, decoder: FrameDecoder::default() })
}

impl Guest {
    async fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let mut buffer = vec![0; 64 * 1024];
            let count = self.stream.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "the host closed the connection");
            self.decoder.push(&buffer[..count]);
        }
    }

    async fn receive(&mut self) -> (u64, Message) {
        let frame = self.frame().await;
        (frame.id, Message::decode(&frame).unwrap())
    }

    async fn send(&mut self, id: u64, message: Message) {
        self.stream.write_all(&message.encode(id).unwrap()).await.unwrap();
    }

    async fn done(&mut self, id: u64, output: &str) {
        let report = ExecReport {
            output: Some(RawValue::from_string(output.to_owned()).unwrap()),
            error: None,
            phases: GuestPhases::default(),
            log_truncated: false,
        };
        self.send(id, Message::Resp(Reply::Done(report))).await;
    }

    async fn log(&mut self, id: u64, texts: impl IntoIterator<Item = String>) {
        let lines = texts
            .into_iter()
            .map(|text| LogLine { time_unix_ms: 0, stream: LogStream::Stderr, text })
            .collect();
        self.send(id, Message::Log(Log { lines })).await;
    }
}

fn request(input: &str, timeout_ms: u64) -> ExecRequest {
    ExecRequest {
        request_id: RequestId(Default::default()),
        attempt: 1,
        timeout_ms,
        traceparent: None,
        input: RawValue::from_string(input.to_owned()).unwrap(),
    }
}

fn nowhere() -> EventSink {
    mpsc::channel(1).0
}

fn init() -> Init {
    Init {
        protocol: PROTOCOL_VERSION,
        hostname: "vm".into(),
        clock_unix_ns: None,
        entropy: Vec::new(),
        rootfs: Rootfs::Mounted,
        network: None,
        cgroup: CgroupSetup::Own { pids_max: 1 },
        function: FunctionSetup {
            name: "f".into(),
            version: "1".into(),
            mode: Mode::Process,
            handler: "handler".into(),
            command: vec!["/code/handler".into()],
            env: BTreeMap::new(),
            secrets: Vec::new(),
            memory_mb: 64,
            tmp_mb: 0,
            out_mb: 0,
            instance_concurrency: 1,
            own_image: None,
        },
    }
}

/// Calls `exec` on a guest that does `hostile`, and returns why the call and the line ended.
async fn ended_by<F>(hostile: impl FnOnce(Guest, u64) -> F) -> String
where
    F: Future<Output = Guest>,
{
    let (line, mut guest) = connect();
    let exec = line.exec(request("1", 60_000), nowhere());
    let script = async {
        let (id, _) = guest.receive().await;
        hostile(guest, id).await
    };
    let (result, _guest) = timeout(PATIENCE, async { tokio::join!(exec, script) }).await.unwrap();
    assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
    timeout(PATIENCE, line.closed()).await.unwrap()
}

#[tokio::test]
async fn calls_run_at_once_and_answers_find_them_by_id() {
    let (line, mut guest) = connect();
    let first = line.exec(request("1", 60_000), nowhere());
    let second = line.exec(request("2", 60_000), nowhere());
    let script = async {
        let (one, _) = guest.receive().await;
        let (two, _) = guest.receive().await;
        guest.done(two, r#""two""#).await;
        guest.done(one, r#""one""#).await;
    };
    let (first, second, ()) = tokio::join!(first, second, script);
    assert_eq!(first.unwrap().output.unwrap().get(), r#""one""#);
    assert_eq!(second.unwrap().output.unwrap().get(), r#""two""#);
}

#[tokio::test]
async fn a_function_that_returns_null_has_a_result() {
    let (line, mut guest) = connect();
    let script = async {
        let (id, _) = guest.receive().await;
        guest.done(id, "null").await;
    };
    let (report, ()) = tokio::join!(line.exec(request("1", 60_000), nowhere()), script);
    assert_eq!(report.unwrap().output.unwrap().get(), "null");
}

#[tokio::test]
async fn init_ping_and_stop_are_answered_or_refused() {
    let (line, mut guest) = connect();
    let script = async {
        for _ in 0..4 {
            let (id, message) = guest.receive().await;
            let reply = match message {
                Message::Init(init) if init.hostname == "vm" => Reply::Ready(Ready {
                    protocol: PROTOCOL_VERSION,
                    agent_version: "0".into(),
                    init_us: 1,
                }),
                Message::Init(_) => Reply::Refused(Refusal {
                    kind: RefusalKind::WrongState,
                    message: "second init".into(),
                }),
                Message::Ping => Reply::Pong {},
                _ => Reply::Stopping {},
            };
            guest.send(id, Message::Resp(reply)).await;
        }
    };
    let host = async {
        assert_eq!(line.init(init(), PATIENCE).await.unwrap().init_us, 1);
        let again = Init { hostname: "other".into(), ..init() };
        let refused = line.init(again, PATIENCE).await.unwrap_err();
        assert_eq!(refused.to_string(), "the guest's agent refused: second init");
        line.ping(PATIENCE).await.unwrap();
        line.stop(PATIENCE).await.unwrap();
    };
    tokio::join!(host, script);
}

#[tokio::test]
async fn an_agent_of_another_protocol_version_is_named() {
    let (line, mut guest) = connect();
    let script = async {
        let (id, _) = guest.receive().await;
        let ready = Ready { protocol: 99, agent_version: "9".into(), init_us: 0 };
        guest.send(id, Message::Resp(Reply::Ready(ready))).await;
    };
    let (result, ()) = tokio::join!(line.init(init(), PATIENCE), script);
    assert!(matches!(result, Err(LineError::ProtocolMismatch(99))), "{result:?}");
}

#[tokio::test]
async fn log_lines_arrive_in_order_before_and_after_the_answer() {
    let (line, mut guest) = connect();
    let (sink, mut events) = mpsc::channel(2);
    let script = async {
        let (id, _) = guest.receive().await;
        guest.log(id, (0..100).map(|n| n.to_string())).await;
        guest.done(id, "1").await;
    };
    let (report, ()) = tokio::join!(line.exec(request("1", 60_000), sink), script);
    assert!(!report.unwrap().log_truncated);
    let mut texts = Vec::new();
    while let Some(event) = events.recv().await {
        texts.push(event.text);
    }
    assert_eq!(texts, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_of_logs_that_never_reads_stalls_neither_its_call_nor_a_ping() {
    let (line, mut guest) = connect();
    let (sink, _never_read) = mpsc::channel(1);
    let script = async {
        let (call, _) = guest.receive().await;
        for _ in 0..20 {
            guest.log(call, ["x".repeat(60_000)]).await;
        }
        let (ping, _) = guest.receive().await;
        guest.send(ping, Message::Resp(Reply::Pong {})).await;
        guest.done(call, "1").await;
    };
    let (report, ping, ()) =
        tokio::join!(line.exec(request("1", 60_000), sink), line.ping(PATIENCE), script);
    ping.unwrap();
    assert_eq!(report.unwrap().output.unwrap().get(), "1");
}

#[tokio::test]
async fn a_flood_of_logs_is_cut_off_with_a_marker() {
    let (line, mut guest) = connect();
    let (sink, mut events) = mpsc::channel(8);
    let script = async {
        let (id, _) = guest.receive().await;
        for _ in 0..100 {
            guest.log(id, ["x".repeat(60_000)]).await;
            guest.log(id, std::iter::repeat_n(String::new(), 1000)).await;
        }
        guest.done(id, "1").await;
    };
    let collect = async {
        let mut lines = Vec::new();
        while let Some(line) = events.recv().await {
            lines.push(line);
        }
        lines
    };
    let (report, (), lines) = tokio::join!(line.exec(request("1", 60_000), sink), script, collect);
    assert!(report.unwrap().log_truncated);
    assert!(lines.iter().map(|line| line.text.len()).sum::<usize>() < 2 * 1024 * 1024 + 100);
    assert_eq!(lines.last().unwrap().stream, LogStream::System);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_its_late_answer_is_thrown_away() {
    let (line, mut guest) = connect();
    let exec = tokio::select! {
        biased;
        result = line.exec(request("1", 60_000), nowhere()) => panic!("{result:?}"),
        (id, _) = guest.receive() => id,
    };
    let (id, message) = guest.receive().await;
    assert_eq!(id, exec);
    assert!(matches!(message, Message::Cancel), "{message:?}");
    let script = async {
        let unsettled = tokio::time::timeout(Duration::from_millis(1), line.settled()).await;
        assert!(unsettled.is_err(), "the guest still owes its answer");
        guest.log(exec, ["late".into()]).await;
        guest.done(exec, "1").await;
        assert!(line.settled().await, "the guest has ended the call");
        let (ping, _) = guest.receive().await;
        guest.send(ping, Message::Resp(Reply::Pong {})).await;
    };
    let (ping, ()) = tokio::join!(line.ping(PATIENCE), script);
    ping.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_is_silent_after_timeout_and_grace() {
    let (line, _guest) = connect();
    let started = Instant::now();
    let result = line.exec(request("1", 5_000), nowhere()).await;
    assert!(matches!(result, Err(ExecError::Silent(EXEC_GRACE_MS))), "{result:?}");
    assert_eq!(started.elapsed().as_millis() as u64, 5_000 + EXEC_GRACE_MS);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_reads_does_not_make_frames_pile_up() {
    let (line, mut guest) = connect();
    let large = format!("\"{}\"", "x".repeat(4 * 1024 * 1024));
    for _ in 0..20 {
        let exec = line.exec(request(&large, 60_000), nowhere());
        assert!(timeout(Duration::from_secs(1), exec).await.is_err());
    }
    // Only the first call's frame had begun to leave; the others were withdrawn, and only the first
    // needs a Cancel.
    let (first, message) = guest.receive().await;
    assert!(matches!(message, Message::Exec(_)));
    let (cancelled, message) = guest.receive().await;
    assert!(matches!(message, Message::Cancel));
    assert_eq!(first, cancelled);
    let ping = line.ping(PATIENCE);
    let next = async { guest.receive().await.1 };
    tokio::select! {
        message = next => assert!(matches!(message, Message::Ping), "{message:?}"),
        result = ping => panic!("{result:?}"),
    }
}

#[tokio::test]
async fn six_mebibytes_travel_both_ways() {
    let (line, mut guest) = connect();
    let input = format!("\"{}\"", "i".repeat(PAYLOAD_MAX_BYTES - 2));
    let output = format!("\"{}\"", "o".repeat(PAYLOAD_MAX_BYTES - 2));
    let script = async {
        let (id, message) = guest.receive().await;
        guest.done(id, &output).await;
        message
    };
    let (report, message) = tokio::join!(line.exec(request(&input, 60_000), nowhere()), script);
    assert_eq!(report.unwrap().output.unwrap().get(), output);
    let Message::Exec(exec) = message else { panic!("{message:?}") };
    assert_eq!(exec.input.get(), input);
}

#[tokio::test]
async fn a_guest_that_goes_away_takes_its_calls_with_it() {
    let (line, guest) = connect();
    let exec = line.exec(request("1", 60_000), nowhere());
    let (result, ()) = tokio::join!(exec, async { drop(guest) });
    assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
    let later = line.exec(request("1", 60_000), nowhere()).await;
    assert!(matches!(later, Err(ExecError::Lost(_))), "{later:?}");
    line.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_header_that_announces_four_gigabytes_ends_the_line() {
    let reason = ended_by(|mut guest, _| async move {
        guest.stream.write_all(&[0xff; 4]).await.unwrap();
        guest
    });
    assert!(reason.await.contains("4294967295 bytes is over the limit"));
}

#[tokio::test]
async fn garbage_ends_the_line() {
    let reason = ended_by(|mut guest, _| async move {
        guest.stream.write_all(b"\0\0\0\x05hello").await.unwrap();
        guest
    });
    assert!(reason.await.contains("not of the form"));
}

#[tokio::test]
async fn a_reply_nobody_asked_for_ends_the_line() {
    let reason = ended_by(|mut guest, id| async move {
        guest.done(id + 7, "1").await;
        guest
    });
    assert!(reason.await.contains("which is not open"));
}

#[tokio::test]
async fn a_reply_of_the_wrong_kind_ends_the_line() {
    let reason = ended_by(|mut guest, id| async move {
        guest.send(id, Message::Resp(Reply::Pong {})).await;
        guest
    });
    assert!(reason.await.contains("of the wrong kind"));
}

#[tokio::test]
async fn log_lines_of_a_call_that_never_was_end_the_line() {
    let reason = ended_by(|mut guest, id| async move {
        guest.log(id + 1, ["hello".into()]).await;
        guest
    });
    assert!(reason.await.contains("which is not a call"));
}

#[tokio::test]
async fn a_message_that_only_the_host_may_send_ends_the_line() {
    let reason = ended_by(|mut guest, id| async move {
        guest.send(id, Message::Cancel).await;
        guest
    });
    assert!(reason.await.contains("a guest may not send messages of type 6"));
}

#[tokio::test]
async fn a_stream_that_stops_within_a_frame_ends_the_line() {
    let reason = ended_by(|mut guest, _| async move {
        guest.stream.write_all(&[0, 0, 1, 0, b'{']).await.unwrap();
        guest.stream.shutdown().await.unwrap();
        guest
    });
    assert!(reason.await.contains("in the middle of a frame"));
}

#[tokio::test]
async fn a_result_and_an_error_at_once_break_the_protocol() {
    let (line, mut guest) = connect();
    let script = async {
        let (id, _) = guest.receive().await;
        let frame = format!(
            r#"{{"type":3,"id":{id},"payload":{{"done":{{"output":1,"error":{{"kind":"timeout","message":""}},"phases":{{"init_us":0,"exec_us":0}},"log_truncated":false}}}}}}"#
        );
        guest.stream.write_all(&(frame.len() as u32).to_be_bytes()).await.unwrap();
        guest.stream.write_all(frame.as_bytes()).await.unwrap();
    };
    let (result, ()) = tokio::join!(line.exec(request("1", 60_000), nowhere()), script);
    assert!(matches!(result, Err(ExecError::Protocol(_))), "{result:?}");
}
