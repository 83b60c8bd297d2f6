//! The host-wide lease: which of the 16 shares of addresses and uids this daemon uses.
//!
//! `/run/nova/lease-N` names the holder and is locked (flock) for as long as the daemon lives; the
//! kernel drops the lock with the process, however it ends. The directory itself is locked while
//! somebody chooses, so that two daemons that start together cannot take the same index.
//!
//! A lock that is free does not mean that the index is: after a crash, guests of the dead daemon
//! may still run under its uids and addresses. Such an index is taken by its own owner, who
//! removes what is left; anybody else takes it only when nothing of the old owner is to be found.
//! A clean end removes the file, and the directory with the last one.
use crate::owner::{Owner, SHORT_ID_DIGITS};
use crate::reconcile::share_in_use;
use crate::slots::{AddressRange, SlotAllocator, SlotSpace};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the leases of a host are: emptied by a reboot, as are the things that they protect.
const DIRECTORY: &str = "/run/nova";
/// How much of a lease file is read: an id and a path (4096 bytes at most) as JSON.
const FILE_MAX_BYTES: u64 = 8192;

/// A daemon's share of the host, held until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    index: u16,
    slots: SlotAllocator,
    range: AddressRange,
    directory: PathBuf,
    _locked: File,
}

/// What a lease file says of its holder, for the holder's restart and for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// The daemon's id.
    pub owner: String,
    /// Where its data is.
    pub data_dir: PathBuf,
}

impl Holder {
    /// What this owner writes into its lease.
    pub(crate) fn of(owner: &Owner) -> Self {
        Self { owner: owner.daemon_id().to_owned(), data_dir: owner.data_dir().to_owned() }
    }

    /// What a lease file says, if it says anything.
    fn read(file: File) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        file.take(FILE_MAX_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text).ok())
    }

    /// The part of the id that stands in names.
    fn id6(&self) -> Option<&str> {
        self.owner.get(..SHORT_ID_DIGITS)
    }
}

/// Why there is no share for this daemon.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// All indices are held, or not safe to use.
    #[error(
        "no free share of {range} on this host: {held} held by running daemons, {left} still in \
         use by what crashed ones left (data directories: {data_dirs}); start such a daemon once \
         with its data directory so that it cleans up (if that is gone, restart the host), stop a \
         running one, or widen network_range"
    )]
    NoneFree {
        /// The configured range.
        range: AddressRange,
        /// Held by living daemons.
        held: usize,
        /// Not held, but with leftovers of a dead daemon.
        left: usize,
        /// Where those daemons kept their data.
        data_dirs: String,
    },
    /// A running daemon has the same id.
    #[error(
        "a running daemon has the identity of this one: {data_dir} and its own {holder} are copies of \
         each other; to use the copy beside it, remove the file daemon-id in the copy"
    )]
    Copied {
        /// The data directory of this daemon.
        data_dir: PathBuf,
        /// The data directory of the running one.
        holder: PathBuf,
    },
    /// The directory of leases cannot be used.
    #[error("host lease {path}: {source}; a daemon that runs guests needs to be root")]
    Io {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is known of one index, from the best choice to the worst.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// This owner held it last.
    Mine,
    /// No file, and nothing on the host looks used.
    NeverUsed,
    /// A dead daemon's, and nothing of it is left.
    Abandoned,
    /// A dead daemon's (or nobody knows whose), and something of it is left.
    InUse(String),
    /// A living daemon's.
    Held(Option<Holder>),
}

impl Lease {
    /// Takes a share of `range` on this host, the same one as last time where that is possible.
    pub fn take(owner: &Owner, range: AddressRange) -> Result<Self, LeaseError> {
        Self::take_in(Path::new(DIRECTORY), owner, range, &share_in_use)
    }

    /// As [`Lease::take`], with the directory of leases given, and with the question whether
    /// anything on the host still uses an index's share.
    fn take_in(
        directory: &Path,
        owner: &Owner,
        range: AddressRange,
        in_use: &dyn Fn(u16, Option<&Holder>) -> bool,
    ) -> Result<Self, LeaseError> {
        let failed = |source| LeaseError::Io { path: directory.to_owned(), source };
        let _guard = lock_directory(directory).map_err(failed)?;
        let mut standings = Vec::new();
        for index in 0..range.blocks() {
            let standing = standing(&path(directory, index), index, owner, in_use);
            standings.push((standing.map_err(failed)?, index));
        }
        for (standing, _) in &standings {
            // What is named after its id would look like remains of this one, and be removed.
            if let Standing::Held(Some(holder)) = standing
                && holder.id6() == Some(owner.id6())
            {
                let (data_dir, holder) = (owner.data_dir().to_owned(), holder.data_dir.clone());
                return Err(LeaseError::Copied { data_dir, holder });
            }
        }
        standings.sort();
        let chosen = match standings.first() {
            Some((Standing::Mine | Standing::NeverUsed | Standing::Abandoned, index)) => *index,
            _ => return Err(none_free(range, &standings)),
        };
        let Some(space) = SlotSpace::new(range, chosen) else {
            return Err(none_free(range, &standings));
        };
        let locked = write_locked(&path(directory, chosen), owner).map_err(failed)?;
        let slots = SlotAllocator::new(space);
        let directory = directory.to_owned();
        Ok(Self(Arc::new(Held { index: chosen, slots, range, directory, _locked: locked })))
    }

