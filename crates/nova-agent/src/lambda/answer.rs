//! What the runtime's answers mean: bodies of `response` and `error` become results and failures.
use super::trailer::Trailers;
use crate::call::{Failure, failure, shorten};
use crate::line_protocol::{CallResult, answer_too_large};
use crate::output::{QUOTE_BYTES, into_value};
use nova_proto::{ERROR_DETAIL_MAX_BYTES, FunctionError, FunctionErrorKind, PAYLOAD_MAX_BYTES};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

/// Content type of a response that is an HTTP response: a JSON prelude, zeros, and the body as it is.
const HTTP_INTEGRATION: &str = "application/vnd.awslambda.http-integration-response";
/// The largest error object of which a part is passed on, bytes: bounds what parsing it takes.
const LARGE_ERROR_MAX_BYTES: usize = 512 * 1024;
/// Of such an object: most frames of its stack, and most bytes of each and of its message. Together they
/// stay within what may be passed on, also with most of it escaped.
const FRAMES_MAX: usize = 50;
const FRAME_TEXT_MAX_BYTES: usize = 512;
/// See [`FRAMES_MAX`]; also of a body that is no error object.
const TEXT_MAX_BYTES: usize = 8 * 1024;
/// What ends the prelude of such a response.
const PRELUDE_END: [u8; 8] = [0; 8];

/// The result that the body of a `response` is.
pub fn of_response(content_type: &str, body: Vec<u8>, trailers: &Trailers) -> CallResult {
    if trailers.error_type.is_some() {
        let error_type = trailers.error_type.as_deref();
        return Err(of_error(FunctionErrorKind::FunctionFailed, error_type, &trailers.error_body));
    }
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let result = if essence.eq_ignore_ascii_case(HTTP_INTEGRATION) {
        http_response(&body)
    } else {
        json_response(body)
    };
    match result {
        Ok(value) if value.get().len() > PAYLOAD_MAX_BYTES => Err(answer_too_large()),
        other => other,
    }
}

/// The body as it came. None at all is `null`: clients of some languages send that for nothing.
fn json_response(body: Vec<u8>) -> CallResult {
    if body.is_empty() {
        return Ok(RawValue::NULL.to_owned());
    }
    into_value(body).map_err(|body| invalid("the response is not JSON; it begins with", &body))
}

/// `{statusCode, headers, cookies, body, isBase64Encoded}`, as a function would write it by hand.
fn http_response(bytes: &[u8]) -> CallResult {
    let problem =
        "the HTTP response does not begin with a JSON object and eight zero bytes, but with";
    let end = bytes.windows(PRELUDE_END.len()).position(|window| window == PRELUDE_END);
    let prelude =
        end.and_then(|end| serde_json::from_slice::<Map<String, Value>>(&bytes[..end]).ok());
    let (Some(end), Some(prelude)) = (end, prelude) else { return Err(invalid(problem, bytes)) };
    let body = &bytes[end + PRELUDE_END.len()..];
    let (text, is_base64) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => {
            use base64::Engine;
            (base64::engine::general_purpose::STANDARD.encode(body), true)
        }
    };
    let mut response = Map::new();
    response.insert("statusCode".into(), json!(200));
    response.insert("headers".into(), json!({}));
    response.insert("cookies".into(), json!([]));
    response.extend(prelude);
    response.insert("body".into(), text.into());
    response.insert("isBase64Encoded".into(), is_base64.into());
    to_raw_value(&response).map_err(|_| invalid(problem, bytes))
}

fn invalid(problem: &str, bytes: &[u8]) -> Failure {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTE_BYTES)]);
    failure(FunctionErrorKind::InvalidOutput, format!("{problem}: {start}"))
}

