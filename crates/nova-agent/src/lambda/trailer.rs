//! What a streamed response may say behind its body: that it failed after all.

/// Type of the error that ended a streamed response.
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
/// The error object, as base64.
const ERROR_BODY: &str = "lambda-runtime-function-error-body";

/// The trailers that mean something.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trailers {
    /// The function failed while it streamed; its type.
    pub error_type: Option<String>,
    /// The error object, decoded; empty where there was none or none that can be read.
    pub error_body: Vec<u8>,
}

impl Trailers {
    /// Picks them out of all.
    pub fn of(headers: &[httparse::Header<'_>]) -> Self {
        use base64::Engine;
        let find = |name: &str| {
            let found = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| header.value.trim_ascii())
        };
        let engine = base64::engine::general_purpose::STANDARD;
        Self {
            error_type: find(ERROR_TYPE).map(|value| String::from_utf8_lossy(value).into_owned()),
            error_body: find(ERROR_BODY)
                .and_then(|value| engine.decode(value).ok())
                .unwrap_or_default(),
        }
    }
}
