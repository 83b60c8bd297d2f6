//! Functions whose code is source: what of it is refused at once, and `GET /functions/{name}/build`.
use super::Api;
use super::functions;
use super::path::{FunctionPath, query};
use super::problem::{ErrorCode, Problem};
use super::runtimes;
use super::source::Rules;
use axum::extract::{Request, State};
use axum::response::Json;
use nova_domain::{Build, BuildStatus, FunctionConfig, FunctionName, RuntimeId};
use nova_vm::images::shipped_toolchains;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::future::FutureExt;

/// How long a reader of a log waits for more of it, before it is told that there is none yet: less
/// than proxies cut off an answer after.
const FOLLOW_WAIT: Duration = Duration::from_secs(20);

/// The last build of a function, as its clients see it.
#[derive(Debug, Serialize)]
pub struct BuildView {
    status: BuildStatus,
    error: Option<String>,
    /// The end of what it wrote; not in lists, which would be many times as long with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Vec<String>>,
}

impl From<Build> for BuildView {
    fn from(build: Build) -> Self {
        Self { status: build.status, error: build.error, log: Some(build.log) }
    }
}

impl BuildView {
    /// As it is in a list.
    pub fn without_log(self) -> Self {
        Self { log: None, ..self }
    }
}

/// What can be built for a runtime: from source always, or it is refused; the rest where it is installed.
pub async fn rules(api: &Api, runtime: &RuntimeId) -> Result<Rules, Problem> {
    let mut shipped = shipped_toolchains()
        .map_err(|error| Problem::internal("a build.toml is faulty", &error))?;
    let by_image = || api.catalog.get(runtime).map(|image| image.id);
    let Some(toolchain) = shipped.remove(runtime).or_else(|| shipped.remove(&by_image()?)) else {
        return Ok(Rules::default());
    };
    if api.catalog.builder_for(runtime).is_none() {
        // It may have been added since anybody looked.
        runtimes::reload(api).await?;
    }
    let installed = api.catalog.builder_for(runtime).map(|builder| builder.build);
    let (dependencies, precompile) =
        installed.map(|build| (build.dependencies, build.precompile)).unwrap_or_default();
    Ok(Rules { source: toolchain.source, dependencies, precompile })
}

/// Refuses source for which there is no compiler here.
pub fn check_builder(api: &Api, config: &FunctionConfig) -> Result<(), Problem> {
    let runtime = &config.runtime;
    if api.catalog.builder_for(runtime).is_some() {
        return Ok(());
    }
    let image = api.catalog.get(runtime).map(|image| image.id);
    let own = shipped_toolchains().is_ok_and(|shipped| shipped.contains_key(runtime));
    let language = image.filter(|_| !own).unwrap_or_else(|| runtime.clone());
    let detail = format!(
        "the code is source, and no compiler for {runtime} is installed; add it with \
         `nova runtime add --builder {language}`, or upload the compiled program"
    );
    Err(Problem::new(ErrorCode::BuilderNotInstalled, detail))
}

/// 409 for a change of a function that is being built.
pub fn in_progress(name: &FunctionName) -> Problem {
    let detail = format!(
        "function {name} is being built; change it when `nova get {name}` shows that it is done"
    );
    Problem::new(ErrorCode::BuildInProgress, detail).retry_after(1)
}

/// Where a reader of the log is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    /// The number of the first line that is wanted.
    after: Option<usize>,
    /// Whether to wait for one.
    wait: Option<bool>,
}

/// A part of the log of the last build.
#[derive(Debug, Serialize)]
pub struct BuildLogView {
    status: BuildStatus,
    error: Option<String>,
    lines: Vec<String>,
    /// What to ask for next.
    next: usize,
}

/// What comes within [`FOLLOW_WAIT`], or before the daemon stops: nothing new is an answer as well.
async fn awaited<T>(api: &Api, what: impl Future<Output = T>) -> Option<T> {
    let what = timeout(FOLLOW_WAIT, what);
    what.with_cancellation_token(&api.draining).await?.ok()
}

/// `GET /functions/{name}/build`: the log of the last build from line `after` on, while it grows.
pub async fn get(
    State(api): State<Arc<Api>>,
    FunctionPath(name): FunctionPath,
    request: Request,
) -> Result<Json<BuildLogView>, Problem> {
    let LogQuery { after, wait } = query(request.uri())?;
    let from = after.unwrap_or(0);
    let build_of = async || {
        let none = || {
            let detail = format!("the code of function {name} is run as it is; nothing was built");
            Problem::new(ErrorCode::BuildNotFound, detail)
        };
        functions::find(&api, &name).await?.build.ok_or_else(none)
    };
    let waits = wait == Some(true);
    let mut build = build_of().await?;
    let mut log = api.builds.log(&name, &build.source);
    if log.is_none() && waits && build.status == BuildStatus::Pending {
        log = awaited(&api, api.builds.log_begun(&name, &build.source)).await;
        build = build_of().await?;
    }
    let Some(log) = log else {
        // Of an earlier daemon's build only the end is left.
        let lines: Vec<String> = build.log.iter().skip(from).cloned().collect();
        let next = build.log.len();
        return Ok(Json(BuildLogView { status: build.status, error: build.error, lines, next }));
    };
    if waits {
        awaited(&api, log.changed(from)).await;
    }
    let part = log.part(from);
    // The end of a build is in the store before its log ends.
    let build = if part.ended { build_of().await? } else { build };
    let (lines, next) = (part.lines, part.next);
    Ok(Json(BuildLogView { status: build.status, error: build.error, lines, next }))
}
