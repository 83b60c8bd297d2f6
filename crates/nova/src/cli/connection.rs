//! Which daemon a command talks to, and with which key.
//!
//! The address is `--url`, else what the daemon of the data directory announced, else the default. The
//! key is `NOVA_API_KEY`, else the `admin.key` that the first run left in the data directory. That
//! file is used for a loopback address only: the key of this host is not for other hosts.
use super::client::Client;
use crate::config::default_data_dir;
use crate::data_dir::{admin_key, announced_url};
use anyhow::Context;
use clap::Args;
use reqwest::Url;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where a daemon listens unless told otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:9000";

/// Accepted by every command.
#[derive(Debug, Args)]
pub struct DataDirArgs {
    /// The daemon's data directory [default: /var/lib/nova for root, ~/.local/share/nova otherwise]
    #[arg(long, global = true, env = "NOVA_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Accepted by the commands that talk to a daemon.
#[derive(Debug, Args)]
pub struct UrlArgs {
    /// The daemon to talk to; its key is taken from NOVA_API_KEY
    #[arg(long, global = true, env = "NOVA_URL", value_name = "URL")]
    url: Option<String>,
}

impl DataDirArgs {
    /// The data directory, if one was named.
    pub fn given(&self) -> Option<PathBuf> {
        self.data_dir.clone()
    }

    /// The data directory.
    pub fn path(&self) -> PathBuf {
        self.given().unwrap_or_else(default_data_dir)
    }
}

impl UrlArgs {
    /// A client of the daemon.
    pub fn client(&self, data_dir: &DataDirArgs) -> anyhow::Result<Client> {
        let data_dir = data_dir.path();
        let url = match &self.url {
            Some(url) => url.clone(),
            None => announced_url(&data_dir).unwrap_or_else(|| DEFAULT_URL.to_owned()),
        };
        let url = Url::parse(&url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .with_context(|| format!("`{url}` is not an address; write it as {DEFAULT_URL}"))?;
        let given = std::env::var("NOVA_API_KEY").ok().filter(|key| !key.trim().is_empty());
        let key = match given {
            Some(key) => Some(key.trim().to_owned()),
            None if is_loopback(&url) => admin_key(&data_dir),
            None => None,
        };
        Client::new(url, key)
    }
}

/// Whether the address is this host.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
