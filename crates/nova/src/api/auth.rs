//! Who may do what. A request carries a key (`Authorization: Bearer` or `X-API-Key`); the route it
//! reaches says which role it takes and how keys that are limited to some functions are treated.
//!
//! Keys are kept in memory once seen, so that a warm call makes no query. Everything fails closed: no
//! key, a malformed, unknown or expired one, or a store that does not answer means no.
use super::Api;
use super::problem::{ErrorCode, Problem};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use nova_domain::FunctionName;
use nova_store::{ApiKey, ApiKeyText, Role, Store, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Keys kept in memory. An installation has tens; beyond this some are looked up again.
const CACHE_MAX_KEYS: usize = 1024;

/// What a route asks of its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// No key: for health checks.
    Open,
    /// A key of at least this role.
    Key(Role, Scope),
}

/// What a route means for a key that is limited to some functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The function in the path must be one of the key's.
    PathFunction,
    /// The handler shows or takes only the key's functions.
    Narrowed,
    /// Nothing about functions is shown or changed.
    NoFunction,
    /// It concerns all functions: not for a limited key.
    AllFunctions,
}

/// Who is calling; handlers get it as an extension.
#[derive(Debug, Clone)]
pub struct Caller {
    key: Option<Arc<ApiKey>>,
}

impl Caller {
    /// Whether the caller may know of this function.
    pub fn may_use(&self, function: &FunctionName) -> bool {
        self.limited_to().is_none_or(|functions| functions.contains(function))
    }

    /// The functions the caller is limited to; `None` means no limit.
    pub fn limited_to(&self) -> Option<&[FunctionName]> {
        self.key.as_ref().map(|key| key.functions.as_slice()).filter(|list| !list.is_empty())
    }

    /// Refuses what concerns a function that is not the caller's.
    pub fn check(&self, function: &FunctionName) -> Result<(), Problem> {
        if self.may_use(function) {
            return Ok(());
        }
        let detail = format!("this key is not for function {function}; use one that lists it");
        Err(Problem::new(ErrorCode::Forbidden, detail))
    }
}

/// The keys that were seen, over the store that has them all.
pub struct KeyRing {
    store: Arc<dyn Store>,
    seen: Mutex<HashMap<String, Arc<ApiKey>>>,
}

impl KeyRing {
    /// An empty ring over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, seen: Mutex::default() }
    }

    async fn find(&self, id: &str) -> Result<Option<Arc<ApiKey>>, StoreError> {
        if let Some(key) = self.seen().get(id) {
            return Ok(Some(key.clone()));
        }
        let Some(key) = self.store.api_key(id).await?.map(Arc::new) else { return Ok(None) };
        let mut seen = self.seen();
        if seen.len() >= CACHE_MAX_KEYS {
            seen.clear();
        }
        seen.insert(id.to_owned(), key.clone());
        Ok(Some(key))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<ApiKey>>> {
        // A panic while the map was held cannot leave it half changed.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layer of one route: lets a request through to the handler, with its [`Caller`], or answers.
pub async fn guard(
    State((api, access)): State<(Arc<Api>, Access)>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match access {
        Access::Open => Ok(Caller { key: None }),
        Access::Key(..) if !api.settings.authentication => {
            not_from_another_site(request.headers()).map(|()| Caller { key: None })
        }
        Access::Key(role, scope) => {
            // A path that is no text names no function; the handler says what is wrong with it.
            let mut names = params.iter().flat_map(|params| params.iter());
            let function = names.find(|(name, _)| *name == "name").map(|(_, name)| name);
            authorize(&api, request.headers(), role, scope, function).await
        }
    };
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Without keys every program of this host may call, but no page of somebody else's that a browser of
/// this host shows: browsers say where a request comes from.
fn not_from_another_site(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let same_site =
        text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let own = format!("http://{}", text("host").unwrap_or_default());
    if same_site && text("origin").is_none_or(|origin| origin == own) {
        return Ok(());
    }
    let detail = "a web page of another site may not use a daemon that asks for no key; start it \
                  without --insecure-no-auth";
    Err(Problem::new(ErrorCode::Forbidden, detail))
}

async fn authorize(
    api: &Api,
    headers: &HeaderMap,
    role: Role,
    scope: Scope,
    function: Option<&str>,
) -> Result<Caller, Problem> {
    let text = presented(headers)?;
    let wrong = || {
        Problem::new(ErrorCode::Unauthenticated, "the API key is not known here, or has expired")
    };
    let key = api.keys.find(text.id()).await?.ok_or_else(wrong)?;
    let expired = key.expires_at.is_some_and(|end| end <= Utc::now());
    if !text.opens(&key) || expired {
        return Err(wrong());
    }
    if key.role < role {
        let detail = format!(
            "this needs the role {}, the key {} has the role {}",
            role_name(role),
            key.id,
            role_name(key.role)
        );
        return Err(Problem::new(ErrorCode::Forbidden, detail));
    }
    let caller = Caller { key: Some(key) };
    match (scope, caller.limited_to()) {
        (_, None) | (Scope::Narrowed | Scope::NoFunction, Some(_)) => {}
        (Scope::PathFunction, Some(functions)) => {
            let named = function.and_then(|name| functions.iter().find(|f| f.as_str() == name));
            if named.is_none() {
                let detail = "this key is limited to other functions";
                return Err(Problem::new(ErrorCode::Forbidden, detail));
            }
        }
        (Scope::AllFunctions, Some(_)) => {
            let detail = "this concerns all functions, and the key is limited to some";
            return Err(Problem::new(ErrorCode::Forbidden, detail));
        }
    }
    Ok(caller)
}

fn presented(headers: &HeaderMap) -> Result<ApiKeyText, Problem> {
    let bearer = headers.get(header::AUTHORIZATION).map(|value| {
        let text = value.to_str().unwrap_or_default();
        let (scheme, key) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("bearer") { key.trim() } else { "" }
    });
    let plain = headers.get("x-api-key").map(|value| value.to_str().unwrap_or_default().trim());
    let Some(text) = bearer.or(plain) else {
        let detail = "send a key as `Authorization: Bearer nova_...` or `X-API-Key: nova_...`; \
                      the first one is in <data-dir>/admin.key";
        return Err(Problem::new(ErrorCode::Unauthenticated, detail));
    };
    ApiKeyText::parse(text)
        .map_err(|error| Problem::new(ErrorCode::Unauthenticated, error.to_string()))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Invoke => "invoke",
        Role::Deploy => "deploy",
        Role::Admin => "admin",
    }
}
