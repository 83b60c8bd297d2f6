//! The build of a function whose code is source: what it is made from, how far it is, what it said.
use crate::{CodeHash, FunctionConfig};
use serde::{Deserialize, Serialize};

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    /// It waits or runs.
    Pending,
    /// Its result is what calls run.
    Ready,
    /// There is no result.
    Failed,
}

impl BuildStatus {
    /// Its name, as everywhere outside of Rust.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// What a build does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildKind {
    /// Makes a program of source.
    #[default]
    Compile,
    /// Adds the packages that the code lists.
    Dependencies,
    /// Makes a program start sooner.
    Precompile,
}

/// The last build of a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// What it does.
    #[serde(default)]
    pub kind: BuildKind,
    /// The source.
    pub source: CodeHash,
    /// What the function's configuration becomes together with the result: an update that does not build
    /// changes nothing.
    pub config: FunctionConfig,
    /// How far it is.
    pub status: BuildStatus,
    /// Why there is no result.
    #[serde(default)]
    pub error: Option<String>,
    /// The end of what the build wrote.
    #[serde(default)]
    pub log: Vec<String>,
    /// What the result depends on, as a hash: equal ones need no second build.
    #[serde(default)]
    pub key: Option<String>,
}

impl Build {
    /// A build that has not begun.
    pub fn pending(kind: BuildKind, source: CodeHash, config: FunctionConfig) -> Self {
        Self {
            kind,
            source,
            config,
            status: BuildStatus::Pending,
            error: None,
            log: vec![],
            key: None,
        }
    }
}
