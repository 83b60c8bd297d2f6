"""The machine's kernel, initramfs and root disk, made of Debian packages.

mmdebstrap only unpacks the packages (no maintainer script runs, no chroot is entered), so what the
scripts would have set up, users above all, is written here. The disk is never changed afterwards:
each run writes to a throw-away layer above it.
"""

import os
import pathlib
import shutil

from host import initramfs
from host.cache import cached, digest
from host.initramfs import Initramfs, load_order
from host.tools import run_tool

SUITE = "bookworm"
PACKAGES = """
    linux-image-cloud-amd64 kmod busybox-static base-files base-passwd libc-bin netbase hostname
    bash dash coreutils findutils grep sed gawk tar gzip util-linux mount procps psmisc
    iproute2 nftables e2fsprogs erofs-utils runc strace socat curl jq lz4
    openssh-server python3
""".split()
# Room for what a run writes (images, logs, jails); sparse, so it costs what is written.
DISK_SIZE = "12G"
# What the initramfs needs to reach the root disk; the rest is loaded from there.
INITRAMFS_MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]
MACHINE_FILES = pathlib.Path(__file__).resolve().parents[1] / "machine"
# Debian's merged /usr, which base-files' script would make.
MERGE_USR = 'for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done'


def root():
    """A directory with `vmlinuz`, `initramfs` and `root.ext4`."""
    files = sorted(path for path in MACHINE_FILES.iterdir() if path.is_file())
    recipe = [pathlib.Path(__file__), pathlib.Path(initramfs.__file__), *[path.name for path in files], *files]
    key = digest(*recipe)
    return cached("root", key, "building the machine from Debian packages", _build)


def _build(directory):
    tree = directory.parent / "tree"
    _unpack(tree)
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    version = kernel.name.removeprefix("vmlinuz-")
    _run_from(tree, "depmod", ["-b", tree, version])
    _configure(tree)
    shutil.copyfile(kernel, directory / "vmlinuz")
    _write_initramfs(tree, tree / "usr/lib/modules" / version, directory / "initramfs")
    shutil.rmtree(tree / "boot")
    # No journal: nobody reads the disk after its machine has gone.
    command = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, directory / "root.ext4", DISK_SIZE]
    run_tool(_as_root(command), temporary=directory.parent)


def _as_root(command):
    """Files must end up owned by root: an ordinary user is root in a user namespace of one user."""
    if os.geteuid() == 0:
        return command
    return ["unshare", "--map-root-user", "env", "TAR_OPTIONS=--no-same-owner", *command]


def _unpack(tree):
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--setup-hook={MERGE_USR}"]
    # Nothing is run in the tree, so nothing need be mounted there (nor can be, without privileges).
    command += ["--skip=chroot/mount", "--aptopt=APT::Sandbox::User \"root\"", f"--include={','.join(PACKAGES)}", SUITE, tree]
    run_tool(_as_root(command), temporary=tree.parent)


def _configure(tree):
    base = tree / "usr/share/base-passwd"
    (tree / "etc/passwd").write_text(
        (base / "passwd.master").read_text().replace("root:*:", "root:x:")
        + "sshd:x:101:65534:sshd:/run/sshd:/usr/sbin/nologin\n"
    )
    (tree / "etc/group").write_text((base / "group.master").read_text())
    (tree / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (tree / "etc/hostname").write_text("nova-testbed\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost nova-testbed\n")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    installed = tree / "opt/testbed"
    installed.mkdir(parents=True)
    for source in MACHINE_FILES.iterdir():
        if source.is_file():
            shutil.copy(source, installed / source.name)
    shutil.copy(MACHINE_FILES / "inittab", tree / "etc/inittab")
    for path in ("opt/payload", "opt/artifacts", "run/sshd", "var/lib/nova"):
        (tree / path).mkdir(parents=True, exist_ok=True)
    for link, target in {
        "sbin/init": "/bin/busybox",
        "usr/bin/awk": "gawk",
        "usr/bin/vi": "busybox",
        "usr/bin/ping": "busybox",
        "usr/bin/nc": "busybox",
        "opt/nova": "payload/nova",
        "opt/firecracker": "payload/firecracker",
        "opt/extra": "payload/extra",
        "etc/mtab": "/proc/self/mounts",
    }.items():
        (tree / link).unlink(missing_ok=True)
        (tree / link).symlink_to(target)


def _write_initramfs(tree, modules, output):
    image = Initramfs()
    for path in ("dev", "proc", "root"):
        image.add_directory(path)
    image.add_file("bin/busybox", (tree / "bin/busybox").read_bytes(), 0o755)
    image.add_link("bin/sh", "busybox")
    image.add_file("init", (MACHINE_FILES / "initramfs-init").read_bytes(), 0o755)
    order = load_order(modules, INITRAMFS_MODULES)
    for path in order:
        image.add_file(f"modules/{pathlib.PurePosixPath(path).name}", (modules / path).read_bytes())
    image.add_file("modules/order", "".join(f"{pathlib.PurePosixPath(p).name}\n" for p in order).encode())
    image.write(output)


def _run_from(tree, kmod_name, arguments):
    """kmod of the tree itself, by the tree's loader: the host needs none, and no chroot is entered."""
    loader = [tree / "lib64/ld-linux-x86-64.so.2", "--library-path", tree / "usr/lib/x86_64-linux-gnu"]
    run_tool([*loader, "--argv0", kmod_name, tree / "usr/bin/kmod", *arguments], temporary=tree.parent)
