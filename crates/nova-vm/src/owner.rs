//! Who owns what this daemon makes on the host.
//!
//! Every name that Nova gives to a namespace, link, firewall table, cgroup or container starts with
//! the owner's id, so that a reconciler finds what a crash left behind and never touches what
//! another daemon on the same host made. All names are made here, in one place.
//!
//! The id is made once per data directory. A lock on the directory keeps a second daemon from
//! acting under the same id: its reconciler would end the first one's guests.
use crate::VmId;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length of a daemon's id, hex digits: 48 bits, so that ids of one host never meet by chance.
const ID_DIGITS: usize = 12;
/// How much of the id goes into names of links, which the kernel bounds to 15 characters.
pub(crate) const SHORT_ID_DIGITS: usize = 6;
/// Start of the names of all network namespaces, containers and cgroups of every daemon.
const PREFIX: &str = "nova-";
/// The bridge's name where no other daemon has taken it.
pub(crate) const BRIDGE_PREFERRED: &str = "novabr0";

/// A daemon's identity: its id and the directory that holds everything it keeps on disk.
#[derive(Debug, Clone)]
pub struct Owner {
    daemon_id: String,
    data_dir: PathBuf,
    /// Held for as long as any clone lives.
    _lock: Arc<File>,
}

/// Why the data directory cannot be owned.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Another process holds the lock.
    #[error(
        "data directory {0} is in use by another daemon; stop it or choose another with --data-dir"
    )]
    InUse(PathBuf),
    /// The file that holds the id was changed by someone.
    #[error("{0} does not hold 12 hex digits; restore it, or remove it after stopping every guest")]
    BadId(PathBuf),
    /// The directory cannot be used.
    #[error("data directory {path}: {source}; check that it exists and is writable")]
    Io {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Owner {
    /// Takes the data directory, making it and the id on the first run.
    pub fn open(data_dir: &Path) -> Result<Self, OwnerError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OwnerError::Io { path, source }
        };
        std::fs::create_dir_all(data_dir).map_err(failed(data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(failed(data_dir))?;
        let lock_path = data_dir.join("daemon.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OwnerError::InUse(data_dir)),
            Err(TryLockError::Error(error)) => return Err(failed(&lock_path)(error)),
        }
        let daemon_id = read_or_make_id(&data_dir)?;
        Ok(Self { daemon_id, data_dir, _lock: Arc::new(lock) })
    }

    /// The whole id, 12 hex digits.
    pub fn daemon_id(&self) -> &str {
        &self.daemon_id
    }

    /// The part of the id that stands in names, 6 hex digits.
    pub fn id6(&self) -> &str {
        &self.daemon_id[..SHORT_ID_DIGITS]
    }

    /// The data directory, absolute.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Start of the names of this owner's network namespaces and containers.
    pub fn name_prefix(&self) -> String {
        format!("{PREFIX}{}-", self.id6())
    }

    /// Name of the network namespace of the slot with this number.
    pub fn netns_name(&self, slot: u16) -> String {
        format!("{}{slot:04x}", self.name_prefix())
    }

    /// Start of the names of this owner's links on the host: `nv` and the short id.
    pub fn link_prefix(&self) -> String {
        format!("nv{}", self.id6())
    }

    /// Number that marks links of this owner which are to be deleted together: from the id, and with
    /// its highest bit set, unlike any number that people choose.
    pub(crate) fn link_group(&self) -> u32 {
        let digits = &self.daemon_id[..8];
        // The id is hex: it was checked when it was read.
        u32::from_str_radix(digits, 16).unwrap_or_default() | 0x8000_0000
    }

    /// Name of the host's end of a slot's link, 12 of the 15 characters that the kernel allows.
    pub fn link_name(&self, slot: u16) -> String {
        format!("{}{slot:04x}", self.link_prefix())
    }

    /// The names that the bridge may have, the preferred one first.
    pub fn bridge_names(&self) -> [String; 2] {
        [BRIDGE_PREFERRED.to_owned(), format!("novabr-{}", self.id6())]
    }

    /// What marks a link as this owner's: its alias, as `ip -details link` shows it.
    pub fn link_alias(&self) -> String {
        format!("{LINK_ALIAS_PREFIX}{}", self.daemon_id)
    }

    /// Name of the firewall tables of this owner, in the families `inet` and `bridge`.
    pub fn firewall_table(&self) -> String {
        format!("nova_{}", self.id6())
    }

    /// Name of the cgroup above those of the guests, in each hierarchy.
    pub fn cgroup_name(&self) -> String {
        format!("{PREFIX}{}", self.id6())
    }

    /// Id of a guest's container for the OCI runtime.
    pub fn container_id(&self, vm: &VmId) -> String {
        format!("{}{vm}", self.name_prefix())
    }

    /// State directory of the OCI runtime (`runc --root`).
    pub fn runc_root(&self) -> PathBuf {
        self.data_dir.join("run/runc")
    }

    /// The directory above those of the guests.
    pub fn vms_dir(&self) -> PathBuf {
        self.data_dir.join("run/vms")
    }

    /// A guest's own directory: bundle, sockets, console.
    pub fn vm_dir(&self, vm: &VmId) -> PathBuf {
        self.vms_dir().join(vm.as_str())
    }

    /// The jailer's chroot base directory.
    pub fn jail_base(&self) -> PathBuf {
        self.data_dir.join("run/jail")
    }
}

/// Start of the alias of every link that any daemon marks as its own.
pub(crate) const LINK_ALIAS_PREFIX: &str = "nova owner ";

/// Reads the id, or makes one. The caller holds the directory's lock.
fn read_or_make_id(data_dir: &Path) -> Result<String, OwnerError> {
    let path = data_dir.join("daemon-id");
    let failed = |source| OwnerError::Io { path: path.clone(), source };
    match File::open(&path) {
        Ok(file) => {
            // One byte more than the id and its newline: a longer file is not an id.
            let mut text = String::new();
            file.take(ID_DIGITS as u64 + 2).read_to_string(&mut text).map_err(failed)?;
            let id = text.trim_end().to_owned();
            if id.len() == ID_DIGITS && is_hex(&id) { Ok(id) } else { Err(OwnerError::BadId(path)) }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = VmId::from_random(rand::random()).to_string();
            // Renamed into place, so that a crash leaves no half-written id.
            let temporary = data_dir.join("daemon-id.new");
            let mut file = File::create(&temporary).map_err(failed)?;
            writeln!(file, "{id}").and_then(|()| file.sync_all()).map_err(failed)?;
            std::fs::rename(&temporary, &path).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whether all of `text` is lower-case hex.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_keeps_its_id_and_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = Owner::open(&path).unwrap();
        assert!(matches!(Owner::open(&path), Err(OwnerError::InUse(_))));
        let id = first.daemon_id().to_owned();
        drop(first);
        assert_eq!(Owner::open(&path).unwrap().daemon_id(), id);
        assert_eq!(id.len(), 12);
    }

    #[test]
    fn a_spoilt_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "short", "../../../etc", "0123456789abc", "0123456789AB"] {
            std::fs::write(dir.path().join("daemon-id"), text).unwrap();
            assert!(matches!(Owner::open(dir.path()), Err(OwnerError::BadId(_))), "{text:?}");
        }
    }

    #[test]
    fn names_fit_the_kernel_and_belong_to_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("daemon-id"), "0123456789ab\n").unwrap();
        let owner = Owner::open(dir.path()).unwrap();
        assert_eq!(owner.link_name(4089), "nv0123450ff9");
        assert_eq!(owner.netns_name(3), "nova-012345-0003");
        assert_eq!(owner.bridge_names()[1], "novabr-012345");
        assert_eq!(owner.firewall_table(), "nova_012345");
        assert!(owner.bridge_names().iter().all(|name| name.len() <= 15));
    }
}
