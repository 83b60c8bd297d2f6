"""Greets whoever the input names. Run as `python3 handler.py input.json`."""
import json
import sys

with open(sys.argv[1]) as file:
    name = json.load(file).get("name", "world")

print(f"greeting {name}", file=sys.stderr)  # stderr is the log
print(json.dumps({"message": f"Hello, {name}, from Python {sys.version.split()[0]}!"}))
