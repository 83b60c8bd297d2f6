//! Manifests and indexes, in both dialects: OCI's and Docker's differ in their media types only.
use super::OciError;
use super::digest::Digest;
use super::error::quote;
use super::limits::{DOCUMENT_MAX_BYTES, LAYERS_MAX, Limits};
use serde::Deserialize;

/// What is asked of a registry.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A blob: what it is, how long, and the hash of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// For which machines an image is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub architecture: String,
    pub os: String,
}

/// What a reference leads to.
#[derive(Debug)]
pub(super) enum Document {
    /// One image per platform.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// An image: its configuration and its layers, the lowest first.
#[derive(Debug)]
pub(super) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads what has passed its digest already, if there was one.
    pub fn parse(bytes: &[u8], limits: Limits) -> Result<Self, OciError> {
        let broken = |problem: String| OciError::refused(format!("its manifest {problem}"));
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| broken(format!("cannot be read: {error}")))?;
        if raw.schema_version != 2 {
            return Err(broken(format!("has the schema {}, not 2", raw.schema_version)));
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                let manifest = Manifest { config, layers };
                manifest.check(limits)?;
                Ok(Self::Manifest(manifest))
            }
            _ => Err(broken("is neither an image's nor an index".into())),
        }
    }
}

impl Manifest {
    /// Refuses what is too large before any of it is fetched.
    fn check(&self, limits: Limits) -> Result<(), OciError> {
        if self.config.size > DOCUMENT_MAX_BYTES {
            let problem = format!("its configuration is over {DOCUMENT_MAX_BYTES} bytes");
            return Err(OciError::refused(problem));
        }
        if self.layers.len() > LAYERS_MAX {
            let count = self.layers.len();
            return Err(OciError::refused(format!("it has {count} layers, over {LAYERS_MAX}")));
        }
        let mut total = 0_u64;
        for layer in &self.layers {
            let kind = &layer.media_type;
            if !kind.contains("tar") {
                return Err(OciError::refused(format!("{} is no layer of files", quote(kind))));
            }
            if kind.contains("foreign") || kind.contains("nondistributable") {
                let problem = format!("a layer of the kind {} lies elsewhere", quote(kind));
                return Err(OciError::refused(problem));
            }
            total = total.saturating_add(layer.size);
        }
        if total > limits.packed_bytes {
            let limit = limits.packed_bytes;
            return Err(OciError::refused(format!("its layers are over {limit} bytes")));
        }
        Ok(())
    }
}

/// The image of an index that runs here.
pub(super) fn for_this_machine(manifests: &[Descriptor]) -> Result<&Descriptor, OciError> {
    let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == "amd64";
    let of_platform = manifests.iter().find(|one| one.platform.as_ref().is_some_and(fits));
    match (of_platform, manifests) {
        (Some(found), _) => Ok(found),
        // It says so itself.
        (None, [only]) if only.platform.is_none() => Ok(only),
        (None, _) => {
            let mut others: Vec<String> = manifests
                .iter()
                .filter_map(|one| one.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .take(10)
                .collect();
            others.sort();
            let others = quote(others.join(", "));
            Err(OciError::refused(format!("it is not made for linux/amd64, but for {others}")))
        }
    }
}
