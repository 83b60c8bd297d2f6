//! The files of a function, held in memory while they are checked and written out in canonical form.
//!
//! Links are judged in the whole tree, following links in the middle of a path as the kernel would:
//! `d/out -> ../..` hidden behind another link escapes although no single name looks wrong.
use super::entry_path::{check_target, parse};
use super::{CodeError, ENTRIES_MAX, UNPACKED_MAX_BYTES};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Most symbolic links: more than any `node_modules/.bin` has.
const LINKS_MAX: usize = 8192;
/// Parts of paths that are walked to judge all links together: 64 for each of the most that there may be,
/// several times what honest ones take. It bounds the time: well below a second.
const STEPS_MAX: usize = 64 * LINKS_MAX;
/// Links followed on the way to one target before it counts as a loop; the kernel's own number.
const FOLLOW_MAX: usize = 40;

enum Node {
    Directory,
    File { content: Vec<u8>, executable: bool },
    Link { target: String },
}

/// Paths relative to the code directory. Sorted, so that a directory comes before what is in it.
#[derive(Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    bytes: u64,
    links: usize,
}

impl Tree {
    /// How many bytes of files still fit.
    pub(super) fn bytes_left(&self) -> u64 {
        UNPACKED_MAX_BYTES - self.bytes
    }

    pub(super) fn add_directory(&mut self, name: &str) -> Result<(), CodeError> {
        let path = parse(name)?;
        self.make_directories(name, &path)
    }

    pub(super) fn add_file(
        &mut self,
        name: &str,
        content: Vec<u8>,
        executable: bool,
    ) -> Result<(), CodeError> {
        let size = content.len() as u64;
        if size > self.bytes_left() {
            return Err(CodeError::too_large(Some(name), "unpacked code", UNPACKED_MAX_BYTES));
        }
        self.bytes += size;
        self.add_leaf(name, Node::File { content, executable })
    }

    pub(super) fn add_link(&mut self, name: &str, target: &str) -> Result<(), CodeError> {
        check_target(name, target)?;
        self.links += 1;
        if self.links > LINKS_MAX {
            let hint = "copy the files instead of linking to them";
            return Err(CodeError::entry(name, "is one symbolic link too many", hint));
        }
        self.add_leaf(name, Node::Link { target: target.to_owned() })
    }

    /// Moves the file at the top named `from`, which becomes executable, to `to`.
    pub(super) fn move_file(&mut self, from: &str, to: &str) -> Result<(), CodeError> {
        match self.nodes.remove(from) {
            Some(Node::File { content, .. }) => {
                self.add_leaf(to, Node::File { content, executable: true })
            }
            _ => Err(CodeError::broken(None, format!("the build wrote no file /out/{from}"))),
        }
    }

    fn add_leaf(&mut self, name: &str, node: Node) -> Result<(), CodeError> {
        let path = parse(name)?;
        if path.is_empty() {
            return Err(CodeError::entry(name, "is not a file name", "name the file"));
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_directories(name, parent)?;
        }
        match self.nodes.get(&path) {
            None => self.insert(path, node),
            Some(Node::Directory) => Err(conflict(name)),
            Some(_) => {
                let hint = "make the archive anew, with each file once";
                Err(CodeError::entry(name, "is in the archive twice", hint))
            }
        }
    }

