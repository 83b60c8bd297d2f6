//! `/functions`: create, list, look at, change, delete.
//!
//! Everything about a function is checked before anything is written: fields, the runtime, the
//! secrets that it names, the code. Code goes to the blobs first and the row last; a blob that no row
//! names is removed some time later.
use super::auth::Caller;
use super::bodies::Held;
use super::body::{self, Limit, Received};
use super::change::{check_references, deploy};
use super::code::{self, StoredCode};
use super::function_body::{FunctionBody, FunctionView};
use super::path::{FunctionPath, PageQuery, Paged, query};
use super::problem::{ErrorCode, Problem};
use super::{Api, to_the_end};
use super::{layers, runtimes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use chrono::Utc;
use nova_domain::{Build, Function, FunctionConfig, FunctionName, InvalidField, Layers, RuntimeId};
use nova_store::{Page, PageRequest, StoreError};
use nova_vm::images::code::UPLOAD_MAX_BYTES;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// A body with code in it: base64 takes four bytes for three, the other fields a few hundred KiB.
const BODY_LIMIT: Limit = Limit {
    bytes: UPLOAD_MAX_BYTES / 3 * 4 + 512 * 1024,
    what: "the body",
    code: ErrorCode::PayloadTooLarge,
};

/// `POST /functions`
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let (body, held) = read_body(&api, request).await?;
    to_the_end(async move {
        let created = create_from(&api, &caller, body).await;
        drop(held);
        created
    })
    .await
}

