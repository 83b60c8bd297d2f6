//! How a registry asks who one is, and the token that its authority gives.
use super::credentials::Credentials;
use super::error::chain;
use super::registry::read_bounded;
use reqwest::Client;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;

/// Most bytes of a token's answer: tokens have a few kilobytes.
const TOKEN_MAX_BYTES: u64 = 64 * 1024;

/// What a `WWW-Authenticate` header wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The password itself.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Where.
        realm: String,
        /// For whom.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads a header; `None` for what is not known here.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, parameters) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let find = |wanted: &str| {
            let mut rest = parameters;
            // Values are quoted, and may hold commas.
            while let Some((name, after)) = rest.split_once("=\"") {
                let (value, after) = after.split_once('"')?;
                if name.trim_matches([',', ' ']).eq_ignore_ascii_case(wanted) {
                    return Some(value.to_owned());
                }
                rest = after;
            }
            None
        };
        Some(Self::Bearer { realm: find("realm")?, service: find("service") })
    }
}

/// Asks for a token and makes an `Authorization` header of it.
pub(super) async fn bearer(
    client: &Client,
    realm: &str,
    service: Option<String>,
    scope: &str,
    credentials: &Option<Credentials>,
) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let mut query = vec![("scope", scope.to_owned())];
    query.extend(service.map(|service| ("service", service)));
    let mut url = reqwest::Url::parse(realm).map_err(|error| format!("its realm: {error}"))?;
    url.query_pairs_mut().extend_pairs(query);
    let mut request = client.get(url);
    if let Some(credentials) = credentials {
        request = request.header(AUTHORIZATION, credentials.basic());
    }
    let answer = request.send().await.map_err(|error| chain(&error))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("its authority gives no token ({status}); check user and password"));
    }
    let bytes = read_bounded(answer, TOKEN_MAX_BYTES).await?;
    // An error of the parser could quote the token.
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| "its token is no JSON")?;
    let token = token.token.or(token.access_token).ok_or("its authority's answer has no token")?;
    Ok(format!("Bearer {token}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_wants_is_read_from_its_header() {
        let header = r#"Bearer realm="https://auth.example.com/token",service="r.example.com",scope="repository:a:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example.com/token".into(),
            service: Some("r.example.com".into()),
        };
        assert_eq!(Challenge::parse(header), Some(expected));
        assert_eq!(Challenge::parse("Basic realm=\"r\""), Some(Challenge::Basic));
        for odd in ["Negotiate", "Bearer", "Bearer service=\"s\"", "Bearer realm=\"open", ""] {
            assert_eq!(Challenge::parse(odd), None, "{odd}");
        }
    }
}
