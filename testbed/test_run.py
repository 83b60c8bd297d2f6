#!/usr/bin/env python3
"""Tests of testbed/run as its users see it: `testbed/test_run.py` (a dozen boots, about two minutes).

What matters most is what is left afterwards: each test's processes carry a mark in their
environment, its files can only go to a directory of its own, and both are looked through.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

sys.dont_write_bytecode = True
TESTBED = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TESTBED))

from host import firecracker, root  # noqa: E402
from host.machine import Machine  # noqa: E402
from host.progress import TestbedError  # noqa: E402

DEADLINE_SECONDS = 300


def until(what, condition):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {DEADLINE_SECONDS} s: {what}")
        time.sleep(0.05)
    return result


class RunTest(unittest.TestCase):
    def setUp(self):
        self.mark = f"testbed-test-{uuid.uuid4()}"
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self.environment = {**os.environ, "TMPDIR": str(self.temporary), "MARK": self.mark}

    def start(self, *arguments, **environment):
        self.stderr = self.directory / "stderr"
        with open(self.stderr, "wb") as stderr:
            process = subprocess.Popen(
                [TESTBED / "run", *arguments], env={**self.environment, **environment},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.addCleanup(process.stdout.close)
        return process

    def finish(self, process):
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, output

    def run_testbed(self, *arguments, **environment):
        return self.finish(self.start(*arguments, **environment))

    def wait_for_stderr(self, text):
        until(f"stderr says {text!r}", lambda: text in self.stderr.read_text())

    def marked_processes(self):
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in path.read_bytes():
                    found.append((path.parent / "comm").read_text().strip())
            except OSError:
                continue
        return found

    def assert_nothing_left(self):
        self.assertEqual(self.marked_processes(), [])
        self.assertEqual(list(self.temporary.iterdir()), [])

    def test_host_command_reaches_the_machine_and_its_status_is_passed_on(self):
        script = (
            '"$NOVA_TESTBED_INSIDE" echo "two  words" "\\$HOME"; echo piped | "$NOVA_TESTBED_INSIDE" cat;'
            '"$NOVA_TESTBED_INSIDE" sh -c "exit 9"; echo "inside $?"; echo "$NOVA_URL"; exit 7'
        )
        status, output = self.run_testbed("--no-daemon", "--", "bash", "-c", script)
        self.assertEqual(status, 7)
        words, piped, inside, url = output.splitlines()
        self.assertEqual((words, piped, inside), ("two  words $HOME", "piped", "inside 9"))
        self.assertRegex(url, r"^http://127\.0\.0\.1:\d+$")
        self.assert_nothing_left()

    def test_inside_command_runs_as_root_with_kvm_and_the_files_it_was_given(self):
        given = self.directory / "given"
        given.write_text("given\n")
        status, output = self.run_testbed(
            "--no-daemon", "--copy", str(given), "--inside", "--",
            "sh", "-c", "id -u; test -w /dev/kvm && cat /opt/extra/given; date +%s; echo bad >&2; exit 3")
        self.assertEqual(status, 3)
        user, content, seconds = output.split()
        self.assertEqual((user, content), ("0", "given"))
        self.assertLess(abs(int(seconds) - time.time()), DEADLINE_SECONDS)
        self.assertIn("bad\n", self.stderr.read_text())
        self.assert_nothing_left()

    def test_other_firecracker_binaries_are_used(self):
        other = self.directory / "other"
        other.mkdir()
        for name in ("firecracker", "jailer"):
            (other / name).write_text("#!/bin/sh\necho another version\n")
            (other / name).chmod(0o755)
        status, output = self.run_testbed("--no-daemon", "--firecracker", str(other), "--inside", "--",
                                          "/opt/firecracker/firecracker", "--version")
        self.assertEqual((status, output), (0, "another version\n"))

    def test_no_packet_leaves_the_machine(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0)
            # 10.0.2.2 is the host's loopback to a machine that may leave.
            address = f"/dev/tcp/10.0.2.2/{listener.getsockname()[1]}"
            status, output = self.run_testbed(
                "--no-daemon", "--inside", "--", "bash", "-c", f"timeout 5 bash -c 'echo > {address}' || echo unreachable")
            self.assertEqual((status, output), (0, "unreachable\n"))
            with self.assertRaises(BlockingIOError):
                listener.accept()

    def test_two_machines_at_once_have_their_own_ports(self):
        # Each waits for the other: neither could end if they did not run side by side.
        script = 'touch "$1"; until [ -e "$2" ]; do sleep 0.1; done; echo "$NOVA_URL"'
        paths = [str(self.directory / "one"), str(self.directory / "two")]
        first = self.start("--no-daemon", "--", "bash", "-c", script, "-", *paths)
        second = self.start("--no-daemon", "--", "bash", "-c", script, "-", *reversed(paths))
        results = [self.finish(first), self.finish(second)]
        self.assertEqual([status for status, _ in results], [0, 0])
        self.assertNotEqual(results[0][1], results[1][1])
        self.assert_nothing_left()

    def test_what_the_command_left_running_is_ended(self):
        script = "setsid sleep 1000 > /dev/null & trap '' TERM; (trap '' TERM; sleep 1000) > /dev/null & exit 4"
        status, _ = self.run_testbed("--no-daemon", "--", "bash", "-c", script)
        self.assertEqual(status, 4)
        self.assert_nothing_left()

    def test_machine_that_dies_under_the_command_is_named(self):
        script = "echo fell over > /dev/console; exec busybox poweroff -f"
        status, _ = self.run_testbed("--no-daemon", "--inside", "--", "sh", "-c", script)
        self.assertEqual(status, 125)
        self.assertRegex(self.stderr.read_text(), "(?s)the machine ended while the command ran.*fell over")
        self.assert_nothing_left()

    def test_signal_while_the_machine_is_built(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            cache = self.directory / f"cache-{number}"
            process = self.start("--no-daemon", "--", "true", NOVA_CACHE=str(cache))
            self.wait_until_unpacking(cache)
            process.send_signal(number)
            self.assertEqual(self.finish(process)[0], 128 + number)
            self.assert_nothing_left()
            self.assertEqual([path.name for path in (cache / "testbed").iterdir() if not path.name.endswith(".lock")], [])

    def test_signal_while_the_machine_boots(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process = self.start("--no-daemon", "--", "true")
            until("QEMU runs", lambda: "qemu-system-x86" in self.marked_processes())
            process.send_signal(number)
            self.assertEqual(self.finish(process)[0], 128 + number)
            self.assert_nothing_left()

    def test_signal_while_the_daemon_starts(self):
        process = self.start("--", "true", **self.stand_in_nova("exec sleep 1000"))
        self.wait_for_stderr("starting the daemon ...")
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(process)[0], 128 + signal.SIGINT)
        self.assert_nothing_left()

    def test_signal_while_the_command_runs_lets_it_clean_up(self):
        cleaned = self.directory / "cleaned"
        script = f'trap \'"$NOVA_TESTBED_INSIDE" echo cleaned > {cleaned}; exit\' TERM; echo up; while :; do sleep 0.1; done'
        process = self.start("--no-daemon", "--", "bash", "-c", script)
        self.assertEqual(process.stdout.readline(), "up\n")
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(process)[0], 128 + signal.SIGINT)
        self.assertEqual(cleaned.read_text(), "cleaned\n")
        self.assert_nothing_left()

    def test_signal_while_a_command_inside_runs(self):
        process = self.start("--no-daemon", "--inside", "--", "sh", "-c", "echo up; exec sleep 1000")
        self.assertEqual(process.stdout.readline(), "up\n")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(process)[0], 128 + signal.SIGTERM)
        self.assert_nothing_left()

    def test_killed_run_takes_its_machine_along_and_the_next_run_removes_its_files(self):
        process = self.start("--no-daemon", "--", "sh", "-c", "echo up; exec sleep 1000")
        self.assertEqual(process.stdout.readline(), "up\n")
        process.kill()
        self.finish(process)
        until("all its processes are gone", lambda: not self.marked_processes())
        (left,) = self.temporary.iterdir()
        os.utime(left, (0, 0))
        self.assertEqual(self.run_testbed("--no-daemon", "--", "true")[0], 0)
        self.assert_nothing_left()

    def test_daemon_that_fails_is_quoted(self):
        status, _ = self.run_testbed("--", "true", **self.stand_in_nova("echo no such luck; exit 1"))
        self.assertEqual(status, 125)
        self.assertIn("no such luck", self.stderr.read_text())
        self.assert_nothing_left()

    def wait_until_unpacking(self, cache):
        until("packages are being unpacked", lambda: any(cache.glob("testbed/.building-root-*/tree/usr/bin/*")))

    def stand_in_nova(self, script):
        nova = self.directory / "nova"
        nova.write_text(f"#!/bin/sh\n{script}\n")
        nova.chmod(0o755)
        artifacts = self.directory / "artifacts"
        artifacts.mkdir()
        return {"NOVA_BIN": str(nova), "NOVA_ARTIFACTS": str(artifacts)}

    def test_failed_boot_quotes_the_console(self):
        broken = self.directory / "broken"
        broken.mkdir()
        for name in ("vmlinuz", "initramfs"):
            (broken / name).symlink_to(root.root() / name)
        (broken / "root.ext4").write_bytes(bytes(1 << 20))
        machine = Machine(self.directory, broken, [])
        self.addCleanup(machine.stop)
        with self.assertRaisesRegex(TestbedError, "(?s)ended while it booted.*boot failed: no root disk"):
            machine.wait_until_ready()

    def test_missing_command_and_missing_binary_are_named(self):
        self.assertEqual(self.run_testbed("--no-daemon", "--", "/no/such/command")[0], 125)
        self.assertIn("cannot run /no/such/command", self.stderr.read_text())
        self.assertEqual(self.run_testbed("--", "true", NOVA_BIN="/no/such/nova")[0], 125)
        self.assertIn("no nova binary at /no/such/nova", self.stderr.read_text())


if __name__ == "__main__":
    root.root()
    firecracker.pinned()
    unittest.main()
