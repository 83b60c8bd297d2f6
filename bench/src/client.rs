//! One kept-alive HTTP connection: the same client for Nova and for the baseline.
use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A connection and what is sent over it.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    path: String,
    key: Option<String>,
}

impl Client {
    /// Connects to `authority` (`host:port`) for POSTs to `path`, with a key where there is one.
    pub async fn connect(authority: &str, path: &str, key: Option<&str>) -> Result<Self> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let key = key.map(|key| format!("Bearer {key}"));
        Ok(Self { sender, authority: authority.into(), path: path.into(), key })
    }

    /// Sends `body` and reads the whole answer.
    pub async fn post(&mut self, body: Bytes) -> Result<Bytes> {
        let mut request = Request::post(&self.path)
            .header("host", &self.authority)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", key);
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }
}
