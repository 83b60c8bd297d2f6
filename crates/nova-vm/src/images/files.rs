//! The few file operations that all artefacts share: whole or not at all, and hashed.
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::path::Path;

/// Removes what a crash left under a name with this prefix.
pub(crate) fn remove_prefixed(directory: &Path, prefix: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes a file that has its name only once it is complete and on disk.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let directory = path.parent().ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let mut file = tempfile::Builder::new().prefix(".making-").tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().set_permissions(PermissionsExt::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Writes a program that containers are given to run.
pub(crate) fn write_program(path: &Path, content: &[u8]) -> io::Result<()> {
    write_atomically(path, content, 0o755)
}

/// SHA-256 of a file, hex, read in pieces.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}
