//! `nova runtime add --builder` and `remove --builder`: the image with the compiler of one language.
use super::image::{TOOLS, contents, hash_of, version_of};
use super::{InstallError, Installer, archives};
use crate::images::erofs::{self, Compression};
use crate::images::files::write_atomically;
use crate::images::host_tool::HostTool;
use crate::images::progress::{Progress, Silent};
use crate::images::runtime::{
    BuildRecipe, BuilderRecord, ManifestError, Toolchain, read_record, shipped_toolchains,
    toolchain_texts,
};
use nova_domain::RuntimeId;
use nova_proto::OUT_DIR;
use std::path::{Path, PathBuf};

/// Where builders are, beside `images`.
const BUILDERS: &str = "builders";

impl Installer {
    /// Makes the builder of a language. One that is there and whole, made by the same recipe, is
    /// returned at once.
    pub async fn add_builder(
        &self,
        language: &RuntimeId,
        progress: &dyn Progress,
    ) -> Result<BuilderRecord, InstallError> {
        let toolchain = find_toolchain(language)?;
        let recipe = hash_of(&toolchain_texts(language.as_str(), &toolchain)?);
        let is_current = |record: &BuilderRecord| record.recipe == recipe;
        let record_path = self.builders().join(format!("{language}.json"));
        if let Some(installed) = read_record(&record_path).ok().filter(is_current) {
            return Ok(installed);
        }
        // Before anything is downloaded.
        for (tool, package) in TOOLS {
            HostTool::find(tool, package)?;
        }
        for archive in &toolchain.image.archives {
            archives::client_of(archive)?;
        }
        let lock = self.begin(progress).await?;
        // Another process may have made it while we waited.
        if let Some(installed) = read_record(&record_path).ok().filter(is_current) {
            return Ok(installed);
        }
        let workshop = self.workshop()?;
        let root = workshop.path().join("tree");
        let (tree, packages) =
            self.make_tree(language.as_str(), &toolchain.image, root, progress).await?;
        let results = tree.root().join(OUT_DIR.trim_start_matches('/'));
        std::fs::create_dir(&results).map_err(InstallError::file(&results))?;
        let version = version_of(&toolchain.version_of, &toolchain.image, &packages);
        let version = version.ok_or_else(|| {
            let problem =
                format!("version_of = `{}` is none of its packages", toolchain.version_of);
            ManifestError { path: format!("{language}/build.toml"), problem }
        })?;
        progress.step("writing the image");
        let image = workshop.path().join("image");
        erofs::write(tree.root(), &image, Compression::Lz4).await?;
        let (digest, size) = self.name_image(&image, &self.builders()).await?;
        let previous: Option<BuilderRecord> = read_record(&record_path).ok();
        let record = BuilderRecord {
            language: language.clone(),
            version,
            digest,
            size,
            build: BuildRecipe::from(&toolchain),
            recipe,
            packages: contents(&packages, &toolchain.image),
        };
        let text = serde_json::to_vec_pretty(&record).map_err(|error| {
            InstallError::Unexpected(format!("{}: {error}", record_path.display()))
        })?;
        write_atomically(&record_path, &text, 0o644).map_err(InstallError::file(&record_path))?;
        if let Some(previous) = previous {
            self.remove_builder_image(&previous.digest)?;
        }
        // A tree of ten thousand files takes a moment to remove: not on this thread.
        tokio::task::spawn_blocking(move || drop(workshop)).await.map_err(InstallError::task)?;
        drop(lock);
        Ok(record)
    }

    /// Removes a builder and its image. A build that runs keeps the open file.
    pub async fn remove_builder(&self, language: &RuntimeId) -> Result<(), InstallError> {
        let _lock = self.begin(&Silent).await?;
        let path = self.builders().join(format!("{language}.json"));
        let Ok(record) = read_record::<BuilderRecord>(&path) else {
            return Err(InstallError::NotInstalled(format!("{language} --builder")));
        };
        std::fs::remove_file(&path).map_err(InstallError::file(&path))?;
        self.remove_builder_image(&record.digest)
    }

    fn remove_builder_image(&self, digest: &str) -> Result<(), InstallError> {
        self.remove_if_unused::<BuilderRecord>(digest, &self.builders())
    }

    /// Unpacks the toolchain that `runtimes/<folder>/build.toml` describes into the new directory `root`, to
    /// be used as a read-only root directory.
    pub async fn unpack_toolchain(
        &self,
        folder: &str,
        root: &Path,
        progress: &dyn Progress,
    ) -> Result<Toolchain, InstallError> {
        let language = RuntimeId::parse(folder)
            .map_err(|error| InstallError::Unexpected(error.to_string()))?;
        let toolchain = find_toolchain(&language)?;
        for (tool, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar")] {
            HostTool::find(tool, package)?;
        }
        let _lock = self.begin(progress).await?;
        self.make_tree(folder, &toolchain.image, root.to_owned(), progress).await?;
        let results = root.join(OUT_DIR.trim_start_matches('/'));
        std::fs::create_dir(&results).map_err(InstallError::file(&results))?;
        Ok(toolchain)
    }

    fn builders(&self) -> PathBuf {
        self.artifacts.join(BUILDERS)
    }
}

fn find_toolchain(language: &RuntimeId) -> Result<Toolchain, InstallError> {
    let mut shipped = shipped_toolchains()?;
    let names: Vec<String> = shipped.keys().map(ToString::to_string).collect();
    shipped.remove(language).ok_or_else(|| InstallError::NoBuilder {
        id: language.to_string(),
        shipped: names.join(", "),
    })
}
