/// Stays up: one line of JSON in per call, one line of JSON out.
import std.json;
import std.stdio;

void main()
{
    int calls;
    foreach (line; stdin.byLineCopy)
    {
        auto event = parseJSON(line)["input"];
        calls++;
        JSONValue answer;
        if (event.type == JSONType.object && "name" in event)
        {
            JSONValue output = ["message": "Hello, " ~ event["name"].str ~ "!"];
            output["calls"] = calls;
            answer = ["output": output];
        }
        else
            answer = ["error": "give the input a name"];
        writeln(answer.toString);
        stdout.flush();
    }
}
