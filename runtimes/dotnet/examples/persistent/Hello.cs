using System;
using System.Collections.Generic;
using System.Text.Json;

/// <summary>Stays up: one line of JSON in per call, one line of JSON out.</summary>
static class Hello
{
    static void Main()
    {
        int calls = 0;
        for (string line = Console.ReadLine(); line != null; line = Console.ReadLine())
        {
            calls++;
            JsonElement input = JsonDocument.Parse(line).RootElement.GetProperty("input");
            Console.WriteLine(JsonSerializer.Serialize(Answer(input, calls)));
        }
    }

    static Dictionary<string, object> Answer(JsonElement input, int calls)
    {
        if (input.ValueKind != JsonValueKind.Object || !input.TryGetProperty("name", out JsonElement name))
            return new Dictionary<string, object> { ["error"] = "give the input a name" };
        var output = new Dictionary<string, object> { ["message"] = $"Hello, {name.GetString()}!", ["calls"] = calls };
        return new Dictionary<string, object> { ["output"] = output };
    }
}
