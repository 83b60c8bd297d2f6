//! The root directory of a guest, put together from unpacked packages and what their maintainer scripts
//! would have written.
use super::{InstallError, java_keystore};
use crate::images::host_tool::{self, HostTool};
use crate::images::runtime::{CommonRecipe, ImageRecipe, Step};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use walkdir::WalkDir;

/// Debian's merged /usr: these are links before the first package is unpacked.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Where the agent and the backends mount things, and what programs expect to be there.
const DIRECTORIES: [&str; 16] = [
    "code",
    "var/task",
    "var/runtime",
    "var/lib",
    "var/log",
    "tmp",
    "run",
    "proc",
    "sys",
    "dev",
    "opt",
    "nova",
    "root",
    "home",
    "etc/ssl/certs",
    "usr/lib/ssl",
];
/// Files that every image has. User 1000 runs the functions. The empty ones are there to be mounted over.
const FILES: [(&str, &str); 7] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         nova:x:1000:1000:functions:/tmp:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnova:x:1000:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"),
    ("etc/resolv.conf", ""),
    ("etc/hosts", ""),
    ("etc/hostname", ""),
    ("etc/machine-id", ""),
];
/// Links that every image has: from, to.
const LINKS: [(&str, &str); 4] = [
    ("etc/mtab", "/proc/self/mounts"),
    ("etc/ssl/cert.pem", "certs/ca-certificates.crt"),
    ("var/run", "/run"),
    ("var/tmp", "/tmp"),
];
const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla";
const CERTIFICATE_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// The directory that the package ca-certificates-java brings empty.
const JAVA_CERTIFICATES: &str = "etc/ssl/certs/java";

