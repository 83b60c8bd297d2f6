//! `/layers`: archives that functions share at `/opt`, and how the layers of a function become one archive.
use super::body::{self, Limit, Received};
use super::path::{LayerPath, Paged};
use super::problem::{ErrorCode, Problem};
use super::{Api, to_the_end};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Json;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use nova_domain::{CodeHash, InvalidField, Layer, LayerName, LayerVersion, Layers};
use nova_store::{PAGE_MAX, PageRequest, StoreError};
use nova_vm::images::code::{
    UNPACKED_MAX_BYTES, UPLOAD_MAX_BYTES, UploadKind, canonicalise, merge,
};
use serde::Serialize;
use std::sync::Arc;

/// An archive sent as it is.
const UPLOAD_LIMIT: Limit =
    Limit { bytes: UPLOAD_MAX_BYTES, what: "the archive", code: ErrorCode::CodeTooLarge };
/// How often an upload is stored again when somebody else stored one in between.
const PUT_ATTEMPTS: u32 = 5;
/// Functions that a refusal names.
const USERS_NAMED_MAX: usize = 5;

/// What is shown of a layer.
#[derive(Debug, Serialize)]
pub struct LayerView {
    name: LayerName,
    version: u64,
    hash: CodeHash,
    size: u64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Layer> for LayerView {
    fn from(layer: Layer) -> Self {
        let Layer { name, version, hash, size, created_at, updated_at } = layer;
        Self { name, version, hash, size, created_at, updated_at }
    }
}

/// `PUT /layers/{layer}`: a tar.gz, zip or tar as the body.
pub async fn put(
    State(api): State<Arc<Api>>,
    LayerPath(name): LayerPath,
    request: Request,
) -> Result<(StatusCode, Json<LayerView>), Problem> {
    let (parts, body) = request.into_parts();
    let Received { bytes, held } =
        body::read(&api.bodies, &parts.headers, body, UPLOAD_LIMIT).await?;
    to_the_end(async move {
        let (hash, size) = store(&api, bytes).await?;
        drop(held);
        let layer = publish(&api, &name, hash, size).await?;
        let status = if layer.version == 1 { StatusCode::CREATED } else { StatusCode::OK };
        Ok((status, Json(layer.into())))
    })
    .await
}

async fn store(api: &Api, upload: Bytes) -> Result<(CodeHash, u64), Problem> {
    let _turn = api.code_jobs.acquire().await.map_err(|error| broken(&error))?;
    let canonical = tokio::task::spawn_blocking(move || canonicalise(&upload, UploadKind::Archive));
    let archive = canonical.await.map_err(|error| broken(&error))??;
    let size = archive.len() as u64;
    let hash = api.blobs.put(archive.into()).await.map_err(|error| broken(&error))?;
    Ok((hash, size))
}

/// Makes the archive the layer's current one; the same archive again changes nothing.
async fn publish(api: &Api, name: &LayerName, hash: CodeHash, size: u64) -> Result<Layer, Problem> {
    for _ in 0..PUT_ATTEMPTS {
        let now = Utc::now();
        let layer = match api.store.layer(name).await? {
            Some(before) if before.hash == hash => return Ok(before),
            Some(before) => {
                let (version, hash) = (before.version + 1, hash.clone());
                Layer { version, hash, size, updated_at: now, ..before }
            }
            None => Layer {
                name: name.clone(),
                version: 1,
                hash: hash.clone(),
                size,
                created_at: now,
                updated_at: now,
            },
        };
        match api.store.put_layer(&layer).await {
            Err(StoreError::Changed { .. }) => {}
            other => return Ok(other.map(|()| layer)?),
        }
    }
    let detail = format!("layer {name} is being changed by others; try again");
    Err(Problem::new(ErrorCode::Conflict, detail))
}

/// `GET /layers`
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<Paged<LayerView>>, Problem> {
    let layers = api.store.layers().await?;
    Ok(Json(Paged::whole(layers.into_iter().map(LayerView::from).collect())))
}

/// `GET /layers/{layer}`
pub async fn get(
    State(api): State<Arc<Api>>,
    LayerPath(name): LayerPath,
) -> Result<Json<LayerView>, Problem> {
    let layer = api.store.layer(&name).await?;
    layer.map(|layer| Json(layer.into())).ok_or_else(|| not_found(&name))
}

/// `DELETE /layers/{layer}`: not while a function lists it.
pub async fn delete(
    State(api): State<Arc<Api>>,
    LayerPath(name): LayerPath,
) -> Result<StatusCode, Problem> {
    to_the_end(async move {
        let users = users(&api, &name).await?;
        if !users.is_empty() {
            let detail = format!(
                "layer {name} is used by {}; update or delete these functions first",
                users.join(", ")
            );
            return Err(Problem::new(ErrorCode::LayerInUse, detail));
        }
        match api.store.delete_layer(&name).await {
            Err(StoreError::NotFound { .. }) => Err(not_found(&name)),
            other => Ok(other.map(|()| StatusCode::NO_CONTENT)?),
        }
    })
    .await
}

/// The first functions that list the layer.
async fn users(api: &Api, layer: &LayerName) -> Result<Vec<String>, Problem> {
    let (mut users, mut cursor) = (Vec::new(), None);
    loop {
        let page = api.store.functions(&PageRequest { limit: PAGE_MAX, cursor }).await?;
        let uses = page.items.iter().filter(|function| {
            function.config.layers.versions.iter().any(|version| version.name == *layer)
        });
        users.extend(uses.map(|function| function.name.to_string()));
        users.truncate(USERS_NAMED_MAX);
        cursor = page.next_cursor;
        if cursor.is_none() || users.len() == USERS_NAMED_MAX {
            return Ok(users);
        }
    }
}

/// What a function gets that lists these layers: each as it is now, and all as one archive.
pub async fn resolve(api: &Api, names: &[LayerName]) -> Result<Layers, Problem> {
    let (mut versions, mut size) = (Vec::new(), 0);
    for (index, name) in names.iter().enumerate() {
        let layer = api.store.layer(name).await?.ok_or_else(|| {
            let hint = format!("upload it first with `nova layer publish {name} PATH`");
            let problem = format!("layer {name} does not exist");
            InvalidField::new(format!("layers[{index}]"), problem, hint)
        })?;
        size += layer.size;
        versions.push(LayerVersion { name: layer.name, hash: layer.hash });
    }
    // It also bounds what merging them takes.
    if size > UNPACKED_MAX_BYTES {
        let limit = UNPACKED_MAX_BYTES / (1024 * 1024);
        let hint = format!("leave out what the function does not need; {limit} MiB is the limit");
        return Err(InvalidField::new("layers", "too large together", hint).into());
    }
    let merged = match versions.as_slice() {
        [] => None,
        [only] => Some(only.hash.clone()),
        several => Some(merged(api, several).await?),
    };
    Ok(Layers { versions, merged })
}

async fn merged(api: &Api, versions: &[LayerVersion]) -> Result<CodeHash, Problem> {
    let _turn = api.code_jobs.acquire().await.map_err(|error| broken(&error))?;
    let mut archives = Vec::with_capacity(versions.len());
    for version in versions {
        archives.push(api.blobs.get(&version.hash).await.map_err(|error| broken(&error))?);
    }
    let merging = tokio::task::spawn_blocking(move || merge(&archives));
    let archive = merging.await.map_err(|error| broken(&error))??;
    api.blobs.put(archive.into()).await.map_err(|error| broken(&error))
}

fn not_found(name: &LayerName) -> Problem {
    let detail = format!("layer {name} does not exist; `nova layer list` shows those that do");
    Problem::new(ErrorCode::LayerNotFound, detail)
}

fn broken(error: &dyn std::fmt::Display) -> Problem {
    Problem::internal("a layer was not read or stored", error)
}
