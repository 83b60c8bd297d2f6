//! apt with its own directories: lists, cache and configuration below one directory of ours.
use super::DebianError;
use super::package::{Package, parse_simulation, parse_stanzas};
use super::sources::{FORMAT, Mirror};
use crate::images::files::{sha256_of, write_atomically};
use crate::images::host_tool::{self, HostTool};
use crate::images::progress::Progress;
use crate::images::runtime::CommonRecipe;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Names a mirror to use instead of the host's.
pub(crate) const MIRROR_VARIABLE: &str = "NOVA_DEBIAN_MIRROR";
/// For how long package lists are not asked for again: making many images takes minutes, and each request
/// seconds.
const LISTS_FRESH: Duration = Duration::from_secs(15 * 60);
/// Holds the sources that the lists were fetched from; its date says when.
const LISTS_STAMP: &str = "lists-fetched";
/// What is taken over from the host's apt configuration: how it reaches the network.
const NETWORK_SETTINGS: [&str; 5] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Retries ",
    "Acquire::Check-Valid-Until ",
    "Acquire::Check-Date ",
];

/// apt, ready to be asked for packages of one release.
pub(crate) struct Apt {
    directory: PathBuf,
    get: HostTool,
    cache: HostTool,
}

impl Apt {
    /// Prepares `directory` (kept between runs) and fetches the package lists. Where they cannot be
    /// fetched but older ones are there, those are used: what is cached can be built offline.
    pub(crate) async fn open(
        directory: &Path,
        recipe: &CommonRecipe,
        mirror: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Self, DebianError> {
        let apt = Self {
            directory: directory.to_owned(),
            get: HostTool::find("apt-get", "apt")?,
            cache: HostTool::find("apt-cache", "apt")?,
        };
        if !Path::new(&recipe.keyring).is_file() {
            return Err(DebianError::NoKeyring(recipe.keyring.clone()));
        }
        let mirror = match mirror {
            Some(address) => Mirror::at(address),
            None => apt.mirror_of_host().await?,
        };
        let sources = apt.configure(&mirror, recipe).await?;
        if apt.has_lists() && apt.are_fresh(&sources) {
            return Ok(apt);
        }
        progress.step("reading the package lists");
        match apt.fetch(&["update", "--error-on=any"], &apt.directory, progress).await {
            Ok(()) => {
                let stamp = apt.directory.join(LISTS_STAMP);
                write_atomically(&stamp, sources.as_bytes(), 0o600)
                    .map_err(DebianError::cache(&stamp))?;
            }
            Err(error) if !apt.has_lists() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "package lists not refreshed: going on with older ones");
            }
        }
        Ok(apt)
    }

    /// Whether the lists were fetched from these sources a moment ago.
    fn are_fresh(&self, sources: &str) -> bool {
        let stamp = self.directory.join(LISTS_STAMP);
        let age = stamp.metadata().and_then(|about| about.modified()).map(|at| at.elapsed());
        // A date in the future has no age: not fresh.
        let recent = age.is_ok_and(|age| age.is_ok_and(|age| age < LISTS_FRESH));
        recent && std::fs::read_to_string(&stamp).is_ok_and(|fetched| fetched == sources)
    }

    /// The packages that installing these takes, with all they depend on.
    pub(crate) async fn resolve(&self, names: &[String]) -> Result<Vec<Package>, DebianError> {
        let mut command = self.command(&self.get);
        command.args(["-qq", "--simulate", "install"]).args(names);
        let simulation = host_tool::run(&mut command).await?;
        let pinned: Vec<String> = parse_simulation(&String::from_utf8_lossy(&simulation))
            .into_iter()
            .map(|(name, version)| format!("{name}={version}"))
            .collect();
        self.describe(&pinned).await
    }

    /// These packages alone, in their newest version or, written `name=version`, in that one.
    pub(crate) async fn describe(&self, names: &[String]) -> Result<Vec<Package>, DebianError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = self.command(&self.cache);
        command.args(["show", "--no-all-versions"]).args(names);
        let stanzas = host_tool::run(&mut command).await?;
        let packages = parse_stanzas(&String::from_utf8_lossy(&stanzas));
        for name in names {
            let found = |package: &Package| package.name == *name || package.pinned() == *name;
            if !packages.iter().any(found) {
                return Err(DebianError::NoPackage(name.clone()));
            }
        }
        Ok(packages)
    }

    /// Fetches what is not in the cache, and returns the verified files in the order asked for.
    pub(crate) async fn download(
        &self,
        packages: &[Package],
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, DebianError> {
        let archives = self.directory.join("archives");
        let missing: Vec<&Package> =
            packages.iter().filter(|package| !self.is_cached(package)).collect();
        if !missing.is_empty() {
            let megabytes = missing.iter().map(|package| package.size).sum::<u64>() / 1_000_000;
            progress.step(&format!("downloading {} packages ({megabytes} MB)", missing.len()));
            let names: Vec<String> = missing.iter().map(|package| package.pinned()).collect();
            let mut arguments = vec!["-q", "download"];
            arguments.extend(names.iter().map(String::as_str));
            self.fetch(&arguments, &archives, progress).await?;
        }
        let packages = packages.to_vec();
        let verify = move || packages.iter().map(|package| verified(&archives, package)).collect();
        let verified = tokio::task::spawn_blocking(verify).await;
        verified.map_err(|error| DebianError::Cache {
            path: self.directory.display().to_string(),
            source: std::io::Error::other(error),
        })?
    }

    fn is_cached(&self, package: &Package) -> bool {
        let file = self.directory.join("archives").join(package.file_name());
        file.metadata().is_ok_and(|about| about.len() == package.size)
    }

    /// Runs apt-get in `at`, passing on how far it has come.
    async fn fetch(
        &self,
        arguments: &[&str],
        at: &Path,
        progress: &dyn Progress,
    ) -> Result<(), DebianError> {
        let mut command = self.command(&self.get);
        command.args(["-o", "APT::Status-Fd=1"]).args(arguments).current_dir(at);
        host_tool::run_with_lines(&mut command, |line| {
            // dlstatus:<item>:<percent>:<what>
            let mut fields = line.split(':');
            if let (Some("dlstatus"), Some(_), Some(percent)) =
                (fields.next(), fields.next(), fields.next())
                && let Ok(percent) = percent.parse()
            {
                progress.percent(percent);
            }
        })
        .await?;
        Ok(())
    }

    async fn mirror_of_host(&self) -> Result<Mirror, DebianError> {
        let arguments = ["indextargets", "--format", FORMAT, "Created-By: Packages"];
        let targets = self.get.run(arguments).await?;
        Mirror::of_host(&String::from_utf8_lossy(&targets))
            .ok_or(DebianError::NoMirror { variable: MIRROR_VARIABLE })
    }

    /// Writes the configuration and returns the sources in it.
    async fn configure(
        &self,
        mirror: &Mirror,
        recipe: &CommonRecipe,
    ) -> Result<String, DebianError> {
        let settings = HostTool::find("apt-config", "apt")?.run(["dump", "Acquire"]).await?;
        let configuration = self.configuration(&String::from_utf8_lossy(&settings));
        let sources = mirror.sources_list(&recipe.suite, &recipe.components, &recipe.keyring);
        for name in ["lists/partial", "archives/partial", "empty"] {
            let directory = self.directory.join(name);
            std::fs::create_dir_all(&directory).map_err(DebianError::cache(&directory))?;
        }
        // The configuration may hold a proxy's password.
        for (name, text) in
            [("apt.conf", &*configuration), ("sources.list", &*sources), ("status", "")]
        {
            let path = self.directory.join(name);
            write_atomically(&path, text.as_bytes(), 0o600).map_err(DebianError::cache(&path))?;
        }
        Ok(sources)
    }

    fn configuration(&self, host: &str) -> String {
        let own = self.directory.display();
        let network =
            host.lines().filter(|line| NETWORK_SETTINGS.iter().any(|name| line.starts_with(name)));
        let network = network.collect::<Vec<_>>().join("\n");
        // An empty dpkg status: nothing counts as installed, so that all dependencies are named.
        format!(
            r#"Dir::Etc::main "/dev/null";
Dir::Etc::parts "{own}/empty";
Dir::Etc::sourcelist "{own}/sources.list";
Dir::Etc::sourceparts "{own}/empty";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{own}/empty";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "{own}/empty";
Dir::State "{own}";
Dir::State::status "{own}/status";
Dir::Cache "{own}";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
{network}
"#
        )
    }

    fn has_lists(&self) -> bool {
        let entries = std::fs::read_dir(self.directory.join("lists"));
        entries.is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
            })
        })
    }

    fn command(&self, tool: &HostTool) -> Command {
        let mut command = tool.command();
        command.env("APT_CONFIG", self.directory.join("apt.conf")).env("LC_ALL", "C.UTF-8");
        command
    }
}

/// The file of a package, if it is what the signed list says; else it is removed.
fn verified(archives: &Path, package: &Package) -> Result<PathBuf, DebianError> {
    let file = archives.join(package.file_name());
    let found = sha256_of(&file).map_err(DebianError::cache(&file))?;
    if found == package.sha256 {
        return Ok(file);
    }
    std::fs::remove_file(&file).map_err(DebianError::cache(&file))?;
    let (package, expected) = (package.file_name(), package.sha256.clone());
    Err(DebianError::Damaged { package, found, expected })
}
