//! The HTTP client of the daemon: sends JSON, turns problem documents into errors that say what to do.
use super::connection::is_loopback;
use crate::api::CLI_USER_AGENT_PREFIX;
use anyhow::Context;
use reqwest::{Method, Response, StatusCode, Url, header};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// How long a connection may take to come up. Answers have no limit of their own: a call may take
/// as long as its function may.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Items that are asked for at once when all are wanted.
const PAGE: u32 = 500;

/// A daemon.
pub struct Client {
    http: reqwest::Client,
    url: Url,
    key: Option<String>,
}

/// Why there is no answer that could be shown.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon answers at {url}: {cause}; start one with `nova daemon`, or set NOVA_URL")]
    NotRunning {
        /// Where.
        url: String,
        /// What the system said.
        cause: String,
    },
    /// The connection broke.
    #[error("the connection to {url} broke: {cause}")]
    Broken {
        /// Where.
        url: String,
        /// What the system said.
        cause: String,
    },
    /// No key, or a wrong one.
    #[error(
        "{detail}; set NOVA_API_KEY, or name the daemon's data directory with --data-dir \
         (its admin.key is used where this user may read it) [{code}]"
    )]
    Unauthenticated {
        /// The stable code.
        code: String,
        /// What the daemon said.
        detail: String,
    },
    /// The daemon refused.
    #[error(
        "{detail}{} [{code}]",
        request_id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default()
    )]
    Refused {
        /// The stable code.
        code: String,
        /// What it said.
        detail: String,
        /// The call it is about.
        request_id: Option<String>,
    },
    /// What answered is not Nova.
    #[error("{url} answered {status} and does not look like Nova; check NOVA_URL")]
    NotNova {
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
    },
}

#[derive(Deserialize)]
struct ProblemBody {
    code: String,
    detail: String,
    request_id: Option<String>,
}

impl Client {
    /// A client for the daemon at `url`.
    pub fn new(url: Url, key: Option<String>) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .user_agent(format!("{CLI_USER_AGENT_PREFIX}{}", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        if url.scheme() == "http" {
            // No certificates are needed, and a host that has none must not stop the command line.
            http = http.tls_certs_only([]);
        }
        let http = http.build().context("the HTTP client cannot be set up")?;
        Ok(Self { http, url, key })
    }

    /// Asks for a path; `query` may be empty.
    pub async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, ClientError> {
        let response = self.send(Method::GET, path, query, None).await?;
        self.json(response).await
    }

    /// Sends JSON.
    pub async fn send_json(
        &self,
        method: Method,
        path: &[&str],
        body: &Value,
    ) -> Result<Value, ClientError> {
        let body = body.to_string().into_bytes();
        let response = self.send(method, path, &[], Some(body)).await?;
        self.json(response).await
    }

    /// Sends bytes and gives the bytes of the answer.
    pub async fn post_raw(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Vec<u8>, ClientError> {
        let response = self.send(Method::POST, path, query, Some(body)).await?;
        let bytes = response.bytes().await.map_err(|error| self.broken(&error))?;
        Ok(bytes.into())
    }

    /// Uploads bytes.
    pub async fn put_raw(&self, path: &[&str], body: Vec<u8>) -> Result<Value, ClientError> {
        let response = self.send(Method::PUT, path, &[], Some(body)).await?;
        self.json(response).await
    }

    /// Deletes.
    pub async fn delete(&self, path: &[&str]) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, &[], None).await.map(|_| ())
    }

    /// All items of a list.
    pub async fn list(&self, path: &[&str]) -> Result<Vec<Value>, ClientError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("limit", PAGE.to_string())];
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let mut page = self.get(path, &query).await?;
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            match page["next_cursor"].take() {
                Value::String(next) => cursor = Some(next),
                _ => return Ok(items),
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Response, ClientError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                let cause = innermost(&error);
                return ClientError::NotRunning { url: self.url.to_string(), cause };
            }
            self.broken(&error)
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.map_err(|error| self.broken(&error))?;
        match serde_json::from_slice::<ProblemBody>(&bytes) {
            Ok(problem) if status == StatusCode::UNAUTHORIZED => {
                let ProblemBody { code, detail, .. } = problem;
                Err(ClientError::Unauthenticated { code, detail })
            }
            Ok(ProblemBody { code, detail, request_id }) => {
                Err(ClientError::Refused { code, detail, request_id })
            }
            Err(_) => Err(ClientError::NotNova { url: self.url.to_string(), status }),
        }
    }

    async fn json(&self, response: Response) -> Result<Value, ClientError> {
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&bytes)
            .map_err(|_| ClientError::NotNova { url: self.url.to_string(), status })
    }

    fn broken(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Broken { url: self.url.to_string(), cause: innermost(error) }
    }
}

/// The cause that says something: the outer ones only repeat that a request failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
