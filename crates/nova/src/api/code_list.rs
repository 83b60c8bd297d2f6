//! The one list of error codes. `docs/errors.md` explains each; a test below keeps the two together.
use axum::http::StatusCode;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, for programs. Never changes meaning once released.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
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

            /// The code in words.
            pub fn title(self) -> &'static str {
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
    /// No such layer.
    LayerNotFound = "layer_not_found", NOT_FOUND, "No such layer";
    /// No such path.
    RouteNotFound = "route_not_found", NOT_FOUND, "No such path";
    /// The path does not know this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The path does not know this method";
    /// The name is taken.
    FunctionExists = "function_exists", CONFLICT, "The function exists already";
    /// Functions have it.
    LayerInUse = "layer_in_use", CONFLICT, "A function uses the layer";
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
    /// The code is source, and there is no compiler for it here.
    BuilderNotInstalled = "builder_not_installed", CONFLICT, "No compiler for the function's source";
    /// The function is being built and cannot be changed.
    BuildInProgress = "build_in_progress", CONFLICT, "The function is being built";
    /// The function cannot be called before it is built.
    BuildPending = "build_pending", CONFLICT, "The function is not built yet";
    /// The function's source could not be built.
    BuildFailed = "build_failed", CONFLICT, "The function could not be built";
    /// Nothing was built of this function.
    BuildNotFound = "build_not_found", NOT_FOUND, "The function has no build";
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

#[cfg(test)]
mod tests {
    use super::*;

    const ERRORS_PAGE: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md"));

    #[test]
    fn every_code_is_documented_with_its_status() {
        for code in ErrorCode::ALL {
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
}
