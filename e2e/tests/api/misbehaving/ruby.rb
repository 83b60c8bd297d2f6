# Does what its input names; see ../misbehaving.rs.
require "json"

def opens(path, mode)
  File.open(path, mode) { true }
rescue SystemCallError
  false
end

def processes
  Dir.children("/proc").grep(/\A\d+\z/).count { |number| File.stat("/proc/#{number}").uid == Process.uid }
end

case JSON.parse(File.read(ARGV[0]))
when "throw" then raise ArgumentError, "no such order"
when "exit" then exit 1
when "print" then puts "a forgotten print"
when "log" then $stderr.write(("x" * 1023 + "\n") * 2048)
when "fork" then 5.times { Process.detach(spawn("sleep", "1000")) }
when "allocate" then blocks = Array.new(1000) { "x" * (1 << 20) }
when "loop" then loop {}
when "utf8"
  $stdout.write("\"\xFF\xFE\"\n".b)
  exit
when "nan"
  puts Float::NAN
  exit
end

puts JSON.generate(
  processes: processes,
  reads_shadow: opens("/etc/shadow", "r"),
  writes_code: opens("/code/new", "w"),
)
