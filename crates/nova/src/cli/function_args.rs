//! The flags that describe a function, and the request body they make.
use crate::pack;
use anyhow::Context;
use base64::Engine;
use clap::{Args, ValueEnum};
use nova_domain::{FunctionConfig, Mode, RuntimeId};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// What `register` and `update` have in common.
#[derive(Debug, Default, Args)]
pub struct FunctionArgs {
    /// Runtime, for example python; `nova runtime list` shows them
    #[arg(short, long)]
    runtime: Option<String>,
    /// The code: a file, a directory, or a tar.gz or zip archive
    #[arg(short, long, value_name = "PATH")]
    code: Option<PathBuf>,
    /// Path of the program in the code [default: handler]; with mode lambda the function in a file
    /// [default: main.handler]. A single file of code is stored under its name
    #[arg(short = 'H', long, value_name = "PATH")]
    handler: Option<String>,
    /// How it is run: a process per call, one that stays, one that speaks the AWS Lambda Runtime API, or
    /// an HTTP server (of an image of your own)
    #[arg(long)]
    mode: Option<ModeArg>,
    /// Memory limit, MiB [default: 128]
    #[arg(short, long, alias = "memory-mb", value_name = "MIB")]
    memory: Option<u32>,
    /// Time limit of a call, seconds [default: 30]
    #[arg(short, long, alias = "timeout-s", value_name = "SECONDS")]
    timeout: Option<u32>,
    /// VMs kept running without calls
    #[arg(long, value_name = "N")]
    min_replicas: Option<u32>,
    /// Most VMs at once; 0 means no limit of its own
    #[arg(long, value_name = "N")]
    max_replicas: Option<u32>,
    /// Calls at once in one VM, with mode persistent, lambda or http
    #[arg(long, value_name = "N")]
    instance_concurrency: Option<u32>,
    /// Virtual CPUs
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Drive operations per second; 0 means no limit
    #[arg(long, value_name = "N")]
    disk_iops: Option<u64>,
    /// Drive bytes per second; 0 means no limit
    #[arg(long, value_name = "BYTES")]
    disk_bandwidth: Option<u64>,
    /// Received bytes per second; 0 means no limit
    #[arg(long, value_name = "BYTES")]
    net_rx_bandwidth: Option<u64>,
    /// Sent bytes per second; 0 means no limit
    #[arg(long, value_name = "BYTES")]
    net_tx_bandwidth: Option<u64>,
    /// Size of /tmp, MiB; 0 leaves it bounded by the memory limit
    #[arg(long, value_name = "MIB")]
    tmp_mb: Option<u32>,
    /// Variable; the value $SECRET:name is the secret of that name. Replaces all variables
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Secret to deliver as a file /run/nova/secrets/NAME. Replaces the whole list
    #[arg(long = "secret", value_name = "NAME")]
    secrets: Vec<String>,
    /// Layer to lay over those before it at /opt. Replaces the whole list
    #[arg(long = "layer", value_name = "NAME")]
    layers: Vec<String>,
    /// What it may reach: none, or egress to public addresses
    #[arg(long, conflicts_with = "allow")]
    network: Option<NetworkArg>,
    /// Network that it may reach, and no other than those listed, as 203.0.113.0/24
    #[arg(long, value_name = "CIDR")]
    allow: Vec<String>,
    /// Label of your own. Replaces all labels
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// What `invoke --local` can be told about the code.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// Runtime; a nova.yaml says it otherwise
    #[arg(short, long, requires = "local")]
    runtime: Option<String>,
    /// Path of the program in the code, or the function in a file with mode lambda
    #[arg(short = 'H', long, requires = "local", value_name = "PATH")]
    handler: Option<String>,
    /// How it is run
    #[arg(long, requires = "local")]
    mode: Option<ModeArg>,
    /// Memory limit, MiB
    #[arg(short, long, requires = "local", value_name = "MIB")]
    memory: Option<u32>,
    /// Time limit of the call, seconds
    #[arg(short, long, requires = "local", value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Variable of the function
    #[arg(short, long = "env", requires = "local", value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
}

