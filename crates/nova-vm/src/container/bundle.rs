//! The OCI bundle of one guest: `config.json` and the small files that it mounts.
//!
//! ```text
//! <data-dir>/run/vms/<vm>/        0700 root        the bundle
//!     config.json
//!     hosts, resolv.conf          bound read-only over the image's
//!     pid, runtime.log            written by the OCI runtime
//!     nova/                       0700 uid_root    bound at /nova: user code cannot enter it
//!         agent.sock              made by the agent
//!         nova-agent              the agent's program is bound over this
//!         procs.0, procs.1, oom   files of the function's cgroup are bound over these
//! ```
//!
//! What surprises: there is no cgroup namespace and no cgroup mount in the container. The agent
//! reaches exactly the files that it needs, the function none of them; and on cgroup v2 a namespace
//! would put the move into the function's group out of its reach (`nsdelegate`).
use super::seccomp;
use nova_proto::{CgroupSetup, OUT_DIR, OomCounter};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Where the guest's own directory is in the container.
const NOVA: &str = "/nova";
/// The socket's name in that directory.
pub(super) const SOCKET: &str = "agent.sock";

/// Most memory of the agent's own cgroup, MiB: this, and for each call that it may carry at once as
/// much as the largest payload both ways takes (14, measured). It bounds an agent gone wrong; an
/// ordinary one stays near 3.
const AGENT_MEMORY_MB: u64 = 64;
/// See [`AGENT_MEMORY_MB`].
const AGENT_MEMORY_PER_CALL_MB: u64 = 16;
/// Most threads of the agent: a few per call, 100 calls at once.
const AGENT_PIDS_MAX: u32 = 512;
/// Size of the tmpfs at /run, MiB: secrets and input files, written by the agent alone.
const RUN_MB: u32 = 64;
/// Pseudo-terminals of a container: the host has 4096 for all, and one function could take them.
const PTYS_MAX: u32 = 64;
/// Size of /dev/shm, MiB: what container runtimes give by default. Counts as the function's memory.
const SHM_MB: u32 = 64;
/// Files and directories on one tmpfs. Each costs kernel memory of the function's cgroup.
const TMPFS_INODES: u32 = 100_000;
/// Open files of a process, the same as in a microVM.
const OPEN_FILES_MAX: u64 = 65_536;
/// Under global memory pressure the kernel shall choose a guest before the daemon (0).
const OOM_SCORE_ADJ: i32 = 500;

/// All that the files of a bundle depend on.
pub(super) struct Bundle<'a> {
    /// The guest's directory, the bundle itself.
    pub directory: &'a Path,
    /// The mounted runtime image.
    pub root: &'a Path,
    /// The unpacked code; `None` where the image brings the program, and has files of its own there.
    pub code: Option<&'a Path>,
    /// The unpacked layers.
    pub layers: Option<&'a Path>,
    /// The agent's program.
    pub agent: &'a Path,
    /// The container's name in it.
    pub hostname: &'a str,
    /// Uid and gid of the container's root on the host.
    pub uid_root: u32,
    /// Uid and gid of the function's user (1000 in the container) on the host.
    pub uid_user: u32,
    /// The network namespace to join; `None` makes one with only loopback.
    pub network_namespace: Option<&'a Path>,
    /// Resolvers for /etc/resolv.conf.
    pub resolvers: &'a [Ipv4Addr],
    /// Name of the cgroup for the agent.
    pub agent_cgroup: &'a str,
    /// Files of the function's cgroup.
    pub function_cgroup: &'a FunctionCgroup,
    /// Size of /tmp, MiB.
    pub tmp_mb: u32,
    /// Size of the directory for the result of a build, MiB; 0 where nothing is built.
    pub out_mb: u32,
    /// Calls at once.
    pub concurrency: u32,
}

/// The files of the function's cgroup that the agent needs.
pub(super) struct FunctionCgroup {
    /// `cgroup.procs`, one per hierarchy.
    pub procs_files: Vec<PathBuf>,
    /// The file with the count of OOM kills.
    pub oom_counter: PathBuf,
}

impl FunctionCgroup {
    /// As the agent finds them in the container.
    pub fn setup(&self) -> CgroupSetup {
        let procs = (0..self.procs_files.len()).map(|n| format!("{NOVA}/{}", procs_name(n)));
        CgroupSetup::Given {
            procs_files: procs.collect(),
            oom_counter: OomCounter { path: format!("{NOVA}/oom") },
        }
    }
}

fn procs_name(number: usize) -> String {
    format!("procs.{number}")
}

