//! Runtime images, mounted once each and shared by all containers.
//!
//! What surprises: the mount points are below `/run/nova-<id>`, not below the data directory. A
//! container's root must be found by the container's own uid, and a data directory may well lie
//! where only root can go.
use crate::driver::BootError;
use crate::owner::Owner;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::HashMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::process::Command;
use tokio_util::task::TaskTracker;

/// The program that sets up a loop device together with a mount, where the kernel cannot mount a
/// file itself (before Linux 6.12).
const MOUNT_PROGRAM: &str = "/bin/mount";

/// A mount under way or done, that any number of boots can wait for.
type Mounting = Shared<BoxFuture<'static, Result<PathBuf, Problem>>>;

/// The mounted images of one daemon.
#[derive(Debug)]
pub(super) struct ImageMounts {
    directory: PathBuf,
    mounted: Mutex<HashMap<String, Mounting>>,
}

/// Why an image is not mounted.
#[derive(Debug, Clone, thiserror::Error)]
enum Problem {
    #[error("{0} is missing")]
    Missing(String),
    #[error("{0} cannot be mounted: {1}")]
    Failed(String, String),
}

impl ImageMounts {
    pub fn new(owner: &Owner) -> Self {
        Self { directory: directory(owner), mounted: Mutex::default() }
    }

    /// Where the image with this digest is mounted. The first call mounts it, as one of `tasks`: it
    /// goes on if its caller leaves, so that two mounts never meet.
    pub async fn get(
        &self,
        digest: &str,
        image: &Path,
        tasks: &TaskTracker,
    ) -> Result<PathBuf, BootError> {
        if digest.is_empty() || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(artifact(digest, "its digest is not hexadecimal"));
        }
        let mounting = self
            .mounted()
            .entry(digest.to_owned())
            .or_insert_with(|| {
                let task = tasks.spawn(mount_image(image.to_owned(), self.directory.join(digest)));
                let name = image.display().to_string();
                let result = async move {
                    let result = task.await.map_err(io::Error::other).and_then(|result| result);
                    result.map_err(|error| match error.kind() {
                        io::ErrorKind::NotFound => Problem::Missing(name),
                        _ => Problem::Failed(name, error.to_string()),
                    })
                };
                result.boxed().shared()
            })
            .clone();
        let result = mounting.clone().await;
        result.map_err(|problem| {
            let mut mounted = self.mounted();
            // The next boot tries again.
            if mounted.get(digest).is_some_and(|current| current.ptr_eq(&mounting)) {
                mounted.remove(digest);
            }
            artifact(digest, &problem.to_string())
        })
    }

    fn mounted(&self) -> MutexGuard<'_, HashMap<String, Mounting>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn artifact(digest: &str, problem: &str) -> BootError {
    let short: String = digest.chars().take(12).collect();
    let problem = format!("{problem}; `nova runtime add` brings it back");
    BootError::Artifact { what: format!("runtime image {short}"), problem }
}

/// The directory that holds an owner's mount points.
pub(crate) fn directory(owner: &Owner) -> PathBuf {
    PathBuf::from(format!("/run/{}", owner.cgroup_name()))
}

async fn mount_image(image: PathBuf, target: PathBuf) -> io::Result<PathBuf> {
    let (source, at) = (image.clone(), target.clone());
    let direct = tokio::task::spawn_blocking(move || mount_file(&source, &at));
    if !direct.await.map_err(io::Error::other)?? {
        loop_mount(&image, &target).await?;
    }
    Ok(target)
}

/// Makes the mount point and mounts the file; false where this kernel needs a block device.
fn mount_file(image: &Path, target: &Path) -> io::Result<bool> {
    image.metadata()?;
    std::fs::create_dir_all(target)?;
    if let Some(parent) = target.parent() {
        // Anybody may pass, nobody may look around, whatever the daemon's umask.
        std::fs::set_permissions(parent, Permissions::from_mode(0o711))?;
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    match mount(Some(image), target, Some("erofs"), flags, None::<&str>) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTBLK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Mounts through a loop device that goes away with the mount.
async fn loop_mount(image: &Path, target: &Path) -> io::Result<()> {
    let output = Command::new(MOUNT_PROGRAM)
        .args(["-t", "erofs", "-o", "ro,nosuid,nodev,loop"])
        .args([image, target])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Unmounts all images of an owner and removes the mount points. Containers that still use one keep
/// it until they end. Returns what was removed and what could not be.
pub(super) fn unmount_all(owner: &Owner) -> (Vec<String>, Vec<String>) {
    let directory = directory(owner);
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(_) => return (removed, failed),
    };
    for target in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        // Several mounts may lie on top of each other; EINVAL says that none is left.
        let unmounted = loop {
            match umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => removed.push(format!("image mount {}", target.display())),
                Err(Errno::EINVAL) => break Ok(()),
                Err(error) => break Err(io::Error::from(error)),
            }
        };
        if let Err(error) = unmounted.and_then(|()| std::fs::remove_dir(&target)) {
            failed.push(format!("image mount {}: {error}", target.display()));
        }
    }
    if let Err(error) = std::fs::remove_dir(&directory) {
        failed.push(format!("directory {}: {error}", directory.display()));
    }
    (removed, failed)
}
