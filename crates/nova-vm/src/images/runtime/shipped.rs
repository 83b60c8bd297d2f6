//! The runtimes that are part of this build, embedded: the binary is enough by itself.
use super::manifest::{Manifest, ManifestError};
use nova_domain::Mode;
use rust_embed::RustEmbed;
use serde::Deserialize;

#[derive(RustEmbed)]
#[folder = "../../runtimes"]
struct Files;

/// A handler as a person would write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The mode it is written for.
    pub mode: Mode,
    /// Its text.
    pub handler: String,
}

/// What all images have in common; `runtimes/debian.toml` explains the fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommonRecipe {
    pub suite: String,
    pub components: Vec<String>,
    pub keyring: String,
    pub packages: Vec<String>,
    pub omit: Vec<String>,
    pub prune: Vec<String>,
    pub busybox: Vec<String>,
}

/// All manifests of this build, by id. A faulty one is an error of the build, found by its tests.
pub fn shipped_manifests() -> Result<Vec<Manifest>, ManifestError> {
    let mut folders: Vec<String> = Files::iter()
        .filter_map(|path| path.strip_suffix("/manifest.toml").map(str::to_owned))
        .collect();
    folders.sort();
    folders
        .iter()
        .map(|folder| Manifest::parse(folder, &text(folder, &format!("{folder}/manifest.toml"))?))
        .collect()
}

/// The recipe that all images share.
pub(crate) fn common_recipe() -> Result<CommonRecipe, ManifestError> {
    let text = text("debian.toml", "debian.toml")?;
    toml::from_str(&text)
        .map_err(|error| ManifestError { folder: "debian.toml".into(), problem: error.to_string() })
}

/// All that a runtime's image is made by: a change of any of it makes another image.
pub(crate) fn recipe_texts(manifest: &Manifest) -> Result<Vec<String>, ManifestError> {
    let folder = manifest.id.as_str();
    let mut texts =
        vec![text(folder, &format!("{folder}/manifest.toml"))?, text(folder, "debian.toml")?];
    for source in manifest.image.files.values() {
        texts.push(folder_text(folder, source)?);
    }
    Ok(texts)
}

/// A text that lies in a language's folder, or, where its path begins with a slash, in another's: some
/// languages share a bootstrap.
pub(crate) fn folder_text(folder: &str, path: &str) -> Result<String, ManifestError> {
    match path.strip_prefix('/') {
        Some(path) => text(folder, path),
        None => text(folder, &format!("{folder}/{path}")),
    }
}

impl Manifest {
    /// The example for a mode.
    pub fn example(&self, mode: Mode) -> Result<Example, ManifestError> {
        let path = format!("{}/examples/{}/handler", self.id, mode.as_str());
        Ok(Example { mode, handler: text(self.id.as_str(), &path)? })
    }
}

fn text(folder: &str, path: &str) -> Result<String, ManifestError> {
    let error = |problem: String| ManifestError { folder: folder.to_owned(), problem };
    let file = Files::get(path).ok_or_else(|| error(format!("runtimes/{path} is missing")))?;
    String::from_utf8(file.data.into_owned())
        .map_err(|_| error(format!("runtimes/{path} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_shipped_runtime_is_valid_and_has_an_example_per_mode() {
        let manifests = shipped_manifests().unwrap();
        for id in ["base", "node", "python"] {
            assert!(manifests.iter().any(|manifest| manifest.id.as_str() == id), "{id}");
        }
        for manifest in &manifests {
            for mode in manifest.modes.keys() {
                let example = manifest.example(*mode).unwrap();
                assert!(!example.handler.trim().is_empty());
            }
            recipe_texts(manifest).unwrap();
        }
    }

    #[test]
    fn no_two_runtimes_answer_to_one_id() {
        let mut seen = BTreeSet::new();
        for manifest in shipped_manifests().unwrap() {
            for id in manifest.aliases.iter().chain([&manifest.id]) {
                assert!(seen.insert(id.clone()), "{id} is taken twice");
            }
        }
        assert!(!seen.iter().any(|id| id.as_str() == "javascript"), "node is called node");
    }

    #[test]
    fn the_common_recipe_is_valid() {
        let recipe = common_recipe().unwrap();
        assert!(recipe.packages.iter().any(|package| package == "ca-certificates"));
    }
}
