//! API keys: `nova_<id>_<secret>`. The store keeps the SHA-256 of the secret, which is enough for a
//! value of 256 random bits, and never the secret itself.
use chrono::{DateTime, Utc};
use nova_domain::FunctionName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Bytes of a key's public id; enough that ids never meet by chance on one installation.
const ID_BYTES: usize = 8;
/// Bytes of a key's secret.
const SECRET_BYTES: usize = 32;

/// What a key's holder may do; each role includes the ones below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at functions, records, logs and metrics.
    Read,
    /// Call functions.
    Invoke,
    /// Create, change and delete functions and secrets.
    Deploy,
    /// Everything, keys included.
    Admin,
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its public part.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// SHA-256 of its secret part, hex.
    pub secret_sha256: String,
    /// What it may do.
    pub role: Role,
    /// The functions it is limited to; empty means all.
    pub functions: Vec<FunctionName>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The text that a client sends. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyText {
    id: String,
    secret: String,
}

/// The text is not of the form of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key; a key looks like nova_<id>_<secret>")]
pub struct InvalidApiKey;

impl ApiKeyText {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        let random: [u8; ID_BYTES + SECRET_BYTES] = rand::random();
        let (id, secret) = random.split_at(ID_BYTES);
        Self { id: hex::encode(id), secret: hex::encode(secret) }
    }

    /// Reads what a client sent.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let (id, secret) =
            text.strip_prefix("nova_").and_then(|t| t.split_once('_')).ok_or(InvalidApiKey)?;
        let digits = |part: &str, bytes: usize| {
            part.len() == 2 * bytes && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if digits(id, ID_BYTES) && digits(secret, SECRET_BYTES) {
            return Ok(Self { id: id.to_owned(), secret: secret.to_owned() });
        }
        Err(InvalidApiKey)
    }

    /// The public part, by which the stored key is found.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What to store.
    pub fn secret_sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.secret))
    }

    /// Whether this is the key that was stored, compared in constant time. Expiry is the caller's
    /// to check, who has a clock.
    pub fn opens(&self, key: &ApiKey) -> bool {
        let same_id = self.id.as_bytes().ct_eq(key.id.as_bytes());
        let same_secret = self.secret_sha256().as_bytes().ct_eq(key.secret_sha256.as_bytes());
        (same_id & same_secret).into()
    }

    /// The whole text, secret included: for the one time it is shown.
    pub fn reveal(&self) -> String {
        format!("nova_{}_{}", self.id, self.secret)
    }
}

impl fmt::Debug for ApiKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nova_{}_…", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_what_was_stored_for_it_and_nothing_else() {
        let text = ApiKeyText::generate();
        let stored = ApiKey {
            id: text.id().into(),
            name: "ci".into(),
            secret_sha256: text.secret_sha256(),
            role: Role::Invoke,
            functions: vec![],
            expires_at: None,
            created_at: DateTime::UNIX_EPOCH,
        };
        let again = ApiKeyText::parse(&text.reveal()).unwrap();
        assert!(again.opens(&stored));
        assert!(!ApiKeyText::generate().opens(&stored));
        assert!(!stored.secret_sha256.contains(&text.secret), "only a hash is stored");
        assert!(!format!("{text:?}").contains(&text.secret));
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        for text in ["", "nova_", "nova_1_2", "Bearer x", &"x".repeat(100_000)] {
            assert_eq!(ApiKeyText::parse(text), Err(InvalidApiKey));
        }
    }
}
