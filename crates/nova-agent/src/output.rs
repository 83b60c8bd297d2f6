//! What stdout of a `process` function means: log lines and one result.
//!
//! The rule: if all of stdout is one JSON value, that is the result; else the last line, if that is
//! JSON, the lines before it being logs. It is applied while reading, so that a function may print
//! more than fits in memory: the first line decides whether all of it can still be one value.
//!
//! ```text
//!             first line could begin a longer value ("{")
//!   Undecided ───────────────────────────────────────────▶ Whole (keep all, up to the limit)
//!       │ first line is a value by itself, or no JSON at all    │ more than the limit
//!       ▼                                                       ▼
//!     Lines (each line is a log once another one follows it) ◀──┘
//! ```
use nova_proto::PAYLOAD_MAX_BYTES;
use serde_json::error::Category;
use serde_json::value::RawValue;

/// How much of a wrong output an error quotes, bytes.
pub const QUOTE_BYTES: usize = 200;

/// Why stdout holds no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputError {
    /// Neither all of it nor its last line is JSON.
    Invalid { quote: String },
    /// The result is over the payload limit.
    TooLarge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Undecided,
    Whole,
    Lines,
}

/// Reads stdout as it comes.
pub struct OutputReader {
    form: Form,
    /// Everything that is not yet known to be a log: all of stdout, or the last line and what follows.
    held: Vec<u8>,
    /// Where the text of the line that `held` begins with ends so far, in the form `Lines`.
    text_end: usize,
    /// A line end was seen, so that the first line can be judged.
    line_ended: bool,
    /// The beginning of stdout, for the error.
    quote: Vec<u8>,
    /// All of stdout was more than the limit, so it cannot be one value.
    overflowed: bool,
}

impl OutputReader {
    /// For a process that has printed nothing yet.
    pub fn new() -> Self {
        Self {
            form: Form::Undecided,
            held: Vec::new(),
            text_end: 0,
            line_ended: false,
            quote: Vec::new(),
            overflowed: false,
        }
    }

    /// Takes the next bytes of stdout; hands each line that is surely a log to `log`.
    ///
    /// # Errors
    /// [`OutputError::TooLarge`] when a line alone is over the limit: the process may be killed.
    pub fn push(&mut self, bytes: &[u8], log: &mut impl FnMut(&[u8])) -> Result<(), OutputError> {
        let wanted = QUOTE_BYTES.saturating_sub(self.quote.len()).min(bytes.len());
        self.quote.extend_from_slice(&bytes[..wanted]);
        self.held.extend_from_slice(bytes);
        // Most results are one long line: not searched again for each piece of it.
        self.line_ended |= bytes.contains(&b'\n');
        if self.form == Form::Undecided && self.line_ended {
            self.decide();
        }
        if self.form != Form::Lines && self.held.len() > PAYLOAD_MAX_BYTES {
            self.form = Form::Lines;
            self.overflowed = true;
        }
        if self.form == Form::Lines {
            self.release_lines(log);
            if self.held.len() > PAYLOAD_MAX_BYTES {
                return Err(OutputError::TooLarge);
            }
        }
        Ok(())
    }

    /// Ends the reading: the result, the remaining log lines going to `log`.
    ///
    /// # Errors
    /// Whatever keeps stdout from having a result. Then all of it has gone to `log`.
    pub fn finish(mut self, log: &mut impl FnMut(&[u8])) -> Result<Box<RawValue>, OutputError> {
        if self.form != Form::Lines {
            self.held = match into_value(self.held) {
                Ok(value) => return Ok(value),
                Err(held) => held,
            };
            self.form = Form::Lines;
            self.release_lines(log);
        }
        match into_value(self.held) {
            Ok(value) => return Ok(value),
            Err(held) => emit_lines(&held, log),
        }
        if self.overflowed {
            return Err(OutputError::TooLarge);
        }
        Err(OutputError::Invalid { quote: String::from_utf8_lossy(&self.quote).into_owned() })
    }

    /// Ends the reading of a process that failed: everything held is a log.
    pub fn abandon(self, log: &mut impl FnMut(&[u8])) {
        emit_lines(&self.held, log);
    }

    /// Looks at the first line that is not blank, once it is complete.
    fn decide(&mut self) {
        let Some(start) = self.held.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            return;
        };
        let Some(length) = self.held[start..].iter().position(|&byte| byte == b'\n') else {
            return;
        };
        let (line, rest) = self.held[start..].split_at(length);
        self.form = match serde_json::from_slice::<&RawValue>(line) {
            // A value by itself: all of stdout only if nothing else follows, which is yet to be seen.
            Ok(_) if rest.iter().all(u8::is_ascii_whitespace) => Form::Undecided,
            Ok(_) => Form::Lines,
            Err(error) if error.classify() == Category::Eof => Form::Whole,
            Err(_) => Form::Lines,
        };
    }

    /// Hands over every line that has a later, non-blank one, and keeps the rest. Looks only at what
    /// came since the last time: `held` begins with a line that is not blank, which ends its text at
    /// `text_end`.
    fn release_lines(&mut self, log: &mut impl FnMut(&[u8])) {
        let new = &self.held[self.text_end..];
        let Some(last_text) = new.iter().rposition(|byte| !byte.is_ascii_whitespace()) else {
            return;
        };
        let line_start = new[..last_text].iter().rposition(|&byte| byte == b'\n');
        let keep_from = line_start.map_or(0, |offset| self.text_end + offset + 1);
        emit_lines(&self.held[..keep_from], log);
        self.text_end = self.text_end + last_text + 1 - keep_from;
        self.held.drain(..keep_from);
    }
}

/// The bytes as one JSON value, without a copy: they may be all that a small guest has room for.
///
/// # Errors
/// The bytes, where they are none.
pub fn into_value(bytes: Vec<u8>) -> Result<Box<RawValue>, Vec<u8>> {
    if serde_json::from_slice::<&RawValue>(&bytes).is_err() {
        return Err(bytes);
    }
    let mut text = String::from_utf8(bytes).map_err(|error| error.into_bytes())?;
    text.truncate(text.trim_end().len());
    let value = RawValue::from_string(text);
    // It was looked at above.
    value.map_err(|_| Vec::new())
}

/// Each line of `bytes`, without its line end. A last line end begins no further line.
fn emit_lines(bytes: &[u8], log: &mut impl FnMut(&[u8])) {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() {
        return;
    }
    for line in body.split(|&byte| byte == b'\n') {
        log(line);
    }
}

#[cfg(test)]
mod tests;
