//! Names in paths and parameters in queries, parsed and refused like the fields of a body.
use super::body::unknown_name;
use super::problem::{ErrorCode, Problem};
use crate::suggest::nearest;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::Uri;
use axum::http::request::Parts;
use nova_domain::{FunctionName, InvalidField, LayerName, RequestId, SecretName};
use nova_store::{PAGE_MAX, PageRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Items of a page where the client names no number.
const PAGE_DEFAULT: u32 = 100;

/// `{name}` of a path.
pub struct FunctionPath(pub FunctionName);

/// `{secret}` of a path.
pub struct SecretPath(pub SecretName);

/// `{layer}` of a path.
pub struct LayerPath(pub LayerName);

/// `{request_id}` of a path.
pub struct RequestPath(pub RequestId);

impl<S: Send + Sync> FromRequestParts<S> for FunctionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(FunctionName::parse(&segment(parts, state, "name").await?)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SecretPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(SecretName::parse(&segment(parts, state, "secret").await?)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LayerPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(LayerName::parse(&segment(parts, state, "layer").await?)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = segment(parts, state, "request_id").await?;
        Uuid::parse_str(&text).map(|id| Self(RequestId(id))).map_err(|_| {
            let hint = "give the `request_id` of an answer of invoke";
            InvalidField::new("request_id", "not a request id", hint).into()
        })
    }
}

async fn segment<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<String, Problem> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| Problem::new(ErrorCode::BadRequest, error.body_text()))?;
    let value = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    value.ok_or_else(|| Problem::new(ErrorCode::RouteNotFound, format!("the path names no {name}")))
}

/// Reads a query strictly.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    Query::<T>::try_from_uri(uri).map(|Query(value)| value).map_err(|rejection| {
        let text = rejection.body_text();
        match unknown_name(&text, "unknown field ") {
            Some((name, known)) => {
                let hint = match nearest(&name, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are: {}", known.join(", ")),
                };
                let error = InvalidField::new(name, "no such query parameter", hint);
                Problem::fields(ErrorCode::UnknownField, vec![error])
            }
            None => {
                let text = text.trim_start_matches("Failed to deserialize query string: ");
                let (field, problem) = text.split_once(": ").unwrap_or(("query", text));
                let hint = "give a value of the type that the parameter has";
                InvalidField::new(field, problem, hint).into()
            }
        }
    })
}

/// The parameters of every list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

impl PageQuery {
    /// The part of the list that is wanted.
    pub fn page(self) -> Result<PageRequest, Problem> {
        page(self.limit, self.cursor)
    }
}

/// The same for lists that have filters as well.
pub fn page(limit: Option<u32>, cursor: Option<String>) -> Result<PageRequest, Problem> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        let problem = format!("{limit} is out of range");
        let hint = format!("give a number from 1 to {PAGE_MAX}");
        return Err(InvalidField::new("limit", problem, hint).into());
    }
    Ok(PageRequest { limit, cursor })
}

/// A part of a list.
#[derive(Debug, Serialize)]
pub struct Paged<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page starts; `null` at the end.
    pub next_cursor: Option<String>,
}

impl<T> Paged<T> {
    /// A list that is always whole.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}
