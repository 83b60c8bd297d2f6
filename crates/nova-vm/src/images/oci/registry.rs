//! A registry, by the distribution protocol (`/v2/`): manifests, and blobs into files.
//!
//! Over TLS, except to a registry on this machine or where the user says so. Nothing that is sent is kept
//! beyond its limit, and a redirect never takes a password along to another host.
use super::OciError;
use super::credentials::Credentials;
use super::digest::{Digest, Hasher};
use super::error::{chain, quote};
use super::layout::check;
use super::limits::DOCUMENT_MAX_BYTES;
use super::manifest::{ACCEPTED, Descriptor};
use super::reference::ImageName;
use super::token::{Challenge, bearer};
use reqwest::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Time to reach a registry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time in which it must send something.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects followed for a blob: registries send to where their storage is.
const REDIRECTS_MAX: usize = 5;
/// Most bytes of an error's text that is looked at.
const COMPLAINT_MAX_BYTES: u64 = 2000;
/// Where the registry of names without a host is reached.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// How to speak to a registry.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Who one is; otherwise what `docker login` has kept, or nobody.
    pub credentials: Option<Credentials>,
    /// Without TLS, also to another machine.
    pub plain_http: bool,
}

/// One repository of a registry.
pub(super) struct Registry {
    client: Client,
    host: String,
    /// `https://host/v2/repository`.
    base: String,
    scope: String,
    credentials: Option<Credentials>,
    is_plain: bool,
    /// The `Authorization` header that it has asked for.
    authorization: Mutex<Option<String>>,
}

impl Registry {
    /// For the repository of this name; nothing is sent yet.
    pub fn open(name: &ImageName, options: &RegistryOptions) -> Result<Self, OciError> {
        let ImageName { host, repository, .. } = name;
        let is_plain = options.plain_http || is_this_machine(host);
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
            .https_only(!is_plain)
            .user_agent(concat!("nova/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client
            .map_err(|error| OciError::Registry { host: host.clone(), problem: chain(&error) })?;
        let credentials = match &options.credentials {
            Some(given) => Some(given.clone()),
            None => Credentials::of_docker(host)?,
        };
        Ok(Self {
            client,
            host: host.clone(),
            base: base(name, is_plain),
            scope: format!("repository:{repository}:pull"),
            credentials,
            is_plain,
            authorization: Mutex::default(),
        })
    }

    /// A manifest by its tag or digest, with the digest of what came. One that was named by digest is that.
    pub async fn manifest(&self, wanted: &str) -> Result<(Digest, Vec<u8>), OciError> {
        let answer = self.get(&format!("manifests/{wanted}"), ACCEPTED).await?;
        let bytes = self.small(answer).await?;
        let digest = Digest::of(&bytes);
        if wanted.contains(':') && digest != Digest::parse(wanted)? {
            return Err(OciError::refused(format!(
                "the registry's manifest for {wanted} has the digest {digest}"
            )));
        }
        Ok((digest, bytes))
    }

    /// A small blob, verified.
    pub async fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, OciError> {
        let answer = self.get(&format!("blobs/{}", wanted.digest), "*/*").await?;
        let bytes = self.small(answer).await?;
        check(wanted, bytes.len() as u64, &Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// A blob into the new file `path`, verified; `tell` hears how much is there.
    pub async fn blob(
        &self,
        wanted: &Descriptor,
        path: &Path,
        tell: impl Fn(u64),
    ) -> Result<(), OciError> {
        let mut answer = self.get(&format!("blobs/{}", wanted.digest), "*/*").await?;
        let mut file = tokio::fs::File::create_new(path).await.map_err(OciError::file(path))?;
        let mut hasher = Hasher::default();
        let mut bytes = 0;
        while let Some(piece) = answer.chunk().await.map_err(|error| self.broken(&error))? {
            bytes += piece.len() as u64;
            if bytes > wanted.size {
                break;
            }
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(OciError::file(path))?;
            tell(bytes);
        }
        file.flush().await.map_err(OciError::file(path))?;
        check(wanted, bytes, &hasher.digest())
    }

    /// Asks, and says who it is where the registry wants to know.
    async fn get(&self, path: &str, accept: &str) -> Result<Response, OciError> {
        let answer = self.send(path, accept).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.checked(answer, path).await;
        }
        let challenge =
            answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let authorization = match challenge.and_then(Challenge::parse) {
            Some(Challenge::Basic) => self.credentials.as_ref().map(Credentials::basic),
            Some(Challenge::Bearer { realm, service }) => {
                if !self.is_plain && !realm.starts_with("https://") {
                    let problem = format!("it wants the password at {}", quote(&realm));
                    return Err(self.problem(problem));
                }
                let token = bearer(&self.client, &realm, service, &self.scope, &self.credentials);
                Some(token.await.map_err(|problem| self.problem(problem))?)
            }
            None => None,
        };
        let Some(authorization) = authorization else {
            return self.checked(answer, path).await;
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        let answer = self.send(path, accept).await?;
        self.checked(answer, path).await
    }

    async fn send(&self, path: &str, accept: &str) -> Result<Response, OciError> {
        let mut request = self.client.get(format!("{}/{path}", self.base)).header(ACCEPT, accept);
        let authorization =
            self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| self.broken(&error))
    }

    /// What went wrong, in the registry's words.
    async fn checked(&self, answer: Response, path: &str) -> Result<Response, OciError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said = match read_bounded(answer, COMPLAINT_MAX_BYTES).await {
            Ok(text) if !text.is_empty() => format!(": {}", quote(text)),
            _ => String::new(),
        };
        let hint = match status {
            StatusCode::NOT_FOUND => "; check the image's name and tag",
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.credentials.is_none() => {
                "; it wants a user: --registry-username and --registry-password-stdin, or `docker login`"
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; the user or password is wrong, or may not read this"
            }
            _ => "",
        };
        Err(self.problem(format!("it answers {status} to {path}{said}{hint}")))
    }

    async fn small(&self, answer: Response) -> Result<Vec<u8>, OciError> {
        let read = read_bounded(answer, DOCUMENT_MAX_BYTES).await;
        read.map_err(|problem| self.problem(problem))
    }

    fn broken(&self, error: &reqwest::Error) -> OciError {
        self.problem(chain(error))
    }

    fn problem(&self, problem: String) -> OciError {
        OciError::Registry { host: self.host.clone(), problem }
    }
}

/// Reads at most `limit` bytes of an answer; one that is longer is refused.
pub(super) async fn read_bounded(mut answer: Response, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| chain(&error))? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(format!("it sends over {limit} bytes where a small answer is due"));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Whether this host is the one that Nova runs on: only then is TLS not needed.
fn is_this_machine(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    let address: Option<std::net::Ipv4Addr> = name.parse().ok();
    name == "localhost" || address.is_some_and(|address| address.is_loopback())
}

fn base(name: &ImageName, is_plain: bool) -> String {
    let ImageName { host, repository, .. } = name;
    let address = if host == DOCKER_HUB.0 { DOCKER_HUB.1 } else { host };
    let scheme = if is_plain { "http" } else { "https" };
    format!("{scheme}://{address}/v2/{repository}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for (host, plain) in [
            ("127.0.0.1:5000", true),
            ("localhost", true),
            ("127.9.9.9", true),
            ("localhost.example.com", false),
            ("192.168.0.1:5000", false),
            ("127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_this_machine(host), plain, "{host}");
        }
    }
}
