//! `runtimes/<id>/manifest.toml`: a language as data. Adding one adds a folder and no line of Rust.
//!
//! ```toml
//! id = "python"                          # also the folder's name
//! description = "CPython ..."
//! version_of = "python3.11-minimal"      # the package whose version is the language's
//! aliases = ["python3.11"]               # other ids that functions may name
//! memory_min_mb = 64
//! extension = "py"                       # how people name a file of it
//!
//! [image]
//! packages = ["python3-minimal"]         # Debian's; what they depend on comes along
//! links = { "/usr/bin/python" = "python3" }
//! files = { "/var/runtime/bootstrap.py" = "bootstrap/bootstrap.py" }   # from the runtime's folder
//! [[image.steps]]                        # programs of the image itself, run once over its files
//! command = ["/usr/bin/python3.11", "-m", "compileall", "{tree}/usr/lib"]
//! env = { PYTHONHOME = "{tree}/usr" }
//!
//! [modes.process]
//! command = ["/usr/bin/python3", "/code/{handler}", "{input}"]
//! [modes.lambda]                         # over the AWS Lambda Runtime API
//! command = ["/usr/bin/python3", "/var/runtime/bootstrap.py"]
//! [env]
//! PYTHONDONTWRITEBYTECODE = "1"
//! ```
//! Beside it lies `examples/<mode>/` with a `handler` for each mode, as a person would write it.
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
/// What stands for the image's directory in a step.
const TREE: &str = "{tree}";

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

/// What a language's image contains besides what all images do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRecipe {
    /// Debian packages, installed with what they depend on.
    pub packages: Vec<String>,
    /// Symbolic links to make, by absolute path, unless a package brings a file of that name.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Texts of the runtime's folder (`/node/x` is in node's), by their absolute path in the image.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Programs of the image, run one after the other when all files are there.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// A program of the image that is run while the image is made, on the host, by the image's own loader.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// Program (by its path in the image) and arguments; `{tree}` stands for where the image lies.
    pub command: Vec<String>,
    /// All of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("runtimes/{folder}/manifest.toml: {problem}")]
pub struct ManifestError {
    /// The folder it is in.
    pub folder: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Manifest {
    /// Reads and checks a manifest found in `folder`.
    pub fn parse(folder: &str, text: &str) -> Result<Self, ManifestError> {
        let error = |problem| ManifestError { folder: folder.to_owned(), problem };
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
        if self.image.packages.is_empty() {
            return Err("image.packages is empty; name the packages with the interpreter".into());
        }
        for package in self.image.packages.iter().chain([&self.version_of]) {
            check_package(package)?;
        }
        for (path, target) in &self.image.links {
            if !is_plain_path(path) || target.is_empty() || target.contains("..") {
                return Err(format!(
                    "image.links: `{path}` = `{target}`; give an absolute path and a target \
                     without `..`"
                ));
            }
        }
        for (path, source) in &self.image.files {
            let below = source.strip_prefix('/').unwrap_or(source);
            if !is_plain_path(path) || !is_plain_path(&format!("/{below}")) {
                return Err(format!(
                    "image.files: `{path}` = `{source}`; give an absolute path and a file of the \
                     manifest's folder"
                ));
            }
        }
        if let Some(extension) = &self.extension {
            let plain = extension.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if extension.is_empty() || extension.len() > EXTENSION_MAX_BYTES || !plain {
                return Err(format!("extension is `{extension}`; write it like `py`"));
            }
        }
        for step in &self.image.steps {
            if !step.command.first().is_some_and(|program| is_plain_path(program)) {
                return Err("image.steps: a command starts with a program's absolute path".into());
            }
        }
        for name in self.env.keys().chain(self.image.steps.iter().flat_map(|step| step.env.keys()))
        {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("env: `{name}` is not a variable's name"));
            }
        }
        Ok(())
    }
}

impl Step {
    /// `text` with `{tree}` replaced.
    pub(crate) fn expand(text: &str, tree: &std::path::Path) -> String {
        text.replace(TREE, &tree.display().to_string())
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
        _ => Ok(()),
    }
}

fn is_plain_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| {
        path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    })
}

/// Debian's rule for names; also keeps a name from being taken for an option.
fn check_package(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && name.len() > 1 && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("`{name}` is not the name of a Debian package"))
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
