"""Results kept between runs under the hash of the recipe that made them.

A result is a directory `<cache>/<name>-<hash>`: made under a temporary name, then renamed, so one
that exists is complete. Builders hold a lock, so several runs can start at once: one builds, the
others wait and find it done.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import tempfile

from host.processes import kill_descendants, signals_ignored
from host.progress import step

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def directory():
    base = os.environ.get("NOVA_CACHE") or REPOSITORY / ".cache"
    path = pathlib.Path(base).resolve() / "testbed"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def _build_lock(cache, name):
    with open(cache / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(*parts):
    """One hash over strings, bytes and the contents of files (paths)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path):
            part = part.read_bytes()
        if isinstance(part, str):
            part = part.encode()
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def cached(name, key, what, build, keep=2):
    """The result directory for `key`; calls `build(empty_directory)` if it is not there yet.

    The `keep` results of that name used last stay: more than one, because another run may have
    chosen its result a moment ago and not opened it yet.
    """
    cache = directory()
    result = cache / f"{name}-{key}"
    if not result.exists():
        with _build_lock(cache, name):
            # Whoever holds the lock owns all unfinished builds: a killed builder left them.
            for leftover in cache.glob(f".building-{name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not result.exists():
                _build(cache, name, result, what, build)
            _drop_old(cache, name, result, keep)
    os.utime(result)
    return result


def _build(cache, name, result, what, build):
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".building-{name}-", dir=cache))
    try:
        with step(what):
            made = temporary / "result"
            made.mkdir()
            build(made)
            made.rename(result)
    finally:
        with signals_ignored():
            kill_descendants()  # of an interrupted build: they would go on writing
            shutil.rmtree(temporary, ignore_errors=True)


def _drop_old(cache, name, newest, keep):
    others = [path for path in cache.glob(f"{name}-*") if path != newest]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[keep - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
