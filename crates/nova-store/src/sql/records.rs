//! What is remembered of calls: one row each, and their log lines.
//!
//! No explicit transactions: each statement is its own, and repeating a batch is harmless. When the
//! disk is full SQLite rolls a transaction back by itself, the pool's connection does not notice,
//! and from then on holds locks that nobody releases.
use super::entity::{invocation, log_line};
use super::{convert, unavailable};
use crate::store::{InvocationFilter, LogFilter, Page, PageRequest, StoreError};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use nova_domain::{InvocationRecord, LogRecord, RequestId};
use sea_orm::sea_query::{Expr, ExprTrait, LikeExpr, OnConflict};
use sea_orm::{
    ColumnTrait, Condition, DatabaseConnection, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};
use uuid::Uuid;

/// Rows per INSERT: 12 columns each, below SQLite's 32,766 variables per statement.
const INSERT_ROWS: usize = 500;

/// The most log lines of one answer.
const LOG_TAIL_MAX: u32 = 10_000;

/// The most bytes of text of one answer, so that a question can't ask for a gigabyte: what eight calls
/// may log at most, or the lines of a million words.
const LOG_TAIL_MAX_BYTES: usize = 8 * 1024 * 1024;

pub(super) async fn append(
    db: &DatabaseConnection,
    invocations: &[InvocationRecord],
    logs: &[LogRecord],
) -> Result<(), StoreError> {
    for records in invocations.chunks(INSERT_ROWS) {
        insert_invocations(db, records).await?;
    }
    for lines in logs.chunks(INSERT_ROWS) {
        insert_logs(db, lines).await?;
    }
    Ok(())
}

async fn insert_invocations(
    db: &DatabaseConnection,
    records: &[InvocationRecord],
) -> Result<(), StoreError> {
    use invocation::{Column, Entity};
    let rows: Vec<_> = records
        .iter()
        .map(|record| Ok(convert::invocation_row(record)?.into_active_model()))
        .collect::<Result<_, StoreError>>()?;
    Entity::insert_many(rows)
        .on_conflict(
            OnConflict::columns([Column::RequestId, Column::Attempt]).do_nothing().to_owned(),
        )
        .exec_without_returning(db)
        .await
        .map(|_| ())
        .map_err(unavailable)
}

async fn insert_logs(db: &DatabaseConnection, lines: &[LogRecord]) -> Result<(), StoreError> {
    use log_line::{Column, Entity};
    let rows: Vec<_> = lines
        .iter()
        .map(|line| Ok(convert::log_row(line)?.into_active_model()))
        .collect::<Result<_, StoreError>>()?;
    Entity::insert_many(rows)
        .on_conflict(
            OnConflict::columns([Column::RequestId, Column::Attempt, Column::Sequence])
                .do_nothing()
                .to_owned(),
        )
        .exec_without_returning(db)
        .await
        .map(|_| ())
        .map_err(unavailable)
}

pub(super) async fn list(
    db: &DatabaseConnection,
    filter: &InvocationFilter,
    page: &PageRequest,
) -> Result<Page<InvocationRecord>, StoreError> {
    use invocation::{Column, Entity};
    let mut query = Entity::find()
        .order_by_desc(Column::RequestId)
        .order_by_desc(Column::Attempt)
        .limit(u64::from(page.limit) + 1);
    if let Some(function) = &filter.function {
        query = query.filter(Column::Function.eq(function.as_str()));
    }
    query = match filter.failed {
        Some(true) => query.filter(Column::ErrorCode.is_not_null()),
        Some(false) => query.filter(Column::ErrorCode.is_null()),
        None => query,
    };
    if let Some(cursor) = &page.cursor {
        let (id, attempt) = parse_cursor(cursor)?;
        let earlier = Condition::any()
            .add(Column::RequestId.lt(id))
            .add(Condition::all().add(Column::RequestId.eq(id)).add(Column::Attempt.lt(attempt)));
        query = query.filter(earlier);
    }
    let rows = query.all(db).await.map_err(unavailable)?;
    let items = rows.into_iter().map(convert::invocation).collect::<Result<_, _>>()?;
    Ok(Page::cut(items, page.limit, |record: &InvocationRecord| {
        format!("{}.{}", record.request_id, record.attempt)
    }))
}

fn parse_cursor(cursor: &str) -> Result<(Uuid, i32), StoreError> {
    cursor
        .split_once('.')
        .and_then(|(id, attempt)| Some((id.parse().ok()?, attempt.parse().ok()?)))
        .ok_or(StoreError::BadCursor)
}

pub(super) async fn get(
    db: &DatabaseConnection,
    id: RequestId,
) -> Result<Vec<InvocationRecord>, StoreError> {
    use invocation::{Column, Entity};
    let rows = Entity::find()
        .filter(Column::RequestId.eq(id.0))
        .order_by_desc(Column::Attempt)
        .all(db)
        .await
        .map_err(unavailable)?;
    rows.into_iter().map(convert::invocation).collect()
}

pub(super) async fn logs(
    db: &DatabaseConnection,
    filter: &LogFilter,
) -> Result<Vec<LogRecord>, StoreError> {
    use log_line::{Column, Entity};
    let mut query = Entity::find()
        .filter(Column::Function.eq(filter.function.as_str()))
        .order_by_desc(Column::Time)
        .order_by_desc(Column::RequestId)
        .order_by_desc(Column::Attempt)
        .order_by_desc(Column::Sequence)
        .limit(u64::from(Ord::min(filter.tail, LOG_TAIL_MAX)));
    if let Some(id) = filter.request_id {
        query = query.filter(Column::RequestId.eq(id.0));
    }
    if let Some(text) = &filter.contains {
        let pattern = LikeExpr::new(format!("%{}%", escape_like(text))).escape('\\');
        query = query.filter(Expr::col(Column::Text).like(pattern));
    }
    // One by one from the newest on, so that no more is in memory than is answered.
    let mut rows = query.stream(db).await.map_err(unavailable)?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await.map_err(unavailable)? {
        bytes += row.text.len();
        if bytes > LOG_TAIL_MAX_BYTES {
            break;
        }
        lines.push(convert::log(row)?);
    }
    lines.reverse();
    Ok(lines)
}

/// The user's text as text, not as a pattern.
fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

pub(super) async fn forget(
    db: &DatabaseConnection,
    before: DateTime<Utc>,
) -> Result<u64, StoreError> {
    log_line::Entity::delete_many()
        .filter(log_line::Column::Time.lt(before))
        .exec(db)
        .await
        .map_err(unavailable)?;
    let forgotten = invocation::Entity::delete_many()
        .filter(invocation::Column::CreatedAt.lt(before))
        .exec(db)
        .await
        .map_err(unavailable)?;
    Ok(forgotten.rows_affected)
}
