//! Takes files out of a fetched archive: those that the recipe names, as files and nothing else.
use super::InstallError;
use super::tree::Tree;
use crate::images::runtime::{ArchiveRecipe, ArchiveRegistry};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes that are taken out of one archive: the largest toolchain has 450 MB.
const UNPACKED_MAX_BYTES: u64 = 2_000_000_000;
/// The directory that all files of an npm tarball are in.
const NPM_ROOT: &str = "package/";

/// Puts the files that the recipe names into the tree.
pub(super) fn take_files(
    tree: &Tree,
    archive: &ArchiveRecipe,
    file: &Path,
) -> Result<(), InstallError> {
    let mut taker = Taker { tree, archive, taken: vec![], bytes_left: UNPACKED_MAX_BYTES };
    let read = match archive.registry {
        ArchiveRegistry::Pypi => taker.read_zip(file),
        ArchiveRegistry::Npm => taker.read_tarball(file),
    };
    read.map_err(|problem| InstallError::Unexpected(format!("{}: {problem}", archive.pinned())))?;
    match archive.files.keys().find(|path| !taker.taken.contains(path)) {
        None => Ok(()),
        Some(path) => Err(InstallError::Unexpected(format!(
            "{} has no {path}; correct the recipe's image.archives",
            archive.pinned()
        ))),
    }
}

/// Goes through an archive and takes what is wanted of it.
struct Taker<'a> {
    tree: &'a Tree,
    archive: &'a ArchiveRecipe,
    /// Which of the wanted paths were there.
    taken: Vec<&'a String>,
    bytes_left: u64,
}

