"""What the testbed tells the person waiting: one line per slow step, on stderr.

stdout belongs to COMMAND; nothing here writes to it.
"""

import contextlib
import sys
import time


class TestbedError(Exception):
    """Something a user can act on: printed as one message, without a traceback."""


def say(message):
    print(f"testbed: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what):
    """Says what is being done before it starts, and how long it took after it worked."""
    say(f"{what} ...")
    started = time.monotonic()
    yield
    say(f"{what}: done in {time.monotonic() - started:.1f} s")


def tail(path, lines):
    """The last lines of a log, for an error message; a guest may have written any bytes."""
    try:
        with open(path, "rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 64 * 1024))
            text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return "(nothing was logged)"
    clean = "".join(c if c.isprintable() or c == "\n" else "" for c in text)
    return "\n".join(clean.splitlines()[-lines:]) or "(nothing was logged)"
