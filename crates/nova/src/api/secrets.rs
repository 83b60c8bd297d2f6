//! `/secrets`: values go in and never come out; only who may use them is shown.
use super::body::{self, Limit};
use super::path::{Paged, SecretPath};
use super::problem::{ErrorCode, Problem};
use super::{Api, to_the_end};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Json;
use chrono::{DateTime, Utc};
use nova_domain::{FunctionName, InvalidField, SecretName};
use nova_store::{SecretInfo, StoreError, VaultError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A value of 64 KiB in which every byte is escaped (six for one), and the list of functions.
const BODY_LIMIT: Limit =
    Limit { bytes: 512 * 1024, what: "the body", code: ErrorCode::PayloadTooLarge };
/// Most functions that one secret lists.
const FUNCTIONS_MAX: usize = 500;
/// How often a value is set again when somebody else set one in between.
const SET_ATTEMPTS: u32 = 5;

/// No `Debug`: it holds the value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretBody {
    value: String,
    #[serde(default)]
    functions: Vec<String>,
}

/// What may be shown of a secret.
#[derive(Debug, Serialize)]
pub struct SecretView {
    name: SecretName,
    version: u64,
    functions: Vec<FunctionName>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// `PUT /secrets/{secret}`
pub async fn put(
    State(api): State<Arc<Api>>,
    SecretPath(name): SecretPath,
    request: Request,
) -> Result<(StatusCode, Json<SecretView>), Problem> {
    let (parts, body) = request.into_parts();
    let received = body::read(&api.bodies, &parts.headers, body, BODY_LIMIT).await?;
    let body: SecretBody = body::json(&received.bytes)?;
    if body.functions.len() > FUNCTIONS_MAX {
        let hint = format!("list at most {FUNCTIONS_MAX} functions, or none to allow all");
        return Err(InvalidField::new("functions", "too many", hint).into());
    }
    let functions = body.functions.iter().enumerate().map(|(index, text)| {
        FunctionName::parse(text).map_err(|mut error| {
            error.field = format!("functions[{index}]");
            error
        })
    });
    let functions: Vec<FunctionName> = functions.collect::<Result<_, _>>()?;
    to_the_end(async move {
        let info = set(&api, &name, body.value.as_bytes(), &functions).await?;
        api.executor.secrets_changed(&name).await;
        let status = if info.version == 1 { StatusCode::CREATED } else { StatusCode::OK };
        Ok((status, Json(info.into())))
    })
    .await
}

async fn set(
    api: &Api,
    name: &SecretName,
    value: &[u8],
    functions: &[FunctionName],
) -> Result<SecretInfo, Problem> {
    for _ in 1..SET_ATTEMPTS {
        match api.vault.set(name, value, functions.to_vec(), Utc::now()).await {
            Err(VaultError::Store(StoreError::Changed { .. })) => continue,
            other => return Ok(other?),
        }
    }
    Ok(api.vault.set(name, value, functions.to_vec(), Utc::now()).await?)
}

/// `GET /secrets`
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<Paged<SecretView>>, Problem> {
    let secrets = api.vault.list().await?;
    Ok(Json(Paged::whole(secrets.into_iter().map(SecretView::from).collect())))
}

/// `GET /secrets/{secret}`
pub async fn get(
    State(api): State<Arc<Api>>,
    SecretPath(name): SecretPath,
) -> Result<Json<SecretView>, Problem> {
    Ok(Json(api.vault.get(&name).await?.into()))
}

/// `DELETE /secrets/{secret}`
pub async fn delete(
    State(api): State<Arc<Api>>,
    SecretPath(name): SecretPath,
) -> Result<StatusCode, Problem> {
    to_the_end(async move {
        api.vault.delete(&name).await?;
        api.executor.secrets_changed(&name).await;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

impl From<SecretInfo> for SecretView {
    fn from(info: SecretInfo) -> Self {
        let SecretInfo { name, version, functions, created_at, updated_at } = info;
        Self { name, version, functions, created_at, updated_at }
    }
}