impl Taker<'_> {
    fn read_zip(&mut self, file: &Path) -> io::Result<()> {
        let mut zip = zip::ZipArchive::new(File::open(file)?).map_err(io::Error::other)?;
        for index in 0..zip.len() {
            let entry = zip.by_index(index).map_err(io::Error::other)?;
            if entry.is_dir() {
                continue;
            }
            let name = entry.name().map_err(io::Error::other)?.into_owned();
            let is_link = entry.is_symlink();
            let is_program = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
            self.take(&name, is_link, is_program, entry)?;
        }
        Ok(())
    }

    fn read_tarball(&mut self, file: &Path) -> io::Result<()> {
        let mut tar = tar::Archive::new(GzDecoder::new(io::BufReader::new(File::open(file)?)));
        for entry in tar.entries()? {
            let entry = entry?;
            let kind = entry.header().entry_type();
            if kind.is_dir() || kind.is_pax_global_extensions() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let is_program = entry.header().mode()? & 0o111 != 0;
            let name = name.strip_prefix(NPM_ROOT).unwrap_or(&name).to_owned();
            self.take(&name, !kind.is_file(), is_program, entry)?;
        }
        Ok(())
    }

    /// Writes one entry, if it or a directory above it is wanted.
    fn take(
        &mut self,
        name: &str,
        is_link: bool,
        is_program: bool,
        mut content: impl Read,
    ) -> io::Result<()> {
        let below = |path: &str| match name.strip_prefix(path)? {
            "" => Some(String::new()),
            rest => rest.starts_with('/').then(|| rest.to_owned()),
        };
        let found = self.archive.files.iter().find_map(|(path, to)| Some((path, to, below(path)?)));
        let Some((path, target, rest)) = found else { return Ok(()) };
        if is_link || rest.split('/').skip(1).any(|part| ["", ".", ".."].contains(&part)) {
            return Err(io::Error::other(format!("{name} is a link or leads out of the archive")));
        }
        let start = self.tree.create(&format!("{target}{rest}"), is_program)?;
        let written = io::copy(&mut content.by_ref().take(self.bytes_left), &mut &start)?;
        self.bytes_left -= written;
        if content.read(&mut [0])? != 0 {
            return Err(io::Error::other(format!("it unpacks to over {UNPACKED_MAX_BYTES} bytes")));
        }
        self.taken.push(path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use zip::write::SimpleFileOptions;

    fn recipe(registry: ArchiveRegistry, files: &[(&str, &str)]) -> ArchiveRecipe {
        ArchiveRecipe {
            registry,
            package: "tool".into(),
            version: "1.0".into(),
            sha256: String::new(),
            bytes: 1,
            files: files.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect(),
        }
    }

    /// A wheel with a program, a text beside it and a link.
    fn wheel(directory: &Path) -> PathBuf {
        let path = directory.join("tool.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        let program = SimpleFileOptions::default().unix_permissions(0o755);
        zip.start_file("tool/bin/run", program).unwrap();
        zip.write_all(b"program").unwrap();
        zip.start_file("tool/bin/notes.txt", SimpleFileOptions::default()).unwrap();
        zip.write_all(b"text").unwrap();
        zip.add_symlink("tool/link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        zip.start_file("setup.py", SimpleFileOptions::default()).unwrap();
        zip.finish().unwrap();
        path
    }

    fn tree(directory: &Path) -> Tree {
        Tree::new(directory.join("tree")).unwrap()
    }

    #[test]
    fn only_the_named_files_are_taken_with_their_modes() {
        let place = tempfile::tempdir().unwrap();
        let tree = tree(place.path());
        let recipe = recipe(ArchiveRegistry::Pypi, &[("tool/bin", "/usr/lib/tool")]);
        take_files(&tree, &recipe, &wheel(place.path())).unwrap();
        let taken = tree.root().join("usr/lib/tool");
        let mode = |name: &str| taken.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("run"), mode("notes.txt")), (0o755, 0o644));
        assert_eq!(fs::read(taken.join("run")).unwrap(), b"program");
        assert_eq!(fs::read_dir(&taken).unwrap().count(), 2);
        assert!(!tree.root().join("setup.py").exists());
    }

    #[test]
    fn what_is_not_in_the_archive_is_named() {
        let place = tempfile::tempdir().unwrap();
        let recipe = recipe(ArchiveRegistry::Pypi, &[("tool/bin/walk", "/usr/bin/walk")]);
        let error = take_files(&tree(place.path()), &recipe, &wheel(place.path())).unwrap_err();
        assert!(error.to_string().contains("tool=1.0 has no tool/bin/walk"), "{error}");
    }

    #[test]
    fn a_link_in_an_archive_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let recipe = recipe(ArchiveRegistry::Pypi, &[("tool/link", "/usr/bin/tool")]);
        let error = take_files(&tree(place.path()), &recipe, &wheel(place.path())).unwrap_err();
        assert!(error.to_string().contains("tool/link is a link"), "{error}");
    }

    #[test]
    fn nothing_is_replaced_or_written_through_a_link() {
        let place = tempfile::tempdir().unwrap();
        let tree = tree(place.path());
        std::os::unix::fs::symlink(place.path(), tree.root().join("out")).unwrap();
        let through = recipe(ArchiveRegistry::Pypi, &[("tool/bin/run", "/out/run")]);
        let error = take_files(&tree, &through, &wheel(place.path())).unwrap_err();
        assert!(error.to_string().contains("out is no directory"), "{error}");
        assert!(!place.path().join("run").exists());
        fs::write(tree.root().join("usr/run"), "there").unwrap();
        let over = recipe(ArchiveRegistry::Pypi, &[("tool/bin/run", "/usr/run")]);
        take_files(&tree, &over, &wheel(place.path())).unwrap_err();
        assert_eq!(fs::read(tree.root().join("usr/run")).unwrap(), b"there");
    }

    #[test]
    fn the_files_of_an_npm_tarball_lie_below_package() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("tool.tgz");
        let gzip = flate2::write::GzEncoder::new(File::create(&path).unwrap(), Default::default());
        let mut tar = tar::Builder::new(gzip);
        for (name, mode) in [("package/bin/run", 0o755), ("package/package.json", 0o644)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            header.set_mode(mode);
            tar.append_data(&mut header, name, &b"{}"[..]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        let tree = tree(place.path());
        let recipe = recipe(ArchiveRegistry::Npm, &[("bin/run", "/usr/bin/run")]);
        take_files(&tree, &recipe, &path).unwrap();
        assert!(tree.root().join("usr/bin/run").is_file());
        assert!(!tree.root().join("package.json").exists());
    }
}
