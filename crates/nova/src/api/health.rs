//! `/health`, `/health/live`, `/health/ready`: for load balancers and people; no key needed.
use super::Api;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How long the store may take to answer before the daemon counts as not ready.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How the daemon is.
#[derive(Debug, Serialize)]
pub struct Health {
    /// `ok`, `degraded` or `draining`.
    status: &'static str,
    version: &'static str,
    backend: &'static str,
    /// Why this backend was chosen.
    backend_reason: String,
    /// What is weaker than it could be.
    warnings: Vec<String>,
}

/// The answer of the two short checks.
#[derive(Debug, Serialize)]
pub struct Brief {
    status: &'static str,
}

/// `GET /health`
pub async fn get(State(api): State<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let (code, status) = status(&api).await;
    let health = Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        backend: api.backend.name,
        backend_reason: api.backend.reason.clone(),
        warnings: api.backend.warnings.clone(),
    };
    (code, Json(health))
}

/// `GET /health/live`: the process answers.
pub async fn live() -> Json<Brief> {
    Json(Brief { status: "ok" })
}

/// `GET /health/ready`: it can take calls.
pub async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Brief>) {
    let (code, status) = status(&api).await;
    (code, Json(Brief { status }))
}

async fn status(api: &Api) -> (StatusCode, &'static str) {
    if api.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    match tokio::time::timeout(PING_TIMEOUT, api.store.ping()).await {
        Ok(Ok(())) => (StatusCode::OK, "ok"),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
    }
}
