//! A function as it travels over HTTP: the body of create and update, and the answer to both.
//!
//! Create and update share one body. What is given replaces that field, what is absent stays as it
//! was: the product's defaults at create, the present value at update. `limits` is merged field by
//! field, maps and lists are replaced whole.
use super::builds::BuildView;
use super::object::Object;
use base64::Engine;
use chrono::{DateTime, Utc};
use nova_domain::{
    BuildStatus, CodeHash, Environment, Function, FunctionConfig, FunctionName, InvalidField,
    LayerVersion, Limits, Mode, NetworkPolicy, RuntimeId, SecretName, SnapshotPolicy,
    default_handler,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use uuid::Uuid;

/// What a client sends.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionBody {
    pub name: Option<String>,
    pub runtime: Option<String>,
    pub handler: Option<String>,
    pub mode: Option<Mode>,
    pub code: Option<CodeBody>,
    pub code_path: Option<String>,
    pub memory_mb: Option<u32>,
    pub timeout_s: Option<u32>,
    pub min_replicas: Option<u32>,
    pub max_replicas: Option<u32>,
    pub instance_concurrency: Option<u32>,
    pub env_vars: Option<BTreeMap<String, String>>,
    pub limits: Option<Object<LimitsBody>>,
    pub secrets: Option<Vec<String>>,
    pub layers: Option<Vec<String>>,
    pub network: Option<NetworkBody>,
    pub snapshot: Option<SnapshotPolicy>,
    pub labels: Option<BTreeMap<String, String>>,
    pub description: Option<String>,
}

/// Bounds on the VM; what is absent stays.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    vcpus: Option<u32>,
    disk_iops: Option<u64>,
    disk_bandwidth: Option<u64>,
    net_rx_bandwidth: Option<u64>,
    net_tx_bandwidth: Option<u64>,
    tmp_mb: Option<u32>,
}

/// `"none"`, `"egress"`, or `{"allow": [...]}`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "\"none\", \"egress\" or {\"allow\": [\"203.0.113.0/24\"]} is expected"
)]
pub enum NetworkBody {
    Word(NetworkWord),
    Allow(Object<AllowBody>),
}

/// The policies that are one word.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkWord {
    None,
    Egress,
}

/// Egress to the listed networks only.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AllowBody {
    allow: Vec<String>,
}

/// Code inside a JSON body: text, `{"inline": text}` or `{"archive": base64}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "text, {\"inline\": \"text\"} or {\"archive\": \"base64 of a tar.gz or zip\"} is expected"
)]
pub enum CodeBody {
    Text(String),
    Inline(Object<InlineBody>),
    Archive(Object<ArchiveBody>),
}

/// A single program as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InlineBody {
    inline: String,
}

/// A whole directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveBody {
    archive: String,
}

/// Code as it was sent, not yet looked at.
pub enum Upload {
    /// One program, to be stored under the handler's path.
    Inline(Vec<u8>),
    /// A tar.gz, zip or tar.
    Archive(Vec<u8>),
    /// A file or directory of the daemon's own file system, which may be read.
    Path(PathBuf),
}

impl CodeBody {
    /// The bytes in it.
    pub fn into_upload(self) -> Result<Upload, InvalidField> {
        match self {
            Self::Text(text) | Self::Inline(Object(InlineBody { inline: text })) => {
                if text.is_empty() {
                    let hint = "give the text of the program";
                    return Err(InvalidField::new("code", "empty", hint));
                }
                Ok(Upload::Inline(text.into_bytes()))
            }
            Self::Archive(Object(ArchiveBody { archive })) => {
                let engine = base64::engine::general_purpose::STANDARD;
                engine.decode(archive.trim_end()).map(Upload::Archive).map_err(|error| {
                    InvalidField::new(
                        "code.archive",
                        format!("not base64: {error}"),
                        "encode the archive as standard base64, or send it to PUT .../code as it is",
                    )
                })
            }
        }
    }
}

