//! An OCI image layout: `index.json`, and blobs below `blobs/sha256`.
use super::OciError;
use super::digest::{Digest, HashingReader};
use super::error::quote;
use super::layer::LayerFile;
use super::limits::DOCUMENT_MAX_BYTES;
use super::manifest::Descriptor;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the index says how an image in it is called.
const NAME: &str = "org.opencontainers.image.ref.name";

/// A directory that is one.
pub(super) struct Layout {
    path: PathBuf,
    images: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

impl Layout {
    /// Reads its index.
    pub fn open(path: &Path) -> Result<Self, OciError> {
        let index = path.join("index.json");
        let bytes = read_bounded(&index)?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| {
            OciError::refused(format!("{} cannot be read: {error}", index.display()))
        })?;
        Ok(Self { path: path.to_owned(), images: index.manifests })
    }

    /// The image of that name, or the only one.
    pub fn find(&self, tag: Option<&str>) -> Result<Descriptor, OciError> {
        let name_of = |image: &Descriptor| image.annotations.get(NAME).cloned();
        let found = match tag {
            Some(tag) => self.images.iter().find(|image| name_of(image).as_deref() == Some(tag)),
            None if self.images.len() == 1 => self.images.first(),
            None => None,
        };
        found.cloned().ok_or_else(|| {
            let names: Vec<String> = self.images.iter().filter_map(name_of).take(20).collect();
            let names = quote(names.join(", "));
            let path = self.path.display();
            OciError::refused(format!("{path} holds the images {names}; name one: oci:{path}:TAG"))
        })
    }

    /// A small blob, verified.
    pub fn document(&self, wanted: &Descriptor) -> Result<Vec<u8>, OciError> {
        let bytes = read_bounded(&self.blob(wanted))?;
        check(wanted, bytes.len() as u64, &Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// A layer, verified where it lies.
    pub fn layer(&self, wanted: &Descriptor) -> Result<LayerFile, OciError> {
        let path = self.blob(wanted);
        let file = File::open(&path).map_err(OciError::file(&path))?;
        let mut hashing = HashingReader::new(file.take(wanted.size.saturating_add(1)));
        let bytes = io::copy(&mut hashing, &mut io::sink()).map_err(OciError::file(&path))?;
        check(wanted, bytes, &hashing.digest())?;
        Ok(LayerFile { path, offset: 0, bytes })
    }

    fn blob(&self, wanted: &Descriptor) -> PathBuf {
        self.path.join("blobs/sha256").join(wanted.digest.hex())
    }
}

/// Whether a blob is what its descriptor says.
pub(super) fn check(wanted: &Descriptor, bytes: u64, found: &Digest) -> Result<(), OciError> {
    if bytes == wanted.size && *found == wanted.digest {
        return Ok(());
    }
    let Descriptor { digest, size, .. } = wanted;
    Err(OciError::refused(format!(
        "a blob is {found} ({bytes} bytes or more), but should be {digest} ({size} bytes)"
    )))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, OciError> {
    let file = File::open(path).map_err(OciError::file(path))?;
    let mut bytes = Vec::new();
    file.take(DOCUMENT_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(OciError::file(path))?;
    if bytes.len() as u64 > DOCUMENT_MAX_BYTES {
        let path = path.display();
        return Err(OciError::refused(format!("{path} is over {DOCUMENT_MAX_BYTES} bytes")));
    }
    Ok(bytes)
}
