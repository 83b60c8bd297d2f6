//! What blobs are named by: SHA-256. Other algorithms are allowed by the specification and used by nobody.
use super::OciError;
use super::error::quote;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read};

/// A SHA-256, as 64 lowercase hex digits: safe as a file's name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(in crate::images) struct Digest(String);

impl Digest {
    /// Reads `sha256:<64 hex digits>`.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(is_hex) => Ok(Self(hex.to_owned())),
            _ => {
                let shown = quote(text);
                Err(OciError::refused(format!("{shown} is no digest like sha256:<64 hex digits>")))
            }
        }
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// The hex digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|error| error.to_string())
    }
}

/// Hashes what goes through.
#[derive(Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn digest(self) -> Digest {
        Digest(hex::encode(self.0.finalize()))
    }
}

/// A reader that hashes what is read from it.
pub(super) struct HashingReader<R> {
    source: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    pub fn new(source: R) -> Self {
        Self { source, hasher: Hasher::default() }
    }

    pub fn digest(self) -> Digest {
        self.hasher.digest()
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}
