//! What a server's responses mean: results and failures.
use crate::call::{Failure, failure, failure_with_detail, shorten};
use crate::lambda::http::Reply;
use crate::line_protocol::{CallResult, answer_too_large};
use crate::output::{QUOTE_BYTES, into_value};
use nova_proto::{ERROR_DETAIL_MAX_BYTES, FunctionErrorKind, PAYLOAD_MAX_BYTES};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

/// Most bytes of a text that a failure repeats: with all of it escaped it stays within what may be passed on.
const TEXT_MAX_BYTES: usize = 8 * 1024;
/// From this status on a response is a failure.
const FAILURE_FROM: u16 = 400;

/// The result that a response is.
pub fn of_reply(reply: Reply) -> CallResult {
    if reply.status >= FAILURE_FROM {
        return Err(failed(&reply));
    }
    let Reply { status, content_type, body } = reply;
    // Nothing is `null`: for 204, and for servers that have nothing to say.
    if body.is_empty() {
        return Ok(RawValue::NULL.to_owned());
    }
    let body = match into_value(body) {
        Ok(value) => return Ok(value),
        Err(body) => body,
    };
    if is_json(&content_type) {
        let start = String::from_utf8_lossy(&body[..body.len().min(QUOTE_BYTES)]);
        let problem = format!("the response says {content_type}, but begins with: {start}");
        return Err(failure(FunctionErrorKind::InvalidOutput, problem));
    }
    let result = other_than_json(status, &content_type, body);
    match result {
        Ok(value) if value.get().len() > PAYLOAD_MAX_BYTES => Err(answer_too_large()),
        other => other,
    }
}

/// A page or a picture, as one would write it by hand for an HTTP gateway.
fn other_than_json(status: u16, content_type: &str, body: Vec<u8>) -> CallResult {
    let (text, is_base64) = match String::from_utf8(body) {
        Ok(text) => (text, false),
        Err(error) => {
            use base64::Engine;
            (base64::engine::general_purpose::STANDARD.encode(error.as_bytes()), true)
        }
    };
    let response = json!({
        "statusCode": status,
        "headers": {"content-type": content_type},
        "body": text,
        "isBase64Encoded": is_base64,
    });
    let unwritable = |_| failure(FunctionErrorKind::InvalidOutput, "the response is no text");
    to_raw_value(&response).map_err(unwritable)
}

/// The failure that a response is: its status, and its body as JSON or text.
fn failed(reply: &Reply) -> Failure {
    let status = reply.status;
    let body = serde_json::from_slice::<Value>(&reply.body).ok();
    let text = String::from_utf8_lossy(&reply.body[..reply.body.len().min(TEXT_MAX_BYTES)]);
    let detail = |body: Value| json!({"statusCode": status, "body": body});
    let whole = body.map(detail).filter(fits);
    let cut = || detail(Value::String(text.clone().into_owned()));
    let detail = whole.or_else(|| Some(cut()).filter(fits));
    let shown = shorten(text.trim().to_owned(), QUOTE_BYTES);
    let message = match shown.as_str() {
        "" => format!("the function's server answered {status}"),
        shown => format!("the function's server answered {status}: {shown}"),
    };
    failure_with_detail(message, detail)
}

/// Whether it is within the limit when it is written: numbers and escapes may have grown.
fn fits(detail: &Value) -> bool {
    detail.to_string().len() <= ERROR_DETAIL_MAX_BYTES
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(status: u16, content_type: &str, body: &[u8]) -> CallResult {
        of_reply(Reply { status, content_type: content_type.into(), body: body.to_vec() })
    }

    #[test]
    fn json_is_the_result_whatever_it_is_called() {
        assert_eq!(result(200, "application/json", b"{\"a\": 1}\n").unwrap().get(), "{\"a\": 1}");
        assert_eq!(result(201, "text/plain", b"7").unwrap().get(), "7");
        assert_eq!(result(204, "", b"").unwrap().get(), "null");
        let error = result(200, "application/json; charset=utf-8", b"NaN").unwrap_err();
        assert_eq!(error.kind, FunctionErrorKind::InvalidOutput);
        assert!(error.message.ends_with("begins with: NaN"), "{}", error.message);
    }

    #[test]
    fn anything_else_is_told_with_its_type() {
        let value = |answer: CallResult| serde_json::from_str::<Value>(answer.unwrap().get());
        let page = value(result(200, "text/html", b"<p>hello</p>")).unwrap();
        let expected = json!({"statusCode": 200, "headers": {"content-type": "text/html"},
            "body": "<p>hello</p>", "isBase64Encoded": false});
        assert_eq!(page, expected);
        let binary = value(result(200, "image/png", b"\xff")).unwrap();
        assert_eq!((&binary["body"], &binary["isBase64Encoded"]), (&json!("/w=="), &json!(true)));
        let large = "\u{1}".repeat(PAYLOAD_MAX_BYTES / 2);
        let error = result(200, "text/plain", large.as_bytes()).unwrap_err();
        assert_eq!(error.kind, FunctionErrorKind::OutputTooLarge);
    }

    #[test]
    fn a_status_of_400_or_more_is_a_failure_with_the_body() {
        let error = result(422, "application/json", br#"{"missing": "id"}"#).unwrap_err();
        assert_eq!(error.kind, FunctionErrorKind::FunctionFailed);
        assert_eq!(error.message, r#"the function's server answered 422: {"missing": "id"}"#);
        let expected = json!({"statusCode": 422, "body": {"missing": "id"}});
        assert_eq!(error.detail, Some(expected));
        let error = result(500, "text/plain", &b"\x01".repeat(1_000_000)).unwrap_err();
        assert!(error.detail.unwrap()["body"].as_str().unwrap().len() <= TEXT_MAX_BYTES);
        assert_eq!(result(404, "", b"").unwrap_err().message, "the function's server answered 404");
    }
}
