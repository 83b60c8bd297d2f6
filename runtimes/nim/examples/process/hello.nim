## The input is in the file named by the first argument; the last line of the output is the result.
import std/[json, os]

let event = parseFile(paramStr(1))
stderr.writeLine("saying hello")
echo %*{"message": "Hello, " & event{"name"}.getStr("world") & "!"}