/// An unpacked image that is being worked on.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Starts an image in the new directory `root`.
    pub(super) fn new(root: PathBuf) -> io::Result<Self> {
        fs::create_dir(&root)?;
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        for name in MERGED {
            fs::create_dir_all(root.join("usr").join(name))?;
            symlink(Path::new("usr").join(name), root.join(name))?;
        }
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Adds the files of a package. tar is told to go through the links of the merged /usr, and to leave
    /// owners alone, so that any user can do it.
    pub(super) async fn unpack(&self, package: &Path) -> Result<(), InstallError> {
        let mut unpacker = HostTool::find("tar", "tar")?.command();
        unpacker.args([
            "-x",
            "--keep-directory-symlink",
            "--no-same-owner",
            "--delay-directory-restore",
        ]);
        unpacker.arg("-C").arg(&self.root).stdin(Stdio::piped());
        unpacker.stdout(Stdio::null()).stderr(Stdio::piped());
        let failed_start = |source| host_tool::ToolError::Start { tool: "tar".into(), source };
        let mut unpacking = unpacker.spawn().map_err(failed_start)?;
        let pipe =
            unpacking.stdin.take().ok_or_else(|| failed_start(io::ErrorKind::BrokenPipe.into()))?;
        let mut reader = HostTool::find("dpkg-deb", "dpkg")?.command();
        reader.arg("--fsys-tarfile").arg(package);
        reader.stdout(pipe.into_owned_fd().map_err(failed_start)?).stderr(Stdio::piped());
        let read = reader.spawn().map_err(failed_start)?;
        // The command holds a copy of the pipe: tar would never see its end.
        drop(reader);
        let (read, unpacked) = tokio::join!(read.wait_with_output(), unpacking.wait_with_output());
        host_tool::check("dpkg-deb".into(), read.map_err(failed_start)?)?;
        host_tool::check("tar".into(), unpacked.map_err(failed_start)?)?;
        Ok(())
    }

    /// Makes a new file at an absolute path of the image. One that is there is not replaced, and no link
    /// on the way is followed: it could lead out of the tree.
    pub(super) fn create(&self, path: &str, is_program: bool) -> io::Result<File> {
        let mut place = self.root.clone();
        let mut parts = path.trim_start_matches('/').split('/').peekable();
        while let Some(part) = parts.next() {
            place.push(part);
            if parts.peek().is_none() {
                break;
            }
            match fs::symlink_metadata(&place) {
                Ok(about) if about.is_dir() => {}
                Ok(_) => return Err(io::Error::other(format!("{path}: {part} is no directory"))),
                Err(_) => fs::create_dir(&place)?,
            }
        }
        let mode = if is_program { 0o755 } else { 0o644 };
        let file = File::options().write(true).create_new(true).mode(mode).open(&place);
        file.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    /// Writes texts at absolute paths of the image.
    pub(super) fn write_texts(&self, texts: &[(String, String)]) -> io::Result<()> {
        for (path, text) in texts {
            self.create(path, text.starts_with("#!"))?.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// Writes what no package brings, and removes what no function needs.
    pub(super) fn complete(&self, common: &CommonRecipe, image: &ImageRecipe) -> io::Result<()> {
        for path in common.prune.iter().chain(&image.prune) {
            remove(&self.root.join(path))?;
        }
        self.prune_documentation()?;
        for path in DIRECTORIES {
            fs::create_dir_all(self.root.join(path))?;
        }
        for (path, text) in FILES {
            fs::write(self.root.join(path), text)?;
        }
        self.bundle_certificates()?;
        let busybox = common.busybox.iter().map(|name| (format!("usr/bin/{name}"), "busybox"));
        let links =
            image.links.iter().map(|(path, to)| (path.trim_start_matches('/').into(), &**to));
        let fixed = LINKS.iter().map(|(path, to)| ((*path).to_owned(), *to));
        for (path, target) in links.chain(fixed).chain(busybox) {
            self.link(&path, target)?;
        }
        Ok(())
    }

    /// Runs a program of the image over its files, by the image's own loader: no chroot, no root.
    pub(super) async fn run(&self, step: &Step) -> Result<(), InstallError> {
        let expand = |text: &str| Step::expand(text, &self.root);
        let mut words = step.command.iter().map(|word| expand(word));
        let program = words.next().unwrap_or_default();
        let libraries = ["usr/lib/x86_64-linux-gnu", "usr/lib"].map(|path| self.root.join(path));
        let libraries = libraries.map(|path| path.display().to_string()).join(":");
        let mut command =
            tokio::process::Command::new(self.root.join("lib64/ld-linux-x86-64.so.2"));
        command.args(["--library-path", &libraries, "--argv0", &program]);
        command.arg(self.root.join(program.trim_start_matches('/'))).args(words);
        command.env_clear().envs(step.env.iter().map(|(name, value)| (name, expand(value))));
        command.stdin(Stdio::null()).kill_on_drop(true);
        host_tool::run(&mut command).await?;
        Ok(())
    }

    /// Makes modes what a guest may see: readable by its user, and nothing set-uid. An ordinary user
    /// and root end up with the same tree.
    pub(super) fn normalise_modes(&self) -> io::Result<()> {
        for entry in WalkDir::new(&self.root) {
            let entry = entry?;
            if entry.file_type().is_symlink() {
                continue;
            }
            let mode = entry.metadata()?.mode();
            let is_program = entry.file_type().is_dir() || mode & 0o111 != 0;
            let wanted = if is_program { 0o755 } else { 0o644 };
            if mode & 0o7777 != wanted {
                fs::set_permissions(entry.path(), Permissions::from_mode(wanted))?;
            }
        }
        fs::set_permissions(self.root.join("tmp"), Permissions::from_mode(0o1777))
    }

    /// All certificates in one file, as ca-certificates' own script would do.
    fn bundle_certificates(&self) -> io::Result<()> {
        let directory = self.root.join(CERTIFICATES);
        let mut files: Vec<PathBuf> = fs::read_dir(&directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        let mut bundle = Vec::new();
        for file in files {
            bundle.extend(fs::read(file)?);
        }
        if self.root.join(JAVA_CERTIFICATES).is_dir() {
            let keystore = java_keystore::from_pem(&bundle)?;
            fs::write(self.root.join(JAVA_CERTIFICATES).join("cacerts"), keystore)?;
        }
        fs::write(self.root.join(CERTIFICATE_BUNDLE), bundle)?;
        self.link("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt")
    }

    /// Of the packages' documentation only the licences stay.
    fn prune_documentation(&self) -> io::Result<()> {
        let documentation = self.root.join("usr/share/doc");
        for entry in WalkDir::new(&documentation).contents_first(true) {
            let entry = entry?;
            if entry.file_type().is_dir() {
                // Fails on those that still hold a licence.
                match fs::remove_dir(entry.path()) {
                    Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                        return Err(error);
                    }
                    _ => {}
                }
            } else if entry.file_name() != "copyright" {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let path = self.root.join(path);
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        symlink(target, path)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
