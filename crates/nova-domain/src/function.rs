//! A function: its configuration, its code, and the hash that tells one revision from another.
use crate::validation::{in_range, quote};
use crate::{
    Build, BuildStatus, Environment, FunctionName, InvalidField, Layers, Mode, NetworkPolicy,
    RuntimeId, SecretName,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

/// Memory of a function, MiB. Below 64 no interpreter starts; 32 GiB is Firecracker's practical top.
const MEMORY_MB: std::ops::RangeInclusive<u32> = 64..=32_768;
/// Seconds a call may take; 15 minutes is what users of AWS Lambda know.
const TIMEOUT_S: std::ops::RangeInclusive<u32> = 1..=900;
/// Replicas of one function.
const REPLICAS: std::ops::RangeInclusive<u32> = 0..=1000;
/// Calls at once in one VM.
const INSTANCE_CONCURRENCY: std::ops::RangeInclusive<u32> = 1..=100;
/// Virtual CPUs; Firecracker's own limit is 32.
const VCPUS: std::ops::RangeInclusive<u32> = 1..=32;
/// Size of `/tmp`, MiB; 0 means no limit but memory.
const TMP_MB: std::ops::RangeInclusive<u32> = 0..=32_768;
/// Most bytes of a handler's path.
const HANDLER_MAX_BYTES: usize = 255;
/// Most bytes of a description.
const DESCRIPTION_MAX_BYTES: usize = 1024;
/// Most labels, and most bytes of a label's key or value.
const LABELS_MAX: usize = 64;
/// Most secrets delivered as files.
const SECRETS_MAX: usize = 32;

/// Everything about a function that its author decides, except the code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionConfig {
    /// The runtime it is written for.
    pub runtime: RuntimeId,
    /// Path of the program in the code; in `lambda` mode `file.function`.
    pub handler: String,
    /// How it is run.
    pub mode: Mode,
    /// Memory limit, MiB.
    pub memory_mb: u32,
    /// Time limit of a call, seconds.
    pub timeout_s: u32,
    /// VMs kept running without calls.
    pub min_replicas: u32,
    /// Most VMs at once; 0 means only the host's limits hold.
    pub max_replicas: u32,
    /// Calls at once in one VM.
    pub instance_concurrency: u32,
    /// Variables, secrets by reference.
    pub env_vars: Environment,
    /// Bounds on the VM's devices.
    pub limits: Limits,
    /// Secrets delivered as files under `/run/nova/secrets`.
    pub secrets: Vec<SecretName>,
    /// Archives at `/opt`, as they were when it was last given their names.
    #[serde(default)]
    pub layers: Layers,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// Whether starts may come from a memory snapshot.
    pub snapshot: SnapshotPolicy,
    /// The author's own keys and values.
    pub labels: BTreeMap<String, String>,
    /// Free text.
    pub description: String,
}

/// Bounds on a VM's devices; 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Drive operations per second.
    pub disk_iops: u64,
    /// Drive bytes per second.
    pub disk_bandwidth: u64,
    /// Received bytes per second.
    pub net_rx_bandwidth: u64,
    /// Sent bytes per second.
    pub net_tx_bandwidth: u64,
    /// Size of `/tmp`, MiB.
    pub tmp_mb: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            vcpus: 1,
            disk_iops: 0,
            disk_bandwidth: 0,
            net_rx_bandwidth: 0,
            net_tx_bandwidth: 0,
            tmp_mb: 0,
        }
    }
}

/// Whether a function may be started from a memory snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPolicy {
    /// Nova decides.
    #[default]
    Auto,
    /// Always a cold boot.
    Off,
}

impl FunctionConfig {
    /// The defaults of the product for a runtime.
    pub fn new(runtime: RuntimeId) -> Self {
        Self {
            runtime,
            handler: default_handler(Mode::Process).into(),
            mode: Mode::Process,
            memory_mb: 128,
            timeout_s: 30,
            min_replicas: 0,
            max_replicas: 0,
            instance_concurrency: 1,
            env_vars: Environment::default(),
            limits: Limits::default(),
            secrets: Vec::new(),
            layers: Layers::default(),
            network: NetworkPolicy::default(),
            snapshot: SnapshotPolicy::default(),
            labels: BTreeMap::new(),
            description: String::new(),
        }
    }

