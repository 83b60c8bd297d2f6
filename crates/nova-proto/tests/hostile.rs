//! What a hostile peer sends is refused: before it is allocated, without a panic, with a reason.
use nova_proto::*;
use proptest::prelude::*;
use serde_json::value::RawValue;

fn frame(kind: u8, payload: &str) -> Frame {
    let body = format!(r#"{{"type":{kind},"id":1,"payload":{payload}}}"#);
    Frame::decode(body.into_bytes()).expect("a frame")
}

proptest! {
    #[test]
    fn garbage_is_an_error_or_unfinished_and_never_a_panic(pieces in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..64), 0..16,
    )) {
        let mut decoder = FrameDecoder::default();
        for piece in pieces {
            decoder.push(&piece);
            while let Ok(Some(frame)) = decoder.next_frame() {
                let _ = Message::decode(&frame);
            }
        }
    }

    #[test]
    fn a_frame_with_any_byte_changed_is_read_or_refused(at in 4_usize..200, byte: u8) {
        let log = Log { lines: vec![LogLine { time_unix_ms: 5, stream: LogStream::Stdout, text: "hello \u{20ac}".into() }] };
        let mut bytes = Message::Log(log).encode(3).expect("a frame");
        let at = at % bytes.len();
        bytes[at] = byte;
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        if let Ok(Some(frame)) = decoder.next_frame() {
            let _ = Message::decode(&frame);
        }
    }

    #[test]
    fn a_header_is_taken_exactly_up_to_the_limit(length: u32) {
        prop_assert_eq!(body_length(length.to_be_bytes()).is_ok(), length as usize <= FRAME_MAX_BYTES);
    }
}

#[test]
fn an_oversize_header_is_refused_before_its_body_is_waited_for() {
    let mut decoder = FrameDecoder::default();
    decoder.push(&(FRAME_MAX_BYTES as u32 + 1).to_be_bytes());
    let error = decoder.next_frame().expect_err("refused");
    assert_eq!(error.to_string(), "a frame of 6356993 bytes is over the limit of 6356992");
    assert!(matches!(body_length([0xff; 4]), Err(FrameError::TooLarge { length: 0xffff_ffff })));
}

#[test]
fn a_frame_that_the_peer_would_refuse_is_not_sent() {
    let text = format!("\"{}\"", "a".repeat(FRAME_MAX_BYTES));
    let exec = Exec {
        request_id: "a".into(),
        attempt: 1,
        timeout_ms: 1,
        traceparent: None,
        input: RawValue::from_string(text).expect("JSON"),
    };
    assert!(matches!(Message::Exec(exec).encode(1), Err(FrameError::TooLarge { .. })));
}

#[test]
fn a_chunk_over_its_limit_is_refused() {
    let chunk = |length| Message::Chunk(Chunk { data: vec![7; length], last: false });
    let decode = |message: Message| {
        let body = message.encode(1).expect("a frame").split_off(4);
        Message::decode(&Frame::decode(body).expect("a frame"))
    };
    assert!(decode(chunk(CHUNK_MAX_BYTES)).is_ok());
    let refused = decode(chunk(CHUNK_MAX_BYTES + 1));
    assert!(
        matches!(refused, Err(MessageError::ChunkTooLarge { length }) if length == CHUNK_MAX_BYTES + 1)
    );
}

