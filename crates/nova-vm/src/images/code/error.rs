//! Why code was refused: which entry, what is wrong with it, what to do.
use nova_domain::InvalidField;

/// Most characters of a hostile entry name that an error repeats.
const QUOTE_MAX_CHARS: usize = 80;

/// The classes of refusal, for those who answer differently to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeErrorKind {
    /// The bytes are no archive of a known kind.
    NotAnArchive,
    /// The archive is damaged, incomplete or has something behind its end.
    Broken,
    /// The upload, or what it unpacks to, is over a limit.
    TooLarge,
    /// One entry is not allowed.
    Entry,
}

/// Code that is refused. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {hint}", self.problem())]
pub struct CodeError {
    /// The class.
    pub kind: CodeErrorKind,
    /// The entry it is about, shortened and escaped.
    pub entry: Option<String>,
    problem: String,
    /// What would be accepted.
    pub hint: &'static str,
}

impl CodeError {
    /// What is wrong, with the entry's name in front.
    pub fn problem(&self) -> String {
        match &self.entry {
            Some(entry) => format!("entry {entry} {}", self.problem),
            None => self.problem.clone(),
        }
    }

    pub(super) fn entry(name: &str, problem: impl Into<String>, hint: &'static str) -> Self {
        let entry = Some(quote(name));
        Self { kind: CodeErrorKind::Entry, entry, problem: problem.into(), hint }
    }

    pub(super) fn too_large(name: Option<&str>, what: &str, limit: u64) -> Self {
        let problem = match name {
            Some(_) => format!("takes the {what} over {limit} bytes"),
            None => format!("the {what} is over {limit} bytes"),
        };
        let hint = "leave out what the function does not need, or fetch it at run time";
        Self { kind: CodeErrorKind::TooLarge, entry: name.map(quote), problem, hint }
    }

    pub(super) fn too_many(limit: usize) -> Self {
        let problem = format!("the archive has more than {limit} entries");
        let hint = "leave out what the function does not need";
        Self { kind: CodeErrorKind::TooLarge, entry: None, problem, hint }
    }

    pub(super) fn not_an_archive() -> Self {
        Self {
            kind: CodeErrorKind::NotAnArchive,
            entry: None,
            problem: "the code is not an archive".into(),
            hint: "upload a tar.gz, zip or tar file, or send a single program as inline text",
        }
    }

    pub(super) fn broken(name: Option<&str>, problem: impl Into<String>) -> Self {
        let hint = "make the archive anew and upload it whole";
        Self { kind: CodeErrorKind::Broken, entry: name.map(quote), problem: problem.into(), hint }
    }
}

impl From<CodeError> for InvalidField {
    fn from(error: CodeError) -> Self {
        InvalidField::new("code", error.problem(), error.hint)
    }
}

/// A hostile name made fit for a terminal and a log line.
fn quote(name: &str) -> String {
    let mut text: String = name.chars().take(QUOTE_MAX_CHARS).collect();
    if text.len() < name.len() {
        text.push('…');
    }
    format!("{text:?}")
}
