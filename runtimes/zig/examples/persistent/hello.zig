//! Stays up: one line of JSON in per call, one line of JSON out.
const std = @import("std");

const Request = struct { input: struct { name: []const u8 = "" } };

pub fn main(init: std.process.Init) !void {
    var in_buffer: [1 << 20]u8 = undefined;
    var in = std.Io.File.stdin().reader(init.io, &in_buffer);
    var out_buffer: [4096]u8 = undefined;
    var out = std.Io.File.stdout().writer(init.io, &out_buffer);
    var calls: u32 = 0;
    while (try in.interface.takeDelimiter('\n')) |line| {
        calls += 1;
        var arena = std.heap.ArenaAllocator.init(init.gpa);
        defer arena.deinit();
        const options: std.json.ParseOptions = .{ .ignore_unknown_fields = true };
        if (std.json.parseFromSliceLeaky(Request, arena.allocator(), line, options)) |request| {
            const message = try std.fmt.allocPrint(arena.allocator(), "Hello, {s}!", .{request.input.name});
            const answer = .{ .output = .{ .message = message, .calls = calls } };
            try out.interface.print("{f}\n", .{std.json.fmt(answer, .{})});
        } else |_| {
            try out.interface.writeAll("{\"error\": \"give the input a name\"}\n");
        }
        try out.interface.flush();
    }
}
