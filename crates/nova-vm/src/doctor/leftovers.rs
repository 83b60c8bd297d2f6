//! What a doctor that was killed left of its probe guest: the guest itself, its control groups, its
//! share of the host, and the data directory that was made for it.
//!
//! Nobody else would ever find it, because that directory's id is known to no daemon. So doctors and
//! daemons look for such directories in the places where they would make one. (That the kernel ends a
//! process with its parent is no help: it forgets about that when the jailer gives up root.)
use super::{Finding, Status, Subject};
use crate::firecracker;
use crate::lease::Lease;
use crate::owner::{Owner, OwnerError};
use crate::reconcile::Report;
use crate::slots::AddressRange;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::task::spawn_blocking;

/// Start of the names of the directories of probe guests.
pub(super) const PREFIX: &str = ".doctor-";

/// Where a doctor makes such a directory: in the data directory, or beside it before it is there.
const PLACES: usize = 2;

pub(super) async fn finding(subject: &Subject) -> Finding {
    const CHECK: &str = "leftovers";
    let Report { removed, failed } =
        remove_leftovers(&subject.data_dir, subject.network_range).await;
    if !failed.is_empty() {
        let fix = "run `nova doctor` as root; if that does not help, restart the host";
        return Finding::bad(CHECK, Status::Warn, failed.join(", "), fix);
    }
    let detail = match removed.is_empty() {
        true => "no guest of an interrupted doctor".to_owned(),
        false => format!("removed what an interrupted doctor had left: {}", removed.join(", ")),
    };
    Finding::ok(CHECK, detail)
}

/// Removes what killed doctors left near this data directory. Those that still run keep theirs.
pub(crate) async fn remove_leftovers(data_dir: &Path, range: AddressRange) -> Report {
    let mut all = Report::default();
    let places = data_dir.ancestors().filter(|path| path.is_dir()).take(PLACES);
    for directory in places.flat_map(abandoned) {
        let shown = directory.display().to_string();
        let removed = spawn_blocking(move || remove(&directory, range)).await;
        let removed = removed.map_err(|error| error.to_string()).flatten();
        all.add(removed.map_err(|problem| format!("{shown}: {problem}")));
    }
    all
}

/// Directories in `place` that look like a doctor's of this user. Others could only have been put
/// there to make us remove what is not ours.
fn abandoned(place: &Path) -> Vec<PathBuf> {
    let user = nix::unistd::geteuid().as_raw();
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()))
        .filter(|entry| entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user))
        .map(|entry| entry.path())
        // Made once it is locked: a doctor that has just begun is not mistaken for a dead one.
        .filter(|directory| directory.join("daemon-id").exists())
        .collect()
}

fn remove(directory: &Path, range: AddressRange) -> Result<Report, String> {
    let owner = match Owner::open(directory) {
        Ok(owner) => owner,
        Err(OwnerError::InUse(_)) => return Ok(Report::default()),
        Err(error) => return Err(error.to_string()),
    };
    let lease = Lease::take(&owner, range).map_err(|error| error.to_string())?;
    let mut report = firecracker::reconcile(&owner);
    if report.failed.is_empty() {
        match fs::remove_dir_all(directory) {
            // Its doctor was just about to end, and has removed it itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(report),
            removed => removed.map_err(|error| error.to_string())?,
        }
        report.removed.push(format!("directory {}", directory.display()));
    } else {
        lease.leave_behind();
    }
    Ok(report)
}
