//! Records of calls and their log lines.
use crate::{at, name, page};
use nova_domain::{InvocationRecord, LogRecord, LogStream, Phases, RequestId, Start, Trigger};
use nova_store::{InvocationFilter, LogFilter, Store, StoreError};
use std::sync::Arc;
use uuid::Uuid;

/// Call number `n`; ids sort by time as UUIDv7 do.
fn call(function: &str, n: u64) -> InvocationRecord {
    InvocationRecord {
        request_id: RequestId(Uuid::from_u64_pair(n << 16 | 0x7000, 0x8000_0000_0000_0000)),
        attempt: 1,
        function: name(function),
        version: 3,
        trigger: Trigger::Cli,
        start: Some(Start::Warm),
        duration_ms: 12.5,
        phases: Phases { exec_ms: 11.25, ..Phases::default() },
        error_code: None,
        error_message: None,
        node: "node-1".into(),
        created_at: at(n as i64),
    }
}

fn line(call: &InvocationRecord, sequence: u32, text: &str) -> LogRecord {
    LogRecord {
        function: call.function.clone(),
        request_id: call.request_id,
        attempt: call.attempt,
        sequence,
        time: call.created_at,
        stream: LogStream::Stderr,
        text: text.into(),
    }
}

fn tail(function: &str, tail: u32) -> LogFilter {
    LogFilter { function: name(function), request_id: None, contains: None, tail }
}

async fn texts(store: &Arc<impl Store>, filter: LogFilter) -> Vec<String> {
    store.logs(&filter).await.unwrap().into_iter().map(|line| line.text).collect()
}

pub async fn calls_are_listed_newest_first_in_pages_and_by_filter(store: Arc<impl Store>) {
    let mut calls: Vec<_> = (0..1200).map(|n| call("f", n)).collect();
    calls[7].error_code = Some("timeout".into());
    calls.push(call("g", 5000));
    store.append_records(&calls, &[]).await.unwrap();

    let of_f = InvocationFilter { function: Some(name("f")), failed: None };
    let first = store.invocations(&of_f, &page(500, None)).await.unwrap();
    assert_eq!(first.items[0], calls[1199]);
    let second = store.invocations(&of_f, &page(500, first.next_cursor)).await.unwrap();
    let third = store.invocations(&of_f, &page(500, second.next_cursor)).await.unwrap();
    assert_eq!((third.items.len(), third.next_cursor), (200, None));
    assert_eq!(third.items[199], calls[0]);

    let failed = InvocationFilter { function: None, failed: Some(true) };
    assert_eq!(store.invocations(&failed, &page(10, None)).await.unwrap().items, calls[7..8]);
    assert_eq!(store.invocation(calls[3].request_id).await.unwrap(), calls[3..4]);
}

pub async fn the_same_batch_twice_changes_nothing(store: Arc<impl Store>) {
    let calls = [call("f", 1)];
    let lines = [line(&calls[0], 0, "once")];
    store.append_records(&calls, &lines).await.unwrap();
    store.append_records(&calls, &lines).await.unwrap();
    assert_eq!(store.invocation(calls[0].request_id).await.unwrap(), calls);
    assert_eq!(texts(&store, tail("f", 10)).await, ["once"]);
}

pub async fn logs_are_the_newest_lines_in_order(store: Arc<impl Store>) {
    let (first, second) = (call("f", 1), call("f", 2));
    let lines: Vec<_> = (0..700).map(|n| line(&first, n, &format!("a{n}"))).collect();
    store.append_records(&[], &lines).await.unwrap();
    store.append_records(&[], &[line(&second, 0, "b0"), line(&second, 1, "b1")]).await.unwrap();
    assert_eq!(texts(&store, tail("f", 3)).await, ["a699", "b0", "b1"]);
    let of_first = LogFilter { request_id: Some(first.request_id), ..tail("f", 2) };
    assert_eq!(texts(&store, of_first).await, ["a698", "a699"]);
    assert_eq!(texts(&store, tail("g", 3)).await, [""; 0]);
}

pub async fn long_logs_are_cut_to_the_newest_bytes(store: Arc<impl Store>) {
    const LINE_BYTES: usize = 16 * 1024;
    let call = call("f", 1);
    let text = "x".repeat(LINE_BYTES - 3);
    let lines: Vec<_> = (0..600).map(|n| line(&call, n, &format!("{text}{n:03}"))).collect();
    store.append_records(&[], &lines).await.unwrap();
    let got = texts(&store, tail("f", 10_000)).await;
    assert_eq!(got.len(), 8 * 1024 * 1024 / LINE_BYTES);
    assert!(got[0].ends_with("088") && got[511].ends_with("599"), "the newest, in order");
}

pub async fn a_search_takes_percent_and_underscore_as_text(store: Arc<impl Store>) {
    let call = call("f", 1);
    let lines = [line(&call, 0, "100% done"), line(&call, 1, "1000 done"), line(&call, 2, "a_b")];
    store.append_records(&[], &lines).await.unwrap();
    let search = |text: &str| LogFilter { contains: Some(text.into()), ..tail("f", 10) };
    assert_eq!(texts(&store, search("0% d")).await, ["100% done"]);
    assert_eq!(texts(&store, search("_")).await, ["a_b"]);
    assert_eq!(texts(&store, search("done")).await, ["100% done", "1000 done"]);
}

pub async fn what_is_old_is_forgotten(store: Arc<impl Store>) {
    let calls = [call("f", 1), call("f", 100)];
    let lines = [line(&calls[0], 0, "old"), line(&calls[1], 0, "new")];
    store.append_records(&calls, &lines).await.unwrap();
    assert_eq!(store.forget_records(at(50)).await.unwrap(), 1);
    let left = store.invocations(&InvocationFilter::default(), &page(10, None)).await.unwrap();
    assert_eq!(left.items, calls[1..]);
    assert_eq!(texts(&store, tail("f", 10)).await, ["new"]);
}

pub async fn a_foreign_cursor_is_refused(store: Arc<impl Store>) {
    let asked = page(10, Some("'; DROP TABLE invocation".into()));
    let error = store.invocations(&InvocationFilter::default(), &asked).await.unwrap_err();
    assert!(matches!(error, StoreError::BadCursor), "{error}");
}
