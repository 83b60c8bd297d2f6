//! What an image must have besides its own files to be a guest's root directory: places to mount things,
//! and a name for user 1000.
use super::rooted::Rooted;
use crate::images::oci::OciError;
use crate::images::oci::config::Start;
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the agent and the backends mount things. Each is a directory and no link: in a microVM it is looked
/// up before the image is the root.
const DIRECTORIES: [&str; 10] =
    ["code", "var/task", "tmp", "run", "proc", "sys", "dev", "etc", "nova", "opt"];
/// Files that are mounted over, or replaced.
const FILES: [&str; 4] = ["etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/machine-id"];
/// Most bytes of an account file; a real one has a few kilobytes.
const ACCOUNTS_MAX_BYTES: u64 = 1024 * 1024;

/// Adds what is missing, and opens to others what is the image's own user's.
pub(super) fn complete(
    tree: &Rooted,
    start: &Start,
    closed: &BTreeMap<PathBuf, u64>,
) -> Result<(), OciError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |error: io::Error| OciError::refused(format!("/{path} cannot be added: {error}"))
    };
    for path in DIRECTORIES {
        make_place(tree, Path::new(path)).map_err(failed(path))?;
    }
    let working_dir = start.working_dir.trim_start_matches('/');
    tree.make_directory(Path::new(working_dir)).map_err(failed(working_dir))?;
    for path in FILES {
        if tree.kind(Path::new(path)).map_err(failed(path))? != Some(FileType::RegularFile) {
            tree.add_file(Path::new(path), 0o644, &mut io::empty()).map_err(failed(path))?;
        }
    }
    let accounts = read_accounts(tree, "etc/passwd").map_err(failed("etc/passwd"))?;
    let name_user = "nova:x:1000:1000:functions:/tmp:/bin/sh\n";
    name_1000(tree, "etc/passwd", &accounts, name_user).map_err(failed("etc/passwd"))?;
    let groups = read_accounts(tree, "etc/group").map_err(failed("etc/group"))?;
    name_1000(tree, "etc/group", &groups, "nova:x:1000:\n").map_err(failed("etc/group"))?;
    match id_of(&start.user, &accounts) {
        // What is root's alone stays so.
        None | Some(0) => Ok(()),
        Some(owner) => {
            for (path, _) in closed.iter().filter(|(_, uid)| **uid == owner) {
                let shown = path.display().to_string();
                tree.open_to_others(path).map_err(failed(&shown))?;
            }
            Ok(())
        }
    }
}

/// A directory at this path, and directories above it.
fn make_place(tree: &Rooted, path: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.pop();
    for parent in above {
        match tree.kind(parent)? {
            None | Some(FileType::Directory) => {}
            Some(_) => return Err(io::Error::other("what is above it is no directory")),
        }
    }
    match tree.kind(path)? {
        Some(FileType::Directory) => Ok(()),
        _ => tree.add_directory(path, 0o755),
    }
}

/// The text of `passwd` or `group`; empty where there is none.
fn read_accounts(tree: &Rooted, path: &str) -> io::Result<String> {
    let file = match tree.open(Path::new(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > ACCOUNTS_MAX_BYTES {
        return Err(io::Error::other("the one that is there is too large"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Adds a line to `passwd` or `group` where nobody has id 1000.
fn name_1000(tree: &Rooted, path: &str, text: &str, line: &str) -> io::Result<()> {
    if text.lines().any(|line| line.split(':').nth(2) == Some("1000")) {
        return Ok(());
    }
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let text = format!("{text}{separator}{line}");
    tree.add_file(Path::new(path), 0o644, &mut text.as_bytes())
}

/// The id of the image's own user, given as a number or by its name; `None` for one that is not there.
fn id_of(user: &str, accounts: &str) -> Option<u64> {
    let user = user.split(':').next().unwrap_or_default();
    if user.is_empty() {
        return Some(0);
    }
    if let Ok(id) = user.parse() {
        return Some(id);
    }
    let line = accounts.lines().find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(2)?.parse().ok()
}
