//! The name of a layer's entry, parsed once into a path that goes down only.
use crate::images::oci::OciError;
use crate::images::oci::error::quote;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most bytes of a whole path; Linux's own limit.
const PATH_MAX_BYTES: usize = 4095;
/// Most bytes of one component, as every Linux file system has it.
const NAME_MAX_BYTES: usize = 255;
/// Most components; bounds how deep what is removed can be nested.
const DEPTH_MAX: usize = 128;

/// A relative path without `.` and `..`; empty for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath(PathBuf);

impl EntryPath {
    /// Reads a name as container tools do: a leading slash means the image's root.
    pub fn parse(name: &[u8]) -> Result<Self, OciError> {
        let refuse = |problem| Err(OciError::refused(format!("{} {problem}", quote(name))));
        if name.len() > PATH_MAX_BYTES || name.contains(&0) {
            return refuse("is too long for a path, or has a zero byte");
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return refuse("leads out of the image with `..`"),
                long if long.len() > NAME_MAX_BYTES => return refuse("has too long a name"),
                part => path.push(OsStr::from_bytes(part)),
            }
            depth += 1;
        }
        if depth > DEPTH_MAX {
            return refuse("lies too deep");
        }
        Ok(Self(path))
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The last part; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0.file_name().map(OsStr::as_bytes)
    }

    /// The directory that it is in.
    pub fn parent(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new(""))
    }

    /// How many parts it has.
    pub fn depth(&self) -> usize {
        self.0.components().count()
    }

    /// Another name in the same directory.
    pub fn sibling(&self, name: &[u8]) -> PathBuf {
        self.parent().join(OsStr::from_bytes(name))
    }
}
