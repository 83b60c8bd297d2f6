//! `GET /functions/{name}/logs`: what a function wrote, newest last.
use super::Api;
use super::functions;
use super::path::{FunctionPath, Paged, query};
use super::problem::Problem;
use axum::extract::{Request, State};
use axum::response::Json;
use chrono::{DateTime, Utc};
use nova_domain::{InvalidField, LogRecord, LogStream, RequestId};
use nova_store::LogFilter;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Lines where the client names no number: a screen or two.
const TAIL_DEFAULT: u32 = 100;
/// Most lines of one answer; what the store gives at most.
const TAIL_MAX: u32 = 10_000;
/// Most bytes of a text to search for.
const SEARCH_MAX_BYTES: usize = 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    tail: Option<u32>,
    request_id: Option<Uuid>,
    q: Option<String>,
}

/// One line.
#[derive(Debug, Serialize)]
pub struct LogLineView {
    time: DateTime<Utc>,
    request_id: RequestId,
    attempt: u32,
    sequence: u32,
    stream: LogStream,
    text: String,
}

/// `GET /functions/{name}/logs?tail=&request_id=&q=`. Lines outlive their function: 404 only where
/// there is neither.
pub async fn get(
    State(api): State<Arc<Api>>,
    FunctionPath(function): FunctionPath,
    request: Request,
) -> Result<Json<Paged<LogLineView>>, Problem> {
    let LogQuery { tail, request_id, q } = query(request.uri())?;
    let tail = tail.unwrap_or(TAIL_DEFAULT);
    if !(1..=TAIL_MAX).contains(&tail) {
        let hint = format!("give a number from 1 to {TAIL_MAX}");
        return Err(InvalidField::new("tail", format!("{tail} is out of range"), hint).into());
    }
    if q.as_ref().is_some_and(|text| text.len() > SEARCH_MAX_BYTES) {
        let hint = format!("search for at most {SEARCH_MAX_BYTES} bytes");
        return Err(InvalidField::new("q", "too long", hint).into());
    }
    let filter = LogFilter {
        function,
        request_id: request_id.map(RequestId),
        contains: q.filter(|text| !text.is_empty()),
        tail,
    };
    api.settle_records().await;
    let lines = api.store.logs(&filter).await?;
    if lines.is_empty() {
        functions::find(&api, &filter.function).await?;
    }
    Ok(Json(Paged::whole(lines.into_iter().map(LogLineView::from).collect())))
}

impl From<LogRecord> for LogLineView {
    fn from(record: LogRecord) -> Self {
        let LogRecord { function: _, request_id, attempt, sequence, time, stream, text } = record;
        Self { time, request_id, attempt, sequence, stream, text }
    }
}
