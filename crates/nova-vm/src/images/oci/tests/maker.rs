//! Makes images: layers as tars, around them an OCI layout or what `docker save` writes.
use crate::images::oci::digest::Digest;
use crate::images::oci::{ImageReference, Limits, OciError, Opened, RegistryOptions, unpack};
use crate::images::progress::Silent;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tar::EntryType;

/// A layer that is being made.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds an entry under exactly this name, whatever a careful writer would say to it.
    pub fn entry(
        mut self,
        name: &str,
        kind: EntryType,
        (mode, uid): (u32, u64),
        target: &str,
        content: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, EntryType::Regular, (0o644, 0), "", content.as_bytes())
    }

    pub fn directory(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, (0o755, 0), "", b"")
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, (0o777, 0), target, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Link, (0o644, 0), target, b"")
    }

    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// How a layer is stored.
#[derive(Clone, Copy)]
pub enum Packed {
    Plain,
    Gzip,
    /// As two frames, with one to be skipped between them.
    Zstd,
}

pub fn pack(tar: &[u8], how: Packed) -> Vec<u8> {
    match how {
        Packed::Plain => tar.to_vec(),
        Packed::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Packed::Zstd => {
            let frame = |bytes: &[u8]| {
                let level = ruzstd::encoding::CompressionLevel::Fastest;
                ruzstd::encoding::compress_to_vec(bytes, level)
            };
            let (first, second) = tar.split_at(tar.len() / 3);
            let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
            [frame(first), skipped, frame(second)].concat()
        }
    }
}

/// An image that is being made, below a directory of its own.
pub struct Image {
    pub place: tempfile::TempDir,
    pub config: Value,
    /// Each layer's tar, and how it is packed.
    pub layers: Vec<(Vec<u8>, Packed)>,
    pub limits: Limits,
}

impl Image {
    pub fn of(layers: impl IntoIterator<Item = Layer>) -> Self {
        let layers = layers.into_iter().map(|layer| (layer.tar(), Packed::Gzip));
        Self {
            place: tempfile::tempdir().unwrap(),
            config: json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/run"]}}),
            layers: layers.collect(),
            limits: Limits::STANDARD,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The configuration with the hashes of the layers.
    fn whole_config(&self) -> Vec<u8> {
        let hashes: Vec<String> =
            self.layers.iter().map(|(tar, _)| Digest::of(tar).to_string()).collect();
        let mut config = self.config.clone();
        if config.get("rootfs").is_none() {
            config["rootfs"] = json!({"type": "layers", "diff_ids": hashes});
        }
        config.to_string().into_bytes()
    }

    /// Stores a blob and describes it.
    pub fn blob(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = Digest::of(bytes);
        let directory = self.path("layout/blobs/sha256");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    /// Stores the manifest and all that it names, and describes it.
    pub fn manifest(&self) -> Value {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(tar, how)| {
                self.blob(&pack(tar, *how), "application/vnd.oci.image.layer.v1.tar+gzip")
            })
            .collect();
        let config = self.blob(&self.whole_config(), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.blob(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json")
    }

    /// Writes the layout's index of these images.
    pub fn index(&self, manifests: Value) -> ImageReference {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::create_dir_all(self.path("layout")).unwrap();
        fs::write(self.path("layout/index.json"), index.to_string()).unwrap();
        ImageReference::Layout { path: self.path("layout"), tag: None }
    }

    /// The image as an OCI layout.
    pub fn layout(&self) -> ImageReference {
        self.index(json!([self.manifest()]))
    }

    /// The image as `docker save` writes it.
    pub fn docker_archive(&self) -> ImageReference {
        let mut archive = Layer::new();
        let mut names = Vec::new();
        for (number, (tar, how)) in self.layers.iter().enumerate() {
            let name = format!("{number}/layer.tar");
            archive = archive.entry(&name, EntryType::Regular, (0o644, 0), "", &pack(tar, *how));
            names.push(name);
        }
        let manifest = json!([{"Config": "config.json", "RepoTags": ["app:1"], "Layers": names}]);
        let config = String::from_utf8(self.whole_config()).unwrap();
        let archive = archive.file("config.json", &config);
        let tar = archive.file("manifest.json", &manifest.to_string()).tar();
        fs::write(self.path("image.tar"), tar).unwrap();
        ImageReference::DockerArchive { path: self.path("image.tar") }
    }

    /// Takes the image from there and unpacks it.
    pub async fn taken(&self, reference: &ImageReference) -> Result<PathBuf, OciError> {
        let opened = Opened::open(reference, &RegistryOptions::default(), self.limits).await?;
        let config = opened.config.clone();
        let files = opened.fetch_layers(self.place.path(), &Silent).await?;
        let root = self.path("tree");
        unpack(&files, &config, &root, self.limits)?;
        Ok(root)
    }

    /// The same, from a layout; it must work.
    pub async fn unpacked(&self) -> PathBuf {
        self.taken(&self.layout()).await.unwrap()
    }

    /// The same; it must be refused.
    pub async fn refused(&self) -> String {
        self.taken(&self.layout()).await.unwrap_err().to_string()
    }
}

/// The text of a file in the unpacked image.
pub fn text(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
