//! Names that users choose. They become file names, cgroup names and URL segments, so each is parsed
//! into its own type once and is safe to use in all of those from then on.
use crate::InvalidField;
use crate::validation::quote;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most characters of a function or secret name.
const NAME_MAX_CHARS: usize = 64;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $field:literal, $allowed:expr, $hint:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Accepts a valid name, or says what is wrong with it.
            pub fn parse(text: &str) -> Result<Self, InvalidField> {
                let allowed: fn(char) -> bool = $allowed;
                let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
                if first && text.len() <= NAME_MAX_CHARS && text.chars().all(allowed) {
                    return Ok(Self(text.to_owned()));
                }
                Err(InvalidField::new($field, format!("{} is not a valid name", quote(text)), $hint))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidField;

            fn try_from(text: String) -> Result<Self, InvalidField> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// The name of a function, unique in one Nova.
    FunctionName,
    "name",
    |c| c.is_ascii_alphanumeric() || c == '_' || c == '-',
    "use 1 to 64 letters, digits, '_' and '-', starting with a letter or digit"
);

name_type!(
    /// The id of a runtime: `python`, or with its version `python3.11`.
    RuntimeId,
    "runtime",
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
    "use the id of an installed runtime; `nova runtime list` shows them"
);

name_type!(
    /// The name of a secret, also its file name in the guest.
    SecretName,
    "secret",
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
    "use 1 to 64 letters, digits, '_', '-' and '.', starting with a letter or digit"
);

name_type!(
    /// The name of a layer.
    LayerName,
    "layer",
    |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
    "use 1 to 64 letters, digits, '_', '-' and '.', starting with a letter or digit"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_a_path_is_refused_with_a_hint() {
        let error = FunctionName::parse("../../x").unwrap_err();
        assert_eq!(error.field, "name");
        assert!(error.hint.contains("letters, digits"));
    }

    #[test]
    fn names_have_a_length_and_a_first_character() {
        assert!(FunctionName::parse(&"a".repeat(64)).is_ok());
        assert!(FunctionName::parse(&"a".repeat(65)).is_err());
        assert!(FunctionName::parse("").is_err());
        assert!(FunctionName::parse("-x").is_err());
        assert!(FunctionName::parse("naïve").is_err());
        assert!(RuntimeId::parse("python3.11").is_ok());
        assert!(SecretName::parse("..").is_err());
    }
}
