## Stays up: one line of JSON in per call, one line of JSON out.
import std/json

var calls = 0
for line in stdin.lines:
  let name = parseJson(line){"input", "name"}
  inc calls
  let answer =
    if name.isNil: %*{"error": "give the input a name"}
    else: %*{"output": {"message": "Hello, " & name.getStr & "!", "calls": calls}}
  echo answer
  flushFile(stdout)
