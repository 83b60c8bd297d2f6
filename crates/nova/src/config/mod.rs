//! The daemon's configuration: what is meant, validated. Flags go before the environment, that before
//! the file, that before the defaults here.
mod raw;

pub use raw::{ConfigError, RawConfig};

use nova_domain::NetworkPolicy;
use nova_engine::IDLE_TTL;
use nova_vm::backend::{Backend, PROBE_TIMEOUT_DEFAULT};
use nova_vm::slots::AddressRange;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Loopback, so that nobody else is served without asking for it.
const LISTEN: &str = "127.0.0.1:9000";
/// How long a guest may take from its start to the agent's answer.
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long calls in flight may go on after SIGTERM; what service managers grant by default is longer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The OCI runtime that distributions have.
const OCI_RUNTIME: &str = "runc";
/// Where system programs are, also when `PATH` is that of an ordinary user.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How the daemon's log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one object per line.
    Json,
}

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub backend: Backend,
    pub log_format: LogFormat,
    pub insecure_no_auth: bool,
    pub allowed_hosts: Vec<String>,
    pub code_paths: Vec<PathBuf>,
    pub master_key_file: PathBuf,
    pub artifacts: Option<PathBuf>,
    pub firecracker_dir: Option<PathBuf>,
    /// Absolute.
    pub oci_runtime: PathBuf,
    pub network_range: AddressRange,
    /// `None`: those of the host.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    pub probe_timeout: Duration,
    pub boot_timeout: Duration,
    pub drain_timeout: Duration,
    pub idle_ttl: Duration,
    /// `None`: the engine's default.
    pub vms_max: Option<u32>,
    /// `None`: taken from the host's memory.
    pub memory_max_mb: Option<u64>,
    /// Variables of builds that fetch packages, for example `PIP_INDEX_URL`.
    pub build_env: BTreeMap<String, String>,
    /// What those builds may reach.
    pub build_network: NetworkPolicy,
}

impl Config {
    /// Understands what was written.
    pub fn new(mut raw: RawConfig) -> Result<Self, ConfigError> {
        let raw = &mut raw;
        let listen = raw.take("listen", parse_address)?;
        let listen = listen.map_or_else(|| parse_address(LISTEN), Ok).map_err(|problem| {
            ConfigError::Value { key: "listen", origin: raw::Origin::Flag, problem }
        })?;
        let data_dir = raw.take("data_dir", absolute)?.unwrap_or_else(default_data_dir);
        let insecure_no_auth = raw.take("insecure_no_auth", |text| {
            let on = parse_bool(text)?;
            if on && !listen.ip().is_loopback() {
                return Err(format!(
                    "without keys the daemon may only listen on loopback, not on {listen}; \
                     remove it, or listen on 127.0.0.1"
                ));
            }
            Ok(on)
        })?;
        let code_paths = raw.take_list("code_paths").into_iter().map(PathBuf::from).map(|path| {
            path.canonicalize().map_err(|error| ConfigError::File {
                path,
                problem: format!("listed under code_paths: {error}"),
            })
        });
        let build_env = raw.take("build_env", |text| text.split(',').map(variable).collect())?;
        let build_network = raw.take("build_allow", |text| {
            let networks: Vec<String> = text.split(',').map(str::to_owned).collect();
            NetworkPolicy::egress_to(&networks)
                .map_err(|error| format!("{}; {}", error.problem, error.hint))
        })?;
        Ok(Self {
            listen,
            backend: raw.take("backend", parse)?.unwrap_or_default(),
            log_format: raw.take("log_format", parse_log_format)?.unwrap_or(LogFormat::Text),
            insecure_no_auth: insecure_no_auth.unwrap_or(false),
            allowed_hosts: raw.take_list("allowed_hosts"),
            code_paths: code_paths.collect::<Result<_, _>>()?,
            master_key_file: raw
                .take("master_key_file", absolute)?
                .unwrap_or_else(|| data_dir.join("master.key")),
            artifacts: raw.take("artifacts", absolute)?,
            firecracker_dir: raw.take("firecracker_dir", absolute)?,
            oci_runtime: raw
                .take("oci_runtime", |text| program(text, &search_path()))?
                .map_or_else(|| program(OCI_RUNTIME, &search_path()), Ok)
                .unwrap_or_else(|_| Path::new("/usr/sbin").join(OCI_RUNTIME)),
            network_range: raw.take("network_range", parse)?.unwrap_or_default(),
            resolvers: raw.take("resolvers", parse_resolvers)?,
            probe_timeout: raw
                .take("probe_timeout", parse_duration)?
                .unwrap_or(PROBE_TIMEOUT_DEFAULT),
            boot_timeout: raw.take("boot_timeout", parse_duration)?.unwrap_or(BOOT_TIMEOUT),
            drain_timeout: raw.take("drain_timeout", parse_duration)?.unwrap_or(DRAIN_TIMEOUT),
            idle_ttl: raw.take("idle_ttl", parse_duration)?.unwrap_or(IDLE_TTL),
            vms_max: raw.take("vms_max", positive)?,
            memory_max_mb: raw.take("memory_max_mb", positive)?,
            build_env: build_env.unwrap_or_default(),
            build_network: build_network.unwrap_or_default(),
            data_dir,
        })
    }
}

