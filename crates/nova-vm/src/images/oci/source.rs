//! An image at one of the places where images are: from its reference to its layers as verified files.
use super::OciError;
use super::archive::DockerArchive;
use super::config::ImageConfig;
use super::digest::Digest;
use super::layer::LayerFile;
use super::layout::Layout;
use super::limits::Limits;
use super::manifest::{Descriptor, Document, Manifest, for_this_machine};
use super::reference::ImageReference;
use super::registry::{Registry, RegistryOptions};
use super::{Contract, contract};
use crate::images::progress::Progress;
use std::path::Path;

/// An image whose manifest and configuration are here and verified, and whose layers can be had.
pub(in crate::images) struct Opened {
    /// What names its contents for ever: the digest of its manifest, of its configuration in an archive.
    pub digest: Digest,
    pub config: ImageConfig,
    layers: Layers,
}

enum Layers {
    Registry(Registry, Vec<Descriptor>),
    Layout(Layout, Vec<Descriptor>),
    Archive(Vec<LayerFile>),
}

impl Opened {
    /// Finds the image that a reference means, for linux/amd64.
    pub async fn open(
        reference: &ImageReference,
        options: &RegistryOptions,
        limits: Limits,
    ) -> Result<Self, OciError> {
        match reference {
            ImageReference::Registry(name) => {
                let registry = Registry::open(name, options)?;
                let (digest, first) = registry.manifest(&name.wanted()).await?;
                let (digest, manifest) = match Document::parse(&first, limits)? {
                    Document::Manifest(manifest) => (digest, manifest),
                    Document::Index(all) => {
                        let chosen = for_this_machine(&all)?;
                        let (digest, bytes) = registry.manifest(&chosen.digest.to_string()).await?;
                        (digest, image(&bytes, limits)?)
                    }
                };
                let config = ImageConfig::parse(&registry.document(&manifest.config).await?)?;
                Ok(Self { digest, config, layers: Layers::Registry(registry, manifest.layers) })
            }
            ImageReference::Layout { path, tag } => {
                let layout = Layout::open(path)?;
                let mut chosen = layout.find(tag.as_deref())?;
                let mut document = Document::parse(&layout.document(&chosen)?, limits)?;
                if let Document::Index(all) = &document {
                    chosen = for_this_machine(all)?.clone();
                    document = Document::Manifest(image(&layout.document(&chosen)?, limits)?);
                }
                let Document::Manifest(manifest) = document else {
                    return Err(nested());
                };
                let config = ImageConfig::parse(&layout.document(&manifest.config)?)?;
                let layers = Layers::Layout(layout, manifest.layers);
                Ok(Self { digest: chosen.digest, config, layers })
            }
            ImageReference::DockerArchive { path } => {
                let archive = DockerArchive::open(path, limits)?;
                let config = ImageConfig::parse(&archive.config)?;
                let digest = Digest::of(&archive.config);
                Ok(Self { digest, config, layers: Layers::Archive(archive.layers) })
            }
        }
    }

    /// The layers as files, each verified; those of a registry are fetched into `directory`.
    pub async fn fetch_layers(
        self,
        directory: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<LayerFile>, OciError> {
        match self.layers {
            Layers::Archive(files) => Ok(files),
            Layers::Layout(layout, layers) => {
                let verify = move || layers.iter().map(|layer| layout.layer(layer)).collect();
                let verified = tokio::task::spawn_blocking(verify).await;
                verified.map_err(|error| OciError::refused(format!("it was not read: {error}")))?
            }
            Layers::Registry(registry, layers) => {
                let total: u64 = layers.iter().map(|layer| layer.size).sum();
                let megabytes = total.div_ceil(1_000_000);
                progress.step(&format!("downloading {} layers ({megabytes} MB)", layers.len()));
                let mut done = 0;
                let mut files = Vec::new();
                for (number, layer) in layers.iter().enumerate() {
                    let path = directory.join(format!("layer-{number}"));
                    let before = done;
                    let tell = |bytes: u64| {
                        progress.percent(100.0 * (before + bytes) as f32 / total.max(1) as f32);
                    };
                    registry.blob(layer, &path, tell).await?;
                    done += layer.size;
                    files.push(LayerFile { path, offset: 0, bytes: layer.size });
                }
                Ok(files)
            }
        }
    }
}

/// How an unpacked image is started.
pub(in crate::images) fn contract_of(
    config: &ImageConfig,
    root: &Path,
) -> Result<Contract, OciError> {
    use std::os::unix::fs::PermissionsExt;
    // Not followed: a link could lead to a program of this host.
    let about = root.join(contract::AWS_BOOTSTRAP.trim_start_matches('/')).symlink_metadata();
    let is_program =
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0);
    Contract::find(&config.start, is_program)
}

fn image(bytes: &[u8], limits: Limits) -> Result<Manifest, OciError> {
    match Document::parse(bytes, limits)? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(nested()),
    }
}

fn nested() -> OciError {
    OciError::refused("its index leads to another index")
}