/// The failure that the body of an `error` is. It is the runtime's own and is passed on as it is:
/// `{"errorMessage", "errorType", "stackTrace"}` where the runtime keeps to the form.
pub fn of_error(kind: FunctionErrorKind, header_type: Option<&str>, body: &[u8]) -> Failure {
    let detail = as_it_is(body).or_else(|| shortened(body)).unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&body[..body.len().min(TEXT_MAX_BYTES)]);
        Map::from_iter([
            ("errorMessage".into(), text.into()),
            ("errorType".into(), known_type(header_type).into()),
        ])
    });
    let text =
        |name: &str| detail.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let message = match (text("errorType"), text("errorMessage")) {
        (Some(error_type), Some(message)) => format!("{error_type}: {message}"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => format!("{}: the runtime gave no message", known_type(header_type)),
    };
    FunctionError { detail: Some(Value::Object(detail)), ..failure(kind, message) }
}

/// An error object that may be passed on whole.
fn as_it_is(body: &[u8]) -> Option<Map<String, Value>> {
    if body.len() > ERROR_DETAIL_MAX_BYTES {
        return None;
    }
    let detail: Map<String, Value> = serde_json::from_slice(body).ok()?;
    fits_again(&detail).then_some(detail)
}

/// The same of one that is too large, as an endless recursion's is: the beginning of its message and of
/// its stack.
fn shortened(body: &[u8]) -> Option<Map<String, Value>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ErrorObject {
        #[serde(default)]
        error_type: String,
        #[serde(default)]
        error_message: String,
        #[serde(default)]
        stack_trace: Vec<String>,
    }
    if body.len() > LARGE_ERROR_MAX_BYTES {
        return None;
    }
    let error: ErrorObject = serde_json::from_slice(body).ok()?;
    let frames = error.stack_trace.len();
    let mut stack: Vec<String> = error.stack_trace;
    stack.truncate(FRAMES_MAX);
    let mut stack: Vec<String> =
        stack.into_iter().map(|frame| shorten(frame, FRAME_TEXT_MAX_BYTES)).collect();
    if frames > stack.len() {
        stack.push(format!("... {} more", frames - stack.len()));
    }
    let detail = Map::from_iter([
        ("errorType".into(), shorten(error.error_type, FRAME_TEXT_MAX_BYTES).into()),
        ("errorMessage".into(), shorten(error.error_message, TEXT_MAX_BYTES).into()),
        ("stackTrace".into(), json!(stack)),
    ]);
    fits_again(&detail).then_some(detail)
}

/// Whether it is still within the limit when it is written: numbers and escapes may have grown.
fn fits_again(detail: &Map<String, Value>) -> bool {
    serde_json::to_vec(detail).is_ok_and(|bytes| bytes.len() <= ERROR_DETAIL_MAX_BYTES)
}

