using System;
using System.IO;
using System.Json;

/// <summary>The input is in the file named by the first argument; the last line of the output is the result.</summary>
static class Hello
{
    static void Main(string[] arguments)
    {
        JsonValue input = JsonValue.Parse(File.ReadAllText(arguments[0]));
        string name = input.ContainsKey("name") ? (string)input["name"] : "world";
        Console.Error.WriteLine("saying hello");
        Console.WriteLine(new JsonObject { ["message"] = $"Hello, {name}!" }.ToString());
    }
}
