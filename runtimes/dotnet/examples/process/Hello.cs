using System;
using System.Collections.Generic;
using System.IO;
using System.Text.Json;

/// <summary>The input is in the file named by the first argument; the last line of the output is the result.</summary>
static class Hello
{
    static void Main(string[] arguments)
    {
        JsonElement input = JsonDocument.Parse(File.ReadAllText(arguments[0])).RootElement;
        string name = input.TryGetProperty("name", out JsonElement given) ? given.GetString() : "world";
        Console.Error.WriteLine("saying hello");
        var answer = new Dictionary<string, object> { ["message"] = $"Hello, {name}!" };
        Console.WriteLine(JsonSerializer.Serialize(answer));
    }
}
