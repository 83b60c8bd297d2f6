//! `builders/<language>.json` beside an image with a compiler: what it is, and how a build in it is run.
use super::record::ImageRecord;
use super::toolchain::{DependencyRecipe, PrecompileRecipe, SourceNames, Toolchain};
use nova_domain::RuntimeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An installed compiler with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuilderRecord {
    /// The language, named like its folder.
    pub language: RuntimeId,
    /// Version of the compiler.
    pub version: String,
    /// SHA-256 of the image file, hex.
    pub digest: String,
    /// Size of the image file, bytes.
    pub size: u64,
    /// How it is called.
    pub build: BuildRecipe,
    /// SHA-256 of the recipe that it was made by: unchanged means that it need not be made again.
    pub recipe: String,
    /// The packages in it, `name=version`.
    pub packages: Vec<String>,
}

/// How a build is run, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecipe {
    /// How a program is made of source, where the language is compiled.
    #[serde(default)]
    pub compile: Option<CompileRecipe>,
    /// How the packages that code lists are added.
    #[serde(default)]
    pub dependencies: Option<DependencyRecipe>,
    /// How a program is made to start sooner.
    #[serde(default)]
    pub precompile: Option<PrecompileRecipe>,
    /// The environment of all of them.
    pub env: BTreeMap<String, String>,
    /// Memory, MiB.
    pub memory_mb: u32,
    /// Time, seconds.
    pub timeout_s: u32,
}

/// How a program is made of source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileRecipe {
    /// What sources are called.
    pub source: SourceNames,
    /// Program and arguments.
    pub command: Vec<String>,
}

impl From<&Toolchain> for BuildRecipe {
    fn from(toolchain: &Toolchain) -> Self {
        Self {
            compile: toolchain.compile(),
            dependencies: toolchain.dependencies.clone(),
            precompile: toolchain.precompile.clone(),
            env: toolchain.env.clone(),
            memory_mb: toolchain.memory_mb,
            timeout_s: toolchain.timeout_s,
        }
    }
}

impl ImageRecord for BuilderRecord {
    fn name(&self) -> &RuntimeId {
        &self.language
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn remedy(&self) -> String {
        format!("`nova runtime add --builder {}`", self.language)
    }
}
