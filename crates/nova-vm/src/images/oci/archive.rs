//! What `docker save` writes: a tar with `manifest.json`, a configuration and the layers. Blobs have no digests
//! of their own here; the layers' unpacked ones are in the configuration.
use super::OciError;
use super::error::quote;
use super::layer::{Allowance, Allowed, LayerFile};
use super::limits::{DOCUMENT_MAX_BYTES, LAYERS_MAX, Limits};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Most entries: several for each layer, in both generations of the format.
const ENTRIES_MAX: usize = 8 * LAYERS_MAX;
/// What an entry's header, name and padding may take, bytes.
const ENTRY_HEAD_MAX_BYTES: u64 = 1024 * 1024;

/// The one image of an archive.
pub(super) struct DockerArchive {
    /// Its configuration's text.
    pub config: Vec<u8>,
    /// Parts of the archive, the lowest layer first.
    pub layers: Vec<LayerFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    config: String,
    layers: Vec<String>,
}

impl DockerArchive {
    /// Finds the image in it.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, OciError> {
        let mut file = File::open(path).map_err(OciError::file(path))?;
        let entries = entries(&file, path)?;
        let find = |name: &str| {
            entries.get(name).copied().ok_or_else(|| {
                let hint = "an archive that `docker save` writes has it";
                OciError::refused(format!("{} has no {}; {hint}", path.display(), quote(name)))
            })
        };
        let mut read = |(offset, bytes): (u64, u64)| {
            if bytes > DOCUMENT_MAX_BYTES {
                let problem = format!("a part of it is over {DOCUMENT_MAX_BYTES} bytes");
                return Err(OciError::refused(problem));
            }
            let mut text = Vec::new();
            file.seek(SeekFrom::Start(offset))
                .and_then(|_| file.by_ref().take(bytes).read_to_end(&mut text))
                .map_err(OciError::file(path))?;
            Ok(text)
        };
        let manifest = read(find("manifest.json")?)?;
        let images: Vec<Described> = serde_json::from_slice(&manifest)
            .map_err(|error| OciError::refused(format!("manifest.json cannot be read: {error}")))?;
        let [Described { config, layers: names }] = &images[..] else {
            let count = images.len();
            let problem = format!("the archive holds {count} images; save one at a time");
            return Err(OciError::refused(problem));
        };
        if names.len() > LAYERS_MAX {
            let problem = format!("it has {} layers, over {LAYERS_MAX}", names.len());
            return Err(OciError::refused(problem));
        }
        let config = read(find(config)?)?;
        let mut layers = Vec::new();
        let mut total = 0_u64;
        for name in names {
            let (offset, bytes) = find(name)?;
            total = total.saturating_add(bytes);
            layers.push(LayerFile { path: path.to_owned(), offset, bytes });
        }
        if total > limits.packed_bytes {
            let limit = limits.packed_bytes;
            return Err(OciError::refused(format!("its layers are over {limit} bytes")));
        }
        Ok(Self { config, layers })
    }
}

/// Where each file of the archive begins, and how long it is.
fn entries(file: &File, path: &Path) -> Result<HashMap<String, (u64, u64)>, OciError> {
    let broken = |error: io::Error| {
        let hint = "a compressed one must be unpacked first";
        OciError::refused(format!("{} is no tar archive ({error}); {hint}", path.display()))
    };
    let allowance = Allowance::default();
    allowance.allow(ENTRY_HEAD_MAX_BYTES);
    let source = Allowed::new(BufReader::new(file), allowance.clone());
    let mut archive = tar::Archive::new(source);
    let mut found = HashMap::new();
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if found.len() >= ENTRIES_MAX {
            let problem = format!("the archive has over {ENTRIES_MAX} entries");
            return Err(OciError::refused(problem));
        }
        // It is skipped by the next look, which may then read one more head.
        allowance.allow(entry.size().saturating_add(ENTRY_HEAD_MAX_BYTES));
        if entry.header().entry_type().is_file() {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            found.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(found)
}
