# The input is in the file named by the first argument; the last line of the output is the result.
require "json"

event = JSON.parse(File.read(ARGV[0]))
name = event["name"]?.try(&.as_s) || "world"
STDERR.puts "saying hello"
puts({message: "Hello, #{name}!"}.to_json)