#[test]
fn frames_and_messages_with_anything_more_or_less_are_refused() {
    for body in [
        "",
        "null",
        "{}",
        r#"{"type":4,"id":1}"#,
        r#"{"type":4,"payload":{}}"#,
        r#"{"id":1,"type":4,"payload":{}}"#,
        r#"{"type":4,"type":4,"id":1,"payload":{}}"#,
        r#"{ "type":4,"id":1,"payload":{}}"#,
        r#"{"type":04,"id":1,"payload":{}}"#,
        r#"{"type":,"id":1,"payload":{}}"#,
        r#"{"type":256,"id":1,"payload":{}}"#,
        r#"{"type":-1,"id":1,"payload":{}}"#,
        r#"{"type":"4","id":1,"payload":{}}"#,
        r#"{"type":4,"id":18446744073709551616,"payload":{}}"#,
        r#"{"type":4,"id":1,"payload":{}} trailing"#,
    ] {
        assert!(matches!(Frame::decode(body.into()), Err(FrameError::Malformed)), "{body}");
    }
    for (kind, payload) in [
        (1, "{}"),
        (2, r#"{"request_id":"a","attempt":1,"timeout_ms":1,"input":1,"more":1}"#),
        (2, r#"{"request_id":"a","attempt":1,"timeout_ms":1}"#),
        (2, r#"{"request_id":"a","attempt":-1,"timeout_ms":1,"input":1}"#),
        (2, r#"{"request_id":"a","attempt":1,"timeout_ms":1,"input":1,"input":2}"#),
        (3, r#"{"pong":{"more":1}}"#),
        (3, r#"{"pong":{},"stopping":{}}"#),
        (3, r#"{"unheard_of":{}}"#),
        (3, r#"{"refused":{"kind":"unheard_of","message":""}}"#),
        (4, ""),
        (4, r#"{},"more":1"#),
        (4, r#"{}} {"#),
        (4, r#"{"more":1}"#),
        (5, r#"{"more":1}"#),
        (6, r#"{"more":1}"#),
        (7, r#"{"lines":[{"time_unix_ms":1,"stream":"stdin","text":""}]}"#),
        (8, r#"{"data":"not base64!","last":true}"#),
        (9, r#"{"bytes":4294967296}"#),
        (10, r#"{"hostname":"a","clock_unix_ns":1}"#),
    ] {
        assert!(
            matches!(Message::decode(&frame(kind, payload)), Err(MessageError::Malformed { .. })),
            "{kind}: {payload}"
        );
    }
    for kind in [0, 12, 255] {
        let refused = Message::decode(&frame(kind, "{}"));
        assert!(matches!(refused, Err(MessageError::UnknownType(refused)) if refused == kind));
    }
}

#[test]
fn json_nested_a_million_deep_does_not_exhaust_the_stack() {
    let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    // Raw payloads are skipped over, however deep.
    assert!(matches!(Message::decode(&frame(2, &deep)), Err(MessageError::Malformed { .. })));
    let exec = format!(r#"{{"request_id":"a","attempt":1,"timeout_ms":1,"input":{deep}}}"#);
    match Message::decode(&frame(2, &exec)).expect("a message") {
        Message::Exec(exec) => assert_eq!(exec.input.get().len(), 2_000_000),
        other => panic!("{other:?}"),
    }
    // Where a value is built, the parser stops at its own depth.
    let error = format!(r#"{{"kind":"timeout","message":"","detail":{deep}}}"#);
    let phases = r#""phases":{"init_us":1,"exec_us":1},"log_truncated":false"#;
    let done = format!(r#"{{"done":{{"error":{error},{phases}}}}}"#);
    assert!(matches!(Message::decode(&frame(3, &done)), Err(MessageError::Malformed { .. })));
}

#[test]
fn the_detail_of_an_error_is_not_parsed_beyond_its_limit() {
    let phases = r#""phases":{"init_us":1,"exec_us":1},"log_truncated":false"#;
    let done = |detail: &str| {
        let error = format!(r#"{{"kind":"function_failed","message":"","detail":{detail}}}"#);
        Message::decode(&frame(3, &format!(r#"{{"done":{{"error":{error},{phases}}}}}"#)))
    };
    let of_bytes = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2));
    assert!(done(&of_bytes(ERROR_DETAIL_MAX_BYTES)).is_ok());
    let refused = done(&of_bytes(ERROR_DETAIL_MAX_BYTES + 1));
    assert!(matches!(refused, Err(MessageError::Malformed { .. })));
}

#[test]
fn debug_text_names_secrets_and_does_not_show_them() {
    let function = FunctionSetup {
        name: "hello".into(),
        version: "1".into(),
        mode: Mode::Process,
        handler: "handler".into(),
        command: vec!["true".into()],
        env: [("API_KEY".into(), "hunter2".into())].into(),
        secrets: vec![SecretFile { name: "token".into(), value: b"xyzzy".to_vec() }],
        memory_mb: 128,
        tmp_mb: 0,
        out_mb: 0,
        instance_concurrency: 1,
        own_image: None,
    };
    let text = format!("{function:?}");
    assert!(text.contains("API_KEY") && text.contains("token"), "{text}");
    assert!(
        !text.contains("hunter2") && !text.contains("xyzzy") && !text.contains("120, 121"),
        "{text}"
    );
}