impl Bundle<'_> {
    /// Writes all files. What is there after a failure is below [`Bundle::directory`].
    pub fn write(&self) -> io::Result<()> {
        let private = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path);
        private(self.directory)?;
        let nova = self.directory.join("nova");
        private(&nova)?;
        let placeholders = (0..self.function_cgroup.procs_files.len()).map(procs_name);
        for name in placeholders.chain(["oom".into(), "nova-agent".into()]) {
            std::fs::write(nova.join(name), "")?;
        }
        chown(&nova, Some(self.uid_root), Some(self.uid_root))?;
        let resolvers = self.resolvers.iter().map(|address| format!("nameserver {address}\n"));
        let hosts = format!("127.0.0.1 localhost {}\n::1 localhost\n", self.hostname);
        for (name, content) in [("resolv.conf", resolvers.collect::<String>()), ("hosts", hosts)] {
            let path = self.directory.join(name);
            std::fs::write(&path, content)?;
            // For every user in the container, whatever the daemon's umask.
            std::fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        }
        std::fs::write(self.directory.join("config.json"), self.config().to_string())
    }

    /// The configuration for the OCI runtime.
    fn config(&self) -> Value {
        // No more than the daemon's own: raising it needs a right that the daemon may not have.
        let host_max = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES_MAX);
        let open_files = OPEN_FILES_MAX.min(host_max);
        let agent_memory =
            (AGENT_MEMORY_MB + AGENT_MEMORY_PER_CALL_MB * u64::from(self.concurrency)) << 20;
        let capabilities = json!(["CAP_SETUID", "CAP_SETGID", "CAP_KILL"]);
        let ids = json!([
            {"containerID": 0, "hostID": self.uid_root, "size": 1},
            {"containerID": 1000, "hostID": self.uid_user, "size": 1},
        ]);
        json!({
            "ociVersion": "1.0.2",
            "hostname": self.hostname,
            "root": {"path": self.root, "readonly": true},
            "process": {
                "args": [format!("{NOVA}/nova-agent"), "--socket", format!("{NOVA}/{SOCKET}")],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "noNewPrivileges": true,
                "oomScoreAdj": OOM_SCORE_ADJ,
                "rlimits": [
                    // No core files: they would hold other calls' data, and fill the disk.
                    {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
                    {"type": "RLIMIT_NOFILE", "hard": open_files, "soft": open_files},
                ],
            },
            "mounts": self.mounts(),
            "linux": {
                "namespaces": self.namespaces(),
                "uidMappings": ids,
                "gidMappings": ids,
                "cgroupsPath": format!("/{}", self.agent_cgroup),
                "resources": {
                    "memory": {"limit": agent_memory, "swap": agent_memory},
                    "pids": {"limit": AGENT_PIDS_MAX},
                },
                "seccomp": seccomp::profile(),
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/kcore", "/proc/keys", "/proc/kmsg",
                    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
                    "/proc/timer_stats",
                ],
                "readonlyPaths": [
                    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
                ],
            },
        })
    }

    fn namespaces(&self) -> Value {
        let mut namespaces: Vec<Value> = ["user", "mount", "pid", "ipc", "uts"]
            .into_iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        namespaces.push(match self.network_namespace {
            Some(path) => json!({"type": "network", "path": path}),
            None => json!({"type": "network"}),
        });
        Value::Array(namespaces)
    }

    fn mounts(&self) -> Vec<Value> {
        let ptys = format!("max={PTYS_MAX}");
        let mut mounts = vec![
            json!({
                "destination": "/proc", "type": "proc", "source": "proc",
                "options": ["nosuid", "nodev", "noexec"],
            }),
            tmpfs("/dev", 1, &["nosuid", "noexec", "mode=755"]),
            json!({
                "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", ptys],
            }),
            tmpfs("/dev/shm", SHM_MB, &["nosuid", "nodev", "noexec", "mode=1777"]),
            // The owner matters too: runtimes give a tmpfs the mode of the directory below it.
            tmpfs("/tmp", self.tmp_mb, &["nosuid", "nodev", "mode=1777", "uid=1000", "gid=1000"]),
            tmpfs("/run", RUN_MB, &["nosuid", "nodev", "mode=755"]),
            bind(&self.directory.join("hosts"), "/etc/hosts", &["ro", "noexec"]),
            bind(&self.directory.join("resolv.conf"), "/etc/resolv.conf", &["ro", "noexec"]),
            bind(&self.directory.join("nova"), NOVA, &["rw"]),
            bind(self.agent, "/nova/nova-agent", &["ro"]),
            bind(&self.function_cgroup.oom_counter, "/nova/oom", &["ro", "noexec"]),
        ];
        mounts.extend(self.layers.map(|layers| bind(layers, "/opt", &["ro"])));
        for target in ["/code", "/var/task"] {
            mounts.extend(self.code.map(|code| bind(code, target, &["ro"])));
        }
        if self.out_mb > 0 {
            let options = ["nosuid", "nodev", "mode=1777", "uid=1000", "gid=1000"];
            mounts.push(tmpfs(OUT_DIR, self.out_mb, &options));
        }
        for (number, file) in self.function_cgroup.procs_files.iter().enumerate() {
            let target = format!("{NOVA}/{}", procs_name(number));
            mounts.push(bind(file, &target, &["rw", "noexec"]));
        }
        mounts
    }
}