    /// The index, from 0 to 15.
    pub fn index(&self) -> u16 {
        self.0.index
    }

    /// The addresses and uids that come with it.
    pub fn space(&self) -> SlotSpace {
        self.0.slots.space()
    }

    /// The slots of this share. There is one allocator per lease, for guests with and without a
    /// network: a second one would give the same uids to two guests.
    pub fn slots(&self) -> &SlotAllocator {
        &self.0.slots
    }

    /// The range that it is a share of.
    pub fn range(&self) -> AddressRange {
        self.0.range
    }

    /// Leaves the file behind when the daemon ends, as a crash does: for one that could not remove
    /// all that it had. Others then look before they use the share, and a restart cleans up.
    pub fn leave_behind(self) {
        std::mem::forget(self);
    }
}

impl Drop for Held {
    /// Removes the file. A failure leaves one that the next daemon finds unlocked.
    fn drop(&mut self) {
        let removed = lock_directory(&self.directory).and_then(|_guard| {
            std::fs::remove_file(path(&self.directory, self.index))?;
            match std::fs::remove_dir(&self.directory) {
                Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(error),
                _ => Ok(()),
            }
        });
        if let Err(error) = removed {
            tracing::warn!(index = self.index, %error, "the host lease's file could not be removed");
        }
    }
}

fn path(directory: &Path, index: u16) -> PathBuf {
    directory.join(format!("lease-{index}"))
}

/// Locks the directory of leases, making it if need be. Who holds this lock holds it briefly.
fn lock_directory(directory: &Path) -> io::Result<File> {
    loop {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        let file = match File::open(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        file.lock()?;
        // The last holder may have removed the directory between open and lock.
        match std::fs::metadata(directory) {
            Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(file),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

fn standing(
    path: &Path,
    index: u16,
    owner: &Owner,
    in_use: &dyn Fn(u16, Option<&Holder>) -> bool,
) -> io::Result<Standing> {
    let (exists, holder) = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => (false, None),
        Err(error) => return Err(error),
        Ok(file) => {
            let held = match file.try_lock() {
                Ok(()) => false,
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Error(error)) => return Err(error),
            };
            let holder = Holder::read(file)?;
            if held {
                return Ok(Standing::Held(holder));
            }
            (true, holder)
        }
    };
    Ok(match holder {
        Some(holder) if holder.owner == owner.daemon_id() => Standing::Mine,
        holder if in_use(index, holder.as_ref()) => Standing::InUse(
            holder.map_or_else(|| "unknown".to_owned(), |h| h.data_dir.display().to_string()),
        ),
        _ if exists => Standing::Abandoned,
        _ => Standing::NeverUsed,
    })
}

/// Makes this owner the holder. The directory is locked, so nobody else is at it.
fn write_locked(path: &Path, owner: &Owner) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o644)
        .open(path)?;
    file.try_lock().map_err(io::Error::from)?;
    let holder = Holder::of(owner);
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&serde_json::to_vec(&holder)?)?;
    Ok(file)
}

/// Whether the lease of a run of this holder is still there. What cannot be read is not its lease.
pub(crate) fn is_left_behind(holder: &Holder) -> bool {
    let files = std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    files
        .filter_map(|entry| Holder::read(File::open(entry.path()).ok()?).ok()?)
        .any(|found| found.owner == holder.owner)
}

