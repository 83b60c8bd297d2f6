//! Why an image could not be taken.
use std::io;
use std::path::Path;

/// Most characters of a hostile name that an error repeats.
const QUOTE_MAX_CHARS: usize = 120;

/// A failed import. Nothing of the image was kept.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The text names no image.
    #[error("{0:?} names no image: {1}")]
    Reference(String, String),
    /// The image breaks a rule or a limit; what, and what would be accepted.
    #[error("the image is refused: {0}")]
    Refused(String),
    /// A registry does not answer as it should.
    #[error("registry {host}: {problem}")]
    Registry {
        /// Host and port.
        host: String,
        /// What it said or did.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl OciError {
    pub(super) fn refused(problem: impl Into<String>) -> Self {
        Self::Refused(problem.into())
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { path, source }
    }
}

/// A hostile text made fit for a terminal and a log line.
pub(super) fn quote(text: impl AsRef<[u8]>) -> String {
    let text = String::from_utf8_lossy(text.as_ref());
    let mut shown: String = text.chars().take(QUOTE_MAX_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// An error with its causes: some say only at the end what happened.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
