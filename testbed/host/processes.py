"""Every process the testbed starts ends with it, whichever way it ends.

Three nets, each for what slips through the one before:
* a signal becomes the exception `Interrupted`, so that `with` blocks and `finally` run;
* this process is a subreaper: whatever its children leave running becomes its own child, and
  `kill_descendants` finds it (commands that daemonise, the children of a killed mmdebstrap);
* the kernel kills QEMU and COMMAND when this process dies, even of SIGKILL (`DIE_WITH_PARENT`).
"""

import contextlib
import ctypes
import os
import signal
import sys
import time

from host.progress import TestbedError, say

PR_SET_CHILD_SUBREAPER = 36
INTERRUPTING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Long enough for a test script's trap to tidy up, short enough that Ctrl-C feels obeyed.
GRACE_SECONDS = 5.0
# The testbed failed, not the command in it; the number that `docker run` and `timeout` chose.
STATUS_TESTBED_FAILED = 125
# Put before a command. Not a `preexec_fn`: that runs Python between fork and exec, where a signal
# meant for this process is handled, and lost, in the child.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

_libc = ctypes.CDLL(None, use_errno=True)


class Interrupted(BaseException):
    """A signal asked the testbed to stop. Not an `Exception`: no handler may swallow it."""

    def __init__(self, signal_number):
        super().__init__(signal_number)
        self.exit_status = 128 + signal_number


def _interrupt(signal_number, _frame):
    # One is enough: from here on everything is clean-up, bounded in time, that nothing may cut short.
    for number in INTERRUPTING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted(signal_number)


def run_to_exit(main):
    """Runs `main`, ends everything it started, and exits with the status it returned."""
    status = STATUS_TESTBED_FAILED
    try:
        _install()
        status = main()
    except TestbedError as error:
        say(str(error))
    except Interrupted as interrupted:
        status = interrupted.exit_status
    finally:
        with signals_ignored():
            kill_descendants()
            _reap()
    sys.exit(status)


def _install():
    for number in INTERRUPTING_SIGNALS:
        signal.signal(number, _interrupt)
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@contextlib.contextmanager
def signals_ignored():
    """For clean-up that runs without an interrupt before it: a Ctrl-C must not cut it short."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parents():
    """pid -> parent pid, of all processes that are not zombies."""
    parents = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                # The command name may hold spaces and brackets: the fields start after the last ')'.
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != b"Z":
            parents[int(name)] = int(parent)
    return parents


def descendants(except_pids=()):
    """Pids below this process, leaving out the trees of `except_pids`."""
    parents = _parents()
    found, fresh = set(), {os.getpid()}
    while fresh:
        fresh = {
            pid
            for pid, parent in parents.items()
            if parent in fresh and pid not in found and pid not in except_pids
        }
        found |= fresh
    return found


def _signal_all(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap():
    """Collects what has ended already, so that no zombie outlives this process either."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass


def wait_reaping(process):
    """Waits for a `Popen` and collects the orphans that end meanwhile: a command that looks for a
    process it ended must not find its zombie. Returns the status a shell would report.
    """
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode if process.returncode >= 0 else 128 - process.returncode


def kill_descendants(except_pids=(), grace_seconds=GRACE_SECONDS):
    """SIGTERM, a grace, SIGKILL; returns when none is left."""
    if not descendants(except_pids):
        return
    _signal_all(descendants(except_pids), signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while descendants(except_pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    while remaining := descendants(except_pids):
        _signal_all(remaining, signal.SIGKILL)
        time.sleep(0.02)
