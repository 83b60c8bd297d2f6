"""Runs in the machine: boots one jailed Firecracker guest and checks it from outside."""

import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, "/opt/extra")

from inner.guest import extract_kernel, make_initramfs  # noqa: E402

NAME = "selftest"
JAIL = pathlib.Path("/srv/jailer/firecracker", NAME, "root")
UID = 1000
MEMORY_MAX = 300 << 20
# A guest that boots in 4 s on an idle host; a busy one needs several times that.
GUEST_TIMEOUT_SECONDS = 120
BOOT_ARGS = "console=ttyS0 reboot=k panic=1 pci=off quiet tsc=reliable"


class Api(http.client.HTTPConnection):
    """HTTP over Firecracker's Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(JAIL / "api.sock"))

    def put(self, path, **body):
        self.request("PUT", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self.getresponse()
        text = answer.read().decode()
        if answer.status != 204:
            raise SystemExit(f"firecracker refused {path}: {answer.status} {text}")


def run(*command):
    subprocess.run(command, check=True)


def wait_for(what, condition, vmm):
    deadline = time.monotonic() + GUEST_TIMEOUT_SECONDS
    while not (result := condition()):
        if vmm.poll() is not None:
            fail(f"firecracker ended ({vmm.returncode}) while waiting for {what}")
        if time.monotonic() > deadline:
            fail(f"no {what} after {GUEST_TIMEOUT_SECONDS} s")
        time.sleep(0.02)
    return result


def fail(message):
    console = pathlib.Path("/tmp/console").read_text(errors="replace").splitlines()[-30:]
    raise SystemExit("\n".join([f"self-test failed: {message}; the guest's console:", *console]))


def prove(line, started):
    print(f"ok: {line} ({time.monotonic() - started:.1f} s, emulated)", flush=True)


def echo_over_vsock():
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        try:
            line.connect(str(JAIL / "v.sock"))
            line.sendall(b"CONNECT 9999\n")
            if not line.recv(64).startswith(b"OK "):
                return False
            line.sendall(b"hello")
            return line.recv(64) == b"hello"
        except OSError:
            return False


def main():
    started = time.monotonic()
    JAIL.mkdir(parents=True)
    extract_kernel(pathlib.Path("/opt/extra/vmlinuz"), JAIL / "vmlinux")
    make_initramfs(JAIL / "initramfs")
    run("ip", "netns", "add", NAME)
    run("ip", "-n", NAME, "tuntap", "add", "tap0", "mode", "tap", "user", str(UID))
    run("ip", "-n", NAME, "address", "add", "172.16.0.1/30", "dev", "tap0")
    run("ip", "-n", NAME, "link", "set", "tap0", "up")
    prove("guest kernel and initramfs made", started)

    started = time.monotonic()
    firecracker = os.environ["NOVA_FIRECRACKER_DIR"]
    with open("/tmp/console", "wb") as console:
        vmm = subprocess.Popen(
            [f"{firecracker}/jailer", "--id", NAME, "--exec-file", f"{firecracker}/firecracker",
             "--uid", str(UID), "--gid", str(UID), "--cgroup-version", "2",
             "--cgroup", f"memory.max={MEMORY_MAX}", "--cgroup", "pids.max=64",
             "--netns", f"/run/netns/{NAME}", "--", "--api-sock", "/api.sock"],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    wait_for("API socket", (JAIL / "api.sock").exists, vmm)
    status = pathlib.Path(f"/proc/{vmm.pid}/status").read_text()
    assert f"Uid:\t{UID}" in status, status
    assert os.stat(f"/proc/{vmm.pid}/root").st_ino == JAIL.stat().st_ino, "not in its chroot"
    prove(f"jailer started firecracker as uid {UID} in its chroot", started)
    cgroup = pathlib.Path("/sys/fs/cgroup/firecracker", NAME)
    assert str(vmm.pid) in (cgroup / "cgroup.procs").read_text().split()
    assert int((cgroup / "memory.max").read_text()) == MEMORY_MAX
    prove("its cgroup (v2) holds it to its memory", started)

    started = time.monotonic()
    api = Api("localhost")
    api.put("/machine-config", vcpu_count=1, mem_size_mib=192)
    api.put("/boot-source", kernel_image_path="vmlinux", initrd_path="initramfs", boot_args=BOOT_ARGS)
    api.put("/network-interfaces/eth0", iface_id="eth0", guest_mac="06:00:ac:10:00:02", host_dev_name="tap0")
    api.put("/vsock", guest_cid=3, uds_path="v.sock")
    api.put("/actions", action_type="InstanceStart")
    wait_for("answer over vsock", echo_over_vsock, vmm)
    prove("guest booted and echoes over vsock", started)
    started = time.monotonic()
    ping = ["ip", "netns", "exec", NAME, "ping", "-c", "1", "-W", "5", "172.16.0.2"]
    wait_for("answer to ping", lambda: subprocess.run(ping, stdout=subprocess.DEVNULL).returncode == 0, vmm)
    prove("guest answers a ping over its TAP", started)
    vmm.kill()
    vmm.wait()


main()
