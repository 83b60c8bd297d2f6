//! What stdout of a `process` function means: log lines and one result.
//!
//! The rule: if all of stdout is one JSON value, that is the result; else the last line, if that is
//! JSON, the lines before it being logs. It is applied while reading, so that a function may print
//! more than fits in memory: the first line decides whether all of it can still be one value.
//!
//! ```text
//!             first line could begin a longer value ("{")
//!   Undecided ───────────────────────────────────────────▶ Whole (keep all, up to the limit)
//!       │ first line is a value by itself, or no JSON at all    │ more than the limit
//!       ▼                                                       ▼
//!     Lines (each line is a log once another one follows it) ◀──┘
//! ```
use nova_proto::PAYLOAD_MAX_BYTES;
use serde_json::error::Category;
use serde_json::value::RawValue;

/// How much of a wrong output an error quotes, bytes.
const QUOTE_BYTES: usize = 200;

/// Why stdout holds no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputError {
    /// Neither all of it nor its last line is JSON.
    Invalid { quote: String },
    /// The result is over the payload limit.
    TooLarge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Undecided,
    Whole,
    Lines,
}

/// Reads stdout as it comes.
pub struct OutputReader {
    form: Form,
    /// Everything that is not yet known to be a log: all of stdout, or the last line and what follows.
    held: Vec<u8>,
    /// Where the text of the line that `held` begins with ends so far, in the form `Lines`.
    text_end: usize,
    /// A line end was seen, so that the first line can be judged.
    line_ended: bool,
    /// The beginning of stdout, for the error.
    quote: Vec<u8>,
    /// All of stdout was more than the limit, so it cannot be one value.
    overflowed: bool,
}

impl OutputReader {
    /// For a process that has printed nothing yet.
    pub fn new() -> Self {
        Self {
            form: Form::Undecided,
            held: Vec::new(),
            text_end: 0,
            line_ended: false,
            quote: Vec::new(),
            overflowed: false,
        }
    }

    /// Takes the next bytes of stdout; hands each line that is surely a log to `log`.
    ///
    /// # Errors
    /// [`OutputError::TooLarge`] when a line alone is over the limit: the process may be killed.
    pub fn push(&mut self, bytes: &[u8], log: &mut impl FnMut(&[u8])) -> Result<(), OutputError> {
        let wanted = QUOTE_BYTES.saturating_sub(self.quote.len()).min(bytes.len());
        self.quote.extend_from_slice(&bytes[..wanted]);
        self.held.extend_from_slice(bytes);
        // Most results are one long line: not searched again for each piece of it.
        self.line_ended |= bytes.contains(&b'\n');
        if self.form == Form::Undecided && self.line_ended {
            self.decide();
        }
        if self.form != Form::Lines && self.held.len() > PAYLOAD_MAX_BYTES {
            self.form = Form::Lines;
            self.overflowed = true;
        }
        if self.form == Form::Lines {
            self.release_lines(log);
            if self.held.len() > PAYLOAD_MAX_BYTES {
                return Err(OutputError::TooLarge);
            }
        }
        Ok(())
    }

    /// Ends the reading: the result, the remaining log lines going to `log`.
    ///
    /// # Errors
    /// Whatever keeps stdout from having a result. Then all of it has gone to `log`.
    pub fn finish(mut self, log: &mut impl FnMut(&[u8])) -> Result<Box<RawValue>, OutputError> {
        if self.form != Form::Lines {
            self.held = match into_value(self.held) {
                Ok(value) => return Ok(value),
                Err(held) => held,
            };
            self.form = Form::Lines;
            self.release_lines(log);
        }
        match into_value(self.held) {
            Ok(value) => return Ok(value),
            Err(held) => emit_lines(&held, log),
        }
        if self.overflowed {
            return Err(OutputError::TooLarge);
        }
        Err(OutputError::Invalid { quote: String::from_utf8_lossy(&self.quote).into_owned() })
    }

    /// Ends the reading of a process that failed: everything held is a log.
    pub fn abandon(self, log: &mut impl FnMut(&[u8])) {
        emit_lines(&self.held, log);
    }

    /// Looks at the first line that is not blank, once it is complete.
    fn decide(&mut self) {
        let Some(start) = self.held.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            return;
        };
        let Some(length) = self.held[start..].iter().position(|&byte| byte == b'\n') else {
            return;
        };
        let (line, rest) = self.held[start..].split_at(length);
        self.form = match serde_json::from_slice::<&RawValue>(line) {
            // A value by itself: all of stdout only if nothing else follows, which is yet to be seen.
            Ok(_) if rest.iter().all(u8::is_ascii_whitespace) => Form::Undecided,
            Ok(_) => Form::Lines,
            Err(error) if error.classify() == Category::Eof => Form::Whole,
            Err(_) => Form::Lines,
        };
    }

    /// Hands over every line that has a later, non-blank one, and keeps the rest. Looks only at what
    /// came since the last time: `held` begins with a line that is not blank, which ends its text at
    /// `text_end`.
    fn release_lines(&mut self, log: &mut impl FnMut(&[u8])) {
        let new = &self.held[self.text_end..];
        let Some(last_text) = new.iter().rposition(|byte| !byte.is_ascii_whitespace()) else {
            return;
        };
        let line_start = new[..last_text].iter().rposition(|&byte| byte == b'\n');
        let keep_from = line_start.map_or(0, |offset| self.text_end + offset + 1);
        emit_lines(&self.held[..keep_from], log);
        self.text_end = self.text_end + last_text + 1 - keep_from;
        self.held.drain(..keep_from);
    }
}

/// The bytes as one JSON value, without a copy: they may be all that a small guest has room for.
fn into_value(bytes: Vec<u8>) -> Result<Box<RawValue>, Vec<u8>> {
    if serde_json::from_slice::<&RawValue>(&bytes).is_err() {
        return Err(bytes);
    }
    let mut text = String::from_utf8(bytes).map_err(|error| error.into_bytes())?;
    text.truncate(text.trim_end().len());
    let value = RawValue::from_string(text);
    // It was looked at above.
    value.map_err(|_| Vec::new())
}

/// Each line of `bytes`, without its line end. A last line end begins no further line.
fn emit_lines(bytes: &[u8], log: &mut impl FnMut(&[u8])) {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() {
        return;
    }
    for line in body.split(|&byte| byte == b'\n') {
        log(line);
    }
}

#[cfg(test)]
mod tests {
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
            reader
                .push(&b"all work and no play\n".repeat(3000), &mut |_| lines += 1)
                .expect("logs");
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
}
