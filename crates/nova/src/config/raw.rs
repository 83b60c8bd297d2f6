//! What was written: keys and values from flags, environment and file, each with where it came from.
//! Nothing is understood yet except that every key is one that exists.
use crate::suggest::nearest;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Most bytes of a configuration file.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Letters that are wrong, missing, too many or swapped in a variable that was meant to be a key.
const SLIPS_MAX: usize = 2;

/// Every key. In the environment it is written `NOVA_<KEY>`, in capitals.
pub const KEYS: &[&str] = &[
    "listen",
    "data_dir",
    "backend",
    "log_format",
    "insecure_no_auth",
    "allowed_hosts",
    "code_paths",
    "master_key_file",
    "artifacts",
    "firecracker_dir",
    "oci_runtime",
    "network_range",
    "resolvers",
    "probe_timeout",
    "boot_timeout",
    "drain_timeout",
    "idle_ttl",
    "vms_max",
    "memory_max_mb",
    "build_env",
    "build_allow",
];

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` in {origin}; {hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it was written.
        origin: Origin,
        /// What may have been meant.
        hint: String,
    },
    /// A value that means nothing for its key.
    #[error("{key} ({origin}): {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// Where it was written.
        origin: Origin,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In this variable.
    Environment(String),
    /// In the environment.
    Variables,
    /// In this file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Variables => f.write_str("the environment"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// A value as it can be written in TOML, YAML or a string.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "text, a number, true or false, or a list of texts is expected")]
enum Written {
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<String>),
}

/// Values by key. A later source overrides an earlier one.
#[derive(Debug, Default)]
pub struct RawConfig {
    values: BTreeMap<&'static str, (Vec<String>, Origin)>,
}

impl RawConfig {
    /// What file, environment and `--data-dir` say; other flags are added by those who have them.
    pub fn read(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, ConfigError> {
        let mut raw = Self::default();
        if let Some(file) = file {
            raw.add_file(file)?;
        }
        let variables = std::env::vars_os();
        raw.add_environment(variables.filter_map(|(name, text)| {
            Some((name.into_string().ok()?, text.into_string().ok()?))
        }))?;
        raw.add_flag("data_dir", data_dir.map(|path| path.display().to_string()));
        Ok(raw)
    }

    /// Adds what a file says: TOML, or YAML where its name ends in `.yaml` or `.yml`.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let error = |problem: String| ConfigError::File { path: path.to_owned(), problem };
        let size = std::fs::metadata(path).map_err(|problem| error(problem.to_string()))?.len();
        if size > FILE_MAX_BYTES {
            return Err(error(format!("over the limit of {FILE_MAX_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|problem| error(problem.to_string()))?;
        let yaml =
            path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let written: BTreeMap<String, Written> = if yaml {
            serde_saphyr::from_str(&text).map_err(|problem| error(problem.to_string()))?
        } else {
            toml::from_str(&text).map_err(|problem| error(problem.to_string().trim().to_owned()))?
        };
        for (key, value) in written {
            self.add(&key, value, Origin::File(path.to_owned()))?;
        }
        Ok(())
    }

    /// Adds the variables of the environment that belong to a key; an empty one counts as not set.
    /// Other variables may begin with `NOVA_` too, but one that is almost a key is a slip.
    pub fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (name, text) in variables {
            let Some(written) = name.strip_prefix("NOVA_") else { continue };
            let written = written.to_ascii_lowercase();
            if let Some(key) = KEYS.iter().find(|key| name[5..] == key.to_ascii_uppercase()) {
                if !text.is_empty() {
                    self.values.insert(key, (split(&text), Origin::Environment(name)));
                }
                continue;
            }
            let near = KEYS.iter().min_by_key(|key| strsim::osa_distance(key, &written));
            if let Some(near) = near.filter(|key| strsim::osa_distance(key, &written) <= SLIPS_MAX)
            {
                let hint = format!("did you mean `NOVA_{}`?", near.to_ascii_uppercase());
                let (key, origin) = (name, Origin::Variables);
                return Err(ConfigError::UnknownKey { key, origin, hint });
            }
        }
        Ok(())
    }

    /// Adds a value from the command line, where it was given.
    pub fn add_flag(&mut self, key: &'static str, value: Option<String>) {
        if let Some(text) = value {
            self.values.insert(key, (vec![text], Origin::Flag));
        }
    }

    /// The value of a key, as `read` understands it; `None` where it was not written.
    pub fn take<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((values, origin)) = self.values.remove(key) else { return Ok(None) };
        let text = values.join(",");
        read(&text).map(Some).map_err(|problem| ConfigError::Value { key, origin, problem })
    }

    /// The list of a key, empty where it was not written.
    pub fn take_list(&mut self, key: &'static str) -> Vec<String> {
        self.values.remove(key).map(|(values, _)| values).unwrap_or_default()
    }

    fn add(&mut self, key: &str, value: Written, origin: Origin) -> Result<(), ConfigError> {
        let Some(known) = KEYS.iter().find(|known| **known == key) else {
            let hint = match nearest(key, KEYS.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are: {}", KEYS.join(", ")),
            };
            return Err(ConfigError::UnknownKey { key: key.to_owned(), origin, hint });
        };
        let values = match value {
            Written::Bool(value) => vec![value.to_string()],
            Written::Integer(value) => vec![value.to_string()],
            Written::Text(text) => vec![text],
            Written::List(list) => list,
        };
        self.values.insert(known, (values, origin));
        Ok(())
    }
}

/// Lists in a variable are separated by commas.
fn split(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}
