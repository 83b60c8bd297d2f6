//! Layers: archives that several functions share, mounted at `/opt`.
//!
//! A function names layers and keeps what they held at that moment: a new upload changes no function until
//! that is updated. All layers of a function together are one archive, so that a guest mounts one thing.
use crate::{CodeHash, InvalidField, LayerName};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Most layers of one function, as on AWS Lambda.
pub const LAYERS_MAX: usize = 5;

/// A layer as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name.
    pub name: LayerName,
    /// Counts uploads, from 1.
    pub version: u64,
    /// Its archive.
    pub hash: CodeHash,
    /// Bytes of the archive.
    pub size: u64,
    /// When it was first uploaded.
    pub created_at: DateTime<Utc>,
    /// When this archive was.
    pub updated_at: DateTime<Utc>,
}

/// A layer of a function: what it held when the function was last told about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerVersion {
    /// Its name.
    pub name: LayerName,
    /// Its archive then.
    pub hash: CodeHash,
}

/// The layers of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layers {
    /// Each of them, in order: where two have the same file, the later one's is there.
    pub versions: Vec<LayerVersion>,
    /// All of them as one archive; `None` where there are none.
    pub merged: Option<CodeHash>,
}

impl Layers {
    /// Names of layers as a client gives them: valid, each once, not too many.
    pub fn parse_names(names: &[String]) -> Result<Vec<LayerName>, InvalidField> {
        if names.len() > LAYERS_MAX {
            let hint = format!("list at most {LAYERS_MAX} layers");
            return Err(InvalidField::new("layers", format!("{} entries", names.len()), hint));
        }
        let mut parsed = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let field = format!("layers[{index}]");
            let name = LayerName::parse(name).map_err(|mut error| {
                error.field.clone_from(&field);
                error
            })?;
            if parsed.contains(&name) {
                let problem = format!("{name} is listed twice");
                return Err(InvalidField::new(field, problem, "list each layer once"));
            }
            parsed.push(name);
        }
        Ok(parsed)
    }

    /// Every archive that they need.
    pub fn hashes(&self) -> impl Iterator<Item = &CodeHash> {
        self.versions.iter().map(|version| &version.hash).chain(&self.merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_each_there_once_and_at_most_five() {
        let field = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Layers::parse_names(&names).map_err(|error| error.field)
        };
        assert_eq!(field(&["a", "b.c"]).unwrap().len(), 2);
        assert_eq!(field(&["a", "../b"]), Err("layers[1]".into()));
        assert_eq!(field(&["a", "b", "a"]), Err("layers[2]".into()));
        assert_eq!(field(&["a", "b", "c", "d", "e", "f"]), Err("layers".into()));
    }
}
