use super::*;
use proptest::prelude::*;

/// The result, or its error, and the log lines, of stdout that arrives in these pieces.
fn read(pieces: &[&[u8]]) -> (Result<String, OutputError>, Vec<String>) {
    let mut lines = Vec::new();
    let mut log = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
    let mut reader = OutputReader::new();
    for piece in pieces {
        if let Err(error) = reader.push(piece, &mut log) {
            return (Err(error), lines);
        }
    }
    let result = reader.finish(&mut log).map(|value| value.get().to_owned());
    (result, lines)
}

#[track_caller]
fn assert_result(stdout: &str, result: &str, logs: &[&str]) {
    assert_eq!(
        read(&[stdout.as_bytes()]),
        (Ok(result.to_owned()), logs.iter().map(|l| (*l).to_owned()).collect())
    );
}

#[track_caller]
fn assert_invalid(stdout: &[u8], quote: &str, logs: &[&str]) {
    let invalid = OutputError::Invalid { quote: quote.to_owned() };
    assert_eq!(read(&[stdout]), (Err(invalid), logs.iter().map(|l| (*l).to_owned()).collect()));
}

#[test]
fn all_of_stdout_is_the_result_when_it_is_one_value() {
    assert_result(r#"{"a":1}"#, r#"{"a":1}"#, &[]);
    assert_result("\n  [1,\n 2]\n\n", "[1,\n 2]", &[]);
    assert_result("null\n", "null", &[]);
    assert_result("\"text\"", "\"text\"", &[]);
}

#[test]
fn else_its_last_line_is_and_the_others_are_logs() {
    assert_result("hello\n\nworld\n{\"a\":1}\n", r#"{"a":1}"#, &["hello", "", "world"]);
    assert_result("{\"level\":\"info\"}\n42\n", "42", &["{\"level\":\"info\"}"]);
    assert_result("1\n2\n3", "3", &["1", "2"]);
    // Looks like the beginning of a longer value at first.
    assert_result("{ not json\ntrue\n", "true", &["{ not json"]);
    assert_result("[\n1\n]\n7\n\n", "7", &["[", "1", "]"]);
}

#[test]
fn what_is_not_json_is_quoted_and_logged() {
    assert_invalid(b"", "", &[]);
    assert_invalid(b"done", "done", &["done"]);
    assert_invalid(b"NaN", "NaN", &["NaN"]);
    assert_invalid(b"1\nInfinity\n", "1\nInfinity\n", &["1", "Infinity"]);
    assert_invalid(b"{\"a\":1}\nbye\n", "{\"a\":1}\nbye\n", &["{\"a\":1}", "bye"]);
    assert_invalid(b"\"\xff\"", "\"\u{fffd}\"", &["\"\u{fffd}\""]);
    assert_invalid(&[b'x'; 1000], &"x".repeat(200), &["x".repeat(1000).as_str()]);
}

#[test]
fn a_deeply_nested_value_does_not_exhaust_the_stack() {
    let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
    assert_eq!(read(&[&deep]).0.map(|value| value.len()), Ok(2 << 20));
}

#[test]
fn a_result_at_the_limit_passes_and_one_byte_more_does_not() {
    let text = |length| format!("\"{}\"", "a".repeat(length - 2));
    assert!(read(&[text(PAYLOAD_MAX_BYTES).as_bytes()]).0.is_ok());
    assert!(read(&[b"log\n", text(PAYLOAD_MAX_BYTES).as_bytes()]).0.is_ok());
    assert_eq!(read(&[text(PAYLOAD_MAX_BYTES + 1).as_bytes()]).0, Err(OutputError::TooLarge));
    let pretty = format!("[{}\n1]", "1,\n".repeat(PAYLOAD_MAX_BYTES / 3));
    assert_eq!(read(&[pretty.as_bytes()]).0, Err(OutputError::TooLarge));
}

#[test]
fn logs_without_end_are_not_held_in_memory() {
    let mut reader = OutputReader::new();
    let mut lines = 0;
    for _ in 0..200 {
        reader.push(&b"all work and no play\n".repeat(3000), &mut |_| lines += 1).expect("logs");
        assert!(reader.held.len() < 100);
    }
    reader.push(b"[]", &mut |_| lines += 1).expect("a result");
    assert_eq!(reader.finish(&mut |_| lines += 1).expect("a result").get(), "[]");
    assert_eq!(lines, 600_000);
}

proptest! {
    /// Where the pipe cuts stdout changes nothing, and no line is lost or made up.
    #[test]
    fn pieces_do_not_matter(
        lines in prop::collection::vec("[ {}\\[\\]1a,\"\t]{0,6}", 0..8),
        cuts in prop::collection::vec(0_usize..60, 0..6),
    ) {
        let stdout = lines.join("\n");
        let mut pieces = vec![];
        let mut from = 0;
        let mut cuts = cuts;
        cuts.sort_unstable();
        for cut in cuts.into_iter().map(|cut| cut.min(stdout.len())) {
            pieces.push(&stdout.as_bytes()[from..cut]);
            from = cut;
        }
        pieces.push(&stdout.as_bytes()[from..]);
        let (result, logs) = read(&pieces);
        prop_assert_eq!(&(result.clone(), logs.clone()), &read(&[stdout.as_bytes()]));
        let whole = serde_json::from_str::<Box<RawValue>>(&stdout);
        let last = stdout.trim_end().rsplit('\n').next().unwrap_or_default();
        match (whole, serde_json::from_str::<Box<RawValue>>(last)) {
            (Ok(whole), _) => prop_assert_eq!(result, Ok(whole.get().to_owned())),
            (_, Ok(last)) => prop_assert_eq!(result, Ok(last.get().to_owned())),
            _ => prop_assert_eq!(logs.concat(), stdout.replace('\n', "")),
        }
    }
}
