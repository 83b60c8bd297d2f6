//! One way to say that a field is wrong: which, why, and what would be right.

/// A field of a request that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {hint}")]
pub struct InvalidField {
    /// The field as the client wrote it, for example `limits.vcpus`.
    pub field: String,
    /// What is wrong with the value, quoting at most a short piece of it.
    pub problem: String,
    /// What would be accepted.
    pub hint: String,
}

/// Most characters of a bad value that an error repeats.
const QUOTE_MAX_CHARS: usize = 64;
/// Most characters of a field's name or a problem: they may hold what a client sent, of any length.
const TEXT_MAX_CHARS: usize = 300;

impl InvalidField {
    /// Names the field, the problem and the remedy.
    pub fn new(
        field: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { field: cut(field.into()), problem: cut(problem.into()), hint: hint.into() }
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A bad value, quoted and cut to a length fit for an error message.
pub(crate) fn quote(value: &str) -> String {
    let mut text: String = value.chars().take(QUOTE_MAX_CHARS).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    format!("{text:?}")
}

/// Refuses a number outside `range`.
pub(crate) fn in_range(
    field: &str,
    value: u32,
    range: std::ops::RangeInclusive<u32>,
    unit: &str,
) -> Result<(), InvalidField> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(InvalidField::new(
        field,
        format!("{value} is out of range"),
        format!("give a value from {} to {}{unit}", range.start(), range.end()),
    ))
}
