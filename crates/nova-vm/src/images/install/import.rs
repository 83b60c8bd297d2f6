//! `nova runtime import`: somebody's own image as a runtime.
use super::{InstallError, Installer};
use crate::images::erofs::{self, Compression};
use crate::images::host_tool::HostTool;
use crate::images::oci::{
    Contract, ImageReference, Limits, OciError, Opened, RegistryOptions, contract_of, unpack,
};
use crate::images::progress::Progress;
use crate::images::runtime::{RuntimeRecord, read_record, shipped_manifests};
use nova_domain::{Mode, OwnProgram, RuntimeId, RuntimeImage};
use sha2::{Digest, Sha256};

/// Part of what an image was made by: raised when images come out differently of the same layers.
const IMPORTER_VERSION: u32 = 1;
/// Digits of a digest that tell one image from another where people read them.
const SHORT_DIGEST: usize = 12;

/// How an image is imported.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What to call the runtime; by default the last part of the image's name.
    pub id: Option<RuntimeId>,
    /// Whether that default gets the beginning of the digest, so that another image of the same name is
    /// another runtime.
    pub id_by_digest: bool,
    /// How it is run, instead of what is found in it.
    pub mode: Option<Mode>,
    /// How to speak to its registry.
    pub registry: RegistryOptions,
}

impl Installer {
    /// Makes a runtime of an image for linux/amd64. One that is there, of the same image by its digest, is
    /// returned at once.
    pub async fn import_image(
        &self,
        reference: &ImageReference,
        options: &ImportOptions,
        progress: &dyn Progress,
    ) -> Result<RuntimeRecord, InstallError> {
        // Before anything is downloaded.
        HostTool::find("mkfs.erofs", "erofs-utils")?;
        if let Some(id) = &options.id {
            check_id(id)?;
        }
        let limits = Limits::STANDARD;
        progress.step(&format!("asking for {reference}"));
        let opened = Opened::open(reference, &options.registry, limits).await?;
        let digest = opened.digest.clone();
        let short = &digest.hex()[..SHORT_DIGEST];
        let id = match &options.id {
            Some(id) => id.clone(),
            None => named_after(reference, options.id_by_digest.then_some(short))?,
        };
        check_id(&id)?;
        let source = format!("{reference}@{digest}");
        let recipe = recipe_of(&source, options.mode);
        let lock = self.begin(progress).await?;
        if let Ok(installed) = read_record::<RuntimeRecord>(&self.record_path(&id)) {
            if installed.recipe == recipe {
                return Ok(installed);
            }
            check_same(&installed, reference)?;
        }
        let workshop = self.workshop()?;
        let (layers, root) = (workshop.path().join("layers"), workshop.path().join("tree"));
        std::fs::create_dir(&layers).map_err(InstallError::file(&layers))?;
        let config = opened.config.clone();
        let files = opened.fetch_layers(&layers, progress).await?;
        progress.step(&format!("unpacking {} layers", files.len()));
        let tree = root.clone();
        let unpacking = tokio::task::spawn_blocking(move || -> Result<Contract, OciError> {
            unpack(&files, &config, &tree, limits)?;
            contract_of(&config, &tree)
        });
        let mut contract = unpacking.await.map_err(InstallError::task)??;
        if let Some(mode) = options.mode {
            contract.choose(mode)?;
        }
        progress.step("writing the image");
        let image = workshop.path().join("image");
        erofs::write(&root, &image, Compression::Lz4hc).await?;
        let version = reference.tag().unwrap_or(short).to_owned();
        let Contract { mode, commands, env, working_dir } = contract;
        let record = |digest, size| RuntimeRecord {
            image: RuntimeImage {
                id,
                version,
                digest,
                size,
                commands,
                extension: None,
                env,
                memory_min_mb: 0,
                own: Some(OwnProgram { mode, working_dir, source }),
            },
            aliases: vec![],
            recipe,
            packages: vec![],
        };
        let record = self.publish(&image, record).await?;
        // A tree of ten thousand files takes a moment to remove: not on this thread.
        tokio::task::spawn_blocking(move || drop(workshop)).await.map_err(InstallError::task)?;
        drop(lock);
        Ok(record)
    }
}

/// An id that no shipped runtime has or may get.
fn check_id(id: &RuntimeId) -> Result<(), InstallError> {
    let taken = shipped_manifests()?
        .iter()
        .any(|manifest| manifest.id == *id || manifest.aliases.contains(id));
    if taken {
        let problem = format!("runtime {id} is one that Nova ships; give the image another --id");
        return Err(InstallError::Unexpected(problem));
    }
    Ok(())
}

/// An image may be made anew from where it came from; functions that run another one must not be given it.
fn check_same(installed: &RuntimeRecord, reference: &ImageReference) -> Result<(), InstallError> {
    let id = &installed.image.id;
    let source = installed.image.own.as_ref().map_or("", |own| own.source.as_str());
    let (from, _digest) = source.rsplit_once('@').unwrap_or((source, ""));
    if from == reference.to_string() {
        return Ok(());
    }
    let problem = format!(
        "runtime {id} is the image {source}; give this one another --id, or remove that one with \
         `nova runtime remove {id}`"
    );
    Err(InstallError::Unexpected(problem))
}

fn named_after(
    reference: &ImageReference,
    digest: Option<&str>,
) -> Result<RuntimeId, InstallError> {
    let name = reference.short_name();
    let text = match digest {
        // Whatever the name's length, the whole fits.
        Some(digest) => format!("{name:.40}-{digest}"),
        None => name,
    };
    RuntimeId::parse(&text).map_err(|_| {
        let problem = format!("{text:?} cannot be a runtime's id; give one with --id");
        InstallError::Unexpected(problem)
    })
}

fn recipe_of(source: &str, mode: Option<Mode>) -> String {
    let mode = mode.map_or("found", Mode::as_str);
    hex::encode(Sha256::digest(format!("{IMPORTER_VERSION}\n{source}\n{mode}")))
}