impl FunctionBody {
    /// Puts what was given into `config`; every field that is not valid is reported.
    pub fn apply(self, config: &mut FunctionConfig) -> Result<(), Vec<InvalidField>> {
        let mut errors = Vec::new();
        let mut note = |error| errors.push(error);
        if let Some(runtime) = self.runtime {
            RuntimeId::parse(&runtime).map(|id| config.runtime = id).unwrap_or_else(&mut note);
        }
        if let Some(variables) = self.env_vars {
            Environment::parse(variables)
                .map(|env| config.env_vars = env)
                .unwrap_or_else(&mut note);
        }
        if let Some(names) = self.secrets {
            secret_names(&names).map(|list| config.secrets = list).unwrap_or_else(&mut note);
        }
        if let Some(network) = self.network {
            network.policy().map(|policy| config.network = policy).unwrap_or_else(&mut note);
        }
        if let Some(Object(limits)) = self.limits {
            limits.apply(&mut config.limits);
        }
        // A handler that nobody chose becomes what the new mode's is called.
        let unchosen = self.handler.is_none() && config.handler == default_handler(config.mode);
        set(&mut config.handler, self.handler);
        set(&mut config.mode, self.mode);
        if unchosen {
            config.handler = default_handler(config.mode).to_owned();
        }
        set(&mut config.memory_mb, self.memory_mb);
        set(&mut config.timeout_s, self.timeout_s);
        set(&mut config.min_replicas, self.min_replicas);
        set(&mut config.max_replicas, self.max_replicas);
        set(&mut config.instance_concurrency, self.instance_concurrency);
        set(&mut config.snapshot, self.snapshot);
        set(&mut config.labels, self.labels);
        set(&mut config.description, self.description);
        if let Err(error) = config.validate() {
            errors.push(error);
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

impl LimitsBody {
    fn apply(self, limits: &mut Limits) {
        set(&mut limits.vcpus, self.vcpus);
        set(&mut limits.disk_iops, self.disk_iops);
        set(&mut limits.disk_bandwidth, self.disk_bandwidth);
        set(&mut limits.net_rx_bandwidth, self.net_rx_bandwidth);
        set(&mut limits.net_tx_bandwidth, self.net_tx_bandwidth);
        set(&mut limits.tmp_mb, self.tmp_mb);
    }
}

impl NetworkBody {
    fn policy(self) -> Result<NetworkPolicy, InvalidField> {
        match self {
            Self::Word(NetworkWord::None) => Ok(NetworkPolicy::None),
            Self::Word(NetworkWord::Egress) => Ok(NetworkPolicy::Egress),
            Self::Allow(Object(AllowBody { allow })) => NetworkPolicy::egress_to(&allow),
        }
    }
}

impl From<NetworkPolicy> for NetworkBody {
    fn from(policy: NetworkPolicy) -> Self {
        match policy {
            NetworkPolicy::None => Self::Word(NetworkWord::None),
            NetworkPolicy::Egress => Self::Word(NetworkWord::Egress),
            NetworkPolicy::EgressTo(rules) => Self::Allow(Object(AllowBody {
                allow: rules.into_iter().map(String::from).collect(),
            })),
        }
    }
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *field = value;
    }
}

fn secret_names(names: &[String]) -> Result<Vec<SecretName>, InvalidField> {
    let mut parsed: Vec<SecretName> = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let name = SecretName::parse(name).map_err(|mut error| {
            error.field = format!("secrets[{index}]");
            error
        })?;
        if !parsed.contains(&name) {
            parsed.push(name);
        }
    }
    Ok(parsed)
}

/// What a client gets: the fields of the body that hold no code, and what Nova adds.
#[derive(Debug, Serialize)]
pub struct FunctionView {
    id: Uuid,
    name: FunctionName,
    runtime: RuntimeId,
    handler: String,
    mode: Mode,
    memory_mb: u32,
    timeout_s: u32,
    min_replicas: u32,
    max_replicas: u32,
    instance_concurrency: u32,
    env_vars: Environment,
    limits: Limits,
    secrets: Vec<SecretName>,
    layers: Vec<LayerVersion>,
    network: NetworkBody,
    snapshot: SnapshotPolicy,
    labels: BTreeMap<String, String>,
    description: String,
    code_hash: CodeHash,
    status: BuildStatus,
    build: Option<BuildView>,
    revision: u64,
    version: u64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl FunctionView {
    /// As it is in a list.
    pub fn listed(function: Function) -> Self {
        let view = Self::from(function);
        Self { build: view.build.map(BuildView::without_log), ..view }
    }
}

impl From<Function> for FunctionView {
    fn from(function: Function) -> Self {
        let status = function.status();
        let config = function.config;
        Self {
            id: function.id,
            name: function.name,
            runtime: config.runtime,
            handler: config.handler,
            mode: config.mode,
            memory_mb: config.memory_mb,
            timeout_s: config.timeout_s,
            min_replicas: config.min_replicas,
            max_replicas: config.max_replicas,
            instance_concurrency: config.instance_concurrency,
            env_vars: config.env_vars,
            limits: config.limits,
            secrets: config.secrets,
            layers: config.layers.versions,
            network: config.network.into(),
            snapshot: config.snapshot,
            labels: config.labels,
            description: config.description,
            code_hash: function.code_hash,
            status,
            build: function.build.map(BuildView::from),
            revision: function.revision,
            version: function.version,
            created_at: function.created_at,
            updated_at: function.updated_at,
        }
    }
}
