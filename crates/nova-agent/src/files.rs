//! Files that the agent makes for the function below `/run/nova`: inputs and secrets.
//!
//! In a container the agent is root without the capabilities to change owners or to pass permission
//! checks. So a file that the function's user is to own is made *as* that user, with the thread's
//! filesystem ids; that works in a microVM just as well.
use crate::child::FUNCTION_ID;
use crate::console::say;
use crate::remove_tree;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use nova_proto::SecretFile;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Root's directory of Nova in the guest; the function may pass through it and not list it.
const NOVA_DIR: &str = "/run/nova";

/// Where secrets are delivered as files.
const SECRETS_DIR: &str = "/run/nova/secrets";

/// Where the function may write; both are memory.
const TEMPORARY_DIRS: [&str; 2] = ["/tmp", "/dev/shm"];

/// The longest file name that Linux takes, bytes.
const NAME_MAX_BYTES: usize = 255;

/// Makes the directories and the secret files.
///
/// # Errors
/// What could not be made, and why.
pub fn set_up(secrets: &[SecretFile]) -> Result<(), String> {
    umask(Mode::from_bits_truncate(0o022));
    make_directory(NOVA_DIR, 0o711)
        .map_err(|error| format!("make {NOVA_DIR}: {error}; a container needs a tmpfs at /run"))?;
    let failed = |error| format!("make {SECRETS_DIR}: {error}");
    // The group may write only until the files are there, and nothing of the function runs yet.
    as_user(0, FUNCTION_ID, || make_directory(SECRETS_DIR, 0o770)).map_err(failed)?;
    for secret in secrets {
        check_name(&secret.name)?;
        as_user(FUNCTION_ID, FUNCTION_ID, || write_secret(secret))
            .map_err(|error| format!("write the secret `{}`: {error}", secret.name))?;
    }
    fs::set_permissions(SECRETS_DIR, Permissions::from_mode(0o750)).map_err(failed)
}

fn write_secret(secret: &SecretFile) -> std::io::Result<()> {
    let path = Path::new(SECRETS_DIR).join(&secret.name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(&secret.value)
}

/// A name becomes one file in the directory, whatever the host sends.
fn check_name(name: &str) -> Result<(), String> {
    let odd = name.is_empty() || name.len() > NAME_MAX_BYTES || name == "." || name == "..";
    if odd || name.contains(['/', '\0']) {
        return Err(format!("the secret name {name:?} is not a file name"));
    }
    Ok(())
}

fn make_directory(path: &str, mode: u32) -> std::io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The umask took bits away.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Runs `act` with these ids for files. They belong to this thread alone.
pub fn as_user<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> T {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            setfsuid(Uid::from_raw(0));
            setfsgid(Gid::from_raw(0));
        }
    }
    let _restore = Restore;
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    act()
}

/// Removes what the function left in memory. Nothing of it may run meanwhile. Best effort: done as the
/// function's user.
pub fn empty_temporary() {
    as_user(FUNCTION_ID, FUNCTION_ID, || {
        for directory in TEMPORARY_DIRS {
            if let Err(error) = remove_tree::empty(directory) {
                say(format_args!("cannot empty {directory}: {error}"));
            }
        }
    });
}

/// The input of one `process` call, removed with this value.
pub struct InputFile {
    path: String,
}

impl InputFile {
    /// Writes the input where the function can read it and nobody but the agent can change it.
    ///
    /// # Errors
    /// A message that names the file.
    pub fn create(input: &str) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = Self { path: format!("{NOVA_DIR}/input-{number}.json") };
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&file.path)
            .and_then(|mut opened| opened.write_all(input.as_bytes()));
        written.map_err(|error| format!("cannot write the input to {}: {error}", file.path))?;
        Ok(file)
    }

    /// Opens it to be read.
    ///
    /// # Errors
    /// A message that names the file.
    pub fn open(&self) -> Result<File, String> {
        File::open(&self.path).map_err(|error| format!("cannot read {}: {error}", self.path))
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for InputFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            say(format_args!("cannot remove {}: {error}", self.path));
        }
    }
}
