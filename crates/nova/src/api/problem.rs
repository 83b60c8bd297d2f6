//! Errors as a client sees them: RFC 9457 problem documents with a stable `code`.
//!
//! What the parts below report as errors is turned into problems here and nowhere else.
pub use super::code_list::ErrorCode;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use nova_domain::{InvalidField, RequestId};
use nova_engine::InvokeError;
use nova_store::{StoreError, VaultError};
use nova_vm::images::code::{CodeError, CodeErrorKind};
use serde::Serialize;

/// Carries a call's id in an answer, also where the body is a problem.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-nova-request-id");

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
#[derive(Debug, Clone)]
pub struct Problem {
    code: ErrorCode,
    detail: String,
    errors: Vec<FieldProblem>,
    request_id: Option<RequestId>,
    retry_after_s: Option<u64>,
}

/// The document as it is sent.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem of this code; `detail` says what happened and what to do.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { code, detail, errors: Vec::new(), request_id: None, retry_after_s: None }
    }

    fn document(&self) -> Document<'_> {
        Document {
            kind: format!("urn:nova:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code.as_str(),
            detail: &self.detail,
            errors: &self.errors,
            request_id: self.request_id,
            retry_after_s: self.retry_after_s,
        }
    }

    /// The document as JSON.
    #[cfg(test)]
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self.document()).unwrap()
    }

    /// A problem about fields, of code `code`; the detail is put together from them.
    pub fn fields(code: ErrorCode, fields: Vec<InvalidField>) -> Self {
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
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// A mistake of ours: logged in full, told in general.
    pub fn internal(what: &str, error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "{what}");
        Self::new(ErrorCode::Internal, format!("{what}; the daemon's log says more"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document()).unwrap_or_default();
        let mut response = (self.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == ErrorCode::Unauthenticated {
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
        Self::fields(ErrorCode::InvalidField, vec![error])
    }
}

impl From<CodeError> for Problem {
    fn from(error: CodeError) -> Self {
        let code = match error.kind {
            CodeErrorKind::TooLarge => ErrorCode::CodeTooLarge,
            CodeErrorKind::NotAnArchive | CodeErrorKind::Broken | CodeErrorKind::Entry => {
                ErrorCode::InvalidCode
            }
        };
        Self::fields(code, vec![error.into()])
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { .. } | StoreError::Changed { .. } => {
                Self::new(ErrorCode::Conflict, error.to_string())
            }
            StoreError::NotFound { .. } => {
                Self::new(ErrorCode::FunctionNotFound, error.to_string())
            }
            StoreError::BadCursor => Self::from(InvalidField::new(
                "cursor",
                "not one that this list gave out",
                "use `next_cursor` of the page before, or leave it out",
            )),
            StoreError::Corrupt { .. } => Self::internal("a stored row cannot be read", &error),
            StoreError::Unavailable(_) => {
                tracing::error!(%error, "store");
                Self::new(ErrorCode::StoreUnavailable, "the store does not answer; try again")
                    .retry_after(1)
            }
        }
    }
}

impl From<InvokeError> for Problem {
    fn from(error: InvokeError) -> Self {
        // One list of codes, for answers and for the records of calls.
        let code = ErrorCode::named(error.code()).unwrap_or(ErrorCode::Internal);
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
                ErrorCode::SecretNotFound,
                format!("secret {name} does not exist; {}", hint(&name)),
            ),
            VaultError::NotAllowed { .. } => {
                Self::new(ErrorCode::SecretForbidden, error.to_string())
            }
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

    #[test]
    fn a_field_problem_names_field_problem_and_hint() {
        let problem = Problem::from(InvalidField::new("memory_mb", "0 is out of range", "give 64"));
        let json = problem.json();
        assert_eq!(json["code"], "invalid_field");
        assert_eq!(json["status"], 400);
        assert_eq!(json["errors"][0]["field"], "memory_mb");
        assert_eq!(json["errors"][0]["hint"], "give 64");
        assert_eq!(json["detail"], "memory_mb: 0 is out of range; give 64");
    }
}
