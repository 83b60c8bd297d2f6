//! Layers, one on top of the other, as a directory.
//!
//! The root directory is open, and every path is looked up by the kernel as if that were `/`
//! (`RESOLVE_IN_ROOT`): an image may link wherever it likes, and what is written through such a link stays
//! below the root. What a whiteout removes is of the layers below, never of its own.
//!
//! Owners become root's, set-uid, set-gid and extended attributes go, devices, pipes and sockets are left
//! out: nothing of them works for a function. Of a file that belongs to the image's own user, and that others
//! may not read, others get what its owner has: functions run as user 1000, whoever the image meant.
mod complete;
mod entry_path;
mod rooted;

use super::OciError;
use super::config::ImageConfig;
use super::error::quote;
use super::layer::{Allowance, LayerFile};
use super::limits::Limits;
use entry_path::EntryPath;
use rooted::Rooted;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What precedes the name of a file that a layer removes.
const WHITEOUT: &[u8] = b".wh.";
/// In a directory: nothing of the lower layers' is in it any more.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What headers, padding and long names of one entry may take, bytes: bounds what a hostile name makes the
/// reader hold.
const ENTRY_HEAD_MAX_BYTES: u64 = 1024 * 1024;
/// Most bytes of a symbolic link's target; the kernel's own limit.
const TARGET_MAX_BYTES: usize = 4095;

/// Unpacks all layers into the new directory `root` and adds what every guest needs. Runs as long as
/// unpacking takes: call it off the async threads.
pub(in crate::images) fn unpack(
    layers: &[LayerFile],
    config: &ImageConfig,
    root: &Path,
    limits: Limits,
) -> Result<(), OciError> {
    let ImageConfig { start, diff_ids } = config;
    if layers.len() != diff_ids.len() {
        let (layers, hashes) = (layers.len(), diff_ids.len());
        let problem = format!("it has {layers} layers, but its configuration knows {hashes}");
        return Err(OciError::refused(problem));
    }
    let tree = Rooted::create(root).map_err(OciError::file(root))?;
    let mut unpacking = Unpacking {
        tree,
        bytes_left: limits.unpacked_bytes,
        entries_left: limits.entries,
        of_this_layer: HashSet::new(),
        closed: BTreeMap::new(),
    };
    for (layer, digest) in layers.iter().zip(diff_ids) {
        unpacking.of_this_layer.clear();
        let allowance = Allowance::default();
        layer.read(digest, &allowance, |tar| unpacking.layer(tar, &allowance))?;
    }
    let Unpacking { tree, closed, .. } = unpacking;
    complete::complete(&tree, start, &closed)
}

struct Unpacking {
    tree: Rooted,
    /// Of the unpacked bytes that an image may have.
    bytes_left: u64,
    entries_left: u64,
    of_this_layer: HashSet<PathBuf>,
    /// Files and directories that others may do less with than their owner: whose they are.
    closed: BTreeMap<PathBuf, u64>,
}

impl Unpacking {
    fn layer(&mut self, tar: &mut dyn Read, allowance: &Allowance) -> Result<(), OciError> {
        let broken = |error: io::Error| OciError::refused(format!("a layer is broken: {error}"));
        let mut archive = tar::Archive::new(tar);
        allowance.allow(ENTRY_HEAD_MAX_BYTES);
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            self.entries_left = self.entries_left.checked_sub(1).ok_or_else(|| {
                OciError::refused("its layers have more entries than an image may have")
            })?;
            // Its content, as far as the image may have it; what is not read is skipped.
            let size = entry.size();
            self.bytes_left = self.bytes_left.checked_sub(size).ok_or_else(|| {
                let name = quote(entry.path_bytes());
                OciError::refused(format!("{name} takes it over the bytes that it may unpack to"))
            })?;
            allowance.allow(size + ENTRY_HEAD_MAX_BYTES);
            self.entry(&mut entry)?;
            io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
            if allowance.has_ended() {
                return Err(OciError::refused("a layer is broken: it ends within a file"));
            }
            allowance.allow(ENTRY_HEAD_MAX_BYTES);
        }
        // What is behind the archive's end: builders pad to tens of KiB.
        allowance.allow(ENTRY_HEAD_MAX_BYTES);
        Ok(())
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, &mut dyn Read>) -> Result<(), OciError> {
        let name = entry.path_bytes().into_owned();
        let failed = |error: io::Error| OciError::refused(format!("{}: {error}", quote(&name)));
        let path = EntryPath::parse(&name)?;
        // The root itself.
        let Some(file_name) = path.file_name() else { return Ok(()) };
        if file_name == OPAQUE {
            let directory = path.parent();
            return self.tree.clear(directory, &self.of_this_layer).map_err(failed);
        }
        if let Some(hidden) = file_name.strip_prefix(WHITEOUT) {
            let hidden = EntryPath::parse(hidden)?;
            let (Some(hidden), 1) = (hidden.file_name(), hidden.depth()) else {
                return Err(OciError::refused(format!("{} hides nothing", quote(&name))));
            };
            let hidden = path.sibling(hidden);
            return self.tree.hide(&hidden, &self.of_this_layer).map_err(failed);
        }
        let mode = entry.header().mode().map_err(failed)?;
        let kind = entry.header().entry_type();
        let path = path.as_path();
        match kind {
            tar::EntryType::Directory => self.tree.add_directory(path, mode).map_err(failed)?,
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if target.is_empty() || target.len() > TARGET_MAX_BYTES || target.contains(&0) {
                    let problem = format!("{} is a link with no plain target", quote(&name));
                    return Err(OciError::refused(problem));
                }
                self.tree.add_link(path, &target).map_err(failed)?;
            }
            tar::EntryType::Link => {
                let target = EntryPath::parse(&entry.link_name_bytes().unwrap_or_default())?;
                self.tree.add_hard_link(path, target.as_path()).map_err(failed)?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                self.tree.add_file(path, mode, entry).map_err(failed)?;
            }
            tar::EntryType::GNUSparse => {
                let problem = format!("{} is a sparse file", quote(&name));
                return Err(OciError::refused(problem));
            }
            // Devices, pipes, and what is about no file.
            _ => return Ok(()),
        }
        self.of_this_layer.insert(path.to_owned());
        let is_closed = kind != tar::EntryType::Symlink && (mode >> 6) & 0o5 & !mode != 0;
        match entry.header().uid() {
            Ok(uid) if is_closed => self.closed.insert(path.to_owned(), uid),
            _ => self.closed.remove(path),
        };
        Ok(())
    }
}
