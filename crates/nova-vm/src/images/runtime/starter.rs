//! What a new project in a language starts with: the example of its mode under the names that people give
//! to such files.
use super::manifest::{Manifest, ManifestError};
use super::shipped::{example_files, shipped_manifests, shipped_toolchains};
use nova_domain::{Mode, RuntimeId, default_handler};
use std::collections::BTreeMap;

/// The first lines of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starter {
    /// How the program is started.
    pub mode: Mode,
    /// What the function names as its handler.
    pub handler: String,
    /// Paths and texts.
    pub files: Vec<(String, String)>,
    /// In a compiled language, the shell command that makes the handler.
    pub build: Option<String>,
    /// The smallest memory that the language starts in, MiB.
    pub memory_min_mb: u32,
}

/// Why there is no such project.
#[derive(Debug, thiserror::Error)]
pub enum StarterError {
    /// No language of that name.
    #[error("there is no runtime {runtime}; there are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        runtime: RuntimeId,
        /// What can be.
        known: Vec<String>,
    },
    /// The language has no example of that mode.
    #[error("{runtime} has no mode {}; use {}", mode.as_str(), modes.join(" or "))]
    NoSuchMode {
        /// The language.
        runtime: RuntimeId,
        /// What was asked for.
        mode: Mode,
        /// What can be.
        modes: Vec<&'static str>,
    },
    /// This build is faulty.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Starter {
    /// Every language that a project can be in: runtimes and compiled languages, sorted.
    pub fn languages() -> Result<Vec<String>, ManifestError> {
        let manifests = shipped_manifests()?;
        let mut ids = compiled_languages()?.into_keys().collect::<Vec<_>>();
        ids.extend(manifests.iter().map(|manifest| manifest.id.as_str().to_owned()));
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// A project in a language, named by its id or an alias.
    pub fn new(runtime: &RuntimeId, mode: Mode) -> Result<Self, StarterError> {
        let manifests = shipped_manifests()?;
        let mut compilers = compiled_languages()?;
        let has =
            |manifest: &&Manifest| manifest.id == *runtime || manifest.aliases.contains(runtime);
        let Some(manifest) = manifests.iter().find(has) else {
            let (runtime, known) = (runtime.clone(), Self::languages()?);
            return Err(StarterError::Unknown { runtime, known });
        };
        // `go` is a folder of its own although it is an alias of `base`; `java17` is one of `java`'s.
        let is_compiled = compilers.contains_key(runtime.as_str());
        let folder = if is_compiled { runtime.as_str() } else { manifest.id.as_str() };
        let examples = example_files(folder, mode)?;
        if examples.is_empty() {
            let all = [Mode::Process, Mode::Persistent, Mode::Lambda].into_iter();
            let known = all
                .filter(|mode| example_files(folder, *mode).is_ok_and(|files| !files.is_empty()));
            let modes = known.map(Mode::as_str).collect();
            return Err(StarterError::NoSuchMode { runtime: runtime.clone(), mode, modes });
        }
        let build = compilers.remove(folder);
        let memory_min_mb = manifest.memory_min_mb;
        if build.is_some() {
            let handler = default_handler(mode).to_owned();
            return Ok(Self { mode, handler, files: examples, build, memory_min_mb });
        }
        let ended = |stem: &str| match &manifest.extension {
            Some(extension) => format!("{stem}.{extension}"),
            None => stem.to_owned(),
        };
        let (file, handler) = match (mode, &manifest.extension) {
            (Mode::Process | Mode::Persistent | Mode::Http, _) => {
                (ended("handler"), ended("handler"))
            }
            (Mode::Lambda, Some(_)) => (ended("main"), default_handler(mode).to_owned()),
            (Mode::Lambda, None) => ("bootstrap".to_owned(), default_handler(mode).to_owned()),
        };
        let files = examples.into_iter().map(|(name, text)| match name.as_str() {
            "handler" => (file.clone(), text),
            _ => (name, text),
        });
        Ok(Self { mode, handler, files: files.collect(), build, memory_min_mb })
    }
}

/// How each compiled language is compiled by hand.
fn compiled_languages() -> Result<BTreeMap<String, String>, ManifestError> {
    let toolchains = shipped_toolchains()?.into_iter();
    Ok(toolchains
        .filter_map(|(id, toolchain)| Some((id.to_string(), toolchain.by_hand?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starter(runtime: &str, mode: Mode) -> Result<Starter, StarterError> {
        Starter::new(&RuntimeId::parse(runtime).unwrap(), mode)
    }

    fn names(starter: &Starter) -> Vec<&str> {
        starter.files.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn every_language_has_a_project_and_every_runtime_is_a_language() {
        let languages = Starter::languages().unwrap();
        assert!(languages.len() >= 36, "{languages:?}");
        for language in &languages {
            let starter = starter(language, Mode::Process).unwrap();
            let there = names(&starter).contains(&starter.handler.as_str());
            // What a compiler makes is not there yet.
            assert_eq!(there, starter.build.is_none(), "{language}: {:?}", names(&starter));
        }
    }

    #[test]
    fn files_are_named_as_people_name_them() {
        assert_eq!(names(&starter("python", Mode::Process).unwrap()), ["handler.py"]);
        assert_eq!(names(&starter("python3.11", Mode::Lambda).unwrap()), ["main.py"]);
        assert_eq!(names(&starter("base", Mode::Lambda).unwrap()), ["bootstrap"]);
        assert_eq!(names(&starter("go", Mode::Persistent).unwrap()), ["go.mod", "hello.go"]);
        let java = starter("java17", Mode::Process).unwrap();
        assert_eq!((names(&java), java.handler.as_str()), (vec!["Hello.java"], "handler"));
        assert!(java.build.unwrap().contains("javac"));
    }

    #[test]
    fn what_there_is_not_is_refused_with_what_there_is() {
        let error = starter("cobol", Mode::Process).unwrap_err().to_string();
        assert!(error.contains("cobol") && error.contains("python"), "{error}");
        let error = starter("go", Mode::Lambda).unwrap_err().to_string();
        assert_eq!(error, "go has no mode lambda; use process or persistent");
    }
}
