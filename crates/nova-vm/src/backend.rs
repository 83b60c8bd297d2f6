//! Which isolation backend a daemon uses, and why.
//!
//! `auto` takes Firecracker only if a guest really boots: see [`crate::firecracker::probe`]. A
//! success is remembered until the host is rebooted or a file that the guest was made of changes; a
//! failure never is, so mending the host is enough. Falling back to containers is a weaker isolation
//! than the operator may think they have, so it happens with a warning that names the reason, and
//! never in a data directory whose functions have already run in microVMs.
use crate::driver::{BootError, MicroVm, VmDriver, VmSpec};
use crate::firecracker::FirecrackerConfig;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// How long the probe of `auto` may take. On hardware it takes a quarter of a second.
pub const PROBE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);

/// Remembers that guests of this data directory ran in microVMs. Never removed by Nova.
const MARKER: &str = "ran-firecracker";

/// Remembers a probe that succeeded.
const PROBE_RECORD: &str = "probe.json";

/// Changes with every boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the operator asks for: `--backend`, `NOVA_BACKEND`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Firecracker where it works, else containers.
    #[default]
    Auto,
    /// A Firecracker microVM per concurrent call.
    Firecracker,
    /// A container of an OCI runtime.
    Container,
    /// No calls at all: the control plane only.
    None,
}

/// What a daemon uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// Firecracker.
    Firecracker,
    /// Containers.
    Container,
    /// Nothing.
    None,
}

/// The outcome of [`choose`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What to use.
    pub backend: Chosen,
    /// To be told to the operator, at the start and for as long as it holds: the isolation is
    /// weaker than Firecracker's, and why.
    pub warning: Option<String>,
}

/// A name that is no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend {0:?}; use auto, firecracker, container or none")]
pub struct UnknownBackend(String);

/// Why a daemon must not start.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// Firecracker was used here before and cannot be used now.
    #[error(
        "firecracker does not work here: {reason}; functions of data directory {data_dir} have run \
         in microVMs, and nova does not move them to weaker isolation by itself; `nova doctor` says \
         what to mend, --backend container accepts containers"
    )]
    NoFallback {
        /// Why Firecracker cannot be used.
        reason: String,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// What was found out cannot be remembered.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        match text {
            "auto" => Ok(Self::Auto),
            "firecracker" => Ok(Self::Firecracker),
            "container" => Ok(Self::Container),
            "none" => Ok(Self::None),
            other => Err(UnknownBackend(other.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Firecracker => "firecracker",
            Self::Container => "container",
            Self::None => "none",
        })
    }
}

/// Decides for a data directory. `probe` boots a guest of `firecracker` and ends it; it is called
/// only for `auto`, and only where no success is remembered. `firecracker` is an error where
/// something is not installed.
pub async fn choose<F>(
    wanted: Backend,
    data_dir: &Path,
    firecracker: Result<FirecrackerConfig, String>,
    probe: impl FnOnce(FirecrackerConfig) -> F,
) -> Result<Choice, ChoiceError>
where
    F: Future<Output = Result<Duration, BootError>>,
{
    let chosen = |backend, warning| Ok(Choice { backend, warning });
    match wanted {
        Backend::None => return chosen(Chosen::None, None),
        Backend::Firecracker => return chosen(Chosen::Firecracker, None),
        Backend::Container => {
            let warning = "functions run in containers, as chosen: they share the host's kernel";
            return chosen(Chosen::Container, Some(warning.into()));
        }
        Backend::Auto => {}
    }
    let reason = match firecracker {
        Ok(config) => match Probed::now(&config) {
            Ok(now) if Probed::remembered(data_dir).as_ref() == Some(&now) => {
                return chosen(Chosen::Firecracker, None);
            }
            Ok(now) => match probe(config).await {
                Ok(took) => {
                    tracing::info!(took_ms = took.as_millis() as u64, "a probe guest booted");
                    now.remember(data_dir)?;
                    remember_firecracker(data_dir)?;
                    return chosen(Chosen::Firecracker, None);
                }
                Err(error) => format!("a probe guest did not boot: {error}"),
            },
            Err(error) => error.to_string(),
        },
        Err(missing) => missing,
    };
    if has_run_firecracker(data_dir) {
        return Err(ChoiceError::NoFallback { reason, data_dir: data_dir.to_owned() });
    }
    let warning = format!(
        "functions run in containers, which share the host's kernel, because firecracker does not \
         work here: {reason}"
    );
    chosen(Chosen::Container, Some(warning))
}

/// Whether a guest of this data directory has ever run in a microVM: then `auto` takes nothing else.
pub(crate) fn has_run_firecracker(data_dir: &Path) -> bool {
    data_dir.join(MARKER).exists()
}

/// Notes that a guest of this data directory has run in a microVM.
pub(crate) fn remember_firecracker(data_dir: &Path) -> Result<(), ChoiceError> {
    let path = data_dir.join(MARKER);
    let text = "Functions of this data directory have run in microVMs. While this file exists, \
        `--backend auto` does not fall back to containers.\n";
    fs::write(&path, text).map_err(|source| ChoiceError::Io { path, source })
}

/// What a successful probe holds for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Probed {
    boot_id: String,
    files: Vec<FileMark>,
}

