//! The HTTP API: one table of routes, each with what it asks of its callers.
//!
//! ```text
//!  request ─▶ Host check ─▶ route ─▶ guard (key, role, function) ─▶ handler ─▶ answer or Problem
//! ```
//!
//! A route without an [`Access`] cannot be written down. Bodies are read by the handlers, within
//! limits of their own; all errors are [`problem::Problem`]s.
mod auth;
mod bodies;
mod body;
mod builds;
mod change;
mod code;
mod code_list;
mod function_body;
mod functions;
mod handler;
mod health;
mod host_header;
mod invocations;
mod invoke;
mod layers;
mod logs;
mod metrics;
mod object;
mod path;
mod problem;
mod runtimes;
mod secrets;
mod source;
mod stats;
#[cfg(test)]
mod tests;

use auth::Access;
pub use auth::KeyRing;
use auth::Scope::{AllFunctions, Narrowed, NoFunction, PathFunction};
use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
pub use bodies::Bodies;
pub use code::CODE_JOBS;
use futures::FutureExt;
pub use host_header::AllowedHosts;
pub use invoke::CLI_USER_AGENT_PREFIX;
use nova_engine::{Builds, Executor};
use nova_store::{Blobs, Role, SecretVault, Store};
use nova_vm::images::RuntimeCatalog;
use problem::{ErrorCode, Problem};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a reader of logs and records waits for what has ended already to be written. Longer means
/// that the store is away, and it says so itself.
const RECORDS_WAIT: Duration = Duration::from_secs(1);

/// What the handlers work with.
pub struct Api {
    /// Metadata.
    pub store: Arc<dyn Store>,
    /// Code archives.
    pub blobs: Arc<dyn Blobs>,
    /// Secrets.
    pub vault: SecretVault,
    /// Runs calls.
    pub executor: Executor,
    /// Builds what is source.
    pub builds: Builds,
    /// Runtime images of this host.
    pub catalog: Arc<RuntimeCatalog>,
    /// API keys.
    pub keys: KeyRing,
    /// Where calls run, and why there.
    pub backend: Backend,
    /// From the configuration.
    pub settings: Settings,
    /// The room for what clients send.
    pub bodies: Bodies,
    /// Turns at unpacking uploads, [`CODE_JOBS`] of them.
    pub code_jobs: Semaphore,
    /// Cancelled when the daemon begins to stop.
    pub draining: CancellationToken,
}

impl Api {
    /// Waits for the records of calls that have ended: who has just called and now looks for the log
    /// finds it.
    async fn settle_records(&self) {
        if !self.executor.records_written(RECORDS_WAIT).await {
            tracing::warn!("logs and records are read while the newest are not written yet");
        }
    }
}

/// The isolation backend as clients see it.
#[derive(Debug, Clone)]
pub struct Backend {
    /// `firecracker`, `container` or `none`.
    pub name: &'static str,
    /// Why this one.
    pub reason: String,
    /// What is weaker than it could be.
    pub warnings: Vec<String>,
}

/// The part of the configuration that concerns requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// False only with `--insecure-no-auth`.
    pub authentication: bool,
    /// Names that a `Host` header may have.
    pub hosts: AllowedHosts,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Directories below which `code_path` is honoured.
    pub code_paths: Vec<PathBuf>,
}

/// One line of the table.
struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "for the test of the table"))]
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<Arc<Api>>,
}

impl Route {
    fn new<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Arc<Api>>,
        T: 'static,
    {
        // Fails only for methods that HTTP does not define; a route without a filter has no method.
        let filter = MethodFilter::try_from(method.clone()).ok();
        let handler = filter.map(|filter| MethodRouter::new().on(filter, handler));
        Self { method, path, access, handler: handler.unwrap_or_default() }
    }
}

/// Every route. The role is the least that may use it.
fn routes() -> Vec<Route> {
    use Method as M;
    use Role::{Deploy, Invoke, Read};
    let key = Access::Key;
    vec![
        Route::new(M::GET, "/functions", key(Read, Narrowed), functions::list),
        Route::new(M::POST, "/functions", key(Deploy, Narrowed), functions::create),
        Route::new(M::GET, "/functions/{name}", key(Read, PathFunction), functions::get),
        Route::new(M::PATCH, "/functions/{name}", key(Deploy, PathFunction), functions::update),
        Route::new(M::DELETE, "/functions/{name}", key(Deploy, PathFunction), functions::delete),
        Route::new(M::GET, "/functions/{name}/code", key(Deploy, PathFunction), code::get),
        Route::new(M::PUT, "/functions/{name}/code", key(Deploy, PathFunction), code::put),
        Route::new(M::GET, "/functions/{name}/build", key(Read, PathFunction), builds::get),
        Route::new(M::POST, "/functions/{name}/invoke", key(Invoke, PathFunction), invoke::invoke),
        Route::new(M::GET, "/functions/{name}/logs", key(Read, PathFunction), logs::get),
        Route::new(M::GET, "/invocations", key(Read, Narrowed), invocations::list),
        Route::new(M::GET, "/invocations/{request_id}", key(Read, Narrowed), invocations::get),
        Route::new(M::GET, "/runtimes", key(Read, NoFunction), runtimes::list),
        Route::new(M::GET, "/secrets", key(Deploy, AllFunctions), secrets::list),
        Route::new(M::GET, "/secrets/{secret}", key(Deploy, AllFunctions), secrets::get),
        Route::new(M::PUT, "/secrets/{secret}", key(Deploy, AllFunctions), secrets::put),
        Route::new(M::DELETE, "/secrets/{secret}", key(Deploy, AllFunctions), secrets::delete),
        Route::new(M::GET, "/layers", key(Read, NoFunction), layers::list),
        Route::new(M::GET, "/layers/{layer}", key(Read, NoFunction), layers::get),
        Route::new(M::PUT, "/layers/{layer}", key(Deploy, AllFunctions), layers::put),
        Route::new(M::DELETE, "/layers/{layer}", key(Deploy, AllFunctions), layers::delete),
        Route::new(M::GET, "/stats", key(Read, AllFunctions), stats::get),
        Route::new(M::GET, "/metrics", key(Read, AllFunctions), metrics::json),
        Route::new(M::GET, "/metrics/prometheus", key(Read, AllFunctions), metrics::prometheus),
        Route::new(M::GET, "/health", Access::Open, health::get),
        Route::new(M::GET, "/health/live", Access::Open, health::live),
        Route::new(M::GET, "/health/ready", Access::Open, health::ready),
    ]
}

/// The whole API as a service.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for Route { method: _, path, access, handler } in routes() {
        let guard = from_fn_with_state((api.clone(), access), auth::guard);
        router = router.route(path, handler.route_layer(guard));
    }
    let hosts = Arc::new(api.settings.hosts.clone());
    router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(hosts, host_header::check))
        .layer(from_fn(catch_panic))
        .with_state(api)
}

/// Runs a change to its end even when the client goes away in between: what was stored must also
/// reach the engine, or the next call would run the old state.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::spawn(change).await;
    done.unwrap_or_else(|error| Err(Problem::internal("a change was not completed", &error)))
}

async fn no_route(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(100).collect();
    Problem::new(ErrorCode::RouteNotFound, format!("there is nothing at {path}"))
}

async fn wrong_method(request: Request) -> Problem {
    let detail = format!("{} is not possible here; see `Allow`", request.method());
    Problem::new(ErrorCode::MethodNotAllowed, detail)
}

/// A bug in a handler costs its own request, not the connection.
async fn catch_panic(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Problem::new(ErrorCode::Internal, "a handler failed; the daemon's log says more")
            .into_response(),
    }
}
