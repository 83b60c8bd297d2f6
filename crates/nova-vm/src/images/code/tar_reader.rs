//! Reads tar and tar.gz, streaming: no more is unpacked than the limits allow, whatever the sizes in
//! the headers say.
use super::tree::Tree;
use super::{CodeError, UNPACKED_MAX_BYTES};
use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// What headers, padding and long names may take besides the files. Generous (1 KiB for each of the
/// most entries), and the bound on what a hostile "long name" makes the reader hold.
const OVERHEAD_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Reads a gzip-compressed tar.
pub(super) fn read_gzip(upload: &[u8]) -> Result<Tree, CodeError> {
    let mut decoder = flate2::bufread::GzDecoder::new(upload);
    let tree = read(&mut decoder)?;
    if !decoder.into_inner().is_empty() {
        return Err(CodeError::broken(None, "there is something behind the end of the archive"));
    }
    Ok(tree)
}

/// Reads a plain tar.
pub(super) fn read(source: impl Read) -> Result<Tree, CodeError> {
    let over = Rc::new(Cell::new(false));
    let left = UNPACKED_MAX_BYTES + OVERHEAD_MAX_BYTES;
    let mut source = Limited { source, left, over: over.clone() };
    let mut tree = Tree::default();
    let outcome = read_entries(&mut source, &mut tree).and_then(|()| expect_end(&mut source));
    if over.get() {
        return Err(CodeError::too_large(None, "unpacked code", UNPACKED_MAX_BYTES));
    }
    outcome.map(|()| tree)
}

fn read_entries(source: &mut impl Read, tree: &mut Tree) -> Result<(), CodeError> {
    let broken =
        |error: io::Error| CodeError::broken(None, format!("the archive is broken: {error}"));
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path_bytes().into_owned();
        let name = text(&name)?;
        if is_sparse(&mut entry).map_err(broken)? {
            return Err(refused_type(&name, tar::EntryType::GNUSparse));
        }
        match entry.header().entry_type() {
            tar::EntryType::XGlobalHeader => {}
            tar::EntryType::Directory => tree.add_directory(&name)?,
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                tree.add_link(&name, &text(&target)?)?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
                let size = entry.size();
                if size > tree.bytes_left() {
                    let what = "unpacked code";
                    return Err(CodeError::too_large(Some(&name), what, UNPACKED_MAX_BYTES));
                }
                // Not reserved up front: the header's size is a claim.
                let mut content = Vec::new();
                let unreadable = |e| CodeError::broken(Some(&name), format!("is broken: {e}"));
                entry.read_to_end(&mut content).map_err(unreadable)?;
                if content.len() as u64 != size {
                    return Err(CodeError::broken(Some(&name), "ends too early"));
                }
                tree.add_file(&name, content, executable)?;
            }
            other => return Err(refused_type(&name, other)),
        }
    }
    Ok(())
}

fn refused_type(name: &str, found: tar::EntryType) -> CodeError {
    let problem = match found {
        tar::EntryType::Link => "is a hard link",
        tar::EntryType::Char | tar::EntryType::Block => "is a device",
        tar::EntryType::Fifo => "is a named pipe",
        tar::EntryType::GNUSparse => "is a sparse file",
        _ => "is of an unknown type",
    };
    let hint = "pack only files, directories and symbolic links, for example with `tar --hard-dereference`";
    CodeError::entry(name, problem, hint)
}

fn text(bytes: &[u8]) -> Result<String, CodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        let name = String::from_utf8_lossy(bytes);
        CodeError::entry(&name, "has a name that is not UTF-8", "rename the file")
    })
}

/// After the archive's end there is padding, and nothing else.
fn expect_end(source: &mut impl Read) -> Result<(), CodeError> {
    let mut block = [0; 8192];
    loop {
        match source.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(read) if block[..read].iter().all(|byte| *byte == 0) => {}
            Ok(_) => {
                let problem = "there is something behind the end of the archive";
                return Err(CodeError::broken(None, problem));
            }
            Err(error) => {
                return Err(CodeError::broken(None, format!("the archive is broken: {error}")));
            }
        }
    }
}

/// Ends with an error, not with silence, when more is read than allowed.
struct Limited<R> {
    source: R,
    left: u64,
    over: Rc<Cell<bool>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if read as u64 > self.left {
            self.over.set(true);
            return Err(io::Error::other("the archive unpacks to too much"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Whether the entry is a sparse file in the pax format: its content is a map and pieces, under an
/// invented name, which only GNU tar puts together.
fn is_sparse<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}
