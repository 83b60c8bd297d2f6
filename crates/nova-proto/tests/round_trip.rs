//! Every message arrives as it was sent, however the stream is cut.
use nova_proto::*;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;
use std::net::Ipv4Addr;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).expect("JSON")
}

/// Any JSON, with whatever space between its parts.
fn any_json() -> impl Strategy<Value = Box<RawValue>> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("1e400".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        ".*".prop_map(|text| Value::String(text).to_string()),
    ];
    let json = leaf.prop_recursive(4, 32, 5, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..5)
            .prop_map(|items| format!("[ {} ]", items.join(" ,\n")));
        let key = "[a-z]{0,3}".prop_map(|key| Value::String(key).to_string());
        let pair = (key, inner).prop_map(|(key, value)| format!("{key} : {value}"));
        let object = prop::collection::vec(pair, 0..4).prop_map(|p| format!("{{{}}}", p.join(",")));
        prop_oneof![list, object]
    });
    json.prop_map(|text| raw(&text))
}

fn any_address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..64)
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Process), Just(Mode::Persistent), Just(Mode::Lambda), Just(Mode::Http)]
}

fn any_function() -> impl Strategy<Value = FunctionSetup> {
    let secret = ("[a-z]{1,8}", any_bytes()).prop_map(|(name, value)| SecretFile { name, value });
    (
        (".*", ".*", any_mode(), prop::collection::vec(".*", 0..4), ".*"),
        prop::collection::btree_map("[A-Z_]{1,8}", ".*", 0..4),
        prop::collection::vec(secret, 0..3),
        any::<(u32, u32, u32, u32)>(),
    )
        .prop_map(|((name, version, mode, command, handler), env, secrets, numbers)| {
            FunctionSetup {
                name,
                version,
                mode,
                command,
                handler,
                env,
                secrets,
                memory_mb: numbers.0,
                tmp_mb: numbers.1,
                instance_concurrency: numbers.2,
                out_mb: numbers.3,
                own_image: None,
            }
        })
}

fn any_init() -> impl Strategy<Value = Message> {
    let rootfs = prop_oneof![
        Just(Rootfs::Mounted),
        (".*", ".*", prop::option::of(".*")).prop_map(
            |(image_device, code_device, layers_device)| Rootfs::Drives {
                image_device,
                code_device,
                layers_device
            }
        ),
    ];
    let network =
        (".*", any_address(), 0_u8..33, any_address(), prop::collection::vec(any_address(), 0..4))
            .prop_map(|(interface, address, prefix_length, gateway, resolvers)| NetworkSetup {
                interface,
                address,
                prefix_length,
                gateway,
                resolvers,
            });
    let cgroup = prop_oneof![
        any::<u32>().prop_map(|pids_max| CgroupSetup::Own { pids_max }),
        (prop::collection::vec(".*", 0..4), ".*").prop_map(|(procs_files, path)| {
            CgroupSetup::Given { procs_files, oom_counter: OomCounter { path } }
        }),
    ];
    (
        (any::<u32>(), ".*", any::<Option<u64>>(), any_bytes()),
        rootfs,
        prop::option::of(network),
        cgroup,
        any_function(),
    )
        .prop_map(
            |((protocol, hostname, clock_unix_ns, entropy), rootfs, network, cgroup, function)| {
                Message::Init(Box::new(Init {
                    protocol,
                    hostname,
                    clock_unix_ns,
                    entropy,
                    rootfs,
                    network,
                    cgroup,
                    function,
                }))
            },
        )
}

fn any_error() -> impl Strategy<Value = FunctionError> {
    use FunctionErrorKind::*;
    let kinds = vec![
        FunctionExited,
        FunctionCrashed,
        FunctionNotStarted,
        FunctionFailed,
        Timeout,
        OutOfMemory,
        InvalidOutput,
        OutputTooLarge,
        Cancelled,
    ];
    let detail = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        Just(Some(serde_json::json!({"code": [1, "x"]}))),
    ];
    (prop::sample::select(kinds), ".*", detail).prop_map(|(kind, message, detail)| FunctionError {
        kind,
        message,
        detail,
    })
}

fn any_reply() -> impl Strategy<Value = Message> {
    use RefusalKind::*;
    let refusals = vec![ProtocolMismatch, WrongState, Duplicate, Busy, SetupFailed, Malformed];
    let report =
        (prop::option::of(any_json()), prop::option::of(any_error()), any::<(u64, u64, bool)>())
            .prop_map(|(output, error, (init_us, exec_us, log_truncated))| ExecReport {
                output,
                error,
                phases: GuestPhases { init_us, exec_us },
                log_truncated,
            });
    let reply = prop_oneof![
        (any::<u32>(), ".*", any::<u64>()).prop_map(|(protocol, agent_version, init_us)| {
            Reply::Ready(Ready { protocol, agent_version, init_us })
        }),
        report.prop_map(Reply::Done),
        Just(Reply::Pong {}),
        Just(Reply::Stopping {}),
        Just(Reply::Exported {}),
        (prop::sample::select(refusals), ".*")
            .prop_map(|(kind, message)| Reply::Refused(Refusal { kind, message })),
    ];
    reply.prop_map(Message::Resp)
}

