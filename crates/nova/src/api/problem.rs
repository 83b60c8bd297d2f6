//! Errors as a client sees them: RFC 9457 problem documents with a stable `code`.
//!
//! [`Code`] is the one list of codes; `docs/errors.md` explains each, and a test below keeps the two
//! together. What the parts below report as errors is turned into problems here and nowhere else.
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nova_domain::{InvalidField, RequestId};
use nova_engine::InvokeError;
use nova_store::{StoreError, VaultError};
use nova_vm::images::code::{CodeError, CodeErrorKind};
use serde::Serialize;

/// Carries a call's id in an answer, also where the body is a problem.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-nova-request-id");

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, for programs. Never changes meaning once released.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in the order of `docs/errors.md`.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as clients see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The code of that text.
            pub fn named(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }

            /// The HTTP status it is sent with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or has something behind it.
    InvalidJson = "invalid_json", BAD_REQUEST, "The body is not valid JSON";
    /// A field has a value that is not accepted.
    InvalidField = "invalid_field", BAD_REQUEST, "A field is not valid";
    /// A field that the endpoint does not know.
    UnknownField = "unknown_field", BAD_REQUEST, "An unknown field";
    /// Code that is refused.
    InvalidCode = "invalid_code", BAD_REQUEST, "The code was refused";
    /// The request is not complete or not HTTP that makes sense.
    BadRequest = "bad_request", BAD_REQUEST, "The request makes no sense";
    /// No key, or one that is not known.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A valid API key is needed";
    /// The key does not allow this.
    Forbidden = "forbidden", FORBIDDEN, "The API key does not allow this";
    /// The function may not use that secret.
    SecretForbidden = "secret_forbidden", FORBIDDEN, "The function may not use the secret";
    /// The `Host` header names somebody else.
    HostNotAllowed = "host_not_allowed", FORBIDDEN, "The Host header is not allowed";
    /// No such function.
    FunctionNotFound = "function_not_found", NOT_FOUND, "No such function";
    /// No such invocation.
    InvocationNotFound = "invocation_not_found", NOT_FOUND, "No such invocation";
    /// No such secret.
    SecretNotFound = "secret_not_found", NOT_FOUND, "No such secret";
    /// No such path.
    RouteNotFound = "route_not_found", NOT_FOUND, "No such path";
    /// The path does not know this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The path does not know this method";
    /// The name is taken.
    FunctionExists = "function_exists", CONFLICT, "The function exists already";
    /// Somebody else changed it meanwhile.
    Conflict = "conflict", CONFLICT, "Changed by somebody else meanwhile";
    /// The body is over its limit.
    PayloadTooLarge = "payload_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The code is over a limit.
    CodeTooLarge = "code_too_large", PAYLOAD_TOO_LARGE, "The code is too large";
    /// As many callers as may wait are waiting already.
    Saturated = "saturated", TOO_MANY_REQUESTS, "Too many calls are waiting";
    /// The call waited for a VM as long as its function may run.
    AcquireTimeout = "acquire_timeout", TOO_MANY_REQUESTS, "No VM became free in time";
    /// The function's runtime has no image here any more.
    RuntimeNotInstalled = "runtime_not_installed", CONFLICT, "The runtime is not installed";
    /// The function's runtime cannot run its mode.
    ModeNotSupported = "mode_not_supported", CONFLICT, "The runtime has no such mode";
    /// A secret that the function refers to is gone.
    SecretMissing = "secret_missing", CONFLICT, "A secret of the function is missing";
    /// A secret cannot be opened or cannot be a variable.
    SecretUnusable = "secret_unusable", CONFLICT, "A secret of the function cannot be used";
    /// One VM of the function is larger than the host allows.
    ExceedsHostMemory = "exceeds_host_memory", SERVICE_UNAVAILABLE, "The function needs more memory than this host gives";
    /// Nothing here can run functions.
    BackendUnavailable = "backend_unavailable", SERVICE_UNAVAILABLE, "No backend that can run functions";
    /// No guest came up.
    BootFailed = "boot_failed", SERVICE_UNAVAILABLE, "The function's VM could not be started";
    /// The daemon is stopping.
    ShuttingDown = "shutting_down", SERVICE_UNAVAILABLE, "The daemon is stopping";
    /// The store does not answer.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, "The store does not answer";
    /// The guest was lost; the function may have run.
    GuestLost = "guest_lost", BAD_GATEWAY, "The function's VM was lost during the call";
    /// The function ran into its timeout.
    FunctionTimeout = "function_timeout", GATEWAY_TIMEOUT, "The function ran into its timeout";
    /// The client sends its body too slowly.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    /// A bug, or a damaged installation.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something is wrong inside Nova";
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// The field, with dots for nesting.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be accepted.
    pub hint: String,
}

