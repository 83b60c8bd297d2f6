//! Finds and removes what a crash left on the host, by the owner's id.
//!
//! The order matters: first what runs (so that nothing is made anew), then what it ran in. Every
//! step is tried whatever became of the others, and nothing of another owner is touched.
use crate::lease::Holder;
use crate::network::{Netlink, namespace, sweep};
use crate::owner::{LINK_ALIAS_PREFIX, Owner};
use crate::slots::{UIDS_PER_LEASE, uid_first};
use crate::{container, firecracker, lease};
use std::ops::Range;
use std::path::Path;
use tokio::task::spawn_blocking;

/// What was found and removed, and what could not be.
#[derive(Debug, Default)]
pub struct Report {
    /// Each thing removed, for example `namespace nova-1a2b3c-0001`.
    pub removed: Vec<String>,
    /// Each thing that is still there, with the reason.
    pub failed: Vec<String>,
}

/// Removes all that an earlier run of this owner left on the host, whichever backend it used. To
/// be called with the lease held, before the network and the first guest of this run.
/// `oci_runtime` is the program that the container backend uses.
pub async fn reconcile(owner: &Owner, oci_runtime: &Path) -> Report {
    let mut all = Report::default();
    let jails = owner.clone();
    all.add(spawn_blocking(move || firecracker::reconcile(&jails)).await);
    all.add(Ok::<_, &str>(container::reconcile(owner, oci_runtime).await));
    let links = owner.clone();
    let network = spawn_blocking(move || namespace::on_thread(|| Ok(sweep(&links)))).await;
    all.add(network.map(|swept| match swept {
        Ok((removed, failed)) => Report { removed, failed },
        Err(error) => Report { removed: Vec::new(), failed: vec![error.to_string()] },
    }));
    all
}

impl Report {
    pub(crate) fn add(&mut self, other: Result<Report, impl std::fmt::Display>) {
        match other {
            Ok(other) => {
                self.removed.extend(other.removed);
                self.failed.extend(other.failed);
            }
            Err(error) => self.failed.push(format!("reconciling: {error}")),
        }
    }
}

/// Whether an earlier run of this owner left anything that [`reconcile`] removes, or its lease.
pub(crate) fn anything_left(owner: &Owner) -> bool {
    let holder = Holder::of(owner);
    let directories = [
        owner.jail_base(),
        owner.vms_dir(),
        owner.runc_root(),
        container::image_mounts_directory(owner),
    ];
    let has_entries = |directory: &std::path::PathBuf| {
        std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
    };
    anything_named_after(&holder)
        || directories.iter().any(has_entries)
        || lease::is_left_behind(&holder)
}

/// Whether anything on this host still uses a lease's share: a process under one of its uids, or
/// anything that carries the name of its last holder. What cannot be looked at counts as used.
pub(crate) fn share_in_use(index: u16, holder: Option<&Holder>) -> bool {
    let uids = uid_first(index)..uid_first(index) + UIDS_PER_LEASE;
    any_process_under(&uids) || holder.is_some_and(anything_named_after)
}

fn any_process_under(uids: &Range<u32>) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok())
        .any(|status| {
            let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
            let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
            numbers.any(|uid| uids.contains(&uid))
        })
}

/// Namespaces, links and cgroups with the short id of a dead daemon.
fn anything_named_after(holder: &Holder) -> bool {
    let Some(short) = holder.owner.get(..6) else { return true };
    let alias = format!("{LINK_ALIAS_PREFIX}{}", holder.owner);
    let link_prefix = format!("nv{short}");
    let links = namespace::on_thread(|| Netlink::open()?.links());
    let namespaces = namespace::names(&format!("nova-{short}-"));
    let cgroup = |root: &Path| root.join(format!("nova-{short}")).exists();
    links.is_err()
        || links.is_ok_and(|links| {
            links.iter().any(|link| {
                link.name.starts_with(&link_prefix) || link.alias.as_ref() == Some(&alias)
            })
        })
        || namespaces.is_err()
        || namespaces.is_ok_and(|names| !names.is_empty())
        || cgroup(Path::new("/sys/fs/cgroup"))
        || std::fs::read_dir("/sys/fs/cgroup")
            .is_ok_and(|roots| roots.flatten().any(|root| cgroup(&root.path())))
}
