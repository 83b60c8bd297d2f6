# Stays up: one line of JSON in per call, one line of JSON out.
require "json"

calls = 0
STDOUT.sync = true
STDIN.each_line do |line|
  name = JSON.parse(line)["input"].as_h?.try(&.["name"]?)
  calls += 1
  if name
    puts({output: {message: "Hello, #{name}!", calls: calls}}.to_json)
  else
    puts({error: "give the input a name"}.to_json)
  end
end