impl From<LocalArgs> for FunctionArgs {
    fn from(given: LocalArgs) -> Self {
        let LocalArgs { runtime, handler, mode, memory, timeout, env } = given;
        Self { runtime, handler, mode, memory, timeout, env, ..Self::default() }
    }
}

/// How a function is run, as a word.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModeArg {
    Process,
    Persistent,
    Lambda,
    Http,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Process => Self::Process,
            ModeArg::Persistent => Self::Persistent,
            ModeArg::Lambda => Self::Lambda,
            ModeArg::Http => Self::Http,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkArg {
    None,
    Egress,
}

impl FunctionArgs {
    /// Where the code is.
    pub fn code(&self) -> Option<&Path> {
        self.code.as_deref()
    }

    /// The handler, where it was given.
    pub fn handler(&self) -> Option<&str> {
        self.handler.as_deref()
    }

    /// The mode, where it was given.
    pub fn mode(&self) -> Option<Mode> {
        self.mode.map(Mode::from)
    }

    /// The same, with code from this path.
    pub fn with_code(self, path: &Path) -> Self {
        Self { code: Some(path.to_owned()), ..self }
    }

    /// The runtime, where one was given.
    pub fn runtime(&self) -> Option<&str> {
        self.runtime.as_deref()
    }

    /// The fields that were given; a single file of code is stored where `mode` and `handler` say.
    pub fn body(self, mode: Mode, handler: &str) -> anyhow::Result<Map<String, Value>> {
        let mut body = Map::new();
        if let Some(path) = &self.code {
            // Before it becomes a name in an archive, where it would be refused in other words.
            let mut config = FunctionConfig::new(RuntimeId::parse("base")?);
            (config.mode, config.handler) = (mode, handler.to_owned());
            config.validate()?;
            let program = pack::program_path(mode, handler, pack::ending(path));
            body.insert("code".into(), packed(path, &program)?);
        }
        put(&mut body, "runtime", self.runtime);
        put(&mut body, "handler", self.handler);
        put(&mut body, "mode", self.mode.map(|mode| value_name(&mode)));
        put(&mut body, "memory_mb", self.memory);
        put(&mut body, "timeout_s", self.timeout);
        put(&mut body, "min_replicas", self.min_replicas);
        put(&mut body, "max_replicas", self.max_replicas);
        put(&mut body, "instance_concurrency", self.instance_concurrency);
        put(&mut body, "description", self.description);
        put(&mut body, "network", self.network.map(|network| value_name(&network)));
        put(&mut body, "env_vars", map(self.env));
        put(&mut body, "labels", map(self.labels));
        put(&mut body, "secrets", Some(self.secrets).filter(|names| !names.is_empty()));
        put(&mut body, "layers", Some(self.layers).filter(|names| !names.is_empty()));
        if !self.allow.is_empty() {
            body.insert("network".into(), json!({ "allow": self.allow }));
        }
        let mut limits = Map::new();
        put(&mut limits, "vcpus", self.vcpus);
        put(&mut limits, "disk_iops", self.disk_iops);
        put(&mut limits, "disk_bandwidth", self.disk_bandwidth);
        put(&mut limits, "net_rx_bandwidth", self.net_rx_bandwidth);
        put(&mut limits, "net_tx_bandwidth", self.net_tx_bandwidth);
        put(&mut limits, "tmp_mb", self.tmp_mb);
        if !limits.is_empty() {
            body.insert("limits".into(), Value::Object(limits));
        }
        Ok(body)
    }
}

/// The code at a path as the field of a body; a single file in it is stored as `program`.
pub fn packed(path: &Path, program: &str) -> anyhow::Result<Value> {
    let archive = pack::pack(path, program).context("the code cannot be packed")?;
    let engine = base64::engine::general_purpose::STANDARD;
    Ok(json!({ "archive": engine.encode(archive) }))
}

fn put(body: &mut Map<String, Value>, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(field.to_owned(), value.into());
    }
}

fn map(pairs: Vec<(String, String)>) -> Option<Map<String, Value>> {
    let given = !pairs.is_empty();
    given.then(|| pairs.into_iter().map(|(key, value)| (key, Value::String(value))).collect())
}

fn value_name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}
