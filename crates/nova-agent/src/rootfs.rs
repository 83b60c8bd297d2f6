//! The root directory of a microVM: the runtime image, the code, and what every program expects.
//!
//! ```text
//!   /dev/vda  EROFS, read-only ─┐
//!   tmpfs     upper, work ──────┴▶ overlay ─▶ /        then move it over the initramfs
//!   /dev/vdb  EROFS, read-only ──▶ /code, /var/task
//!   /dev/vdc  EROFS, read-only ──▶ /opt, where the function has layers
//!   new       ───────────────────▶ /proc /sys /dev /dev/pts /dev/shm /run /tmp, and /out in a build's guest
//! ```
//!
//! The agent moves in there, too: one root, the same paths for it and for the function, in a microVM as
//! in a container. `/dev` holds no disks and no vsock, and `/tmp` lives as long as the VM: as on AWS,
//! a later call finds what an earlier one left.
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nova_proto::{FunctionSetup, OUT_DIR};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the function's code is, and its working directory.
pub const CODE_DIR: &str = "/code";

/// The other path that the code is at, which AWS's runtimes know: the working directory in `lambda` mode.
pub const TASK_DIR: &str = "/var/task";

/// How long a drive may take to show up after its driver was loaded.
const DEVICE_PATIENCE: Duration = Duration::from_secs(2);

/// Size of `/run`: one largest input, and what the function's libraries put there.
const RUN_OPTIONS: &str = "mode=0755,size=32m";

/// The character devices of `/dev` that any program may use: name, major and minor number.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What `/dev` links to.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Mounts everything and moves the agent there.
///
/// # Errors
/// Which mount or file failed.
pub fn assemble(
    image_device: &str,
    code_device: &str,
    layers_device: Option<&str>,
    function: &FunctionSetup,
) -> Result<(), String> {
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    let data = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    let kernel = data | MsFlags::MS_NOEXEC;

    wait_for_device(image_device)?;
    wait_for_device(code_device)?;
    attach(image_device, "/image", "erofs", read_only, "")?;
    attach("tmpfs", "/scratch", "tmpfs", data, "mode=0755")?;
    make_directory("/scratch/upper")?;
    make_directory("/scratch/work")?;
    let layers = "lowerdir=/image,upperdir=/scratch/upper,workdir=/scratch/work";
    attach("overlay", "/root", "overlay", data, layers)?;

    // Without code, what an image of somebody's own has there is its program.
    if function.own_image.as_ref().is_none_or(|image| image.has_code) {
        attach(code_device, "/root/code", "erofs", read_only, "")?;
        attach("/root/code", &format!("/root{TASK_DIR}"), "", MsFlags::MS_BIND, "")?;
    }
    if let Some(device) = layers_device {
        wait_for_device(device)?;
        attach(device, "/root/opt", "erofs", read_only, "")?;
    }
    attach("proc", "/root/proc", "proc", kernel, "")?;
    attach("sysfs", "/root/sys", "sysfs", kernel | MsFlags::MS_RDONLY, "")?;
    attach("cgroup2", &format!("/root{}", crate::cgroup::CGROUP_ROOT), "cgroup2", kernel, "")?;
    attach("tmpfs", "/root/run", "tmpfs", data, RUN_OPTIONS)?;
    // No size of its own means that memory_mb is the bound; a size of 0 would look like a full disk.
    let tmp_mb = if function.tmp_mb > 0 { function.tmp_mb } else { function.memory_mb };
    attach("tmpfs", "/root/tmp", "tmpfs", data, &format!("mode=1777,size={tmp_mb}m"))?;
    if function.out_mb > 0 {
        let options = format!("mode=1777,size={}m", function.out_mb);
        attach("tmpfs", &format!("/root{OUT_DIR}"), "tmpfs", data, &options)?;
    }
    make_devices("/root/dev")?;
    enter("/root")
}

/// The few devices that a program may use, in a tmpfs of their own.
fn make_devices(directory: &str) -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    attach("tmpfs", directory, "tmpfs", flags, "mode=0755,size=64k")?;
    for (name, major, minor) in DEVICES {
        let path = format!("{directory}/{name}");
        let made = mknod(path.as_str(), SFlag::S_IFCHR, Mode::empty(), makedev(major, minor));
        made.map_err(std::io::Error::from)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o666)))
            .map_err(|error| format!("make the device {path}: {error}"))?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, format!("{directory}/{name}"))
            .map_err(|error| format!("make the link /dev/{name}: {error}"))?;
    }
    let terminals = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    attach("devpts", &format!("{directory}/pts"), "devpts", flags, terminals)?;
    let shared = flags | MsFlags::MS_NODEV;
    attach("tmpfs", &format!("{directory}/shm"), "tmpfs", shared, "mode=1777")
}

/// Puts the new root over the initramfs and moves in.
fn enter(root: &str) -> Result<(), String> {
    // What the early boot mounted is in the way of nobody, but need not stay visible.
    for early in ["/dev", "/sys", "/proc"] {
        umount2(early, MntFlags::MNT_DETACH)
            .map_err(|error| format!("unmount the early {early}: {error}"))?;
    }
    let failed = |error: nix::Error| format!("move to the new root: {error}");
    nix::unistd::chdir(root).map_err(failed)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(failed)?;
    nix::unistd::chroot(".").map_err(failed)?;
    nix::unistd::chdir("/").map_err(failed)
}

/// Mounts something on a directory, which is made where it is missing.
///
/// # Errors
/// A message that names both.
pub fn attach(
    source: &str,
    target: &str,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), String> {
    make_directory(target)?;
    mount(Some(source), target, Some(kind), flags, Some(options))
        .map_err(|error| format!("mount {source} ({kind}) on {target}: {error}"))
}

fn make_directory(path: &str) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("make the directory {path}: {error}"))
}

fn wait_for_device(path: &str) -> Result<(), String> {
    let deadline = Instant::now() + DEVICE_PATIENCE;
    while !Path::new(path).exists() {
        if Instant::now() >= deadline {
            return Err(format!("the drive {path} did not show up"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
