//! `nova runtime add` and `remove`: the image of one runtime.
use super::tree::Tree;
use super::{InstallError, Installer};
use super::{archive_files, archives};
use crate::images::debian::{Apt, Package};
use crate::images::erofs::{self, Compression};
use crate::images::files::{sha256_of, write_atomically};
use crate::images::host_tool::HostTool;
use crate::images::progress::Progress;
use crate::images::runtime::{
    CommonRecipe, ImageRecipe, ImageRecord, Manifest, ManifestError, RuntimeRecord, common_recipe,
    folder_text, read_record, recipe_texts, shipped_manifests,
};
use nova_domain::{RuntimeId, RuntimeImage};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Part of each recipe's hash: raised when images come out differently though no manifest changed.
const BUILDER_VERSION: u32 = 1;
/// What making an image takes of the host, and Debian's packages with it.
pub(super) const TOOLS: [(&str, &str); 4] =
    [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar"), ("mkfs.erofs", "erofs-utils")];

impl Installer {
    /// Makes the image of a shipped runtime, named by its id or an alias. One that is there and whole,
    /// made by the same recipe, is returned at once.
    pub async fn add_runtime(
        &self,
        id: &RuntimeId,
        progress: &dyn Progress,
    ) -> Result<RuntimeRecord, InstallError> {
        let manifest = find_manifest(id)?;
        let recipe = hash_of(&recipe_texts(&manifest)?);
        if let Some(installed) = self.installed(&manifest.id, &recipe) {
            return Ok(installed);
        }
        // Before anything is downloaded.
        for (tool, package) in TOOLS {
            HostTool::find(tool, package)?;
        }
        for archive in &manifest.image.archives {
            archives::client_of(archive)?;
        }
        let lock = self.begin(progress).await?;
        // Another process may have made it while we waited.
        if let Some(installed) = self.installed(&manifest.id, &recipe) {
            return Ok(installed);
        }
        let workshop = self.workshop()?;
        let root = workshop.path().join("tree");
        let folder = manifest.id.as_str();
        let (tree, packages) = self.make_tree(folder, &manifest.image, root, progress).await?;
        let version =
            version_of(&manifest.version_of, &manifest.image, &packages).ok_or_else(|| {
                let problem =
                    format!("version_of = `{}` is none of its packages", manifest.version_of);
                ManifestError { path: format!("{folder}/manifest.toml"), problem }
            })?;
        progress.step("writing the image");
        let image = workshop.path().join("image");
        erofs::write(tree.root(), &image, Compression::Lz4hc).await?;
        let record = |digest, size| RuntimeRecord {
            image: RuntimeImage {
                id: manifest.id.clone(),
                version,
                digest,
                size,
                commands: manifest
                    .modes
                    .iter()
                    .map(|(mode, recipe)| (*mode, recipe.command.clone()))
                    .collect(),
                extension: manifest.extension.clone(),
                env: manifest.env.clone(),
                memory_min_mb: manifest.memory_min_mb,
                own: None,
            },
            aliases: manifest.aliases.clone(),
            recipe,
            packages: contents(&packages, &manifest.image),
        };
        let record = self.publish(&image, record).await?;
        // A tree of ten thousand files takes a moment to remove: not on this thread.
        tokio::task::spawn_blocking(move || drop(workshop)).await.map_err(InstallError::task)?;
        drop(lock);
        Ok(record)
    }

    /// Removes a runtime, named by its id or an alias, and its image, unless another runtime has the
    /// same one. Guests that run keep the open file.
    pub async fn remove_runtime(&self, id: &RuntimeId) -> Result<(), InstallError> {
        let _lock = self.begin(&crate::images::progress::Silent).await?;
        let id = find_manifest(id).map_or_else(|_| id.clone(), |manifest| manifest.id);
        let path = self.record_path(&id);
        let Ok(record) = read_record::<RuntimeRecord>(&path) else {
            return Err(InstallError::NotInstalled(id.to_string()));
        };
        std::fs::remove_file(&path).map_err(InstallError::file(&path))?;
        self.remove_if_unused::<RuntimeRecord>(&record.image.digest, &self.images())
    }

    /// Removes an image that no record of its directory names any more.
    pub(super) fn remove_if_unused<R: ImageRecord>(
        &self,
        digest: &str,
        directory: &Path,
    ) -> Result<(), InstallError> {
        for entry in std::fs::read_dir(directory).map_err(InstallError::file(directory))? {
            let path = entry.map_err(InstallError::file(directory))?.path();
            let is_record = path.extension().is_some_and(|extension| extension == "json");
            if is_record && read_record::<R>(&path).is_ok_and(|record| record.digest() == digest) {
                return Ok(());
            }
        }
        let image = directory.join(format!("{digest}.erofs"));
        std::fs::remove_file(&image).map_err(InstallError::file(&image))
    }

    /// Gives an image its name in `directory`: its digest, which is returned with its size.
    pub(super) async fn name_image(
        &self,
        image: &Path,
        directory: &Path,
    ) -> Result<(String, u64), InstallError> {
        let unnamed = image.to_owned();
        let digest = tokio::task::spawn_blocking(move || {
            let digest = sha256_of(&unnamed)?;
            std::fs::set_permissions(
                &unnamed,
                std::os::unix::fs::PermissionsExt::from_mode(0o644),
            )?;
            std::fs::File::open(&unnamed)?.sync_all()?;
            Ok(digest)
        });
        let digest =
            digest.await.map_err(InstallError::task)?.map_err(InstallError::file(image))?;
        let size = image.metadata().map_err(InstallError::file(image))?.len();
        let named = directory.join(format!("{digest}.erofs"));
        std::fs::rename(image, &named).map_err(InstallError::file(&named))?;
        Ok((digest, size))
    }

    /// Gives the image its name and writes its record, made of digest and size. The record is last: what it
    /// names is there.
    pub(super) async fn publish(
        &self,
        image: &Path,
        record: impl FnOnce(String, u64) -> RuntimeRecord,
    ) -> Result<RuntimeRecord, InstallError> {
        let (digest, size) = self.name_image(image, &self.images()).await?;
        let record = record(digest, size);
        let path = self.record_path(&record.image.id);
        let previous: Option<RuntimeRecord> = read_record(&path).ok();
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|error| InstallError::Unexpected(format!("{}: {error}", path.display())))?;
        write_atomically(&path, &text, 0o644).map_err(InstallError::file(&path))?;
        if let Some(previous) = previous {
            self.remove_if_unused::<RuntimeRecord>(&previous.image.digest, &self.images())?;
        }
        Ok(record)
    }

    /// The installed runtime, if it is whole and was made by this recipe.
    fn installed(&self, id: &RuntimeId, recipe: &str) -> Option<RuntimeRecord> {
        let record: Option<RuntimeRecord> = read_record(&self.record_path(id)).ok();
        record.filter(|record| record.recipe == recipe)
    }

    pub(super) fn record_path(&self, id: &RuntimeId) -> PathBuf {
        self.images().join(format!("{id}.json"))
    }

    fn images(&self) -> PathBuf {
        self.artifacts.join("images")
    }
}

