//! The input is in the file named by the first argument; the last line of the output is the result.
const std = @import("std");

const Event = struct { name: []const u8 = "world" };

pub fn main(init: std.process.Init) !void {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    const input = try std.Io.Dir.cwd().readFileAlloc(init.io, arguments[1], init.arena.allocator(), .limited(1 << 20));
    const event = try std.json.parseFromSliceLeaky(Event, init.arena.allocator(), input, .{ .ignore_unknown_fields = true });

    std.debug.print("saying hello\n", .{});
    var buffer: [4096]u8 = undefined;
    var out = std.Io.File.stdout().writer(init.io, &buffer);
    const message = try std.fmt.allocPrint(init.arena.allocator(), "Hello, {s}!", .{event.name});
    try out.interface.print("{f}\n", .{std.json.fmt(.{ .message = message }, .{})});
    try out.interface.flush();
}