fn any_log() -> impl Strategy<Value = Message> {
    let streams = vec![LogStream::Stdout, LogStream::Stderr, LogStream::System];
    let line = (any::<u64>(), prop::sample::select(streams), ".*")
        .prop_map(|(time_unix_ms, stream, text)| LogLine { time_unix_ms, stream, text });
    prop::collection::vec(line, 0..5).prop_map(|lines| Message::Log(Log { lines }))
}

/// Every kind of message.
fn any_message() -> impl Strategy<Value = Message> {
    let exec = (".*", any::<(u32, u64)>(), prop::option::of(".*"), any_json()).prop_map(
        |(request_id, (attempt, timeout_ms), traceparent, input)| {
            Message::Exec(Exec { request_id, attempt, timeout_ms, traceparent, input })
        },
    );
    let reconfigure =
        (".*", any::<u64>(), any_bytes()).prop_map(|(hostname, clock_unix_ns, entropy)| {
            Message::Reconfigure(Reconfigure { hostname, clock_unix_ns, entropy })
        });
    prop_oneof![
        any_init(),
        exec,
        any_reply(),
        Just(Message::Ping),
        Just(Message::Stop),
        Just(Message::Cancel),
        Just(Message::Export),
        any_log(),
        (any_bytes(), any::<bool>()).prop_map(|(data, last)| Message::Chunk(Chunk { data, last })),
        any::<u32>().prop_map(|bytes| Message::Credit(Credit { bytes })),
        reconfigure,
    ]
}

/// Payloads are raw JSON without an equality of their own: compared as text, with everything else.
fn text_of(message: &Message) -> String {
    format!("{message:?}")
}

proptest! {
    #[test]
    fn every_message_arrives_as_it_was_sent(message in any_message(), id: u64) {
        let bytes = message.encode(id).expect("a frame");
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        let frame = decoder.next_frame().expect("a frame").expect("a whole one");
        prop_assert_eq!(frame.id, id);
        prop_assert_eq!(frame.kind, message.kind());
        let arrived = Message::decode(&frame).expect("a message");
        prop_assert_eq!(text_of(&arrived), text_of(&message));
        // A secret's value is not in its debug text.
        if let (Message::Init(sent), Message::Init(arrived)) = (&message, &arrived) {
            prop_assert_eq!(sent, arrived);
        }
        prop_assert!(decoder.is_empty());
        prop_assert!(decoder.next_frame().expect("no garbage").is_none());
    }

    #[test]
    fn where_the_stream_is_cut_changes_nothing(
        messages in prop::collection::vec(any_message(), 1..5),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let stream: Vec<u8> =
            messages.iter().zip(1..).flat_map(|(message, id)| message.encode(id).expect("a frame")).collect();
        let mut decoder = FrameDecoder::default();
        let mut arrived = Vec::new();
        let mut rest = &stream[..];
        for &cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().expect("a frame") {
                arrived.push(text_of(&Message::decode(&frame).expect("a message")));
            }
        }
        prop_assert_eq!(arrived, messages.iter().map(text_of).collect::<Vec<_>>());
        prop_assert!(decoder.is_empty());
    }

    #[test]
    fn a_truncated_frame_is_never_one(message in any_message()) {
        let bytes = message.encode(7).expect("a frame");
        for end in 0..bytes.len() {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes[..end]);
            prop_assert!(decoder.next_frame().expect("no error yet").is_none());
            prop_assert_eq!(decoder.is_empty(), end == 0);
            // Nor does its body make sense to one who stops early.
            let body = bytes.get(4..end).map(<[u8]>::to_vec);
            let message = body.and_then(|body| Message::decode(&Frame::decode(body).ok()?).ok());
            prop_assert!(message.is_none());
        }
    }
}

#[test]
fn a_result_of_null_is_a_result() {
    let report = ExecReport {
        output: Some(raw("null")),
        error: None,
        phases: GuestPhases::default(),
        log_truncated: false,
    };
    let body = Message::Resp(Reply::Done(report)).encode(1).expect("a frame").split_off(4);
    match Message::decode(&Frame::decode(body).expect("a frame")).expect("a message") {
        Message::Resp(Reply::Done(report)) => {
            assert_eq!(report.output.expect("a result").get(), "null")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_largest_payload_fits_in_a_frame_with_its_envelope() {
    let exec = Exec {
        request_id: "0198c0de-0000-7000-8000-000000000000".into(),
        attempt: u32::MAX,
        timeout_ms: u64::MAX,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        input: raw(&format!("\"{}\"", "a".repeat(PAYLOAD_MAX_BYTES - 2))),
    };
    let bytes = Message::Exec(exec).encode(u64::MAX).expect("a frame");
    assert!(bytes.len() <= FRAME_MAX_BYTES + 4);
}
