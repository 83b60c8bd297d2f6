//! Code from local files, as an archive to upload: what `nova register --code` and the daemon's
//! `code_path` have in common.
//!
//! A directory is packed as it is, links included, but for what its `.novaignore` lists; an archive is taken
//! as it is; any other file is a single program and becomes the handler. What may be inside is for the daemon
//! to judge.
mod left_out;

use flate2::Compression;
use flate2::write::GzEncoder;
use left_out::LeftOut;
use nova_domain::{Mode, handler_module};
use nova_vm::images::code::{ENTRIES_MAX, UNPACKED_MAX_BYTES};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// Mode of a single program: it has to be executable to be run.
const PROGRAM_MODE: u32 = 0o755;
/// Bytes that tell an archive from a program.
const MAGIC_BYTES: usize = 262;
/// Names that no program has. A download that failed often leaves an error page under one of them.
const ARCHIVE_NAMES: &[(&str, &str)] =
    &[(".zip", "zip"), (".tar.gz", "tar.gz"), (".tgz", "tar.gz"), (".tar", "tar")];

/// Why code could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket, a device, a pipe.
    #[error("{0} is neither a file, a directory nor a link; remove it")]
    Special(PathBuf),
    /// Named like an archive, and none.
    #[error(
        "{path} is not a {kind} archive; make it anew, or rename the file if it is the program itself"
    )]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// What its name says that it is.
        kind: &'static str,
    },
    /// A line that is no rule.
    #[error("{path}, line {line}: {problem}; write it as in a .gitignore")]
    Rule {
        /// The file of rules.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// More than Nova takes.
    #[error("{path} holds more than {limit}; leave out what the function does not need")]
    TooLarge {
        /// The directory or file.
        path: PathBuf,
        /// The limit that was met.
        limit: String,
    },
}

/// Where code that is a single file is stored: at the handler's path; in `lambda` mode, where the handler
/// is `file.function`, under that file's name with the ending that it has, or that its language has. One
/// without an ending is a program, which that mode knows as `bootstrap`.
pub fn program_path(mode: Mode, handler: &str, ending: Option<&str>) -> String {
    match (mode, ending) {
        (Mode::Process | Mode::Persistent | Mode::Http, _) => handler.to_owned(),
        (Mode::Lambda, Some(ending)) => format!("{}.{ending}", handler_module(handler)),
        (Mode::Lambda, None) => "bootstrap".to_owned(),
    }
}

/// The ending of a local file's name.
pub fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|ending| ending.to_str())
}

/// The archive to upload for `path`; a single file in it is stored as `program`.
pub fn pack(path: &Path, program: &str) -> Result<Vec<u8>, PackError> {
    let metadata = std::fs::metadata(path).map_err(|source| read_error(path, source))?;
    if metadata.is_dir() {
        return pack_directory(path);
    }
    if !metadata.is_file() {
        return Err(PackError::Special(path.to_owned()));
    }
    if metadata.len() > UNPACKED_MAX_BYTES {
        return Err(too_large(path));
    }
    let bytes = std::fs::read(path).map_err(|source| read_error(path, source))?;
    if is_archive(&bytes) {
        return Ok(bytes);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if let Some((_, kind)) = ARCHIVE_NAMES.iter().find(|(ending, _)| name.ends_with(ending)) {
        return Err(PackError::NotAnArchive { path: path.to_owned(), kind });
    }
    pack_program(path, &bytes, program)
}

/// What is in a directory and not left out, sorted.
pub fn entries(
    directory: &Path,
) -> Result<impl Iterator<Item = walkdir::Result<DirEntry>>, PackError> {
    let left_out = LeftOut::of(directory)?;
    let walk = WalkDir::new(directory).min_depth(1).sort_by_file_name().into_iter();
    let is_code =
        move |entry: &DirEntry| !left_out.contains(entry.path(), entry.file_type().is_dir());
    Ok(walk.filter_entry(is_code))
}

fn is_archive(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(MAGIC_BYTES)];
    start.starts_with(&[0x1f, 0x8b])
        || start.starts_with(b"PK\x03\x04")
        || start.starts_with(b"PK\x05\x06")
        || start.get(257..262) == Some(b"ustar")
}

fn pack_program(path: &Path, bytes: &[u8], program: &str) -> Result<Vec<u8>, PackError> {
    let failed = |source| read_error(path, source);
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut header = tar::Header::new_gnu();
    header.set_mode(PROGRAM_MODE);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, program, bytes).map_err(failed)?;
    archive.into_inner().and_then(GzEncoder::finish).map_err(failed)
}

