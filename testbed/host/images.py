"""The two read-only disks that carry Nova into the machine.

* artefacts: runtime images, guest kernel and so on; large and seldom changed, so kept in the cache.
* payload: the nova binary, Firecracker, a test's own files, the run's SSH keys; made for each run.

Both are EROFS without compression: made at the speed of a copy, without root or loop mounts.
"""

import contextlib
import os
import pathlib
import shutil

from host.cache import cached, digest
from host.progress import TestbedError
from host.tools import run_tool


def _make_erofs(image, tree):
    run_tool(["mkfs.erofs", "--quiet", "--all-root", "-T0", image, tree], temporary=image.parent)


def artifacts(directory):
    """The disk for an artefact directory, or None where there is none yet."""
    if not directory.is_dir():
        return None
    listing = []
    for folder, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted(files):
            path = pathlib.Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # a build beside us renamed it away
                about = path.lstat()
                listing.append(f"{path.relative_to(directory)} {about.st_mode} {about.st_size} {about.st_mtime_ns}")
    key = digest(str(directory), *listing)

    def build(made):
        _make_erofs(made / "disk", directory)

    return cached("artifacts", key, f"making a disk of {directory}", build) / "disk"


def _place(source, target):
    """A hard link where the file system allows, else a copy."""
    source, target = pathlib.Path(source).resolve(), pathlib.Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def payload(run_directory, keys, firecracker, nova, extra):
    """The disk of one run. `nova` may be None; `extra` is a list of files or directories."""
    tree = run_directory / "payload"
    for name in ("firecracker", "jailer"):
        _place(firecracker / name, tree / "firecracker" / name)
    for name, content in keys.items():
        path = tree / "ssh" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    if nova is not None:
        _place(nova, tree / "nova/bin/nova")
    (tree / "extra").mkdir()
    for source in extra:
        target = tree / "extra" / source.name
        if target.exists():
            raise TestbedError(f"two files to copy are named {source.name}: rename one")
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, copy_function=_place)
        else:
            _place(source, target)
    image = run_directory / "payload.erofs"
    _make_erofs(image, tree)
    shutil.rmtree(tree)
    return image