/// An answer that is an error.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    #[serde(serialize_with = "code_as_text")]
    code: Code,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem of this code; `detail` says what happened and what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:nova:problem:{}", code.as_str()),
            title: code.title(),
            status: code.status().as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            request_id: None,
            retry_after_s: None,
        }
    }

    /// A problem about fields, of code `code`; the detail is put together from them.
    pub fn fields(code: Code, fields: Vec<InvalidField>) -> Self {
        let sentences: Vec<String> = fields.iter().map(ToString::to_string).collect();
        let mut problem = Self::new(code, sentences.join(". "));
        problem.errors = fields
            .into_iter()
            .map(|InvalidField { field, problem, hint }| FieldProblem { field, problem, hint })
            .collect();
        problem
    }

    /// Says which call it is about.
    pub fn of_request(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// Says when to try again, seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Which kind of problem it is.
    #[cfg(test)]
    pub fn code(&self) -> Code {
        self.code
    }

    /// A mistake of ours: logged in full, told in general.
    pub fn internal(what: &str, error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "{what}");
        Self::new(Code::Internal, format!("{what}; the daemon's log says more"))
    }
}

fn code_as_text<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.as_str())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(value) =
            self.request_id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok())
        {
            headers.insert(REQUEST_ID_HEADER, value);
        }
        response
    }
}

impl From<InvalidField> for Problem {
    fn from(error: InvalidField) -> Self {
        Self::fields(Code::InvalidField, vec![error])
    }
}

impl From<CodeError> for Problem {
    fn from(error: CodeError) -> Self {
        let code = match error.kind {
            CodeErrorKind::TooLarge => Code::CodeTooLarge,
            CodeErrorKind::NotAnArchive | CodeErrorKind::Broken | CodeErrorKind::Entry => {
                Code::InvalidCode
            }
        };
        Self::fields(code, vec![error.into()])
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { .. } | StoreError::Changed { .. } => {
                Self::new(Code::Conflict, error.to_string())
            }
            StoreError::NotFound { .. } => Self::new(Code::FunctionNotFound, error.to_string()),
            StoreError::BadCursor => Self::from(InvalidField::new(
                "cursor",
                "not one that this list gave out",
                "use `next_cursor` of the page before, or leave it out",
            )),
            StoreError::Corrupt { .. } => Self::internal("a stored row cannot be read", &error),
            StoreError::Unavailable(_) => {
                tracing::error!(%error, "store");
                Self::new(Code::StoreUnavailable, "the store does not answer; try again")
                    .retry_after(1)
            }
        }
    }
}

impl From<InvokeError> for Problem {
    fn from(error: InvokeError) -> Self {
        // One list of codes, for answers and for the records of calls.
        let code = Code::named(error.code()).unwrap_or(Code::Internal);
        if code.status().is_server_error() {
            tracing::warn!(code = code.as_str(), %error, "a call got no answer");
        }
        let mut problem = Self::new(code, error.to_string());
        problem.retry_after_s = error.retry_after_s().map(u64::from);
        problem
    }
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        let hint = |name: &nova_domain::SecretName| format!("set it with `nova secret set {name}`");
        match error {
            VaultError::NotFound(name) => Self::new(
                Code::SecretNotFound,
                format!("secret {name} does not exist; {}", hint(&name)),
            ),
            VaultError::NotAllowed { .. } => Self::new(Code::SecretForbidden, error.to_string()),
            VaultError::TooLarge(_) => Self::from(InvalidField::new(
                "value",
                error.to_string(),
                "store long data as part of the code",
            )),
            VaultError::Sealed { .. } => Self::internal("a secret cannot be opened", &error),
            VaultError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERRORS_PAGE: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md"));

    #[test]
    fn every_code_is_documented_with_its_status() {
        for code in Code::ALL {
            let row = format!("| `{}` | {} |", code.as_str(), code.status().as_u16());
            assert!(ERRORS_PAGE.contains(&row), "docs/errors.md has no row starting {row}");
        }
    }

    #[test]
    fn every_failure_of_a_function_is_documented() {
        use nova_domain::FunctionErrorKind::*;
        for kind in [
            FunctionExited,
            FunctionCrashed,
            FunctionNotStarted,
            FunctionFailed,
            Timeout,
            OutOfMemory,
            InvalidOutput,
            OutputTooLarge,
            Cancelled,
        ] {
            let text = serde_json::to_string(&kind).unwrap().replace('"', "`");
            assert!(ERRORS_PAGE.contains(&format!("| {text} |")), "docs/errors.md lacks {text}");
        }
    }

    #[test]
    fn a_field_problem_names_field_problem_and_hint() {
        let problem = Problem::from(InvalidField::new("memory_mb", "0 is out of range", "give 64"));
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["code"], "invalid_field");
        assert_eq!(json["status"], 400);
        assert_eq!(json["errors"][0]["field"], "memory_mb");
        assert_eq!(json["errors"][0]["hint"], "give 64");
        assert_eq!(json["detail"], "memory_mb: 0 is out of range; give 64");
    }
}