/// The types of errors are a closed set of forms; a client's own word becomes the general one.
fn known_type(header: Option<&str>) -> &str {
    let header = header.unwrap_or_default();
    let is_known = |prefix: &str| {
        header.strip_prefix(prefix).is_some_and(|name| {
            name.len() > 1
                && name.starts_with(|first: char| first.is_ascii_uppercase())
                && name.bytes().all(|byte| byte.is_ascii_alphabetic())
        })
    };
    if is_known("Runtime.") || is_known("Function.") {
        header
    } else if header.starts_with("Function.") {
        "Function.Unknown"
    } else {
        "Runtime.Unknown"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FunctionErrorKind as Kind;

    fn response(content_type: &str, body: &[u8]) -> CallResult {
        of_response(content_type, body.to_vec(), &Trailers::default())
    }

    #[test]
    fn a_response_is_json_and_passed_on_as_it_came() {
        assert_eq!(response("", b"{ \"a\": 1 }").unwrap().get(), "{ \"a\": 1 }");
        assert_eq!(response("text/plain", b"7\n").unwrap().get(), "7");
        assert_eq!(response("", b"").unwrap().get(), "null");
        for body in [&b"hello"[..], b"NaN", b"\"\xff\"", b"{} {}"] {
            let error = response("application/json", body).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidOutput);
        }
        let error = response("", "x".repeat(1000).as_bytes()).unwrap_err();
        assert!(error.message.ends_with(&"x".repeat(200)) && error.message.len() < 300);
        let large = format!("\"{}\"", "a".repeat(PAYLOAD_MAX_BYTES));
        assert_eq!(response("", large.as_bytes()).unwrap_err().kind, Kind::OutputTooLarge);
    }

    #[test]
    fn an_http_response_becomes_the_object_that_one_would_write_by_hand() {
        let body = b"{\"statusCode\":201,\"cookies\":[\"a=1\"]}\0\0\0\0\0\0\0\0hello";
        let value: Value =
            serde_json::from_str(response(HTTP_INTEGRATION, body).unwrap().get()).unwrap();
        let expected = json!({
            "statusCode": 201, "headers": {}, "cookies": ["a=1"], "body": "hello",
            "isBase64Encoded": false,
        });
        assert_eq!(value, expected);
        let binary = response(HTTP_INTEGRATION, b"{}\0\0\0\0\0\0\0\0\xff").unwrap();
        assert!(binary.get().contains(r#""body":"/w==""#) && binary.get().contains("true"));
        for body in [&b"{}"[..], b"[]\0\0\0\0\0\0\0\0", b""] {
            assert_eq!(response(HTTP_INTEGRATION, body).unwrap_err().kind, Kind::InvalidOutput);
        }
    }

    #[test]
    fn a_runtimes_error_is_passed_on_whole() {
        let body =
            br#"{"errorMessage":"no order","errorType":"ValueError","stackTrace":["a","b"]}"#;
        let error = of_error(Kind::FunctionFailed, Some("unhandled"), body);
        assert_eq!(error.message, "ValueError: no order");
        assert_eq!(error.detail.unwrap()["stackTrace"], json!(["a", "b"]));
        let error = of_error(Kind::FunctionFailed, Some("Runtime.BadThing"), b"not JSON");
        assert_eq!(error.message, "Runtime.BadThing: not JSON");
        let error = of_error(Kind::FunctionFailed, None, b"{}");
        assert_eq!(error.message, "Runtime.Unknown: the runtime gave no message");
    }

    #[test]
    fn of_an_error_that_is_too_large_the_beginning_is_passed_on() {
        let stack = vec!["File \"/var/task/main.py\", line 7, in f"; 3000];
        let body =
            json!({"errorMessage": "too deep", "errorType": "RecursionError", "stackTrace": stack});
        let error = of_error(Kind::FunctionFailed, None, body.to_string().as_bytes());
        assert_eq!(error.message, "RecursionError: too deep");
        let detail = error.detail.unwrap();
        let frames = detail["stackTrace"].as_array().unwrap();
        assert_eq!((frames.len(), frames[50].as_str()), (51, Some("... 2950 more")));
        for body in [json!({"errorMessage": "\u{1}".repeat(300_000)}), json!(vec![1; 100_000])] {
            let error = of_error(Kind::FunctionFailed, None, body.to_string().as_bytes());
            assert!(error.detail.unwrap().to_string().len() <= ERROR_DETAIL_MAX_BYTES);
        }
    }

    #[test]
    fn types_of_errors_have_two_forms() {
        let cases = [
            ("Runtime.ExitError", "Runtime.ExitError"),
            ("Function.Bad", "Function.Bad"),
            ("Function.bad", "Function.Unknown"),
            ("Runtime.bad", "Runtime.Unknown"),
            ("Runtime.A1", "Runtime.Unknown"),
            ("unhandled", "Runtime.Unknown"),
        ];
        for (given, known) in cases {
            assert_eq!(known_type(Some(given)), known);
        }
    }

    #[test]
    fn a_stream_that_failed_is_a_failure() {
        let trailers = Trailers {
            error_type: Some("Function.StreamError".into()),
            error_body: br#"{"errorMessage":"half way","errorType":"StreamError"}"#.to_vec(),
        };
        let error = of_response("", b"[1,".to_vec(), &trailers).unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (Kind::FunctionFailed, "StreamError: half way")
        );
    }
}