fn none_free(range: AddressRange, standings: &[(Standing, u16)]) -> LeaseError {
    let left: Vec<_> = standings
        .iter()
        .filter_map(|(standing, _)| match standing {
            Standing::InUse(data_dir) => Some(data_dir.as_str()),
            _ => None,
        })
        .collect();
    let held =
        standings.iter().filter(|(standing, _)| matches!(standing, Standing::Held(_))).count();
    LeaseError::NoneFree { range, held, left: left.len(), data_dirs: left.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A host's directory of leases, and daemons with data directories beside it.
    struct Host {
        dir: TempDir,
    }

    impl Host {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn owner(&self, name: &str) -> Owner {
            Owner::open(&self.dir.path().join(name)).unwrap()
        }

        fn leases(&self) -> PathBuf {
            self.dir.path().join("run")
        }

        fn take(&self, owner: &Owner) -> Result<Lease, LeaseError> {
            self.take_where(owner, |_, _| false)
        }

        fn take_where(
            &self,
            owner: &Owner,
            in_use: impl Fn(u16, Option<&Holder>) -> bool,
        ) -> Result<Lease, LeaseError> {
            Lease::take_in(&self.leases(), owner, AddressRange::default(), &in_use)
        }

        /// What a crash leaves: the file, without its lock.
        fn crash(&self, lease: Lease) {
            let file = path(&self.leases(), lease.index());
            let content = std::fs::read(&file).unwrap();
            drop(lease);
            std::fs::create_dir_all(self.leases()).unwrap();
            std::fs::write(file, content).unwrap();
        }
    }

    #[test]
    fn two_daemons_get_two_shares_and_a_clean_end_leaves_no_file() {
        let host = Host::new();
        let (first, second) = (host.owner("a"), host.owner("b"));
        let one = host.take(&first).unwrap();
        let two = host.take(&second).unwrap();
        assert_ne!(one.index(), two.index());
        assert_ne!(one.space(), two.space());
        drop((one, two));
        assert!(!host.leases().exists());
    }

    #[test]
    fn a_copy_of_a_running_daemons_directory_is_refused() {
        let host = Host::new();
        let owner = host.owner("one");
        let copy = host.dir.path().join("two");
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(owner.data_dir().join("daemon-id"), copy.join("daemon-id")).unwrap();
        let copy = Owner::open(&copy).unwrap();
        let lease = host.take(&owner).unwrap();
        let error = host.take(&copy).unwrap_err().to_string();
        assert!(error.contains("daemon-id") && error.contains("two"), "{error}");
        drop(lease);
        host.take(&copy).unwrap();
    }

    #[test]
    fn a_restarted_daemon_gets_its_share_back() {
        let host = Host::new();
        let (first, second) = (host.owner("a"), host.owner("b"));
        let _one = host.take(&first).unwrap();
        let two = host.take(&second).unwrap();
        let index = two.index();
        host.crash(two);
        // Even while everything that it left still runs.
        assert_eq!(host.take_where(&second, |_, _| true).unwrap().index(), index);
    }

    #[test]
    fn nobody_else_takes_a_dead_daemons_share_while_something_of_it_is_left() {
        let host = Host::new();
        let (dead, other) = (host.owner("a"), host.owner("b"));
        let lease = host.take(&dead).unwrap();
        let (index, id) = (lease.index(), dead.daemon_id().to_owned());
        host.crash(lease);
        let left = |_: u16, holder: Option<&Holder>| holder.is_some_and(|h| h.owner == id);
        assert_ne!(host.take_where(&other, left).unwrap().index(), index);

        let one_block: AddressRange = "10.77.16.0/20".parse().unwrap();
        let refused = Lease::take_in(&host.leases(), &other, one_block, &left).unwrap_err();
        assert!(refused.to_string().contains(&dead.data_dir().display().to_string()), "{refused}");
        let taken = Lease::take_in(&host.leases(), &other, one_block, &|_, _| false).unwrap();
        assert_eq!(taken.index(), index);
    }

    #[test]
    fn a_share_that_was_never_used_comes_before_an_abandoned_one() {
        let host = Host::new();
        let (dead, other) = (host.owner("a"), host.owner("b"));
        let lease = host.take(&dead).unwrap();
        let index = lease.index();
        host.crash(lease);
        assert_ne!(host.take(&other).unwrap().index(), index);
    }

    #[test]
    fn sixteen_daemons_are_enough_and_the_next_is_told_why() {
        let host = Host::new();
        let owners: Vec<_> = (0..17).map(|n| host.owner(&format!("d{n}"))).collect();
        let leases: Vec<_> = owners[..16].iter().map(|o| host.take(o).unwrap()).collect();
        let refused = host.take(&owners[16]).unwrap_err().to_string();
        assert!(refused.contains("16 held by running daemons"), "{refused}");
        drop(leases);
        assert!(host.take(&owners[16]).is_ok());
    }

    #[test]
    fn a_spoilt_file_counts_as_somebody_elses() {
        let host = Host::new();
        std::fs::create_dir_all(host.leases()).unwrap();
        std::fs::write(host.leases().join("lease-0"), "not json").unwrap();
        let owner = host.owner("a");
        let in_use = |index: u16, holder: Option<&Holder>| index == 0 && holder.is_none();
        assert_eq!(host.take_where(&owner, in_use).unwrap().index(), 1);
    }
}
