//! Which daemon a command talks to, and with which key.
//!
//! The address is `--url`, else what the daemon of the data directory announced, else the default. The
//! key is `NOVA_API_KEY`, else the `admin.key` that the first run left in the data directory. That
//! file is used only for the daemon that runs from this directory: whoever else listens on this host, or
//! listens there after a crash, is not told the key.
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
        let announced = announced_url(&data_dir);
        let url = self.url.as_ref().or(announced.as_ref()).map_or(DEFAULT_URL, String::as_str);
        let url = parse(url)
            .with_context(|| format!("`{url}` is not an address; write it as {DEFAULT_URL}"))?;
        let given = std::env::var("NOVA_API_KEY").ok().filter(|key| !key.trim().is_empty());
        let key = match given {
            Some(key) => Some(key.trim().to_owned()),
            None => announced
                .and_then(|announced| parse(&announced))
                .filter(|announced| is_same(announced, &url))
                .and_then(|_| admin_key(&data_dir)),
        };
        Client::new(url, key)
    }
}

fn parse(url: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// Whether both are the same listener: loopback has several names.
fn is_same(one: &Url, other: &Url) -> bool {
    let same_host = one.host() == other.host() || is_loopback(one) && is_loopback(other);
    same_host && one.port_or_known_default() == other.port_or_known_default()
}

/// Whether the address is this host.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
