//! Log lines of a call: cut into lines, bounded, sent in batches, apart from the result.
//!
//! A call may log [`LOG_MAX_BYTES`]; then one line from the system says that the rest was dropped,
//! and the function runs on. Lines are cut at [`LINE_MAX_BYTES`], so one line never fills a message.
use nova_proto::{CHUNK_MAX_BYTES, LOG_MAX_BYTES, Log, LogLine, LogStream};
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest log line, bytes; a longer one becomes several. A quarter of a message, so that
/// batches are well filled, and more than people read.
pub const LINE_MAX_BYTES: usize = CHUNK_MAX_BYTES / 4;

/// Most lines in one message: empty lines cost room on the wire, too.
const BATCH_MAX_LINES: usize = 1024;

/// The log of one call.
pub struct CallLog {
    send: Box<dyn FnMut(Log) + Send>,
    batch: Vec<LogLine>,
    batch_bytes: usize,
    budget: usize,
    truncated: bool,
}

impl CallLog {
    /// A log whose batches go to `send`.
    pub fn new(send: Box<dyn FnMut(Log) + Send>) -> Self {
        Self { send, batch: Vec::new(), batch_bytes: 0, budget: LOG_MAX_BYTES, truncated: false }
    }

    /// Adds one line, without its line end.
    pub fn line(&mut self, stream: LogStream, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.piece(stream, "");
        }
        let mut rest = line;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cut_at_character(rest, LINE_MAX_BYTES));
            self.piece(stream, &String::from_utf8_lossy(piece));
            rest = after;
        }
    }

    /// Sends what is collected.
    pub fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.batch_bytes = 0;
            (self.send)(Log { lines: std::mem::take(&mut self.batch) });
        }
    }

    /// True when lines were dropped.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    fn piece(&mut self, stream: LogStream, text: &str) {
        if self.truncated {
            return;
        }
        // The line end counts, so that empty lines are bounded as well.
        let cost = text.len() + 1;
        if cost > self.budget {
            self.truncated = true;
            let marker = format!("log truncated: a call may log {LOG_MAX_BYTES} bytes");
            self.append(LogStream::System, marker);
            return;
        }
        self.budget -= cost;
        self.append(stream, text.to_owned());
    }

    fn append(&mut self, stream: LogStream, text: String) {
        if self.batch_bytes + text.len() > CHUNK_MAX_BYTES || self.batch.len() >= BATCH_MAX_LINES {
            self.flush();
        }
        self.batch_bytes += text.len();
        self.batch.push(LogLine { time_unix_ms: unix_ms(), stream, text });
    }
}

/// Cuts a byte stream into lines. Holds at most one line of `limit` bytes.
pub struct LineCutter {
    partial: Vec<u8>,
    limit: usize,
}

impl LineCutter {
    /// Lines longer than `limit` bytes come out in pieces.
    pub fn new(limit: usize) -> Self {
        Self { partial: Vec::new(), limit }
    }

    /// Takes the next bytes; hands each line that they complete to `line`.
    pub fn push(&mut self, bytes: &[u8], line: &mut impl FnMut(Vec<u8>)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(&rest[..end]);
            // Handed over, not copied: an answer may be megabytes.
            line(std::mem::take(&mut self.partial));
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        while self.partial.len() > self.limit {
            let after = self.partial.split_off(cut_at_character(&self.partial, self.limit));
            line(std::mem::replace(&mut self.partial, after));
        }
    }

    /// Ends the stream: a last line without a line end is one, too.
    pub fn finish(&mut self, line: &mut impl FnMut(Vec<u8>)) {
        if !self.partial.is_empty() {
            line(std::mem::take(&mut self.partial));
        }
    }
}

/// Where to cut bytes longer than `limit`: not inside a UTF-8 character, if they are text.
fn cut_at_character(bytes: &[u8], limit: usize) -> usize {
    if bytes.len() <= limit {
        return bytes.len();
    }
    // A character has at most 3 continuation bytes; more than that is not UTF-8 anyway.
    (limit - 3..=limit).rev().find(|&at| bytes[at] & 0xc0 != 0x80).unwrap_or(limit)
}

/// The guest's wall clock, milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a call log sends for these lines of stderr, and whether it was cut off.
    fn sent(lines: &[&[u8]]) -> (Vec<Log>, bool) {
        let batches = Arc::new(Mutex::new(Vec::new()));
        let sink = batches.clone();
        let mut log = CallLog::new(Box::new(move |batch| sink.lock().unwrap().push(batch)));
        for line in lines {
            log.line(LogStream::Stderr, line);
        }
        log.flush();
        let truncated = log.truncated();
        drop(log);
        (Arc::into_inner(batches).unwrap().into_inner().unwrap(), truncated)
    }

    fn texts(batches: &[Log]) -> Vec<&str> {
        batches.iter().flat_map(|batch| &batch.lines).map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_keep_their_order_and_lose_their_ends() {
        let (batches, truncated) = sent(&[b"one", b"", b"two\r", b"\xff"]);
        assert_eq!(texts(&batches), ["one", "", "two", "\u{fffd}"]);
        assert!(!truncated);
    }

    #[test]
    fn a_long_line_is_split_between_characters() {
        let line = format!("a{}", "\u{20ac}".repeat(LINE_MAX_BYTES / 2));
        let (batches, _) = sent(&[line.as_bytes()]);
        assert_eq!(texts(&batches).concat(), line);
        assert!(texts(&batches).iter().all(|piece| piece.len() <= LINE_MAX_BYTES));
    }

    #[test]
    fn a_flood_is_cut_off_with_a_marker() {
        let line = [b'x'; 1023];
        let (batches, truncated) = sent(&vec![&line[..]; 2000]);
        let texts = texts(&batches);
        assert!(truncated);
        assert_eq!(texts.len(), LOG_MAX_BYTES / 1024 + 1);
        assert_eq!(texts.last(), Some(&"log truncated: a call may log 1048576 bytes"));
        for batch in &batches {
            assert!(
                batch.lines.iter().map(|line| line.text.len()).sum::<usize>() <= CHUNK_MAX_BYTES
            );
        }
    }

    #[test]
    fn empty_lines_are_bounded_too() {
        let (batches, truncated) = sent(&vec![&b""[..]; LOG_MAX_BYTES + 1]);
        assert!(truncated);
        assert!(batches.iter().all(|batch| batch.lines.len() <= BATCH_MAX_LINES));
    }

    #[test]
    fn the_cutter_finds_lines_wherever_the_pipe_cuts_them() {
        let mut cutter = LineCutter::new(8);
        let mut lines = Vec::new();
        for piece in ["fir", "st\nsec", "ond\n\nthis is long", "er"] {
            cutter.push(piece.as_bytes(), &mut |line| {
                lines.push(String::from_utf8(line).expect("text"))
            });
        }
        cutter.finish(&mut |line| lines.push(String::from_utf8(line).expect("text")));
        assert_eq!(lines, ["first", "second", "", "this is ", "longer"]);
    }
}
