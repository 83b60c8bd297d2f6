//! Environment variables of a function, where a value may refer to a secret.
use crate::validation::quote;
use crate::{InvalidField, SecretName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most bytes of all names and values together: they travel in one `Init` frame beside 64 KiB of
/// other fields, and Linux hands a program at most 2 MiB of arguments and environment.
const ENVIRONMENT_MAX_BYTES: usize = 128 * 1024;

/// Most bytes of one name or value: the kernel's own limit for one string (`MAX_ARG_STRLEN`).
const ENTRY_MAX_BYTES: usize = 128 * 1024 - 1;

/// Names that Nova sets itself; a function may not pretend otherwise.
const RESERVED_PREFIX: &str = "NOVA_";

/// What a variable is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue<'a> {
    /// The text itself.
    Plain(&'a str),
    /// `$SECRET:name`: the secret's value at call time.
    Secret(SecretName),
}

/// A valid set of variables. Holds references to secrets, never their values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Accepts variables whose names are identifiers, or says which is not.
    pub fn parse(variables: BTreeMap<String, String>) -> Result<Self, InvalidField> {
        let mut total = 0;
        for (name, value) in &variables {
            let field = || format!("env_vars.{}", quote(name).trim_matches('"'));
            let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(InvalidField::new(
                    field(),
                    "not a valid variable name",
                    "use letters, digits and '_', not starting with a digit",
                ));
            }
            if name.starts_with(RESERVED_PREFIX) {
                return Err(InvalidField::new(
                    field(),
                    "names starting with NOVA_ are set by Nova",
                    "choose another name",
                ));
            }
            if value.contains('\0') || name.len() + value.len() > ENTRY_MAX_BYTES {
                return Err(InvalidField::new(
                    field(),
                    "the value holds a zero byte or is too long",
                    format!("give text of at most {ENTRY_MAX_BYTES} bytes"),
                ));
            }
            parse_value(value).map_err(|mut error| {
                error.field = field();
                error
            })?;
            total += name.len() + value.len();
        }
        if total > ENVIRONMENT_MAX_BYTES {
            return Err(InvalidField::new(
                "env_vars",
                format!("{total} bytes in all"),
                format!(
                    "stay below {ENVIRONMENT_MAX_BYTES} bytes; put data into the code or a file"
                ),
            ));
        }
        Ok(Self(variables))
    }

    /// The variables and what each is set to.
    pub fn iter(&self) -> impl Iterator<Item = (&str, EnvValue<'_>)> {
        self.0.iter().map(|(name, value)| {
            let value = parse_value(value).unwrap_or(EnvValue::Plain(value));
            (name.as_str(), value)
        })
    }

    /// The secrets that the variables refer to.
    pub fn secrets(&self) -> impl Iterator<Item = SecretName> {
        self.iter().filter_map(|(_, value)| match value {
            EnvValue::Secret(name) => Some(name),
            EnvValue::Plain(_) => None,
        })
    }
}

fn parse_value(value: &str) -> Result<EnvValue<'_>, InvalidField> {
    match value.strip_prefix("$SECRET:") {
        Some(name) => SecretName::parse(name).map(EnvValue::Secret),
        None => Ok(EnvValue::Plain(value)),
    }
}

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = InvalidField;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, InvalidField> {
        Self::parse(variables)
    }
}

impl From<Environment> for BTreeMap<String, String> {
    fn from(environment: Environment) -> Self {
        environment.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<Environment, InvalidField> {
        Environment::parse(BTreeMap::from([(name.into(), value.into())]))
    }

    #[test]
    fn a_secret_is_a_reference_and_everything_else_is_text() {
        let environment = one("TOKEN", "$SECRET:api").unwrap();
        let api = SecretName::parse("api").unwrap();
        assert_eq!(environment.iter().next(), Some(("TOKEN", EnvValue::Secret(api))));
        let plain = one("HOME_PAGE", "$SECRETS").unwrap();
        assert_eq!(plain.iter().next(), Some(("HOME_PAGE", EnvValue::Plain("$SECRETS"))));
    }

    #[test]
    fn bad_names_and_values_are_refused_with_their_field() {
        assert_eq!(one("A B", "x").unwrap_err().field, "env_vars.A B");
        assert_eq!(one("NOVA_REQUEST_ID", "x").unwrap_err().field, "env_vars.NOVA_REQUEST_ID");
        assert_eq!(one("A", "x\0y").unwrap_err().field, "env_vars.A");
        assert_eq!(one("A", "$SECRET:../key").unwrap_err().field, "env_vars.A");
        assert!(one("A", &"x".repeat(200_000)).is_err());
    }
}
