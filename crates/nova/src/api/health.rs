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

/// Free bytes of the data directory's disk below which the daemon counts as not ready: records, logs and
/// code of the next calls would soon find no room.
const DISK_FREE_MIN_BYTES: u64 = 64 * 1024 * 1024;

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
    /// Why it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `GET /health`
pub async fn get(State(api): State<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let Condition { code, status, problem } = Condition::of(&api).await;
    let mut warnings = api.backend.warnings.clone();
    warnings.extend(problem);
    let health = Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        backend: api.backend.name,
        backend_reason: api.backend.reason.clone(),
        warnings,
    };
    (code, Json(health))
}

/// `GET /health/live`: the process answers.
pub async fn live() -> Json<Brief> {
    Json(Brief { status: "ok", problem: None })
}

/// `GET /health/ready`: it can take calls.
pub async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Brief>) {
    let Condition { code, status, problem } = Condition::of(&api).await;
    (code, Json(Brief { status, problem }))
}

/// Whether it can take calls, and why not.
struct Condition {
    code: StatusCode,
    status: &'static str,
    problem: Option<String>,
}

impl Condition {
    async fn of(api: &Api) -> Self {
        let unready = |status, problem: String| {
            let problem = Some(problem);
            Self { code: StatusCode::SERVICE_UNAVAILABLE, status, problem }
        };
        if api.draining.is_cancelled() {
            return unready("draining", "the daemon is stopping".into());
        }
        if !matches!(tokio::time::timeout(PING_TIMEOUT, api.store.ping()).await, Ok(Ok(()))) {
            return unready("degraded", "the database does not answer".into());
        }
        let directory = &api.settings.data_dir;
        let disk = rustix::fs::statvfs(directory).map(|disk| disk.f_bavail * disk.f_frsize);
        let problem = match disk {
            Ok(free) => disk_problem(free),
            Err(error) => Some(format!("cannot be looked at: {error}")),
        };
        match problem {
            None => Self { code: StatusCode::OK, status: "ok", problem: None },
            Some(problem) => {
                unready("degraded", format!("the disk of the data directory {problem}"))
            }
        }
    }
}

fn disk_problem(free_bytes: u64) -> Option<String> {
    (free_bytes < DISK_FREE_MIN_BYTES).then(|| {
        let (free, wanted) = (free_bytes >> 20, DISK_FREE_MIN_BYTES >> 20);
        format!("is full: {free} MiB are free, {wanted} MiB have to be; remove what is not needed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_what_is_free() {
        assert_eq!(disk_problem(DISK_FREE_MIN_BYTES), None);
        let problem = disk_problem(3 << 20).unwrap();
        assert!(problem.contains("full: 3 MiB"), "{problem}");
    }
}
