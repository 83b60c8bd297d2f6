//! `<id>.json` beside an image: what it is, and what it was made of.
use nova_domain::{RuntimeId, RuntimeImage};
use serde::{Deserialize, Serialize};

/// An installed runtime with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// What functions are run with.
    #[serde(flatten)]
    pub image: RuntimeImage,
    /// Other ids that functions may name it by.
    #[serde(default)]
    pub aliases: Vec<RuntimeId>,
    /// SHA-256 of the recipe that it was made by: unchanged means that it need not be made again.
    #[serde(default)]
    pub recipe: String,
    /// The packages in it, `name=version`.
    #[serde(default)]
    pub packages: Vec<String>,
}

impl RuntimeRecord {
    /// The end of the command that makes the image again.
    pub(crate) fn remedy(&self) -> String {
        match &self.image.own {
            None => format!("add {}", self.image.id),
            Some(own) => format!("import {} --id {}", own.source, self.image.id),
        }
    }

    /// Whether the digest can be a file's name, so that a damaged record leads nowhere else.
    pub(crate) fn has_plain_digest(&self) -> bool {
        self.image.digest.len() == 64 && self.image.digest.bytes().all(|b| b.is_ascii_hexdigit())
    }
}
