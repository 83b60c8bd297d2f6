/// The input is in the file named by the first argument; the last line of the output is the result.
import std.file : readText;
import std.json;
import std.stdio;

void main(string[] arguments)
{
    auto event = parseJSON(readText(arguments[1]));
    string name = "name" in event ? event["name"].str : "world";
    stderr.writeln("saying hello");
    writeln(JSONValue(["message": "Hello, " ~ name ~ "!"]).toString);
}
