# Does what its input names; see ../misbehaving.rs.
import json
import os
import subprocess
import sys


def opens(path, mode):
    try:
        open(path, mode).close()
        return True
    except OSError:
        return False


def processes():
    numbers = [name for name in os.listdir("/proc") if name.isdigit()]
    return sum(os.stat(f"/proc/{number}").st_uid == os.getuid() for number in numbers)


with open(sys.argv[1]) as file:
    case = json.load(file)

if case == "throw":
    raise ValueError("no such order")
elif case == "exit":
    sys.exit(1)
elif case == "print":
    print("a forgotten print")
elif case == "log":
    sys.stderr.write(("x" * 1023 + "\n") * 2048)
elif case == "fork":
    for _ in range(5):
        subprocess.Popen(["sleep", "1000"])
elif case == "allocate":
    blocks = [bytearray(1 << 20) for _ in range(1000)]
elif case == "loop":
    while True:
        pass
elif case == "utf8":
    sys.stdout.buffer.write(b'"\xff\xfe"\n')
    sys.exit()
elif case == "nan":
    print(json.dumps(float("nan")))
    sys.exit()

print(json.dumps({
    "processes": processes(),
    "reads_shadow": opens("/etc/shadow", "r"),
    "writes_code": opens("/code/new", "w"),
}))
