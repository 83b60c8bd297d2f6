//! `/invocations`: the history of calls, newest first. No payloads, no outputs.
use super::Api;
use super::auth::Caller;
use super::path::{Paged, RequestPath, page, query};
use super::problem::{ErrorCode, Problem};
use axum::extract::{Extension, Request, State};
use axum::response::Json;
use chrono::{DateTime, Utc};
use nova_domain::{FunctionName, InvocationRecord, Phases, RequestId, Start, Trigger};
use nova_store::InvocationFilter;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvocationQuery {
    function: Option<String>,
    failed: Option<bool>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// One attempt of one call.
#[derive(Debug, Serialize)]
pub struct InvocationView {
    request_id: RequestId,
    attempt: u32,
    function: FunctionName,
    version: u64,
    trigger: Trigger,
    start: Option<Start>,
    duration_ms: f64,
    phases: Phases,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorView>,
    node: String,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Serialize)]
struct ErrorView {
    code: String,
    message: Option<String>,
}

/// `GET /invocations?function=&failed=&limit=&cursor=`
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Paged<InvocationView>>, Problem> {
    let InvocationQuery { function, failed, limit, cursor } = query(request.uri())?;
    let page = page(limit, cursor)?;
    let mut function =
        function.map(|name| FunctionName::parse(&name)).transpose().map_err(|mut error| {
            error.field = "function".to_owned();
            error
        })?;
    match (&function, caller.limited_to()) {
        (Some(function), _) => caller.check(function)?,
        (None, Some([only])) => function = Some(only.clone()),
        (None, Some(_)) => {
            let detail = "this key is limited to some functions; name one with ?function=";
            return Err(Problem::new(ErrorCode::Forbidden, detail));
        }
        (None, None) => {}
    }
    api.settle_records().await;
    let found = api.store.invocations(&InvocationFilter { function, failed }, &page).await?;
    Ok(Json(Paged {
        items: found.items.into_iter().map(InvocationView::from).collect(),
        next_cursor: found.next_cursor,
    }))
}

/// `GET /invocations/{request_id}`: the latest attempt. A call of a function that the key is not for
/// is not told from one that never was.
pub async fn get(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    RequestPath(id): RequestPath,
) -> Result<Json<InvocationView>, Problem> {
    api.settle_records().await;
    let attempts = api.store.invocation(id).await?;
    let latest = attempts.into_iter().find(|record| caller.may_use(&record.function));
    latest.map(|record| Json(record.into())).ok_or_else(|| {
        let detail = format!("no call {id} is known; records are kept for 30 days");
        Problem::new(ErrorCode::InvocationNotFound, detail)
    })
}

impl From<InvocationRecord> for InvocationView {
    fn from(record: InvocationRecord) -> Self {
        let message = record.error_message;
        Self {
            request_id: record.request_id,
            attempt: record.attempt,
            function: record.function,
            version: record.version,
            trigger: record.trigger,
            start: record.start,
            duration_ms: record.duration_ms,
            phases: record.phases,
            error: record.error_code.map(|code| ErrorView { code, message }),
            node: record.node,
            created_at: record.created_at,
        }
    }
}