    /// Makes `path` a directory, and all above it. A file or link in the way is a conflict: nothing
    /// is ever written through a link.
    fn make_directories(&mut self, name: &str, path: &str) -> Result<(), CodeError> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for prefix in ends.map(|end| &path[..end]).filter(|prefix| !prefix.is_empty()) {
            match self.nodes.get(prefix) {
                Some(Node::Directory) => {}
                Some(_) => return Err(conflict(name)),
                None => self.insert(prefix.to_owned(), Node::Directory)?,
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: String, node: Node) -> Result<(), CodeError> {
        if self.nodes.len() >= ENTRIES_MAX {
            return Err(CodeError::too_many(ENTRIES_MAX));
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Puts another tree over this one. A directory over a directory has the files of both; anything else
    /// hides what was at its path.
    pub(super) fn overlay(&mut self, over: Self) -> Result<(), CodeError> {
        for (path, node) in over.nodes {
            if let (Node::Directory, Some(Node::Directory)) = (&node, self.nodes.get(&path)) {
                continue;
            }
            self.remove(&path);
            match node {
                Node::Directory => self.add_directory(&path)?,
                Node::File { content, executable } => self.add_file(&path, content, executable)?,
                Node::Link { target } => self.add_link(&path, &target)?,
            }
        }
        Ok(())
    }

    /// Removes what is at a path, and all below it.
    fn remove(&mut self, path: &str) {
        // What is below sorts between "path/" and "path0", the next character.
        let below = self.nodes.range(format!("{path}/")..format!("{path}0"));
        let mut gone: Vec<String> = below.map(|(path, _)| path.clone()).collect();
        gone.push(path.to_owned());
        for path in gone {
            match self.nodes.remove(&path) {
                Some(Node::File { content, .. }) => self.bytes -= content.len() as u64,
                Some(Node::Link { .. }) => self.links -= 1,
                Some(Node::Directory) | None => {}
            }
        }
    }

    /// Whether there is anything to run.
    pub(super) fn has_files(&self) -> bool {
        self.nodes.values().any(|node| matches!(node, Node::File { .. }))
    }

    /// The rules that only the whole tree can break.
    pub(super) fn validate(&self) -> Result<(), CodeError> {
        let mut steps_left = STEPS_MAX;
        for (path, node) in &self.nodes {
            if let Node::Link { .. } = node {
                self.follow(path, &mut steps_left)?;
            }
        }
        Ok(())
    }

    /// Walks from the root to `path` as the kernel does, and refuses a way that leaves the tree or that
    /// takes more steps than are left for all of them.
    fn follow(&self, path: &str, steps_left: &mut usize) -> Result<(), CodeError> {
        let mut todo: Vec<&str> = path.rsplit('/').collect();
        let mut at: Vec<&str> = Vec::new();
        let mut followed = 0;
        while let Some(part) = todo.pop() {
            *steps_left = steps_left.checked_sub(1).ok_or_else(|| {
                let problem = "is one of too many symbolic links that lead through others";
                CodeError::entry(path, problem, "link to files directly, or copy them")
            })?;
            match part {
                "" | "." => continue,
                ".." if at.pop().is_none() => {
                    let hint = "link only to files inside the code, with relative paths";
                    let problem = "is a symbolic link that leads out of the code";
                    return Err(CodeError::entry(path, problem, hint));
                }
                ".." => continue,
                part => at.push(part),
            }
            if let Some(Node::Link { target }) = self.nodes.get(&at.join("/")) {
                followed += 1;
                if followed > FOLLOW_MAX {
                    let problem = "is a symbolic link that never arrives";
                    return Err(CodeError::entry(path, problem, "remove the loop of links"));
                }
                at.pop();
                todo.extend(target.rsplit('/'));
            }
        }
        Ok(())
    }

    /// The canonical archive.
    pub(super) fn into_tar(self) -> Result<Vec<u8>, CodeError> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, node) in self.nodes {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            let written = match node {
                Node::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o755);
                    builder.append_data(&mut header, format!("{path}/"), io::empty())
                }
                Node::File { content, executable } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(if executable { 0o755 } else { 0o644 });
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, &path, content.as_slice())
                }
                Node::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    builder.append_link(&mut header, &path, &target)
                }
            };
            written.map_err(|error| CodeError::broken(Some(&path), error.to_string()))?;
        }
        builder.into_inner().map_err(|error| CodeError::broken(None, error.to_string()))
    }

    /// Writes the files below `directory`, which is new and empty. Links are made last, so that no
    /// write can follow one.
    pub(super) fn unpack(&self, directory: &Path) -> io::Result<()> {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
        for (path, node) in &self.nodes {
            let path = directory.join(path);
            match node {
                Node::Directory => {
                    std::fs::create_dir(&path)?;
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
                }
                Node::File { content, executable } => {
                    let mut options = std::fs::OpenOptions::new();
                    let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
                    io::Write::write_all(&mut file, content)?;
                    let mode = if *executable { 0o755 } else { 0o644 };
                    file.set_permissions(PermissionsExt::from_mode(mode))?;
                }
                Node::Link { .. } => {}
            }
        }
        for (path, node) in &self.nodes {
            if let Node::Link { target } = node {
                symlink(target, directory.join(path))?;
            }
        }
        Ok(())
    }
}

fn conflict(name: &str) -> CodeError {
    let hint = "make the archive anew, with each path once";
    CodeError::entry(name, "is both a directory and something else in the archive", hint)
}
