"""Says up front, in one message, which packages the host lacks."""

import importlib.util
import shutil

from host.progress import TestbedError
from host.tools import PATH

# Program -> Debian package.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.erofs": "erofs-utils",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


def check():
    missing = {package for program, package in PROGRAMS.items() if not shutil.which(program, path=PATH)}
    # Debian's Python comes without pip.
    if importlib.util.find_spec("pip") is None:
        missing.add("python3-pip")
    if missing:
        packages = " ".join(sorted(missing))
        raise TestbedError(f"this host lacks some packages; run: apt-get install --no-install-recommends {packages}")
