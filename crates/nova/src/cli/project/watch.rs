//! Waits for changes in a project's directory: inotify says that something happened, a look at all files
//! says whether it matters.
//!
//! The kernel watches directories one by one, so those that are new are added before each look: what changed
//! before that is seen by looking, what changes after it by the kernel.
use super::{EVENT_FILE, PROJECT_FILE};
use crate::pack;
use anyhow::{Context, bail};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{Errno, retry_on_intr};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, timeout_at};

/// How long nothing may happen before a change counts as done: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// How long that is waited for, where something is written all the time.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(2);
/// Room for a few hundred events, which nobody reads: that there are some is enough.
const EVENTS_BYTES: usize = 16 * 1024;
/// Files that matter although they are no part of the code.
const ALSO: &[&str] = &[PROJECT_FILE, EVENT_FILE, ".novaignore"];

/// A directory that is watched.
pub struct Watch {
    directory: PathBuf,
    inotify: Arc<OwnedFd>,
    /// Says that something happened since it was last asked.
    events: mpsc::Receiver<()>,
}

/// What is noticed of each file.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen(BTreeMap<PathBuf, (u64, u64, u32, Option<SystemTime>)>);

impl Watch {
    /// Begins to watch.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC).context("changes cannot be watched")?;
        let inotify = Arc::new(inotify);
        let (sender, events) = mpsc::channel(1);
        let source = inotify.clone();
        // Ends with the process: nothing else ends a read of the kernel's events.
        std::thread::spawn(move || {
            let mut bytes = [0; EVENTS_BYTES];
            while retry_on_intr(|| rustix::io::read(&*source, &mut bytes)).is_ok() {
                if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                    break;
                }
            }
        });
        Ok(Self { directory: directory.to_owned(), inotify, events })
    }

    /// Everything but `built` as it is now. Whatever changes afterwards ends [`changed`](Self::changed).
    pub fn look(&self, built: Option<&Path>) -> anyhow::Result<Seen> {
        self.cover(&self.directory)?;
        let mut seen = BTreeMap::new();
        let mut note = |path: &Path| {
            // One that is gone meanwhile will be missing in the next look as well.
            if let Ok(file) = path.symlink_metadata() {
                let state = (file.ino(), file.len(), file.mode(), file.modified().ok());
                seen.insert(path.to_owned(), state);
            }
        };
        for entry in pack::entries(&self.directory)? {
            // The same: it is gone.
            let Ok(entry) = entry else { continue };
            if entry.file_type().is_dir() {
                self.cover(entry.path())?;
            } else if Some(entry.path()) != built {
                note(entry.path());
            }
        }
        ALSO.iter().for_each(|name| note(&self.directory.join(name)));
        Ok(Seen(seen))
    }

    fn cover(&self, directory: &Path) -> anyhow::Result<()> {
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE;
        match inotify::add_watch(&*self.inotify, directory, changes | WatchFlags::ONLYDIR) {
            Ok(_) => Ok(()),
            // It is gone, which its parent notices.
            Err(Errno::NOENT | Errno::NOTDIR) if directory != self.directory => Ok(()),
            Err(Errno::NOSPC) => bail!(
                "more directories than this user may watch; list what is not code in .novaignore, or \
                 raise the host's fs.inotify.max_user_watches"
            ),
            Err(error) => Err(error).with_context(|| directory.display().to_string()),
        }
    }

    /// Waits until something has happened and it is quiet again.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        self.events.recv().await.context("the system reports no more changes")?;
        let latest = Instant::now() + QUIET_WAIT_MAX;
        while Instant::now() < latest {
            let quiet = latest.min(Instant::now() + QUIET);
            if timeout_at(quiet, self.events.recv()).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn a_change_ends_the_waiting_also_in_a_directory_that_is_new() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(root.path()).unwrap();
        let before = watch.look(None).unwrap();
        fs::create_dir(root.path().join("lib")).unwrap();
        watch.changed().await.unwrap();
        assert_eq!(watch.look(None).unwrap(), before, "an empty directory is no code");
        fs::write(root.path().join("lib/a.py"), "a").unwrap();
        watch.changed().await.unwrap();
        let with_file = watch.look(None).unwrap();
        assert_ne!(with_file, before);
        fs::remove_dir_all(root.path().join("lib")).unwrap();
        watch.changed().await.unwrap();
        assert_eq!(watch.look(None).unwrap(), before);
    }

    #[test]
    fn what_is_not_code_does_not_matter_and_settings_do() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at(".novaignore"), "*.log\nnova.yaml\n").unwrap();
        fs::create_dir(at(".git")).unwrap();
        let handler = at("handler");
        fs::write(&handler, "old").unwrap();
        let built = Some(handler.as_path());
        let watch = Watch::new(root.path()).unwrap();
        let before = watch.look(built).unwrap();
        fs::write(at("a.log"), "x").unwrap();
        fs::write(at(".git/HEAD"), "x").unwrap();
        fs::write(&handler, "built anew").unwrap();
        assert_eq!(watch.look(built).unwrap(), before);
        fs::write(at("nova.yaml"), "name: x").unwrap();
        assert_ne!(watch.look(built).unwrap(), before);
    }
}
