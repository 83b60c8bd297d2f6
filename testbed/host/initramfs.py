"""Writes an initramfs (a "newc" cpio archive) without needing cpio, root or device nodes."""

import pathlib
import stat


class Initramfs:
    """Collects directories, files and links; `write` makes the archive. All owned by root."""

    def __init__(self):
        self._entries = {}

    def _parents(self, path):
        for parent in reversed(pathlib.PurePosixPath(path).parents):
            if str(parent) not in (".", "/"):
                self._entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))

    def add_directory(self, path):
        self._parents(path)
        self._entries.setdefault(path, (stat.S_IFDIR | 0o755, b""))

    def add_file(self, path, content, mode=0o644):
        self._parents(path)
        self._entries[path] = (stat.S_IFREG | mode, content)

    def add_link(self, path, target):
        self._parents(path)
        self._entries[path] = (stat.S_IFLNK | 0o777, target.encode())

    def write(self, output):
        with open(output, "wb") as archive:
            for inode, (path, (mode, content)) in enumerate(self._entries.items(), start=1):
                _write_entry(archive, path, inode, mode, content)
            _write_entry(archive, "TRAILER!!!", 0, 0, b"")


def _write_entry(archive, path, inode, mode, content):
    name = path.encode() + b"\0"
    # inode mode uid gid links mtime size dev(2) rdev(2) namesize checksum
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    archive.write(header + name + b"\0" * (-(len(header) + len(name)) % 4))
    archive.write(content + b"\0" * (-len(content) % 4))


def load_order(modules_directory, wanted):
    """Paths (relative to /lib/modules/<version>) of `wanted` and what they need, in load order.

    A wanted module that is built into the kernel has no line in modules.dep and is left out;
    the kernel does not miss it.
    """
    needs = {}
    for line in (modules_directory / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {pathlib.PurePosixPath(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    order = []
    for name in wanted:
        path = by_name.get(name)
        if path is None:
            continue
        # modules.dep lists what a module needs with the deepest need last.
        for module in [*reversed(needs[path]), path]:
            if module not in order:
                order.append(module)
    return order