fn pack_directory(directory: &Path) -> Result<Vec<u8>, PackError> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    archive.follow_symlinks(false);
    let (mut bytes, mut count) = (0, 0);
    for entry in entries(directory)? {
        let entry = entry.map_err(|error| read_error(directory, error.into()))?;
        let path = entry.path();
        let failed = |source| read_error(path, source);
        let kind = entry.file_type();
        if !kind.is_dir() && !kind.is_file() && !kind.is_symlink() {
            return Err(PackError::Special(path.to_owned()));
        }
        count += 1;
        if count > ENTRIES_MAX {
            let limit = format!("{ENTRIES_MAX} files");
            return Err(PackError::TooLarge { path: directory.to_owned(), limit });
        }
        let name = path.strip_prefix(directory).unwrap_or(path);
        if kind.is_file() {
            let file = File::open(path).map_err(failed)?;
            let metadata = file.metadata().map_err(failed)?;
            bytes += metadata.len();
            if bytes > UNPACKED_MAX_BYTES {
                return Err(too_large(directory));
            }
            let mut header = tar::Header::new_gnu();
            header.set_metadata(&metadata);
            // A file that grows meanwhile must not break the archive.
            let content = file.take(metadata.len());
            archive.append_data(&mut header, name, content).map_err(failed)?;
        } else {
            archive.append_path_with_name(path, name).map_err(failed)?;
        }
    }
    let failed = |source| read_error(directory, source);
    archive.into_inner().and_then(GzEncoder::finish).map_err(failed)
}

fn read_error(path: &Path, source: io::Error) -> PackError {
    PackError::Read { path: path.to_owned(), source }
}

fn too_large(path: &Path) -> PackError {
    let limit = format!("{} MiB", UNPACKED_MAX_BYTES / (1024 * 1024));
    PackError::TooLarge { path: path.to_owned(), limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nova_vm::images::code::{UploadKind, canonicalise};

    fn names(archive: &[u8]) -> Vec<String> {
        let tar = canonicalise(archive, UploadKind::Archive).unwrap();
        let mut tar = tar::Archive::new(tar.as_slice());
        let entries = tar.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_single_file_is_stored_where_its_mode_looks_for_it() {
        let path = |mode, handler, local| program_path(mode, handler, ending(Path::new(local)));
        assert_eq!(path(Mode::Process, "src/main", "a.py"), "src/main");
        assert_eq!(path(Mode::Lambda, "main.handler", "a.py"), "main.py");
        assert_eq!(path(Mode::Lambda, "src/main.Orders.create", "a.rb"), "src/main.rb");
        assert_eq!(path(Mode::Lambda, "main.handler", "target/orders"), "bootstrap");
    }

    #[test]
    fn a_directory_is_packed_with_its_links() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("lib")).unwrap();
        std::fs::write(root.path().join("lib/a.py"), "a").unwrap();
        std::os::unix::fs::symlink("lib/a.py", root.path().join("handler")).unwrap();
        let names = names(&pack(root.path(), "handler").unwrap());
        assert!(names.contains(&"handler".to_owned()), "{names:?}");
        assert!(names.contains(&"lib/a.py".to_owned()), "{names:?}");
    }

    #[test]
    fn what_novaignore_lists_is_not_packed_and_modes_are_kept() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        for directory in [".git", "node_modules", "build"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
            std::fs::write(root.path().join(directory).join("file"), "x").unwrap();
        }
        std::fs::write(root.path().join(".novaignore"), "build/\n").unwrap();
        for (name, mode) in [("run", 0o755), ("data", 0o644)] {
            std::fs::write(root.path().join(name), "x").unwrap();
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(root.path().join(name), permissions).unwrap();
        }
        let archive = pack(root.path(), "handler").unwrap();
        assert_eq!(names(&archive), ["data", "node_modules/", "node_modules/file", "run"]);
        let tar = canonicalise(&archive, UploadKind::Archive).unwrap();
        let mut tar = tar::Archive::new(tar.as_slice());
        let modes: Vec<u32> =
            tar.entries().unwrap().map(|entry| entry.unwrap().header().mode().unwrap()).collect();
        assert_eq!(modes, [0o644, 0o755, 0o644, 0o755]);
    }

    #[test]
    fn a_single_file_becomes_the_handler_and_an_archive_stays_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("hello.py");
        std::fs::write(&file, "print(1)").unwrap();
        let archive = pack(&file, "src/main.py").unwrap();
        assert!(names(&archive).contains(&"src/main.py".to_owned()));
        let saved = root.path().join("code.tar.gz");
        std::fs::write(&saved, &archive).unwrap();
        assert_eq!(pack(&saved, "handler").unwrap(), archive);
    }

    #[test]
    fn what_is_only_named_like_an_archive_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for (name, kind) in
            [("g.zip", "zip"), ("G.TGZ", "tar.gz"), ("g.tar.gz", "tar.gz"), ("g.tar", "tar")]
        {
            let file = root.path().join(name);
            std::fs::write(&file, "<html>404</html>").unwrap();
            let error = pack(&file, "handler").unwrap_err().to_string();
            assert!(error.contains(&format!("{name} is not a {kind} archive")), "{error}");
        }
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = pack(Path::new("/no/such/code"), "handler").unwrap_err();
        assert!(error.to_string().contains("/no/such/code"), "{error}");
    }
}
