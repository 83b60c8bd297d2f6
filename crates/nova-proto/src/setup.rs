//! What a guest is told once, at `Init`: the machine it is to become and the function it runs.
use crate::base64_bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How the agent runs a function; the guest contracts of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A process per call: input in a file, the result on stdout.
    Process,
    /// One process for many calls: JSON lines over stdin and stdout.
    Persistent,
    /// One process for many calls, which it fetches over the AWS Lambda Runtime API.
    Lambda,
    /// One process for many calls: an HTTP server, to which each call is a request.
    Http,
}

impl Mode {
    /// Its name, as everywhere outside of Rust.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Persistent => "persistent",
            Self::Lambda => "lambda",
            Self::Http => "http",
        }
    }
}

/// Host to guest, once per life of a guest: become this machine, run this function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// The host's [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The VM's name, also its hostname.
    pub hostname: String,
    /// The host's wall clock, nanoseconds since the Unix epoch; `None` where the guest shares it.
    pub clock_unix_ns: Option<u64>,
    /// Fresh randomness from the host for the guest's kernel; empty where the guest shares the pool.
    #[serde(with = "base64_bytes", default)]
    pub entropy: Vec<u8>,
    /// Where the files come from.
    pub rootfs: Rootfs,
    /// The address to configure; `None` leaves only loopback, or what the container was given.
    pub network: Option<NetworkSetup>,
    /// The cgroup that the function runs in, apart from the agent.
    pub cgroup: CgroupSetup,
    /// What to run.
    pub function: FunctionSetup,
}

/// Where the function's root directory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rootfs {
    /// A microVM: the agent mounts the EROFS drives, an overlay on tmpfs, /proc, /dev and /tmp,
    /// and runs the function with that as its root.
    Drives {
        /// Block device of the runtime image, for example `/dev/vda`.
        image_device: String,
        /// Block device of the code image, mounted at `/code` and `/var/task`.
        code_device: String,
        /// Block device of the layers' image, mounted at `/opt`; `None` without layers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layers_device: Option<String>,
    },
    /// A container: the OCI runtime has mounted everything already.
    Mounted,
}

/// The guest's only address. The same inside every guest; each has a network namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSetup {
    /// Name of the interface, for example `eth0`.
    pub interface: String,
    /// Address of the guest.
    pub address: Ipv4Addr,
    /// Prefix length of its network.
    pub prefix_length: u8,
    /// The default route.
    pub gateway: Ipv4Addr,
    /// Resolvers for `/etc/resolv.conf`, at most three.
    pub resolvers: Vec<Ipv4Addr>,
}

/// The function's cgroup: `memory_mb` is its limit, so that the agent survives an out-of-memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CgroupSetup {
    /// A microVM: the agent mounts cgroup2 and makes the cgroup itself.
    Own {
        /// Most processes and threads of the function.
        pids_max: u32,
    },
    /// A container: the host has made it and set the limits; the agent only moves children into it.
    Given {
        /// The `cgroup.procs` files to write the child's pid to: one per hierarchy on cgroup v1.
        procs_files: Vec<String>,
        /// Where the kernel counts OOM kills.
        oom_counter: OomCounter,
    },
}

/// A file with an `oom_kill N` line: the count of processes killed for the cgroup's memory limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OomCounter {
    /// `memory.events` on cgroup v2, `memory.oom_control` on v1.
    pub path: String,
}

/// The function as the agent needs to know it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSetup {
    /// Its name, for `NOVA_FUNCTION_NAME`.
    pub name: String,
    /// Its version, for `NOVA_FUNCTION_VERSION`.
    pub version: String,
    /// How it is run.
    pub mode: Mode,
    /// Program and arguments. In `process` mode an argument `{input}` becomes the input file's path.
    pub command: Vec<String>,
    /// Environment of the function, secrets already resolved. Never logged.
    pub env: BTreeMap<String, String>,
    /// Files for `/run/nova/secrets`. Never logged.
    pub secrets: Vec<SecretFile>,
    /// Memory limit of the function's cgroup, MiB.
    pub memory_mb: u32,
    /// Size of `/tmp`, MiB; 0 leaves it bounded by memory alone.
    pub tmp_mb: u32,
    /// Size of [`crate::OUT_DIR`], MiB, which only a build's guest has; 0 everywhere else.
    pub out_mb: u32,
    /// What the function's author calls the handler, for `_HANDLER` in `lambda` mode.
    pub handler: String,
    /// Calls at once; 1 in `process` mode.
    pub instance_concurrency: u32,
    /// Where the image brings the function's program; `None` where that is in the code, at `/code`.
    pub own_image: Option<OwnImage>,
}

/// What the agent must know of an image that is a function by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnImage {
    /// Where its program starts; absolute.
    pub working_dir: String,
    /// Whether the function has code besides, which is then mounted as for others.
    pub has_code: bool,
}

impl std::fmt::Debug for FunctionSetup {
    /// Names of the environment, no values: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FunctionSetup")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("mode", &self.mode)
            .field("command", &self.command)
            .field("env", &self.env.keys())
            .field("secrets", &self.secrets)
            .field("memory_mb", &self.memory_mb)
            .field("tmp_mb", &self.tmp_mb)
            .field("out_mb", &self.out_mb)
            .field("handler", &self.handler)
            .field("instance_concurrency", &self.instance_concurrency)
            .field("own_image", &self.own_image)
            .finish()
    }
}

/// One secret delivered as a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    /// File name below `/run/nova/secrets`.
    pub name: String,
    /// Its content.
    #[serde(with = "base64_bytes")]
    pub value: Vec<u8>,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Guest to host, the answer to `Init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// The agent's [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The agent's own version.
    pub agent_version: String,
    /// How long the agent took from `Init` to this answer, microseconds.
    pub init_us: u64,
}
