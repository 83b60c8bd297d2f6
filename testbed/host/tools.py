"""Runs a tool of the host that is expected to work; says what it printed when it does not."""

import os
import shlex
import subprocess

from host.progress import TestbedError

# Debian leaves the directories of mkfs.ext4 out of an ordinary user's PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def run_tool(command, temporary):
    """`temporary` is where the tool may put its own temporary files: removed with the caller's."""
    command = [str(word) for word in command]
    result = subprocess.run(
        command,
        env={**os.environ, "PATH": PATH, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode != 0:
        raise TestbedError(f"`{shlex.join(command)}` failed ({result.returncode}):\n{result.stdout.strip()}")
