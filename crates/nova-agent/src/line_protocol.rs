//! The lines of `persistent` mode: one JSON object in per call, one out, everything else a log.
//!
//! ```text
//!   stdin   {"request_id":"..","input":<any JSON>,"deadline_ms":N}
//!   stdout  {"output":<any JSON>}  or  {"error":<any JSON>}, "request_id" beside it
//! ```
use crate::call::{Failure, failure, failure_with_detail};
use nova_proto::{
    ERROR_DETAIL_MAX_BYTES, Exec, FRAME_MAX_BYTES, FunctionErrorKind, PAYLOAD_MAX_BYTES,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The longest line that can be an answer: one payload and the same room round it as a frame has.
pub const ANSWER_MAX_BYTES: usize = FRAME_MAX_BYTES;

/// What a call ended with.
pub type CallResult = Result<Box<RawValue>, Failure>;

/// A line that is an answer.
pub struct Answer {
    /// Which call it is for, if it says so.
    pub request_id: Option<String>,
    /// The result or failure.
    pub result: CallResult,
}

/// The line that asks for one call.
pub fn request_line(exec: &Exec, deadline_unix_ms: u64) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Head<'a> {
        request_id: &'a str,
        deadline_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        traceparent: Option<&'a str>,
    }
    let head = Head {
        request_id: &exec.request_id,
        deadline_ms: deadline_unix_ms,
        traceparent: exec.traceparent.as_deref(),
    };
    // Strings and a number always serialise.
    let mut line = serde_json::to_vec(&head).unwrap_or_default();
    line.pop();
    line.extend_from_slice(br#","input":"#);
    // Line ends in JSON can only be blank space: inside a string they are escaped.
    line.extend(exec.input.get().bytes().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => other,
    }));
    line.extend_from_slice(b"}\n");
    line
}

/// Reads a line of stdout; `None` for one that is a log.
pub fn parse_answer(line: &[u8]) -> Option<Answer> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw<'a> {
        request_id: Option<String>,
        #[serde(borrow, default, deserialize_with = "present")]
        output: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "present")]
        error: Option<&'a RawValue>,
    }
    /// `null` is a value of the function's, not an absent one.
    fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
        <&RawValue>::deserialize(from).map(Some)
    }

    let raw: Raw = serde_json::from_slice(line).ok()?;
    let result = match (raw.output, raw.error) {
        (None, None) => return None,
        (Some(output), None) => result_of(output),
        // Some functions always write both.
        (Some(output), Some(error)) if error.get() == "null" => result_of(output),
        (_, Some(error)) => Err(failure_of(error)),
    };
    Some(Answer { request_id: raw.request_id, result })
}

fn result_of(output: &RawValue) -> CallResult {
    if output.get().len() > PAYLOAD_MAX_BYTES {
        return Err(answer_too_large());
    }
    Ok(output.to_owned())
}

/// A line or a result that is over the limit.
pub fn answer_too_large() -> Failure {
    let message = format!("the result is over the limit of {PAYLOAD_MAX_BYTES} bytes");
    failure(FunctionErrorKind::OutputTooLarge, message)
}

fn failure_of(error: &RawValue) -> Failure {
    let text = error.get();
    // One nested too deeply for a `Value` is passed on as text.
    let detail = (text.len() <= ERROR_DETAIL_MAX_BYTES)
        .then(|| serde_json::from_str::<Value>(text).ok())
        .flatten()
        // Numbers may become up to five times as long when they are written again.
        .filter(|detail| detail.to_string().len() <= ERROR_DETAIL_MAX_BYTES);
    let message = match &detail {
        Some(Value::String(message)) => message.clone(),
        Some(Value::Object(fields)) => match fields.get("message") {
            Some(Value::String(message)) => message.clone(),
            _ => text.to_owned(),
        },
        _ => text.to_owned(),
    };
    failure_with_detail(message, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(line: &str) -> Option<String> {
        Some(parse_answer(line.as_bytes())?.result.expect("a result").get().to_owned())
    }

    fn error(line: &str) -> Failure {
        parse_answer(line.as_bytes()).expect("an answer").result.expect_err("a failure")
    }

    #[test]
    fn an_answer_has_an_output_or_an_error() {
        assert_eq!(output(r#"{"output": {"a": [1]}}"#).as_deref(), Some(r#"{"a": [1]}"#));
        assert_eq!(output(r#"{"output": null}"#).as_deref(), Some("null"));
        assert_eq!(output(r#"{"error": null, "output": 1}"#).as_deref(), Some("1"));
        let with_id = parse_answer(br#"{"request_id": "r1", "output": 1}"#).expect("an answer");
        assert_eq!(with_id.request_id.as_deref(), Some("r1"));

        assert_eq!(error(r#"{"error": "broken"}"#).message, "broken");
        let failure = error(r#"{"error": {"message": "broken", "code": 7}}"#);
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FunctionErrorKind::FunctionFailed, "broken")
        );
        assert_eq!(failure.detail.expect("a detail")["code"], 7);
    }

    #[test]
    fn any_other_line_is_a_log() {
        for line in [
            "hello",
            "",
            "{}",
            "[1]",
            "null",
            r#"{"level":"error","error":"x"}"#,
            r#"{"output":NaN}"#,
        ] {
            assert!(parse_answer(line.as_bytes()).is_none(), "{line}");
        }
        assert!(parse_answer(b"{\"output\":\"\xff\"}").is_none());
    }

    #[test]
    fn values_nested_deeply_or_too_large_are_taken_in_hand() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(output(&format!(r#"{{"output":{deep}}}"#)), Some(deep.clone()));
        let failure = error(&format!(r#"{{"error":{deep}}}"#));
        assert_eq!(failure.detail, None);
        assert!(failure.message.starts_with("[[[") && failure.message.len() <= 8192);

        let large = format!(r#"{{"output":"{}"}}"#, "a".repeat(PAYLOAD_MAX_BYTES));
        let too_large = parse_answer(large.as_bytes()).expect("an answer").result;
        assert_eq!(too_large.expect_err("a failure").kind, FunctionErrorKind::OutputTooLarge);
    }

    #[test]
    fn a_request_is_one_line_whatever_the_input_looks_like() {
        let exec = Exec {
            request_id: "r\"1".into(),
            attempt: 1,
            timeout_ms: 1000,
            traceparent: None,
            input: RawValue::from_string("{\n  \"a\": \"x\\n\"\r\n}".into()).expect("JSON"),
        };
        let line = request_line(&exec, 99);
        assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
        let value: Value = serde_json::from_slice(&line).expect("JSON");
        let expected =
            serde_json::json!({"request_id": "r\"1", "deadline_ms": 99, "input": {"a": "x\n"}});
        assert_eq!(value, expected);
    }
}