/// Where a daemon of this user keeps everything, unless told otherwise.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/nova");
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    home.join(".local/share/nova")
}

/// The path from the root, so that it stays the same wherever a child process is started.
pub fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(Path::new(text)).map_err(|error| format!("`{text}`: {error}"))
}

/// A variable written as `NAME=value`.
fn variable(pair: &str) -> Result<(String, String), String> {
    let plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    match pair.split_once('=') {
        Some((name, value)) if plain(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{pair}` is not written as NAME=value")),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address; write it as {LISTEN}, or 0.0.0.0:9000 for everybody")
    })
}

fn parse<T: std::str::FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn parse_resolvers(text: &str) -> Result<Vec<Ipv4Addr>, String> {
    let address = |part: &str| {
        part.parse().map_err(|_| format!("`{part}` is not an IPv4 address of a name server"))
    };
    text.split(',').map(address).collect()
}

fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:{SYSTEM_PATH}")
}

/// The absolute path of a program: children are started by it, never by a name.
fn program(text: &str, search_path: &str) -> Result<PathBuf, String> {
    if text.contains('/') {
        return absolute(text);
    }
    let candidates = search_path.split(':').filter(|directory| directory.starts_with('/'));
    let found = candidates.map(|directory| Path::new(directory).join(text)).find(|at| at.is_file());
    found.ok_or_else(|| format!("there is no program `{text}`; install it or give its path"))
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is neither text nor json")),
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

fn positive<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number > T::from(0));
    number.ok_or_else(|| format!("`{text}` is not a number above 0"))
}

/// `3`, `3s`, `500ms`, `2m` or `1h`; above zero.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => 0,
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match millis {
        Some(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        _ => Err(format!("`{text}` is not a time above 0; write it as 3s, 500ms, 2m or 1h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> Result<RawConfig, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut raw = RawConfig::default();
        raw.add_file(&path).map(|()| raw)
    }

    #[test]
    fn a_flag_goes_before_the_environment_and_that_before_the_file() {
        let text = "listen = \"127.0.0.1:1\"\nbackend = \"none\"\nidle_ttl = \"5m\"\nvms_max = 7";
        let mut raw = file("nova.toml", text).unwrap();
        let environment = [("NOVA_LISTEN", "127.0.0.1:2"), ("NOVA_BACKEND", "container")];
        raw.add_environment(variables(&environment)).unwrap();
        raw.add_flag("listen", Some("127.0.0.1:3".into()));
        let config = Config::new(raw).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.backend, Backend::Container);
        assert_eq!(config.idle_ttl, Duration::from_secs(300));
        assert_eq!(config.vms_max, Some(7));
        assert_eq!(config.drain_timeout, DRAIN_TIMEOUT);
    }

    fn variables(list: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        list.iter().map(|(name, text)| (name.to_string(), text.to_string()))
    }

    #[test]
    fn a_variable_that_is_almost_a_key_is_refused_and_one_of_another_purpose_is_not() {
        for slip in ["NOVA_IDEL_TTL", "NOVA_DATADIR", "NOVA_VM_MAX", "NOVA_listen"] {
            let mut raw = RawConfig::default();
            let error = raw.add_environment(variables(&[(slip, "1")])).unwrap_err().to_string();
            assert!(error.contains(slip) && error.contains("did you mean `NOVA_"), "{error}");
        }
        let others = [
            ("NOVA_URL", "x"),
            ("NOVA_API_KEY", "x"),
            ("NOVA_CONFIG", "x"),
            ("NOVA_BIN", "x"),
            ("NOVA_E2E_BACKEND", "x"),
            ("NOVA_E2E_AUTO", "x"),
            ("NOVA_DEBIAN_MIRROR", "x"),
            ("NOVA_TESTBED_INSIDE", "x"),
            ("NOVA_LISTEN", ""),
            ("PATH", "x"),
        ];
        RawConfig::default().add_environment(variables(&others)).unwrap();
    }

    #[test]
    fn yaml_says_the_same() {
        let text = "backend: none\nprobe_timeout: 60\nallowed_hosts: [a.example, b.example]\n";
        let config = Config::new(file("nova.yaml", text).unwrap()).unwrap();
        assert_eq!(config.probe_timeout, Duration::from_secs(60));
        assert_eq!(config.allowed_hosts, ["a.example", "b.example"]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let error = file("nova.toml", "lisen = \"x\"").unwrap_err().to_string();
        assert!(error.contains("lisen") && error.contains("did you mean `listen`?"), "{error}");
        assert!(error.contains("nova.toml"), "{error}");
    }

    #[test]
    fn a_bad_value_is_refused_with_its_key_and_where_it_was_written() {
        for (text, part) in [
            ("listen = \"nowhere\"", "127.0.0.1:9000"),
            ("backend = \"docker\"", "auto, firecracker, container or none"),
            ("network_range = \"8.8.8.0/24\"", "172.30.0.0/16"),
            ("oci_runtime = \"no-such-runtime\"", "no-such-runtime"),
            ("probe_timeout = \"3 weeks\"", "3s, 500ms"),
            ("vms_max = 0", "above 0"),
            ("insecure_no_auth = true\nlisten = \"0.0.0.0:9000\"", "loopback"),
        ] {
            let error = Config::new(file("nova.toml", text).unwrap()).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("nova.toml"), "{text}: {error}");
        }
    }
}