fn tmpfs(destination: &str, size_mb: u32, options: &[&str]) -> Value {
    let mut options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    options.push(format!("size={size_mb}m"));
    options.push(format!("nr_inodes={TMPFS_INODES}"));
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    let options: Vec<&str> = ["bind", "nosuid", "nodev"].iter().chain(options).copied().collect();
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const RESOLVERS: [Ipv4Addr; 1] = [Ipv4Addr::new(192, 0, 2, 53)];

    fn bundle<'a>(directory: &'a Path, cgroup: &'a FunctionCgroup) -> Bundle<'a> {
        Bundle {
            directory,
            root: Path::new("/run/image"),
            code: Some(Path::new("/data/code")),
            layers: None,
            agent: Path::new("/data/agent"),
            hostname: "vm1",
            uid_root: 70_000,
            uid_user: 70_001,
            network_namespace: None,
            resolvers: &RESOLVERS,
            agent_cgroup: "nova-x/vm1/agent",
            function_cgroup: cgroup,
            tmp_mb: 12,
            out_mb: 0,
            concurrency: 1,
        }
    }

    fn cgroup() -> FunctionCgroup {
        FunctionCgroup {
            procs_files: vec!["/cg/memory/cgroup.procs".into(), "/cg/pids/cgroup.procs".into()],
            oom_counter: "/cg/memory/memory.oom_control".into(),
        }
    }

    #[test]
    fn the_agent_finds_each_file_of_the_functions_cgroup_where_it_is_mounted() {
        let cgroup = cgroup();
        let mounts = bundle(Path::new("/vm"), &cgroup).mounts();
        let mounted = |target: &str| {
            mounts.iter().find(|mount| mount["destination"] == target).unwrap()["source"].clone()
        };
        let CgroupSetup::Given { procs_files, oom_counter } = cgroup.setup() else { panic!() };
        assert_eq!(mounted(&procs_files[0]), "/cg/memory/cgroup.procs");
        assert_eq!(mounted(&procs_files[1]), "/cg/pids/cgroup.procs");
        assert_eq!(mounted(&oom_counter.path), "/cg/memory/memory.oom_control");
    }

    #[test]
    fn layers_are_mounted_read_only_where_there_are_any() {
        let cgroup = cgroup();
        let plain = bundle(Path::new("/vm"), &cgroup);
        let opt = |bundle: &Bundle<'_>| {
            bundle.mounts().into_iter().find(|mount| mount["destination"] == "/opt")
        };
        assert_eq!(opt(&plain), None);
        let mount = opt(&Bundle { layers: Some(Path::new("/data/layers")), ..plain }).unwrap();
        assert_eq!(mount["source"], "/data/layers");
        assert!(mount["options"].as_array().unwrap().contains(&json!("ro")), "{mount}");
    }

    #[test]
    fn the_container_has_no_privilege_to_give() {
        let cgroup = cgroup();
        let config = bundle(Path::new("/vm"), &cgroup).config();
        assert_eq!(config["process"]["noNewPrivileges"], true);
        assert_eq!(
            config["process"]["capabilities"]["bounding"],
            json!(["CAP_SETUID", "CAP_SETGID", "CAP_KILL"])
        );
        assert_eq!(config["root"]["readonly"], true);
        let kinds: Vec<_> = config["linux"]["namespaces"].as_array().unwrap().iter().collect();
        assert!(kinds.contains(&&json!({"type": "network"})));
        assert!(kinds.contains(&&json!({"type": "user"})));
        assert!(config["linux"]["uidMappings"].as_array().unwrap().iter().all(|m| m["size"] == 1));
    }

    #[test]
    fn the_directory_that_holds_the_socket_is_closed_to_the_functions_user() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("vm1");
        let cgroup = cgroup();
        bundle(&directory, &cgroup).write().unwrap();
        let nova = directory.join("nova").metadata().unwrap();
        assert_eq!((nova.permissions().mode() & 0o7777, nova.uid()), (0o700, 70_000));
        let resolv_conf = std::fs::read_to_string(directory.join("resolv.conf")).unwrap();
        assert_eq!(resolv_conf, "nameserver 192.0.2.53\n");
    }
}
