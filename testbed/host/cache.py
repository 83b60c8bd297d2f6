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


def cached(name, key, what, build):
    """The result directory for `key`; calls `build(empty_directory)` if it is not there yet."""
    cache = directory()
    result = cache / f"{name}-{key}"
    if result.exists():
        return result
    with _build_lock(cache, name):
        # Whoever holds the lock owns all unfinished builds of this name: a killed one left them.
        for leftover in cache.glob(f".building-{name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if result.exists():
            return result
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".building-{name}-", dir=cache))
        try:
            with step(what):
                made = temporary / "result"
                made.mkdir()
                build(made)
                made.rename(result)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return result


def drop_other(name, keep, keep_newest):
    """Deletes results of `name` beyond the newest few; one in use stays alive as an open file."""
    results = [path for path in directory().glob(f"{name}-*") if path != keep]
    results.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in results[keep_newest:]:
        shutil.rmtree(path, ignore_errors=True)
