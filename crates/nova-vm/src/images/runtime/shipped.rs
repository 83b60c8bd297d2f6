//! The runtimes that are part of this build, embedded: the binary is enough by itself.
use super::manifest::{Manifest, ManifestError};
use super::toolchain::Toolchain;
use nova_domain::{Mode, RuntimeId};
use rust_embed::RustEmbed;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(RustEmbed)]
#[folder = "../../runtimes"]
struct Files;

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
    let mut folders = folders_with("manifest.toml");
    folders.sort();
    folders
        .iter()
        .map(|folder| Manifest::parse(folder, &text(&format!("{folder}/manifest.toml"))?))
        .collect()
}

/// The compilers of this build, by language.
pub fn shipped_toolchains() -> Result<BTreeMap<RuntimeId, Toolchain>, ManifestError> {
    let paths = Files::iter();
    let folders = paths.filter_map(|path| path.strip_suffix("/build.toml").map(str::to_owned));
    folders
        .map(|folder| {
            let path = format!("{folder}/build.toml");
            let toolchain = Toolchain::parse(&folder, &text(&path)?)?;
            let id = RuntimeId::parse(&folder)
                .map_err(|error| ManifestError { path, problem: error.to_string() })?;
            Ok((id, toolchain))
        })
        .collect()
}

/// All that a builder is made by: a change of any of it makes another.
pub(crate) fn toolchain_texts(
    folder: &str,
    toolchain: &Toolchain,
) -> Result<Vec<String>, ManifestError> {
    let mut texts = vec![text(&format!("{folder}/build.toml"))?, text("debian.toml")?];
    for source in toolchain.image.files.values() {
        texts.push(folder_text(folder, source)?);
    }
    Ok(texts)
}

/// What `runtimes/layers.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerVariables {
    all: BTreeMap<String, String>,
    runtimes: BTreeMap<RuntimeId, BTreeMap<String, String>>,
}

fn layer_variables() -> Result<LayerVariables, ManifestError> {
    let path = "layers.toml";
    toml::from_str(&text(path)?)
        .map_err(|error| ManifestError { path: path.into(), problem: error.to_string() })
}

/// The variables by which a runtime finds what layers bring to `/opt`.
/// # Errors
/// This build is faulty, which its tests find.
pub fn layer_environment(runtime: &RuntimeId) -> Result<BTreeMap<String, String>, ManifestError> {
    let LayerVariables { mut all, mut runtimes } = layer_variables()?;
    all.extend(runtimes.remove(runtime).unwrap_or_default());
    Ok(all)
}

/// The recipe that all images share.
pub(crate) fn common_recipe() -> Result<CommonRecipe, ManifestError> {
    let text = text("debian.toml")?;
    toml::from_str(&text)
        .map_err(|error| ManifestError { path: "debian.toml".into(), problem: error.to_string() })
}

/// All that a runtime's image is made by: a change of any of it makes another image.
pub(crate) fn recipe_texts(manifest: &Manifest) -> Result<Vec<String>, ManifestError> {
    let folder = &manifest.id;
    let mut texts = vec![text(&format!("{folder}/manifest.toml"))?, text("debian.toml")?];
    for source in manifest.image.files.values() {
        texts.push(folder_text(folder.as_str(), source)?);
    }
    Ok(texts)
}

/// A text that lies in a language's folder, or, where its path begins with a slash, in another's.
pub(crate) fn folder_text(folder: &str, path: &str) -> Result<String, ManifestError> {
    match path.strip_prefix('/') {
        Some(path) => text(path),
        None => text(&format!("{folder}/{path}")),
    }
}

/// The files of a language's example for a mode, by their names; none where it has no such example.
pub(crate) fn example_files(
    folder: &str,
    mode: Mode,
) -> Result<Vec<(String, String)>, ManifestError> {
    let start = format!("{folder}/examples/{}/", mode.as_str());
    let files = Files::iter().filter_map(|path| {
        let name = path.strip_prefix(&start)?.to_owned();
        Some(text(&path).map(|text| (name, text)))
    });
    files.collect()
}