fn find_manifest(id: &RuntimeId) -> Result<Manifest, InstallError> {
    let manifests = shipped_manifests()?;
    let names: Vec<String> = manifests.iter().map(|manifest| manifest.id.to_string()).collect();
    manifests
        .into_iter()
        .find(|manifest| manifest.id == *id || manifest.aliases.contains(id))
        .ok_or_else(|| InstallError::UnknownRuntime {
            id: id.to_string(),
            shipped: names.join(", "),
        })
}

/// What distinguishes one recipe from another.
pub(super) fn hash_of(texts: &[String]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(BUILDER_VERSION.to_be_bytes());
    for text in texts {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hex::encode(hasher.finalize())
}

/// The version of the package that gives a language its own.
pub(super) fn version_of(name: &str, image: &ImageRecipe, packages: &[Package]) -> Option<String> {
    let package = packages.iter().find(|package| package.name == name);
    let archive = image.archives.iter().find(|archive| archive.package == name);
    let version = package.map(Package::upstream_version);
    version.or(archive.map(|archive| &*archive.version)).map(str::to_owned)
}

/// Everything that was unpacked into an image, `name=version`.
pub(super) fn contents(packages: &[Package], image: &ImageRecipe) -> Vec<String> {
    let archives = image.archives.iter().map(|archive| archive.pinned());
    packages.iter().map(Package::pinned).chain(archives).collect()
}

impl Installer {
    /// Unpacks all that a recipe names into the new directory `root`. Only with the lock.
    pub(super) async fn make_tree(
        &self,
        folder: &str,
        recipe: &ImageRecipe,
        root: PathBuf,
        progress: &dyn Progress,
    ) -> Result<(Tree, Vec<Package>), InstallError> {
        let common = common_recipe()?;
        let apt = self.apt(progress).await?;
        let packages = choose_packages(&apt, &common, recipe).await?;
        let files = apt.download(&packages, progress).await?;
        let mut fetched = Vec::new();
        for archive in &recipe.archives {
            fetched.push((archive.clone(), self.fetch_archive(archive, progress).await?));
        }
        let tree = Tree::new(root.clone()).map_err(InstallError::file(&root))?;
        progress.step(&format!("unpacking {} packages", files.len() + fetched.len()));
        for (number, file) in files.iter().enumerate() {
            progress.percent(100.0 * number as f32 / files.len() as f32);
            tree.unpack(file).await?;
        }
        let mut texts = Vec::new();
        for (path, source) in &recipe.files {
            texts.push((path.clone(), folder_text(folder, source)?));
        }
        let (made, completed) = (tree.clone(), recipe.clone());
        let complete = move || {
            for (archive, file) in &fetched {
                archive_files::take_files(&made, archive, file)?;
            }
            let written =
                made.write_texts(&texts).and_then(|()| made.complete(&common, &completed));
            written.map_err(InstallError::file(made.root()))
        };
        tokio::task::spawn_blocking(complete).await.map_err(InstallError::task)??;
        for step in &recipe.steps {
            progress.step(&format!("running {}", step.command.first().map_or("", String::as_str)));
            tree.run(step).await?;
        }
        let normalised = tree.clone();
        let normalise = move || normalised.normalise_modes();
        let done = tokio::task::spawn_blocking(normalise).await.map_err(InstallError::task)?;
        done.map_err(InstallError::file(&root))?;
        Ok((tree, packages))
    }
}

/// The language's packages with their dependencies, and those that all images have, without.
async fn choose_packages(
    apt: &Apt,
    common: &CommonRecipe,
    recipe: &ImageRecipe,
) -> Result<Vec<Package>, InstallError> {
    let wanted = &recipe.packages;
    let mut packages = apt.resolve(wanted).await?;
    let omitted = |name: &String| common.omit.contains(name) || recipe.omit.contains(name);
    packages.retain(|package| !omitted(&package.name) || wanted.contains(&package.name));
    let missing = |name: &&String| !packages.iter().any(|package| package.name == **name);
    let added: Vec<String> = common.packages.iter().filter(missing).cloned().collect();
    packages.extend(apt.describe(&added).await?);
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}
