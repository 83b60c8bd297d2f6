//! A function's code, from a hostile upload to what a guest mounts at `/code`.
//!
//! ```text
//! inline text ─┐                                      ┌─▶ directory  (container backend)
//! tar, tar.gz ─┼─▶ Tree (every rule checked) ─▶ tar ──┤
//! zip ─────────┘                     canonical bytes, └─▶ EROFS file (Firecracker backend)
//!                                    hashed and stored
//! ```
//!
//! [`canonicalise`] is the only way in. Equal contents give equal bytes, whatever the upload's format,
//! entry order, owners or dates, so that a re-packed archive is not a new revision. What is stored is
//! read back through the same rules: a damaged or foreign blob is refused, never unpacked.
mod code_images;
mod entry_path;
mod error;
mod tar_reader;
#[cfg(test)]
mod tests;
mod tree;
mod zip_reader;

use bytes::Bytes;
pub use code_images::{CodeImage, CodeImages};
pub use error::{CodeError, CodeErrorKind};
use tree::Tree;

/// Most bytes of an upload: AWS Lambda's limit for a package sent directly, which users know.
pub const UPLOAD_MAX_BYTES: usize = 50 * 1024 * 1024;
/// Most bytes of all files together once unpacked: AWS Lambda's limit as well. Also what bounds the
/// memory of [`canonicalise`] (one copy of the files and one of the archive made of them).
pub const UNPACKED_MAX_BYTES: u64 = 250 * 1024 * 1024;
/// Most files, directories and links: several times a large `node_modules`, and few enough that
/// their names take little memory.
pub const ENTRIES_MAX: usize = 65_536;

/// The program that a build writes.
const RESULT: &str = "handler";

/// What the bytes of an upload are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadKind<'a> {
    /// The text of a single program, stored under this path (the function's handler), executable.
    Inline {
        /// Relative path of the program.
        handler: &'a str,
    },
    /// A tar.gz, zip or plain tar; which of them is seen from its first bytes.
    Archive,
}

/// The canonical archive of an upload: an uncompressed tar with sorted entries, no owners, no dates and
/// modes 0755 or 0644. Runs as long as unpacking takes: call it off the async threads.
pub fn canonicalise(upload: &[u8], kind: UploadKind<'_>) -> Result<Vec<u8>, CodeError> {
    if upload.len() > UPLOAD_MAX_BYTES {
        return Err(CodeError::too_large(None, "upload", UPLOAD_MAX_BYTES as u64));
    }
    let tree = match kind {
        UploadKind::Inline { handler } => {
            let mut tree = Tree::default();
            tree.add_file(handler, upload.to_vec(), true)?;
            tree
        }
        UploadKind::Archive => match Format::of(upload) {
            Some(Format::Gzip) => tar_reader::read_gzip(upload)?,
            Some(Format::Zip) => zip_reader::read(upload)?,
            Some(Format::Tar) => tar_reader::read(upload)?,
            None => return Err(CodeError::not_an_archive()),
        },
    };
    if !tree.has_files() {
        return Err(CodeError::broken(None, "the archive has no files"));
    }
    tree.validate()?;
    tree.into_tar()
}

/// One canonical archive of several: laid over each other in this order, so that of what two of them have at
/// one path the later one's is there.
pub fn merge(archives: &[Bytes]) -> Result<Vec<u8>, CodeError> {
    let mut tree = Tree::default();
    for archive in archives {
        tree.overlay(read_canonical(archive)?)?;
    }
    tree.validate()?;
    tree.into_tar()
}

/// The canonical archive of what a build has written: the same rules as for an upload, except that the
/// bytes came from a guest of ours and are bounded there. Where it is a program, `handler`, that is put at
/// `program`.
pub fn canonicalise_result(tar: &[u8], program: Option<&str>) -> Result<Vec<u8>, CodeError> {
    let mut tree = tar_reader::read(tar)?;
    if let Some(program) = program {
        tree.move_file(RESULT, program)?;
    }
    tree.validate()?;
    tree.into_tar()
}

/// The canonical archive of no code at all: that of functions whose program is in their image.
pub fn empty() -> Vec<u8> {
    /// Two blocks of zeros end a tar.
    const END_BYTES: usize = 2 * 512;
    vec![0; END_BYTES]
}

/// Reads a canonical archive back, trusting nothing about it.
fn read_canonical(archive: &[u8]) -> Result<Tree, CodeError> {
    let tree = tar_reader::read(archive)?;
    tree.validate()?;
    Ok(tree)
}

enum Format {
    Gzip,
    Zip,
    Tar,
}

impl Format {
    fn of(upload: &[u8]) -> Option<Self> {
        /// Where a tar header says `ustar`, for both the POSIX and the GNU flavour.
        const TAR_MAGIC: std::ops::Range<usize> = 257..262;
        if upload.starts_with(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if upload.starts_with(b"PK\x03\x04") || upload.starts_with(b"PK\x05\x06") {
            Some(Self::Zip)
        } else if upload.get(TAR_MAGIC) == Some(b"ustar") {
            Some(Self::Tar)
        } else {
            None
        }
    }
}
