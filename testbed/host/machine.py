"""One QEMU machine: started, waited for, ended.

TCG emulates AMD's SVM with nested paging, so the Linux in the machine has a working /dev/kvm on any
x86-64 host. All disks are throw-away layers over the cached ones; QEMU keeps the layers in files it
has already unlinked, so nothing has to be cleaned up but the process.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import time

from host import processes
from host.progress import TestbedError, tail

MEMORY_MIB = 4096
# Not more: QEMU 7.2 gives each emulated CPU a thread, and one that translates code while another patches it
# can keep the old translation for good. Kernels patch themselves with every guest that starts (static
# keys): seen were both CPUs for ever in a breakpoint that was long gone, and guests that reset or hung.
CPUS = 1
SSH_PORT = 22
# The status of an ssh client that could not go on; a command may of course end with it too.
SSH_LOST_CONNECTION = 255
# About 6 s on an idle host; two machines on two busy cores have been seen to need a minute.
BOOT_TIMEOUT_SECONDS = 240
CONSOLE_LINES_QUOTED = 40


class Machine:
    """A running machine; `ssh_port` is on 127.0.0.1 of the host."""

    def __init__(self, run_directory, root, disks):
        self.console = run_directory / "console.log"
        self._monitor = run_directory / "qmp"
        self._errors = run_directory / "qemu.log"
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [*processes.DIE_WITH_PARENT, *self._command(root, disks)],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(run_directory)},
                # Ctrl-C is for COMMAND first: its clean-up may still need the machine.
                start_new_session=True,
            )

    @property
    def pid(self):
        return self._process.pid

    def _command(self, root, disks):
        # Port 0: the kernel picks a free one as it binds, so no other run can take it in between.
        network = f"user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:0-:{SSH_PORT}"
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-M", "q35", "-accel", "tcg", "-cpu", "EPYC,+svm,+npt,-monitor"]
        command += ["-smp", str(CPUS), "-m", str(MEMORY_MIB)]
        command += ["-kernel", root / "vmlinuz", "-initrd", root / "initramfs"]
        command += ["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"]
        command += ["-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"]
        command += ["-chardev", f"socket,id=qmp,path={self._monitor},server=on,wait=off"]
        command += ["-mon", "chardev=qmp,mode=control"]
        command += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]
        command += ["-device", "virtio-rng-pci"]
        command += ["-drive", f"file={root / 'root.ext4'},format=raw,if=virtio,snapshot=on,cache=unsafe"]
        for disk in disks:
            command += ["-drive", f"file={disk},format=raw,if=virtio,readonly=on"]
        return [str(word) for word in command]

    def wait_until_ready(self):
        """Returns when sshd listens and learns the forwarded port; a failed boot quotes the console."""
        deadline = time.monotonic() + BOOT_TIMEOUT_SECONDS
        while not self._console_says(b"testbed: ready"):
            if self._process.poll() is not None:
                self._fail("the machine ended while it booted")
            if time.monotonic() > deadline:
                self._fail(f"the machine was not ready after {BOOT_TIMEOUT_SECONDS} s")
            time.sleep(0.05)
        self.ssh_port = self._forwarded_port()

    def _console_says(self, marker):
        try:
            return marker in self.console.read_bytes()
        except FileNotFoundError:
            return False

    def _fail(self, what):
        message = f"{what}; its console ended with:\n{tail(self.console, CONSOLE_LINES_QUOTED)}"
        said = tail(self._errors, CONSOLE_LINES_QUOTED).splitlines()
        # TCG names each feature of the CPU model that it lacks; Firecracker needs none of them.
        said = [line for line in said if "TCG doesn't support requested feature" not in line]
        message += "\nand QEMU said:\n" + "\n".join(said)
        raise TestbedError(message)

    def _forwarded_port(self):
        table = self._monitor_command("human-monitor-command", {"command-line": "info usernet"})
        # TCP[HOST_FORWARD]  11  127.0.0.1 41807  10.0.2.15  22  0 0
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", table)
        if match is None:
            raise TestbedError(f"cannot read the forwarded port out of QEMU's answer:\n{table}")
        return int(match[1])

    def _monitor_command(self, name, arguments):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._monitor))
            stream = connection.makefile("rw")
            stream.readline()  # greeting
            for request in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
        if "return" not in answer:
            raise TestbedError(f"QEMU refused {name}: {answer}")
        return answer["return"]

    def check_it_still_runs(self, status):
        """A command's failure means something else if its machine went away under it."""
        if status == SSH_LOST_CONNECTION:
            # ssh notices before QEMU has quite ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
        if self._process.poll() is not None:
            self._fail("the machine ended while the command ran")

    def stop(self):
        """Nothing in it is worth a shutdown."""
        self._process.kill()
        self._process.wait()
