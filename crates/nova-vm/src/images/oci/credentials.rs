//! Who one is to a registry: what was given, or what `docker login` has kept in its configuration.
use super::OciError;
use base64::Engine;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// Most bytes of a configuration of Docker's.
const CONFIG_MAX_BYTES: u64 = 1024 * 1024;
/// How Docker's own registry is called in its configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A secret that is never shown. It is kept in memory only, for one import.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Takes the password itself.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// A name and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// Their password or token.
    pub password: Password,
}

impl Credentials {
    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        let both = format!("{}:{}", self.username, self.password.0);
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
    }

    /// What `docker login` has kept for this host: in `$DOCKER_CONFIG/config.json`, by default below the
    /// home directory. Programs that keep passwords elsewhere (`credsStore`) are not asked.
    pub(super) fn of_docker(host: &str) -> Result<Option<Self>, OciError> {
        let directory = match std::env::var_os("DOCKER_CONFIG") {
            Some(directory) => PathBuf::from(directory),
            None => match std::env::var_os("HOME") {
                Some(home) => PathBuf::from(home).join(".docker"),
                None => return Ok(None),
            },
        };
        let path = directory.join("config.json");
        let mut text = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened
                .and_then(|file| file.take(CONFIG_MAX_BYTES).read_to_end(&mut text))
                .map_err(OciError::file(&path))?,
        };
        let found = find(&text, host);
        found.map_err(|problem| {
            OciError::file(&path)(io::Error::new(io::ErrorKind::InvalidData, problem))
        })
    }
}

/// The entry for a host in the text of a configuration.
fn find(text: &[u8], host: &str) -> Result<Option<Credentials>, String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: HashMap<String, Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        auth: Option<String>,
    }
    // An error of the parser could quote a secret.
    let config: Config = serde_json::from_slice(text).map_err(|_| "it is not Docker's JSON")?;
    let keys = [
        host.to_owned(),
        format!("https://{host}"),
        format!("https://{host}/v1/"),
        format!("https://{host}/v2/"),
    ];
    let hub = (host == "docker.io").then(|| DOCKER_HUB_KEY.to_owned());
    let entry = keys.into_iter().chain(hub).find_map(|key| config.auths.get(&key));
    let Some(auth) = entry.and_then(|entry| entry.auth.as_deref()).filter(|auth| !auth.is_empty())
    else {
        return Ok(None);
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|both| both.split_once(':')) {
        Some((username, password)) => Ok(Some(Credentials {
            username: username.to_owned(),
            password: Password(password.trim_end_matches('\0').to_owned()),
        })),
        None => Err(format!("its entry for {host} is not base64 of NAME:PASSWORD")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_by_its_host_and_never_shown() {
        let text = br#"{"auths": {"r.example.com:5000": {"auth": "YWRhOnB3OjE="}, "other": {}}}"#;
        let found = find(text, "r.example.com:5000").unwrap().unwrap();
        assert_eq!((&*found.username, &*found.password.0), ("ada", "pw:1"));
        assert_eq!(found.basic(), "Basic YWRhOnB3OjE=");
        assert!(!format!("{found:?}").contains("pw"), "{found:?}");
        assert_eq!(find(text, "r.example.com").unwrap(), None);
        assert_eq!(find(text, "other").unwrap(), None);
        assert!(find(b"{\"auths\": {\"h\": {\"auth\": \"?\"}}}", "h").is_err());
        assert!(!find(b"secret", "h").unwrap_err().contains("secret"));
    }
}
