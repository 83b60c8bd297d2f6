//! `runtimes/<id>/manifest.toml`: a language as data. Adding one adds a folder and no line of Rust.
//!
//! ```toml
//! id = "python"                          # also the folder's name
//! description = "CPython ..."
//! version_of = "python3.11-minimal"      # the package whose version is the language's
//! aliases = ["python3.11"]               # other ids that functions may name
//! memory_min_mb = 64
//! extension = "py"                       # how people name a file of it
//! snapshot = "booted"                    # or "initialised"; see [`SnapshotTemplate`]
//!
//! [image]                                # see [`ImageRecipe`]'s module, `recipe`
//! packages = ["python3-minimal"]
//! files = { "/var/runtime/bootstrap.py" = "bootstrap/bootstrap.py" }
//!
//! [modes.process]
//! command = ["/usr/bin/python3", "/code/{handler}", "{input}"]
//! [modes.lambda]                         # over the AWS Lambda Runtime API
//! command = ["/usr/bin/python3", "/var/runtime/bootstrap.py"]
//! [env]
//! PYTHONDONTWRITEBYTECODE = "1"
//! ```
//! Beside it lies `examples/<mode>/` with a `handler` for each mode, as a person would write it.
use super::recipe::{ImageRecipe, check_variables};
use nova_domain::{Mode, RuntimeId};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Bounds of `memory_min_mb`: what a function may be given.
const MEMORY_MB: std::ops::RangeInclusive<u32> = 64..=32_768;
/// What stands for the handler's path below `/code` in a command.
const HANDLER: &str = "{handler}";
/// What stands for the path of the input file in a command.
const INPUT: &str = "{input}";
/// Most bytes of a file name's extension.
const EXTENSION_MAX_BYTES: usize = 8;

/// A language: how its image is made and its programs are started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The id that functions name.
    pub id: RuntimeId,
    /// One line about it.
    pub description: String,
    /// The package whose upstream version is the language's.
    pub version_of: String,
    /// Other ids under which it is found.
    #[serde(default)]
    pub aliases: Vec<RuntimeId>,
    /// The smallest `memory_mb` in which it starts.
    pub memory_min_mb: u32,
    /// The extension of its files, without the dot; absent where programs have none.
    #[serde(default)]
    pub extension: Option<String>,
    /// The kind of snapshot template that its guests may be restored from.
    #[serde(default)]
    pub snapshot: SnapshotTemplate,
    pub(crate) image: ImageRecipe,
    /// How it is started in each mode it has.
    pub modes: BTreeMap<Mode, ModeRecipe>,
    /// Variables set before the function's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// How a program of a language is started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRecipe {
    /// Program and arguments, with `{handler}` and `{input}`.
    pub command: Vec<String>,
}

/// What a snapshot may hold of a guest that many guests are restored from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotTemplate {
    /// Kernel and agent, the language not started: always safe, as each guest starts its own process.
    #[default]
    Booted,
    /// The language started and the handler loaded: only where a test proves that no two clones draw the
    /// same random numbers.
    Initialised,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("runtimes/{path}: {problem}")]
pub struct ManifestError {
    /// The file, below `runtimes/`.
    pub path: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Manifest {
    /// Reads and checks a manifest found in `folder`.
    pub fn parse(folder: &str, text: &str) -> Result<Self, ManifestError> {
        let error = |problem| ManifestError { path: format!("{folder}/manifest.toml"), problem };
        let manifest: Self =
            toml::from_str(text).map_err(|problem| error(problem.to_string().trim().to_owned()))?;
        manifest.check(folder).map_err(error)?;
        Ok(manifest)
    }

    fn check(&self, folder: &str) -> Result<(), String> {
        if self.id.as_str() != folder {
            return Err(format!("id is `{}`; name it like its folder", self.id));
        }
        if !MEMORY_MB.contains(&self.memory_min_mb) {
            let (least, most) = (MEMORY_MB.start(), MEMORY_MB.end());
            return Err(format!("memory_min_mb is {}; give {least} to {most}", self.memory_min_mb));
        }
        if self.modes.is_empty() {
            return Err("it has no mode; add [modes.process] with a command".into());
        }
        for (mode, recipe) in &self.modes {
            check_command(*mode, &recipe.command)?;
        }
        if let Some(extension) = &self.extension {
            let plain = extension.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if extension.is_empty() || extension.len() > EXTENSION_MAX_BYTES || !plain {
                return Err(format!("extension is `{extension}`; write it like `py`"));
            }
        }
        self.image.check()?;
        check_variables(self.env.keys())
    }
}

fn check_command(mode: Mode, command: &[String]) -> Result<(), String> {
    let field = format!("modes.{}.command", mode.as_str());
    let Some(program) = command.first() else {
        return Err(format!("{field} is empty; give a program and its arguments"));
    };
    if !is_plain_path(program) {
        return Err(format!("{field} starts with `{program}`; give the program's absolute path"));
    }
    for word in command {
        let rest = word.replace(HANDLER, "").replace(INPUT, "");
        if rest.contains(['{', '}']) {
            return Err(format!(
                "{field}: `{word}` has a placeholder other than {HANDLER}, {INPUT}"
            ));
        }
    }
    let names_handler = command.iter().any(|word| word.contains(HANDLER));
    if mode != Mode::Lambda && !names_handler {
        return Err(format!("{field} does not use {HANDLER}; it stands for the user's program"));
    }
    let has_input = command.iter().any(|word| word.contains(INPUT));
    match (mode, has_input) {
        (Mode::Process, false) => Err(format!("{field} does not use {INPUT}, the input's file")),
        (Mode::Persistent, true) => {
            Err(format!("{field} uses {INPUT}, but the input comes on standard input"))
        }
        (Mode::Lambda, true) => {
            Err(format!("{field} uses {INPUT}, but the input comes over the Runtime API"))
        }
        (Mode::Http, true) => {
            Err(format!("{field} uses {INPUT}, but the input comes in a request"))
        }
        _ => Ok(()),
    }
}

/// An absolute path that means what it says.
pub(crate) fn is_plain_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(is_relative_path)
}

