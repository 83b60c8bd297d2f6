//! Runs `nft`, the only command that the network uses. [`super::rules`] has what it is told.
use super::NetworkError;
use serde::Deserialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `nft` is on the distributions we know. Absolute, because searching costs a fork.
const NFT_PATHS: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// Which program loads rulesets.
#[derive(Debug, Clone)]
pub(crate) struct Firewall {
    nft: PathBuf,
}

impl Firewall {
    /// Finds `nft`.
    pub(crate) fn find() -> Result<Self, NetworkError> {
        let found = NFT_PATHS.iter().map(Path::new).find(|path| path.exists());
        found
            .map(|path| Self { nft: path.to_owned() })
            .ok_or_else(|| NetworkError::failed("nft", "not found; install the package nftables"))
    }

    /// Loads a ruleset in the calling thread's namespace: all of it or nothing.
    pub(crate) fn load(&self, what: &str, ruleset: &str) -> Result<(), NetworkError> {
        let failed = |error: &dyn std::fmt::Display| {
            NetworkError::failed(format!("firewall ({what})"), error)
        };
        let mut child = Command::new(&self.nft)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        // Dropped at the end of the statement, so that nft sees the end of its input. If nft goes
        // early, what it says is the better error.
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(ruleset.as_bytes()));
        let output = child.wait_with_output().map_err(|error| failed(&error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(&said.lines().next().unwrap_or("nft failed without a word")));
        }
        written.transpose().map(|_| ()).map_err(|error| failed(&error))
    }

    /// Whether the calling thread's namespace has this table, in the families `inet` and `bridge`.
    pub(super) fn has(&self, table: &str) -> Result<bool, NetworkError> {
        let tables = self.list(&["list", "tables"])?;
        let both = [format!("table inet {table}"), format!("table bridge {table}")];
        Ok(both.iter().all(|wanted| tables.lines().any(|line| line == wanted)))
    }

    /// Base chains of others, in the calling thread's namespace, that drop forwarded packets unless
    /// a rule accepts them; as people name them, for example `ip filter FORWARD`.
    pub(super) fn forward_droppers(&self, own_table: &str) -> Result<Vec<String>, NetworkError> {
        let text = self.list(&["-j", "list", "chains"])?;
        let listing: Listing = serde_json::from_str(&text)
            .map_err(|error| NetworkError::failed("list of firewall chains", error))?;
        Ok(listing
            .nftables
            .into_iter()
            .filter_map(|entry| entry.chain)
            .filter(|chain| {
                chain.table != own_table
                    && matches!(chain.family.as_str(), "ip" | "inet")
                    && chain.hook.as_deref() == Some("forward")
                    && chain.policy.as_deref() == Some("drop")
            })
            .map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name))
            .collect())
    }

    fn list(&self, arguments: &[&str]) -> Result<String, NetworkError> {
        let failed =
            |error: &dyn std::fmt::Display| NetworkError::failed("list of the firewall", error);
        let output = Command::new(&self.nft)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(&error))?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr).trim_end()));
        }
        String::from_utf8(output.stdout).map_err(|error| failed(&error))
    }
}

/// What `nft -j list chains` prints, as far as it matters here.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    chain: Option<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}
