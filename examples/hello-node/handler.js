// Greets whoever the input names. Run as `node handler.js input.json`.
const fs = require("node:fs");

const { name = "world" } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));

console.error(`greeting ${name}`); // stderr is the log
console.log(JSON.stringify({ message: `Hello, ${name}, from Node ${process.version}!` }));
