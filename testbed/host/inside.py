"""Running commands in the machine as root, over one SSH connection that they all share.

Keys live as long as the run. `wrapper` is a program that runs its arguments in the machine:
stdin, stdout, stderr and the exit status pass through, and scripts on the host can call it too.
The daemon's port comes over the same connection: QEMU's own forwarding queues one new connection
at a time, and drops the others of a burst for seconds.
"""

import shlex
import socket
import subprocess
import time

from host.progress import TestbedError
from host.tools import run_tool

# In the machine: sets NOVA_URL and the rest, then becomes the command.
ENTRY = "/opt/testbed/inside"
# Where the daemon listens in the machine.
NOVA_PORT = 9000
# Somebody else may take a free port between finding and using it; not five times in a row.
PORT_TRIES = 5


def make_keys(run_directory):
    """Two key pairs: which files go onto the payload disk, and what they hold."""
    for name in ("client_key", "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "nova-testbed", "-f", run_directory / name]
        run_tool(command, temporary=run_directory)
    return {
        "authorized_keys": (run_directory / "client_key.pub").read_text(),
        "host_key": (run_directory / "host_key").read_text(),
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Inside:
    def __init__(self, run_directory, ssh_port):
        self._directory = run_directory
        self._config = run_directory / "ssh_config"
        self.wrapper = run_directory / "inside"
        host_key = (run_directory / "host_key.pub").read_text()
        (run_directory / "known_hosts").write_text(f"testbed {host_key}")
        self._config.write_text(
            f"Host testbed\n  HostName 127.0.0.1\n  Port {ssh_port}\n  User root\n  HostKeyAlias testbed\n"
            f"  UserKnownHostsFile {run_directory}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
            f"  StrictHostKeyChecking yes\n  IdentityFile {run_directory}/client_key\n  IdentitiesOnly yes\n"
            f"  IdentityAgent none\n  BatchMode yes\n  LogLevel ERROR\n  ControlPath {run_directory}/ssh\n"
        )
        self.wrapper.write_text(
            "#!/bin/bash\n"
            "# Runs its arguments in the testbed machine as root; exits with their status.\n"
            "if [ $# -eq 0 ]; then set -- bash -l; fi\n"
            "terminal=-T\n"
            "if [ -t 0 ] && [ -t 1 ]; then terminal=-t; fi\n"
            f'exec ssh -F {shlex.quote(str(self._config))} "$terminal" testbed "exec {ENTRY} ${{*@Q}}"\n'
        )
        self.wrapper.chmod(0o700)

    def connect(self):
        """Opens the shared connection. It ends with the testbed like every other process."""
        for attempt in range(PORT_TRIES):
            self.nova_port = free_port()
            try:
                return self._connect()
            except TestbedError as error:
                if "cannot listen" not in str(error) or attempt + 1 == PORT_TRIES:
                    raise

    def _connect(self):
        log_path = self._directory / "ssh.log"
        forward = f"127.0.0.1:{self.nova_port}:127.0.0.1:{NOVA_PORT}"
        with open(log_path, "wb") as log:
            master = subprocess.Popen(
                ["ssh", "-F", self._config, "-M", "-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, "testbed"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not (self._directory / "ssh").exists():
            if master.poll() is not None:
                raise TestbedError(f"cannot reach the machine by ssh: {log_path.read_text().strip()}")
            time.sleep(0.02)
        return master

    def run(self, *command):
        """Output of a command that should work; for the testbed's own steps."""
        result = subprocess.run([self.wrapper, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode != 0:
            output = (result.stderr + result.stdout).strip()
            raise TestbedError(f"in the machine, `{shlex.join(command)}` failed ({result.returncode}):\n{output}")
        return result.stdout
