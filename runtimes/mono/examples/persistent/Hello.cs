using System;
using System.Json;

/// <summary>Stays up: one line of JSON in per call, one line of JSON out.</summary>
static class Hello
{
    static void Main()
    {
        int calls = 0;
        for (string line = Console.ReadLine(); line != null; line = Console.ReadLine())
        {
            calls++;
            Console.WriteLine(Answer(JsonValue.Parse(line)["input"], calls).ToString());
        }
    }

    static JsonObject Answer(JsonValue input, int calls)
    {
        if (!(input is JsonObject) || !input.ContainsKey("name"))
            return new JsonObject { ["error"] = "give the input a name" };
        var output = new JsonObject { ["message"] = $"Hello, {(string)input["name"]}!", ["calls"] = calls };
        return new JsonObject { ["output"] = output };
    }
}