/// A file, as far as its change can be seen without reading it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileMark {
    path: PathBuf,
    size: u64,
    inode: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Probed {
    fn now(config: &FirecrackerConfig) -> io::Result<Self> {
        let mark = |path: &PathBuf| {
            let metadata = fs::metadata(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
            Ok(FileMark {
                path: path.clone(),
                size: metadata.len(),
                inode: metadata.ino(),
                modified_s: metadata.mtime(),
                modified_ns: metadata.mtime_nsec(),
            })
        };
        let files = [&config.firecracker, &config.jailer, &config.kernel, &config.initramfs];
        Ok(Self {
            boot_id: fs::read_to_string(BOOT_ID)?.trim().to_owned(),
            files: files.into_iter().map(mark).collect::<io::Result<_>>()?,
        })
    }

    /// What was remembered; anything unreadable means that nothing was.
    fn remembered(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(data_dir.join(PROBE_RECORD)).ok()?).ok()
    }

    fn remember(&self, data_dir: &Path) -> Result<(), ChoiceError> {
        let path = data_dir.join(PROBE_RECORD);
        let text = serde_json::to_vec(self).map_err(io::Error::other);
        text.and_then(|text| fs::write(&path, text))
            .map_err(|source| ChoiceError::Io { path, source })
    }
}

/// The driver of the backend `none`: every boot is refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoneDriver;

#[async_trait]
impl VmDriver for NoneDriver {
    fn backend(&self) -> &'static str {
        "none"
    }

    fn overhead_mb(&self, _: u32) -> u32 {
        0
    }

    async fn boot(&self, _: VmSpec) -> Result<Box<dyn MicroVm>, BootError> {
        Err(BootError::Unavailable(
            "this nova was started with --backend none and runs no functions".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use std::cell::Cell;

    struct Fixture {
        dir: tempfile::TempDir,
        config: FirecrackerConfig,
        probes: Cell<u32>,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let config = FirecrackerConfig {
            owner: Owner::open(dir.path()).unwrap(),
            firecracker: file("firecracker"),
            jailer: file("jailer"),
            kernel: file("vmlinux"),
            initramfs: file("initramfs"),
            boot_timeout: Duration::from_secs(1),
            api_timeout: Duration::from_secs(1),
        };
        Fixture { dir, config, probes: Cell::new(0) }
    }

    impl Fixture {
        async fn choose(&self, wanted: Backend, guest_boots: bool) -> Result<Choice, ChoiceError> {
            choose(wanted, self.dir.path(), Ok(self.config.clone()), |_| async move {
                self.probes.set(self.probes.get() + 1);
                let silent = BootError::Timeout {
                    phase: "booting",
                    timeout_ms: 3000,
                    console: "console ends with: Kernel panic".into(),
                };
                if guest_boots { Ok(Duration::from_millis(200)) } else { Err(silent) }
            })
            .await
        }

        async fn auto(&self, guest_boots: bool) -> Chosen {
            self.choose(Backend::Auto, guest_boots).await.unwrap().backend
        }
    }

    #[tokio::test]
    async fn auto_takes_containers_with_a_warning_that_names_the_reason() {
        let choice = fixture().choose(Backend::Auto, false).await.unwrap();
        assert_eq!(choice.backend, Chosen::Container);
        let warning = choice.warning.unwrap();
        assert!(warning.contains("share the host's kernel"), "{warning}");
        assert!(warning.contains("guest did not answer within 3000 ms"), "{warning}");
    }

    #[tokio::test]
    async fn a_success_is_remembered_and_a_failure_is_not() {
        let fixture = fixture();
        assert_eq!(fixture.auto(false).await, Chosen::Container);
        assert_eq!(fixture.auto(true).await, Chosen::Firecracker);
        assert_eq!(fixture.probes.get(), 2);
        assert_eq!(fixture.auto(false).await, Chosen::Firecracker);
        assert_eq!(fixture.probes.get(), 2, "a third guest was booted");
    }

    #[tokio::test]
    async fn another_kernel_is_another_question() {
        let fixture = fixture();
        fixture.auto(true).await;
        fs::write(&fixture.config.kernel, "a newer kernel").unwrap();
        fixture.auto(true).await;
        assert_eq!(fixture.probes.get(), 2);
    }

    #[tokio::test]
    async fn a_directory_that_ran_firecracker_never_falls_back_by_itself() {
        let fixture = fixture();
        fixture.auto(true).await;
        fs::remove_file(fixture.dir.path().join(PROBE_RECORD)).unwrap();
        let error = fixture.choose(Backend::Auto, false).await.unwrap_err();
        assert!(matches!(error, ChoiceError::NoFallback { .. }), "{error}");
        assert!(error.to_string().contains("guest did not answer"), "{error}");
        let choice = fixture.choose(Backend::Container, false).await.unwrap();
        assert_eq!(choice.backend, Chosen::Container);
    }

    #[tokio::test]
    async fn what_is_not_installed_is_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Err("the guest kernel is not installed; run `nova setup`".to_owned());
        let probe = |_| async { Ok(Duration::ZERO) };
        let choice = choose(Backend::Auto, dir.path(), missing, probe).await.unwrap();
        assert!(choice.warning.unwrap().contains("run `nova setup`"));
    }

    #[tokio::test]
    async fn an_explicit_choice_is_not_questioned() {
        let fixture = fixture();
        let choice = fixture.choose(Backend::Firecracker, false).await.unwrap();
        assert_eq!(choice, Choice { backend: Chosen::Firecracker, warning: None });
        assert_eq!(fixture.choose(Backend::None, false).await.unwrap().backend, Chosen::None);
        assert_eq!(fixture.probes.get(), 0);
    }

    #[test]
    fn names_are_read_and_others_refused() {
        for name in ["auto", "firecracker", "container", "none"] {
            assert_eq!(name.parse::<Backend>().unwrap().to_string(), name);
        }
        assert!("docker".parse::<Backend>().unwrap_err().to_string().contains("use auto"));
    }
}
