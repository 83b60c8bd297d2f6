// Does what its input names; see ../misbehaving.rs.
const fs = require("node:fs");
const { spawn } = require("node:child_process");

function opens(path, mode) {
  try {
    fs.closeSync(fs.openSync(path, mode));
    return true;
  } catch {
    return false;
  }
}

function processes() {
  const numbers = fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return numbers.filter((number) => fs.statSync(`/proc/${number}`).uid === process.getuid()).length;
}

const actions = {
  throw: () => {
    throw new RangeError("no such order");
  },
  exit: () => process.exit(1),
  print: () => console.log("a forgotten print"),
  log: () => fs.writeSync(2, ("x".repeat(1023) + "\n").repeat(2048)),
  fork: () => {
    for (let made = 0; made < 5; made++) spawn("sleep", ["1000"], { detached: true, stdio: "ignore" }).unref();
  },
  allocate: () => {
    const blocks = [];
    for (let made = 0; made < 1000; made++) blocks.push(Buffer.alloc(1 << 20, 1));
  },
  loop: () => {
    for (;;);
  },
  utf8: () => {
    fs.writeSync(1, Buffer.from([0x22, 0xff, 0xfe, 0x22, 0x0a]));
    process.exit();
  },
  nan: () => {
    console.log(Number.NaN);
    process.exit();
  },
};
actions[JSON.parse(fs.readFileSync(process.argv[2], "utf8"))]?.();

console.log(
  JSON.stringify({
    processes: processes(),
    reads_shadow: opens("/etc/shadow", "r"),
    writes_code: opens("/code/new", "w"),
  }),
);