    /// Says which field is out of bounds. Fields with a type of their own are valid already.
    pub fn validate(&self) -> Result<(), InvalidField> {
        match self.mode {
            Mode::Process | Mode::Persistent | Mode::Http => validate_handler_path(&self.handler)?,
            Mode::Lambda => validate_handler_name(&self.handler)?,
        }
        in_range("memory_mb", self.memory_mb, MEMORY_MB, " MiB")?;
        in_range("timeout_s", self.timeout_s, TIMEOUT_S, " seconds")?;
        in_range("min_replicas", self.min_replicas, REPLICAS, "")?;
        in_range("max_replicas", self.max_replicas, REPLICAS, "")?;
        if self.max_replicas != 0 && self.min_replicas > self.max_replicas {
            return Err(InvalidField::new(
                "min_replicas",
                format!("{} is more than max_replicas {}", self.min_replicas, self.max_replicas),
                "lower min_replicas or raise max_replicas",
            ));
        }
        in_range("instance_concurrency", self.instance_concurrency, INSTANCE_CONCURRENCY, "")?;
        if self.mode == Mode::Process && self.instance_concurrency > 1 {
            return Err(InvalidField::new(
                "instance_concurrency",
                "mode process runs one call at a time in a VM",
                "use mode persistent, lambda or http, or leave it at 1",
            ));
        }
        in_range("limits.vcpus", self.limits.vcpus, VCPUS, "")?;
        in_range("limits.tmp_mb", self.limits.tmp_mb, TMP_MB, " MiB")?;
        if self.secrets.len() > SECRETS_MAX {
            return Err(InvalidField::new(
                "secrets",
                format!("{} entries", self.secrets.len()),
                format!("list at most {SECRETS_MAX} secrets"),
            ));
        }
        if self.description.len() > DESCRIPTION_MAX_BYTES {
            return Err(InvalidField::new(
                "description",
                format!("{} bytes", self.description.len()),
                format!("use at most {DESCRIPTION_MAX_BYTES} bytes"),
            ));
        }
        let labels_fit = self.labels.len() <= LABELS_MAX
            && self
                .labels
                .iter()
                .all(|(key, value)| !key.is_empty() && key.len() <= 128 && value.len() <= 1024);
        if !labels_fit {
            return Err(InvalidField::new(
                "labels",
                "too many, or a key or value is too long",
                format!(
                    "use at most {LABELS_MAX} labels, keys of 1 to 128 and values of at most 1024 bytes"
                ),
            ));
        }
        Ok(())
    }
}

/// The handler of a function that names none.
pub fn default_handler(mode: Mode) -> &'static str {
    match mode {
        Mode::Process | Mode::Persistent | Mode::Http => "handler",
        Mode::Lambda => "main.handler",
    }
}

/// Where a `lambda` handler's code is: `src/main` of `src/main.handler`. Without the file's ending.
pub fn handler_module(handler: &str) -> &str {
    let name_start = handler.rfind('/').map_or(0, |slash| slash + 1);
    let dot = handler[name_start..].find('.');
    dot.map_or(handler, |dot| &handler[..name_start + dot])
}

fn is_inside_the_code(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= HANDLER_MAX_BYTES
        && !path.contains(|c: char| c.is_control() || c == '\\')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// In `lambda` mode a handler is a file without its ending and, behind a dot, what is called in it. What
/// that looks like is the runtime's business (`main.handler`, `src/app.Orders.create`,
/// `example.Handler::handle`); it is bounded here, and stays inside the code.
fn validate_handler_name(handler: &str) -> Result<(), InvalidField> {
    let (module, after) = handler.split_at(handler_module(handler).len());
    let named = after.len() > 1 && !module.is_empty() && !module.ends_with('/');
    if named && is_inside_the_code(handler) && !handler.contains(char::is_whitespace) {
        return Ok(());
    }
    Err(InvalidField::new(
        "handler",
        format!("{} is not the name of a function in a file", quote(handler)),
        "in mode lambda give `file.function`, for example `main.handler`",
    ))
}

/// In the other modes a handler is a relative path that stays inside the code.
fn validate_handler_path(handler: &str) -> Result<(), InvalidField> {
    if is_inside_the_code(handler) {
        return Ok(());
    }
    Err(InvalidField::new(
        "handler",
        format!("{} is not a path inside the code", quote(handler)),
        "give the program's path relative to the code, for example `handler` or `src/main.py`",
    ))
}

/// SHA-256 of a canonical code archive, hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CodeHash(String);

impl CodeHash {
    /// The hash of these archive bytes.
    pub fn of(archive: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(archive)))
    }

    /// The hash as 64 hex digits, safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CodeHash {
    type Error = InvalidField;

    fn try_from(text: String) -> Result<Self, InvalidField> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text));
        }
        Err(InvalidField::new("code_hash", "not a SHA-256", "give 64 lower-case hex digits"))
    }
}

impl From<CodeHash> for String {
    fn from(hash: CodeHash) -> String {
        hash.0
    }
}

impl fmt::Display for CodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What distinguishes one revision of a function from another: anything that changes what a call
/// runs. Part of the pool key, so that a change simply means other VMs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionHash(String);