/// Folders with a file of this name.
fn folders_with(name: &str) -> Vec<String> {
    let end = format!("/{name}");
    Files::iter().filter_map(|path| path.strip_suffix(&end).map(str::to_owned)).collect()
}

impl Manifest {
    /// The example for a mode: a handler as a person would write it. A compiled language has its source
    /// there instead, under names of its own.
    pub fn example(&self, mode: Mode) -> Result<String, ManifestError> {
        folder_text(self.id.as_str(), &format!("examples/{}/handler", mode.as_str()))
    }
}

fn text(path: &str) -> Result<String, ManifestError> {
    let error = |problem: &str| ManifestError { path: path.into(), problem: problem.into() };
    let file = Files::get(path).ok_or_else(|| error("it is missing"))?;
    String::from_utf8(file.data.into_owned()).map_err(|_| error("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Whether an example's folder has sources in it.
    fn has_example(folder: &str, mode: Mode) -> bool {
        !example_files(folder, mode).unwrap().is_empty()
    }

    #[test]
    fn every_shipped_runtime_is_valid_and_has_an_example_per_mode() {
        let (manifests, toolchains) = (shipped_manifests().unwrap(), shipped_toolchains().unwrap());
        assert!(manifests.len() >= 24, "{} runtimes", manifests.len());
        for manifest in &manifests {
            let id = manifest.id.as_str();
            let compiled = toolchains.get(&manifest.id).is_some_and(|it| it.source.is_some());
            for mode in manifest.modes.keys() {
                let has =
                    if compiled { has_example(id, *mode) } else { manifest.example(*mode).is_ok() };
                assert!(has, "runtimes/{id}/examples/{}: there is no example", mode.as_str());
            }
            for mode in [Mode::Process, Mode::Persistent, Mode::Lambda] {
                let known = manifest.modes.contains_key(&mode) || !has_example(id, mode);
                assert!(known, "runtimes/{id}/examples/{}: it has no such mode", mode.as_str());
            }
            for source in manifest.image.files.values() {
                folder_text(id, source).unwrap();
            }
        }
    }

    #[test]
    fn every_compiled_language_builds_for_a_shipped_runtime() {
        let manifests = shipped_manifests().unwrap();
        for (folder, toolchain) in shipped_toolchains().unwrap() {
            let folder = folder.as_str();
            let runtime = manifests.iter().find(|manifest| manifest.id == toolchain.runtime);
            let runtime = runtime.unwrap_or_else(|| {
                panic!("runtimes/{folder}/build.toml: there is no runtime {}", toolchain.runtime)
            });
            let named = |id: &RuntimeId| id.as_str() == folder;
            assert!(
                named(&runtime.id) || runtime.aliases.iter().any(named),
                "runtimes/{folder}/build.toml: {folder} is no alias of {}",
                runtime.id
            );
            if toolchain.source.is_none() {
                continue;
            }
            // In `lambda` mode a program speaks the Runtime API itself, by a library of its language.
            for mode in runtime.modes.keys().filter(|mode| **mode != Mode::Lambda) {
                let path = format!("runtimes/{folder}/examples/{}", mode.as_str());
                assert!(has_example(folder, *mode), "{path}: there is no example");
            }
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
    fn layers_are_found_by_shipped_runtimes() {
        let python = layer_environment(&RuntimeId::parse("python").unwrap()).unwrap();
        assert!(python["PYTHONPATH"].starts_with("/opt/python:"), "{python:?}");
        assert_eq!(python["LD_LIBRARY_PATH"], "/opt/lib");
        let manifests = shipped_manifests().unwrap();
        for id in layer_variables().unwrap().runtimes.keys() {
            assert!(
                manifests.iter().any(|manifest| manifest.id == *id),
                "runtimes/layers.toml: {id}"
            );
        }
    }

    #[test]
    fn the_common_recipe_is_valid() {
        let recipe = common_recipe().unwrap();
        assert!(recipe.packages.iter().any(|package| package == "ca-certificates"));
    }
}