/// A path below some directory.
pub(crate) fn is_relative_path(path: &str) -> bool {
    path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        id = "lua"
        description = "Lua"
        version_of = "lua5.4"
        memory_min_mb = 64
        [image]
        packages = ["lua5.4"]
        links = { "/usr/bin/lua" = "lua5.4" }
        [modes.process]
        command = ["/usr/bin/lua", "/code/{handler}", "{input}"]
        [env]
        LUA_INIT = ""
    "#;

    #[test]
    fn a_language_is_a_few_lines_of_data() {
        let manifest = Manifest::parse("lua", GOOD).unwrap();
        assert_eq!(manifest.id.as_str(), "lua");
        assert_eq!(manifest.modes[&Mode::Process].command[0], "/usr/bin/lua");
        assert_eq!(manifest.snapshot, SnapshotTemplate::Booted, "the default");
    }

    #[test]
    fn what_is_wrong_with_a_manifest_is_explained() {
        let cases = [
            ("id = \"lua\"", "id = \"luna\"", "name it like its folder"),
            ("memory_min_mb = 64", "memory_min_mb = 1", "give 64 to 32768"),
            ("memory_min_mb = 64", "memory_mb = 64", "unknown field `memory_mb`"),
            ("description = \"Lua\"", "", "missing field `description`"),
            ("[\"lua5.4\"]", "[]", "image.packages is empty"),
            ("[\"lua5.4\"]", "[\"--lua\"]", "not the name of a Debian package"),
            ("[\"/usr/bin/lua\", ", "[\"lua\", ", "absolute path"),
            ("/code/{handler}", "/code/handler", "does not use {handler}"),
            (", \"{input}\"", "", "does not use {input}"),
            ("{input}", "{inptu}", "placeholder other than"),
            ("modes.process", "modes.persistent", "comes on standard input"),
            ("modes.process", "modes.lambda", "comes over the Runtime API"),
            ("memory_min_mb", "extension = \".lua\"\nmemory_min_mb", "write it like `py`"),
            ("links =", "files = { \"/x\" = \"../x\" }\n        links =", "image.files"),
            ("modes.process", "modes.batch", "unknown variant `batch`"),
            ("\"/usr/bin/lua\" =", "\"/usr/../lua\" =", "image.links"),
            ("LUA_INIT", "\"LUA=INIT\"", "not a variable's name"),
            ("memory_min_mb", "snapshot = \"warm\"\nmemory_min_mb", "unknown variant `warm`"),
            ("memory_min_mb", "extension = \".lua\"\nmemory_min_mb", "write it like `py`"),
            ("links", "prune = [\"/usr\"]\nlinks", "without the leading `/`"),
            ("links", "files = { \"etc/x\" = \"x\" }\nlinks", "an absolute path in the image"),
            ("links", "files = { \"/etc/x\" = \"../x\" }\nlinks", "below the runtime's folder"),
        ];
        for (good, bad, explanation) in cases {
            let text = GOOD.replacen(good, bad, 1);
            assert_ne!(text, GOOD, "{good}");
            let error = Manifest::parse("lua", &text).unwrap_err().to_string();
            assert!(error.starts_with("runtimes/lua/manifest.toml: "), "{error}");
            assert!(error.contains(explanation), "{explanation:?} is not in: {error}");
        }
    }
}
