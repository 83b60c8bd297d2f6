"""A private directory for one run, removed with it.

A run that was killed with SIGKILL cannot remove its own; the next run does. A lock on the directory
tells the living from the dead.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
import time

from host.processes import signals_ignored
from host.progress import TestbedError

PREFIX = "nova-testbed-"
# A Unix socket's path has at most 107 bytes, and ssh adds a random suffix to its own.
LONGEST_PATH = 107 - len("/ssh.") - 20
# A directory younger than this may belong to a run that is about to lock it.
YOUNG_SECONDS = 60


def _lock(path):
    """An open, locked descriptor, or None if another process holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(base):
    for path in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            about = path.stat()
            if about.st_uid != os.geteuid() or time.time() - about.st_mtime < YOUNG_SECONDS:
                continue
            if (descriptor := _lock(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)


@contextlib.contextmanager
def run_directory():
    base = pathlib.Path(tempfile.gettempdir())
    _sweep(base)
    path = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    descriptor = None
    try:
        if len(str(path)) > LONGEST_PATH:
            raise TestbedError(f"{base} is too long a path for sockets: set TMPDIR to a shorter one")
        descriptor = _lock(path)
        yield path
    finally:
        with signals_ignored():
            shutil.rmtree(path, ignore_errors=True)
            if descriptor is not None:
                os.close(descriptor)
