//! An installed runtime: an image and how its language is started.
use crate::{Mode, RuntimeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A runtime image that is on this host and can run functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeImage {
    /// The id that functions name, for example `python`.
    pub id: RuntimeId,
    /// Version of the language, for example `3.11.2`.
    pub version: String,
    /// SHA-256 of the image file, hex.
    pub digest: String,
    /// Size of the image file, bytes.
    pub size: u64,
    /// Program and arguments per mode; `{handler}` stands for the handler's path below `/code`,
    /// `{input}` for the input file.
    pub commands: BTreeMap<Mode, Vec<String>>,
    /// How people name a file of the language (`py`); `None` where programs have no ending.
    #[serde(default)]
    pub extension: Option<String>,
    /// Variables that the language needs, set before the function's own.
    pub env: BTreeMap<String, String>,
    /// The smallest `memory_mb` in which the language starts.
    pub memory_min_mb: u32,
    /// Where the image is somebody's own and brings its program: functions on it need no code.
    #[serde(default)]
    pub own: Option<OwnProgram>,
}

/// How the program of somebody's own image is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnProgram {
    /// The mode of functions that name none: what was found in the image.
    pub mode: Mode,
    /// Where it starts; absolute.
    pub working_dir: String,
    /// What it was made of, with the digest: `registry.example.com/app@sha256:...`.
    pub source: String,
}