impl RevisionHash {
    /// The hash as 64 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A function as Nova knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Stays through updates; a function deleted and created anew has another.
    pub id: Uuid,
    /// Its name.
    pub name: FunctionName,
    /// What its author decided.
    pub config: FunctionConfig,
    /// Its code; where nothing was ever built of its source, that source.
    pub code_hash: CodeHash,
    /// Its last build; `None` for code that is run as it is.
    pub build: Option<Build>,
    /// Counts changes, from 1.
    pub revision: u64,
    /// The version that calls of the bare name run, from 1.
    pub version: u64,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Function {
    /// Whether calls have something to run: the status of its build only as long as none has succeeded.
    pub fn status(&self) -> BuildStatus {
        match &self.build {
            Some(build) if build.source == self.code_hash => build.status,
            _ => BuildStatus::Ready,
        }
    }

    /// Whether a build waits or runs.
    pub fn is_being_built(&self) -> bool {
        self.build.as_ref().is_some_and(|build| build.status == BuildStatus::Pending)
    }

    /// The hash of all that a running VM of this function depends on. Labels, description and
    /// replica counts are left out: changing them needs no new VM.
    pub fn revision_hash(&self) -> RevisionHash {
        let config = &self.config;
        let depends_on = (
            self.id,
            &self.code_hash,
            (&config.runtime, &config.handler, config.mode, config.memory_mb, config.timeout_s),
            (config.instance_concurrency, &config.env_vars, config.limits),
            (&config.secrets, &config.layers.merged, &config.network, config.snapshot),
        );
        // Tuples of plain data always serialize; an empty hash would only merge revisions, and the
        // test below would show it.
        let bytes = serde_json::to_vec(&depends_on).unwrap_or_default();
        RevisionHash(hex::encode(Sha256::digest(&bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BuildKind;

    fn config() -> FunctionConfig {
        FunctionConfig::new(RuntimeId::parse("python").unwrap())
    }

    fn function() -> Function {
        Function {
            id: Uuid::nil(),
            name: FunctionName::parse("f").unwrap(),
            config: config(),
            code_hash: CodeHash::of(b"one"),
            build: None,
            revision: 1,
            version: 1,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    fn field_of(change: impl FnOnce(&mut FunctionConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().field
    }

    #[test]
    fn each_bound_names_its_field() {
        assert_eq!(config().validate(), Ok(()));
        assert_eq!(field_of(|c| c.memory_mb = 0), "memory_mb");
        assert_eq!(field_of(|c| c.timeout_s = 99_999), "timeout_s");
        assert_eq!(field_of(|c| (c.min_replicas, c.max_replicas) = (3, 2)), "min_replicas");
        assert_eq!(field_of(|c| c.instance_concurrency = 2), "instance_concurrency");
        assert_eq!(field_of(|c| c.limits.vcpus = 33), "limits.vcpus");
        for handler in ["", "../x", "/etc/passwd", "a//b", "a/./b", "a\nb"] {
            assert_eq!(field_of(|c| c.handler = handler.into()), "handler", "{handler:?}");
        }
    }

    #[test]
    fn a_lambda_handler_is_a_function_in_a_file() {
        let with = |handler: &str| {
            let mut config = config();
            (config.mode, config.handler) = (Mode::Lambda, handler.into());
            config.validate()
        };
        for handler in
            ["main.handler", "src/app.Orders.create", "example.Handler::handle", "a.b/../c.d"]
        {
            let expected = !handler.contains("..");
            assert_eq!(with(handler).is_ok(), expected, "{handler}");
        }
        for handler in ["", "handler", ".handler", "main.", "a/.handler", "main .handler"] {
            assert_eq!(with(handler).unwrap_err().field, "handler", "{handler:?}");
        }
        assert_eq!(handler_module("src/main.Orders.create"), "src/main");
        assert_eq!(with(default_handler(Mode::Lambda)), Ok(()));
    }

    #[test]
    fn a_revision_changes_with_what_a_call_runs_and_with_nothing_else() {
        let function = function();
        let changed = |change: fn(&mut Function)| {
            let mut other = function.clone();
            change(&mut other);
            other.revision_hash() != function.revision_hash()
        };
        assert!(changed(|f| f.code_hash = CodeHash::of(b"two")));
        assert!(changed(|f| f.config.memory_mb = 256));
        assert!(changed(|f| f.config.layers.merged = Some(CodeHash::of(b"layer"))));
        assert!(changed(|f| f.config.network = NetworkPolicy::None));
        assert!(!changed(|f| f.config.description = "new words".into()));
        assert!(!changed(|f| f.config.min_replicas = 2));
    }

    #[test]
    fn a_function_serves_what_was_built_before_whatever_becomes_of_the_next_build() {
        let mut function = function();
        assert_eq!(function.status(), BuildStatus::Ready);
        let mut build = Build::pending(BuildKind::Compile, function.code_hash.clone(), config());
        function.build = Some(build.clone());
        assert_eq!(function.status(), BuildStatus::Pending);
        function.code_hash = CodeHash::of(b"built");
        assert_eq!(function.status(), BuildStatus::Ready);
        assert!(function.is_being_built());
        build.status = BuildStatus::Failed;
        function.build = Some(build);
        assert_eq!(function.status(), BuildStatus::Ready);
        assert!(!function.is_being_built());
    }
}