async fn create_from(
    api: &Api,
    caller: &Caller,
    mut body: FunctionBody,
) -> Result<Response, Problem> {
    let missing = |field: &str, hint: &str| InvalidField::new(field, "missing", hint);
    let name = body.name.take().ok_or_else(|| missing("name", "give the function a name"))?;
    let name = FunctionName::parse(&name)?;
    caller.check(&name)?;
    let runtime = body.runtime.as_deref();
    let runtime = runtime.ok_or_else(|| missing("runtime", "`nova runtime list` shows them"))?;
    let mut config = FunctionConfig::new(RuntimeId::parse(runtime)?);
    // What was found in somebody's own image, where nothing else was said. A runtime that is not here is
    // refused with whatever else is wrong.
    let own = runtimes::find(api, &config.runtime).await.ok().and_then(|image| image.own);
    body.mode = body.mode.or(own.as_ref().map(|own| own.mode));
    let (code, code_path) = (body.code.take(), body.code_path.take());
    let layers = given_layers(api, &mut body).await?;
    config.layers = layers.unwrap_or_default();
    body.apply(&mut config).map_err(|errors| Problem::fields(ErrorCode::InvalidField, errors))?;
    check_references(api, &name, &config).await?;
    if api.store.function(&name).await?.is_some() {
        return Err(exists(&name));
    }
    let stored = match code::store_given(api, code, code_path, &config).await? {
        Some(stored) => stored,
        None if own.is_some() => StoredCode::Program(code::store_none(api).await?),
        None => {
            let hint = "give `code` as text, or as {\"archive\": base64}";
            return Err(missing("code", hint).into());
        }
    };
    let (code_hash, build) = match stored {
        StoredCode::Program(hash) => (hash, None),
        StoredCode::ToBuild(kind, hash) => {
            (hash.clone(), Some(Build::pending(kind, hash, config.clone())))
        }
    };
    let now = Utc::now();
    let function = Function {
        id: Uuid::now_v7(),
        name,
        config,
        code_hash,
        build,
        revision: 1,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    match api.store.create_function(&function).await {
        Err(StoreError::Exists { .. }) => return Err(exists(&function.name)),
        other => other?,
    }
    api.executor.functions_changed(&function.name).await;
    api.builds.submit(function.clone());
    let location = HeaderValue::from_str(&format!("/functions/{}", function.name));
    let mut response = (StatusCode::CREATED, Json(FunctionView::from(function))).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /functions`
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Paged<FunctionView>>, Problem> {
    let page = query::<PageQuery>(request.uri())?.page()?;
    let found = match caller.limited_to() {
        Some(names) => those_of(&api, names, &page).await?,
        None => api.store.functions(&page).await?,
    };
    let items = found.items.into_iter().map(FunctionView::listed).collect();
    Ok(Json(Paged { items, next_cursor: found.next_cursor }))
}

/// A page of the functions that have these names. The other functions are not even looked at: a cursor
/// made of all of them would tell their names.
async fn those_of(
    api: &Api,
    names: &[FunctionName],
    page: &PageRequest,
) -> Result<Page<Function>, Problem> {
    let after = page.cursor.as_deref();
    let names: BTreeMap<&str, &FunctionName> =
        names.iter().map(|name| (name.as_str(), name)).collect();
    let mut items: Vec<Function> = Vec::new();
    for (_, name) in names.into_iter().filter(|(name, _)| after.is_none_or(|after| *name > after)) {
        let Some(function) = api.store.function(name).await? else { continue };
        if items.len() == page.limit as usize {
            let next_cursor = items.last().map(|last| last.name.to_string());
            return Ok(Page { items, next_cursor });
        }
        items.push(function);
    }
    Ok(Page { items, next_cursor: None })
}

/// `GET /functions/{name}`
pub async fn get(
    State(api): State<Arc<Api>>,
    FunctionPath(name): FunctionPath,
) -> Result<Json<FunctionView>, Problem> {
    Ok(Json(find(&api, &name).await?.into()))
}

/// `PATCH /functions/{name}`
pub async fn update(
    State(api): State<Arc<Api>>,
    FunctionPath(name): FunctionPath,
    request: Request,
) -> Result<Json<FunctionView>, Problem> {
    let (body, held) = read_body(&api, request).await?;
    to_the_end(async move {
        let updated = update_from(&api, &name, body).await;
        drop(held);
        updated
    })
    .await
}

async fn update_from(
    api: &Api,
    name: &FunctionName,
    mut body: FunctionBody,
) -> Result<Json<FunctionView>, Problem> {
    if body.name.take().is_some_and(|given| given != name.as_str()) {
        let hint = "create a function of the new name and delete this one";
        return Err(InvalidField::new("name", "a function cannot be renamed", hint).into());
    }
    let before = find(api, name).await?;
    let (code, code_path) = (body.code.take(), body.code_path.take());
    let layers = given_layers(api, &mut body).await?;
    let apply = |config: &mut FunctionConfig| {
        if let Some(layers) = &layers {
            config.layers = layers.clone();
        }
        let applied = body.clone().apply(config);
        applied.map_err(|errors| Problem::fields(ErrorCode::InvalidField, errors))
    };
    let mut config = before.config;
    apply(&mut config)?;
    let stored = code::store_given(api, code, code_path, &config).await?;
    Ok(Json(deploy(api, name, stored, apply).await?.into()))
}

/// `DELETE /functions/{name}`
pub async fn delete(
    State(api): State<Arc<Api>>,
    FunctionPath(name): FunctionPath,
) -> Result<StatusCode, Problem> {
    to_the_end(async move {
        match api.store.delete_function(&name).await {
            Err(StoreError::NotFound { .. }) => return Err(not_found(&name)),
            other => other?,
        }
        api.builds.cancel(&name);
        api.executor.functions_changed(&name).await;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// The function of that name, or 404.
pub async fn find(api: &Api, name: &FunctionName) -> Result<Function, Problem> {
    api.store.function(name).await?.ok_or_else(|| not_found(name))
}

/// 404 for a function.
pub fn not_found(name: &FunctionName) -> Problem {
    let detail = format!("function {name} does not exist; `nova list` shows those that do");
    Problem::new(ErrorCode::FunctionNotFound, detail)
}

fn exists(name: &FunctionName) -> Problem {
    let detail = format!("function {name} exists already; change it with `nova update {name}`");
    Problem::new(ErrorCode::FunctionExists, detail)
}

/// The layers that the body names, as they are now; `None` where it names none.
async fn given_layers(api: &Api, body: &mut FunctionBody) -> Result<Option<Layers>, Problem> {
    let Some(names) = body.layers.take() else { return Ok(None) };
    layers::resolve(api, &Layers::parse_names(&names)?).await.map(Some)
}

/// The body and the room that the code in it takes.
async fn read_body(api: &Api, request: Request) -> Result<(FunctionBody, Held), Problem> {
    let (parts, body) = request.into_parts();
    let Received { bytes, held } =
        body::read(&api.bodies, &parts.headers, body, BODY_LIMIT).await?;
    Ok((body::json(&bytes)?, held))
}
