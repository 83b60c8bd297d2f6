//! `nova setup`, the guest kernel: fetched as a package, unpacked, reduced to what guests need.
use super::pins::{KernelPin, Pins};
use super::{InstallError, Installer, exchange};
use crate::images::debian::{Apt, DebianError, Package};
use crate::images::files::{sha256_of, write_atomically};
use crate::images::host_tool::HostTool;
use crate::images::kernel::{load_order, vmlinux};
use crate::images::progress::Progress;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which guest kernel to install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelChoice {
    /// The one that this Nova was tested with, or what [`KernelChoice::Latest`] has installed before; an
    /// error if there is neither and the mirror no longer has it.
    Pinned,
    /// The newest of the release, signed by Debian like the other, but not tested with this Nova.
    Latest,
}

/// `kernel.json`: which kernel this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// The Debian package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package.
    pub sha256: String,
    /// Whether it is the one that this Nova was tested with.
    pub pinned: bool,
    /// SHA-256 of the unpacked kernel.
    pub vmlinux_sha256: String,
    /// The modules that were asked for.
    pub modules: Vec<String>,
}

impl Installer {
    /// Installs the guest kernel. One that is there and is what was asked for is left as it is.
    pub async fn install_kernel(
        &self,
        choice: KernelChoice,
        progress: &dyn Progress,
    ) -> Result<KernelRecord, InstallError> {
        let pin = Pins::shipped()?.kernel;
        let _lock = self.begin(progress).await?;
        let installed = self.installed_kernel().filter(|record| record.modules == pin.modules);
        if choice == KernelChoice::Pinned
            && let Some(record) =
                installed.as_ref().filter(|kernel| kernel.sha256 == pin.sha256 || !kernel.pinned)
        {
            return Ok(record.clone());
        }
        let apt = self.apt(progress).await?;
        let package = match choice {
            KernelChoice::Pinned => pinned(&apt, &pin).await?,
            KernelChoice::Latest => newest(&apt, &pin).await?,
        };
        if let Some(record) = installed.filter(|record| record.sha256 == package.sha256) {
            return Ok(record);
        }
        let files = apt.download(std::slice::from_ref(&package), progress).await?;
        progress.step("unpacking the guest kernel");
        let workshop = self.workshop()?;
        let unpacked = workshop.path().join("package");
        let unpack = HostTool::find("dpkg-deb", "dpkg")?;
        unpack.run([Path::new("-x"), &files[0], &unpacked]).await?;
        let made = workshop.path().join("kernel");
        let work = move || reduce(&unpacked, &made, package, &pin).map(|record| (record, made));
        let (record, made) =
            tokio::task::spawn_blocking(work).await.map_err(InstallError::task)??;
        let place = self.artifacts.join("kernel");
        exchange(&made, &place).map_err(InstallError::file(&place))?;
        Ok(record)
    }

    fn installed_kernel(&self) -> Option<KernelRecord> {
        let directory = self.artifacts.join("kernel");
        let record: KernelRecord =
            serde_json::from_slice(&fs::read(directory.join("kernel.json")).ok()?).ok()?;
        let order = fs::read_to_string(directory.join("modules/order")).ok()?;
        let whole = order.lines().all(|name| directory.join("modules").join(name).is_file());
        (whole && directory.join("vmlinux").is_file()).then_some(record)
    }
}

async fn pinned(apt: &Apt, pin: &KernelPin) -> Result<Package, InstallError> {
    let gone = |problem: String| {
        InstallError::Unexpected(format!(
            "{problem}; `nova setup --latest-kernel` takes the newest kernel of the release, signed by \
             Debian but not tested with this Nova"
        ))
    };
    let name = format!("{}={}", pin.package, pin.version);
    match apt.describe(&[name]).await {
        Ok(packages) => match packages.into_iter().next() {
            Some(package) if package.sha256 == pin.sha256 => Ok(package),
            _ => Err(gone(format!("the mirror's {} is not the pinned one", pin.package))),
        },
        Err(DebianError::NoPackage(name)) => {
            Err(gone(format!("the Debian mirror no longer has the pinned kernel {name}")))
        }
        Err(other) => Err(other.into()),
    }
}

async fn newest(apt: &Apt, pin: &KernelPin) -> Result<Package, InstallError> {
    let packages = apt.resolve(std::slice::from_ref(&pin.newest)).await?;
    let is_kernel = |name: &str| name.starts_with("linux-image-") && name != pin.newest;
    packages
        .into_iter()
        .find(|package| is_kernel(&package.name))
        .ok_or_else(|| DebianError::NoPackage(pin.newest.clone()).into())
}

/// Makes the directory `made` of what guests need from an unpacked kernel package.
fn reduce(
    unpacked: &Path,
    made: &Path,
    package: Package,
    pin: &KernelPin,
) -> Result<KernelRecord, InstallError> {
    let unexpected =
        |problem: String| InstallError::Unexpected(format!("{}: {problem}", package.file_name()));
    let image = only_entry(&unpacked.join("boot"), "vmlinuz-").map_err(unexpected)?;
    let modules = only_entry(&unpacked.join("lib/modules"), "").map_err(unexpected)?;
    let bzimage = fs::read(&image).map_err(InstallError::file(&image))?;
    let kernel = vmlinux(&bzimage).map_err(unexpected)?;
    let order = load_order(&modules, &pin.modules).map_err(unexpected)?;
    copy(made, &kernel, &order).map_err(InstallError::file(made))?;
    let kernel = made.join("vmlinux");
    let record = KernelRecord {
        pinned: package.sha256 == pin.sha256,
        package: package.name,
        version: package.version,
        sha256: package.sha256,
        vmlinux_sha256: sha256_of(&kernel).map_err(InstallError::file(&kernel))?,
        modules: pin.modules.clone(),
    };
    let text = serde_json::to_vec_pretty(&record).map_err(io::Error::other);
    let path = made.join("kernel.json");
    text.and_then(|text| write_atomically(&path, &text, 0o644))
        .map_err(InstallError::file(&path))?;
    Ok(record)
}

fn copy(made: &Path, kernel: &[u8], order: &[PathBuf]) -> io::Result<()> {
    let modules = made.join("modules");
    fs::create_dir_all(&modules)?;
    write_atomically(&made.join("vmlinux"), kernel, 0o644)?;
    let mut names = String::new();
    for file in order {
        let name = file.file_name().unwrap_or_default();
        write_atomically(&modules.join(name), &fs::read(file)?, 0o644)?;
        names.push_str(&name.to_string_lossy());
        names.push('\n');
    }
    write_atomically(&modules.join("order"), names.as_bytes(), 0o644)
}

/// The one entry of a directory whose name starts so.
fn only_entry(directory: &Path, prefix: &str) -> Result<PathBuf, String> {
    let entries =
        fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut found =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        });
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        _ => Err(format!("it has no single {prefix}* in {}", directory.display())),
    }
}
