//! Which files of a directory are not part of the code: what [`ALWAYS`] lists, and what the directory's
//! own `.novaignore` does, in the syntax of `.gitignore`.
//!
//! The file's lines come after the list, so that `!__pycache__/` takes something back. As in git, what lies
//! in a directory that is left out cannot be taken back.
use super::{PackError, read_error};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The file, at the top of the directory.
const IGNORE_FILE: &str = ".novaignore";
/// Most bytes of it: a thousand long lines.
const IGNORE_FILE_MAX_BYTES: u64 = 64 * 1024;
/// What no function needs: histories, caches that belong to another machine, environments whose links lead
/// out of the directory.
const ALWAYS: &[&str] =
    &[".git", ".hg/", ".svn/", ".novaignore", ".DS_Store", "__pycache__/", ".venv/"];

/// Tells what to leave out of a directory.
pub struct LeftOut(Gitignore);

impl LeftOut {
    /// The rules of a directory.
    pub fn of(directory: &Path) -> Result<Self, PackError> {
        let path = directory.join(IGNORE_FILE);
        let text = read(&path)?;
        let mut rules = GitignoreBuilder::new(directory);
        let own = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        for (number, line) in ALWAYS.iter().map(|line| (0, *line)).chain(own) {
            let added = rules.add_line(None, line);
            added.map_err(|error| PackError::Rule {
                path: path.clone(),
                line: number,
                problem: error.to_string(),
            })?;
        }
        let built = rules.build().map_err(|error| PackError::Rule {
            path,
            line: 0,
            problem: error.to_string(),
        })?;
        Ok(Self(built))
    }

    /// Whether this path, within the directory, is left out by itself; its parents are not looked at.
    pub fn contains(&self, path: &Path, is_directory: bool) -> bool {
        self.0.matched(path, is_directory).is_ignore()
    }
}

/// The file's text, empty where there is none. It is not read through a link: the daemon packs directories
/// that others write to, and quotes bad lines.
fn read(path: &Path) -> Result<String, PackError> {
    let failed = |source| read_error(path, source);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(failed(io::Error::other("it is not a plain file"))),
    }
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(IGNORE_FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > IGNORE_FILE_MAX_BYTES {
        let limit = IGNORE_FILE_MAX_BYTES / 1024;
        return Err(failed(io::Error::other(format!("it is over {limit} KiB; shorten it"))));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<LeftOut, PackError> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(IGNORE_FILE), text).unwrap();
        LeftOut::of(root.path())
    }

    #[test]
    fn rules_are_those_of_gitignore() {
        let rules = rules("# notes\n*.log\n!kept.log\n/build\ndocs/*.md\nnode_modules/\n").unwrap();
        let left_out =
            |path: &str| rules.contains(Path::new(path.trim_end_matches('/')), path.ends_with('/'));
        for path in [
            "a.log",
            "deep/b.log",
            "build",
            "docs/a.md",
            "x/node_modules/",
            ".git/",
            "a/__pycache__/",
            ".novaignore",
        ] {
            assert!(left_out(path), "{path}");
        }
        for path in ["kept.log", "x/build", "docs/x/a.md", "node_modules", "main.py", ".github/"] {
            assert!(!left_out(path), "{path}");
        }
    }

    #[test]
    fn what_is_always_left_out_can_be_taken_back_and_node_modules_is_not_in_it() {
        let rules = rules("!__pycache__/\n").unwrap();
        assert!(!rules.contains(Path::new("__pycache__"), true));
        assert!(!rules.contains(Path::new("node_modules"), true));
        assert!(rules.contains(Path::new(".git"), true));
    }

    #[test]
    fn a_rule_that_is_none_is_named_with_its_line() {
        let error = rules("*.log\n{a\n").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(".novaignore, line 2: "), "{error}");
    }

    #[test]
    fn a_file_that_is_a_link_or_too_long_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(IGNORE_FILE);
        std::os::unix::fs::symlink("/etc/shadow", &file).unwrap();
        let error = LeftOut::of(root.path()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("not a plain file"), "{error}");
        let error = rules(&"a\n".repeat(40_000)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("over 64 KiB"), "{error}");
    }
}
