//! A client for the few requests that Nova makes of Firecracker: HTTP/1.1 over its Unix socket.
//!
//! Firecracker runs as another user in a jail and parses what a guest can influence, so it is treated
//! as hostile: every answer is bounded in size and time. A refused request carries Firecracker's own
//! `fault_message`, which is what an operator needs to read.
use super::api_types::{Action, Fault, InstanceAction, InstanceInfo};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Most bytes of an answer. Firecracker's are below 1 KiB; its own limit for requests is 50 KiB.
const RESPONSE_MAX_BYTES: usize = 64 * 1024;

/// Most bytes of a `fault_message` that an error repeats.
const FAULT_MAX_CHARS: usize = 512;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Firecracker said no.
    #[error("firecracker refused {method} {path} with status {status}: {fault}")]
    Refused { method: Method, path: String, status: StatusCode, fault: String },
    /// The connection broke or was never made.
    #[error("{method} {path}: {source}")]
    Broken {
        method: Method,
        path: String,
        #[source]
        source: hyper::Error,
    },
    /// The answer cannot be read: too long, cut off, or not what the API promises.
    #[error("{method} {path}: the answer is unusable: {problem}")]
    Unusable { method: Method, path: String, problem: String },
    /// No answer in time.
    #[error("{method} {path}: no answer within {timeout_ms} ms")]
    Timeout { method: Method, path: String, timeout_ms: u128 },
}

/// One connection to one Firecracker. Requests go one after the other.
pub(crate) struct ApiClient {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
    timeout: Duration,
}

impl ApiClient {
    /// Speaks HTTP over a connected socket; each request may take `timeout`.
    pub(crate) async fn over(stream: UnixStream, timeout: Duration) -> Result<Self, hyper::Error> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // A broken connection shows up as the error of the request that needed it.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, connection, timeout })
    }

    /// Who answers: also shows that the API is served.
    pub(crate) async fn instance_info(&mut self) -> Result<InstanceInfo, ApiError> {
        self.request(Method::GET, "/", Bytes::new()).await.and_then(parse)
    }

    /// Sets one resource.
    pub(crate) async fn put(&mut self, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
        let json = serde_json::to_vec(body).map_err(|error| ApiError::Unusable {
            method: Method::PUT,
            path: path.to_owned(),
            problem: format!("the request cannot be written as JSON: {error}"),
        })?;
        self.request(Method::PUT, path, json.into()).await.map(drop)
    }

    /// Powers the machine on.
    pub(crate) async fn start_instance(&mut self) -> Result<(), ApiError> {
        self.put("/actions", &InstanceAction { action_type: Action::InstanceStart }).await
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, ApiError> {
        let timeout = self.timeout;
        let exchange = self.exchange(method.clone(), path, body);
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::Timeout {
                method,
                path: path.to_owned(),
                timeout_ms: timeout.as_millis(),
            }),
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, ApiError> {
        let path = path.to_owned();
        let unusable = |problem: String| ApiError::Unusable {
            method: method.clone(),
            path: path.clone(),
            problem,
        };
        let request = Request::builder()
            .method(method.clone())
            .uri(&path)
            .header(header::HOST, "firecracker")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| unusable(error.to_string()))?;
        let broken =
            |source| ApiError::Broken { method: method.clone(), path: path.clone(), source };
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), RESPONSE_MAX_BYTES)
            .collect()
            .await
            .map_err(|error| unusable(error.to_string()))?
            .to_bytes();
        if status.is_success() {
            return Ok(Answer { method, path, body });
        }
        Err(ApiError::Refused { method, path, status, fault: fault_message(&body) })
    }
}

impl Drop for ApiClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

struct Answer {
    method: Method,
    path: String,
    body: Bytes,
}

fn parse<T: DeserializeOwned>(answer: Answer) -> Result<T, ApiError> {
    let Answer { method, path, body } = answer;
    serde_json::from_slice(&body).map_err(|error| ApiError::Unusable {
        method,
        path,
        problem: error.to_string(),
    })
}

/// Firecracker's explanation, or the start of whatever came instead.
fn fault_message(body: &[u8]) -> String {
    let text = serde_json::from_slice::<Fault>(body)
        .map(|fault| fault.fault_message)
        .unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(FAULT_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firecracker::api_types::Vsock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A client whose Firecracker answers the first request with these bytes, then closes.
    async fn answered_with(answer: String) -> ApiClient {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            assert!(theirs.read(&mut request).await.unwrap() > 0);
            // The client may hang up before it has read everything.
            theirs.write_all(answer.as_bytes()).await.ok();
        });
        ApiClient::over(ours, Duration::from_secs(5)).await.unwrap()
    }

    fn vsock() -> Vsock {
        Vsock { guest_cid: 3, uds_path: "v.sock".into() }
    }

    #[tokio::test]
    async fn a_refusal_quotes_the_fault_message() {
        let body = r#"{"fault_message":"The kernel file cannot be opened"}"#;
        let answer =
            format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let error = answered_with(answer).await.put("/boot-source", &vsock()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "firecracker refused PUT /boot-source with status 400 Bad Request: \
             The kernel file cannot be opened"
        );
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 999999999\r\n\r\n{}",
            "x".repeat(RESPONSE_MAX_BYTES + 1)
        );
        let error = answered_with(answer).await.put("/vsock", &vsock()).await.unwrap_err();
        assert!(matches!(error, ApiError::Unusable { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_closed_connection_is_an_error_that_names_the_request() {
        let error = answered_with(String::new()).await.put("/vsock", &vsock()).await.unwrap_err();
        assert!(matches!(error, ApiError::Broken { .. }), "{error}");
        assert!(error.to_string().starts_with("PUT /vsock: "));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_in_a_timeout() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut client = ApiClient::over(ours, Duration::from_secs(5)).await.unwrap();
        let error = client.instance_info().await.unwrap_err();
        assert_eq!(error.to_string(), "GET /: no answer within 5000 ms");
    }

    #[tokio::test]
    async fn the_version_is_read_from_the_instance_info() {
        let body =
            r#"{"id":"a","state":"Not started","vmm_version":"1.12.1","app_name":"Firecracker"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let info = answered_with(answer).await.instance_info().await.unwrap();
        assert_eq!(info.vmm_version, "1.12.1");
    }
}
