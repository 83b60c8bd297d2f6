//! An image's configuration: how its program is started, and the hashes of its unpacked layers.
use super::OciError;
use super::digest::Digest;
use super::error::quote;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most words of entrypoint and command together.
const WORDS_MAX: usize = 256;
/// Most bytes of entrypoint, command and environment together: they travel in one message to the guest,
/// and Linux hands a program at most 2 MiB.
const START_MAX_BYTES: usize = 256 * 1024;

/// What is used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::images) struct ImageConfig {
    pub start: Start,
    /// Of the unpacked layers, the lowest first.
    pub diff_ids: Vec<Digest>,
}

/// How the image's author has it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::images) struct Start {
    pub env: BTreeMap<String, String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `name` or `id`, and perhaps a group behind a colon.
    pub user: String,
    /// Absolute.
    pub working_dir: String,
    /// TCP ports that it says it listens at.
    pub ports: Vec<u16>,
}

#[derive(Deserialize)]
struct Raw {
    architecture: String,
    os: String,
    config: Option<RawStart>,
    rootfs: RawRoot,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawStart {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawRoot {
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads and checks it.
    pub fn parse(bytes: &[u8]) -> Result<Self, OciError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| {
            OciError::refused(format!("its configuration cannot be read: {error}"))
        })?;
        if raw.os != "linux" || raw.architecture != "amd64" {
            let made_for = quote(format!("{}/{}", raw.os, raw.architecture));
            let problem = format!("it is not made for linux/amd64, but for {made_for}");
            return Err(OciError::refused(problem));
        }
        let start = raw.config.unwrap_or_default().checked()?;
        Ok(Self { start, diff_ids: raw.rootfs.diff_ids })
    }
}

impl RawStart {
    fn checked(self) -> Result<Start, OciError> {
        let (entrypoint, cmd) = (self.entrypoint.unwrap_or_default(), self.cmd.unwrap_or_default());
        let env = self.env.unwrap_or_default();
        let words = || entrypoint.iter().chain(&cmd);
        if words().count() > WORDS_MAX {
            let problem = format!("its entrypoint and command have over {WORDS_MAX} words");
            return Err(OciError::refused(problem));
        }
        if words().chain(&env).map(String::len).sum::<usize>() > START_MAX_BYTES {
            let problem =
                format!("its entrypoint, command and environment are over {START_MAX_BYTES} bytes");
            return Err(OciError::refused(problem));
        }
        if let Some(odd) = words().chain(&env).find(|text| text.contains('\0')) {
            return Err(OciError::refused(format!("{} has a zero byte", quote(odd))));
        }
        let mut variables = BTreeMap::new();
        for variable in env {
            match variable.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    variables.insert(name.to_owned(), value.to_owned());
                }
                _ => {
                    let shown = quote(&variable);
                    let problem = format!("{shown} in its environment is not NAME=value");
                    return Err(OciError::refused(problem));
                }
            }
        }
        let ports = self.exposed_ports.unwrap_or_default();
        let tcp = |port: &String| port.strip_suffix("/tcp").unwrap_or(port).parse().ok();
        Ok(Start {
            env: variables,
            entrypoint,
            cmd,
            user: self.user.unwrap_or_default(),
            working_dir: absolute(&self.working_dir.unwrap_or_default())?,
            ports: ports.keys().filter_map(tcp).collect(),
        })
    }
}

/// A path from the image's root, without parts that go up.
fn absolute(path: &str) -> Result<String, OciError> {
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if path.len() > 1024 || path.contains('\0') || parts.contains(&"..") {
        let shown = quote(path);
        return Err(OciError::refused(format!("its working directory {shown} is no plain path")));
    }
    Ok(format!("/{}", parts.join("/")))
}
