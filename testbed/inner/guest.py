"""Makes the self-test's guest out of the machine's own Debian packages: kernel and initramfs."""

import pathlib
import platform
import re
import struct
import subprocess

from host.initramfs import Initramfs, load_order

MODULES = ["virtio_mmio", "vmw_vsock_virtio_transport", "virtio_net"]


def extract_kernel(bzimage, output):
    """Firecracker loads an ELF; a bzImage holds one, compressed (boot protocol, section 1.1)."""
    image = bzimage.read_bytes()
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The last four bytes are the unpacked size, which is not a part of the LZ4 stream.
    packed = image[start : start + length - 4]
    output.write_bytes(subprocess.run(["lz4", "-dc"], input=packed, stdout=subprocess.PIPE, check=True).stdout)


def make_initramfs(output):
    image = Initramfs()
    for path in ("proc", "sys", "dev", "tmp"):
        image.add_directory(path)
    image.add_file("init", (pathlib.Path(__file__).parent / "init").read_bytes(), 0o755)
    image.add_file("bin/busybox", pathlib.Path("/bin/busybox").read_bytes(), 0o755)
    for program in ("/usr/bin/socat",):
        image.add_file(f"bin/{pathlib.Path(program).name}", pathlib.Path(program).read_bytes(), 0o755)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in set(re.findall(r"(/\S+)", linked)):
            image.add_file(library.lstrip("/"), pathlib.Path(library).read_bytes(), 0o755)
    modules = pathlib.Path("/lib/modules", platform.release())
    order = load_order(modules, MODULES)
    for path in order:
        image.add_file(f"modules/{pathlib.PurePosixPath(path).name}", (modules / path).read_bytes())
    image.add_file("modules/order", "".join(f"{pathlib.PurePosixPath(p).name}\n" for p in order).encode())
    image.write(output)
