//! `<id>.json` beside an image: what it is, and what it was made of.
use nova_domain::{RuntimeId, RuntimeImage};
use serde::de::DeserializeOwned;
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

/// What the records of all kinds of images say of their file.
pub(crate) trait ImageRecord: DeserializeOwned {
    /// What the record's own file is called.
    fn name(&self) -> &RuntimeId;

    /// SHA-256 of the image, hex; its file's name.
    fn digest(&self) -> &str;

    /// Its size, bytes.
    fn size(&self) -> u64;

    /// The command that makes it again.
    fn remedy(&self) -> String;

    /// Whether the digest can be a file's name, so that a damaged record leads nowhere else.
    fn has_plain_digest(&self) -> bool {
        self.digest().len() == 64 && self.digest().bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl ImageRecord for RuntimeRecord {
    fn name(&self) -> &RuntimeId {
        &self.image.id
    }

    fn digest(&self) -> &str {
        &self.image.digest
    }

    fn size(&self) -> u64 {
        self.image.size
    }

    fn remedy(&self) -> String {
        match &self.image.own {
            None => format!("`nova runtime add {}`", self.image.id),
            Some(own) => format!("`nova runtime import {} --id {}`", own.source, self.image.id),
        }
    }
}
