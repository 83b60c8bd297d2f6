//! Bounds what the log takes by its size: time alone bounds nothing for a function that writes a lot.
//!
//! The newest lines stay. A look at the sizes takes a while, so it is not part of a write but runs beside
//! the writes, one at a time. SQLite does not give freed room back to the file system but uses it again.
use super::entity::log_line::{Column, Entity};
use super::unavailable;
use crate::store::StoreError;
use nova_domain::LogRecord;
use sea_orm::prelude::DateTimeUtc;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, DatabaseConnection, EntityTrait, FromQueryResult, QueryFilter, Statement,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// Most bytes of one function's log: days of a busy one, and an eighth of all, so that no function takes
/// the logs of the others away.
const FUNCTION_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Most bytes of all logs together: a small part of any server's disk.
const ALL_MAX_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// How many bytes are written from one look at the sizes to the next, each of which reads all lines. The
/// bounds are passed by as much.
const LOOK_EVERY_BYTES: u64 = 256 * 1024 * 1024;
/// Lines removed by one statement: in between others get to write.
const REMOVED_AT_ONCE: u64 = 5_000;
/// What a line takes beside its text: ids, time, and its part of the indexes.
const LINE_BYTES: u64 = 128;

/// Counts what is written. Nothing is known of what was there before, so the first line is a reason to look.
#[derive(Debug)]
pub(super) struct LogSize {
    since_last_look: AtomicU64,
    /// Held by who looks.
    looking: Arc<Mutex<()>>,
}

impl Default for LogSize {
    fn default() -> Self {
        Self { since_last_look: AtomicU64::new(LOOK_EVERY_BYTES), looking: Arc::default() }
    }
}

impl LogSize {
    /// To be called after these lines were written.
    pub fn grew(&self, db: &DatabaseConnection, lines: &[LogRecord]) {
        if lines.is_empty() {
            return;
        }
        let bytes: u64 = lines.iter().map(|line| LINE_BYTES + line.text.len() as u64).sum();
        let before = self.since_last_look.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes < LOOK_EVERY_BYTES {
            return;
        }
        // Where one is under way, the first line after it begins the next.
        let Ok(turn) = Arc::clone(&self.looking).try_lock_owned() else { return };
        self.since_last_look.store(0, Ordering::Relaxed);
        let db = db.clone();
        tokio::spawn(async move {
            if let Err(error) = cut(&db, FUNCTION_MAX_BYTES, ALL_MAX_BYTES).await {
                tracing::warn!(%error, "old lines of logs were not removed; tried again later");
            }
            drop(turn);
        });
    }
}

#[derive(FromQueryResult)]
struct OfFunction {
    function: String,
    until: DateTimeUtc,
}

#[derive(FromQueryResult)]
struct OfAll {
    until: Option<DateTimeUtc>,
}

/// Removes the oldest lines of each function, and then of all, until no more is left than may be.
async fn cut(db: &DatabaseConnection, function_max: u64, all_max: u64) -> Result<(), StoreError> {
    let size = format!("SUM(OCTET_LENGTH(text) + {LINE_BYTES})");
    let of_functions = format!(
        "SELECT function, MAX(time) AS until FROM (SELECT function, time, {size} OVER \
         (PARTITION BY function ORDER BY time DESC) AS newer FROM log_line) AS sized \
         WHERE newer > {function_max} GROUP BY function"
    );
    let of_all = format!(
        "SELECT MAX(time) AS until FROM (SELECT time, {size} OVER (ORDER BY time DESC) AS newer \
         FROM log_line) AS sized WHERE newer > {all_max}"
    );
    let ask = |sql| Statement::from_string(db.get_database_backend(), sql);
    let too_long = OfFunction::find_by_statement(ask(of_functions)).all(db).await;
    for OfFunction { function, until } in too_long.map_err(unavailable)? {
        remove(db, Column::Function.eq(function).and(Column::Time.lte(until))).await?;
    }
    let too_much = OfAll::find_by_statement(ask(of_all)).one(db).await.map_err(unavailable)?;
    if let Some(until) = too_much.and_then(|all| all.until) {
        remove(db, Column::Time.lte(until)).await?;
    }
    Ok(())
}

/// Removes these lines, some at a time.
async fn remove(db: &DatabaseConnection, old: Expr) -> Result<(), StoreError> {
    let key = [Column::RequestId, Column::Attempt, Column::Sequence];
    loop {
        let mut some = Query::select();
        some.columns(key).from(Entity).and_where(old.clone()).limit(REMOVED_AT_ONCE);
        let some = Expr::tuple(key.map(Expr::col)).in_subquery(some);
        let removed = Entity::delete_many().filter(some).exec(db).await.map_err(unavailable)?;
        if removed.rows_affected < REMOVED_AT_ONCE {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogFilter, SqlStore, Store};
    use chrono::{DateTime, Utc};
    use nova_domain::{FunctionName, LogStream, RequestId};
    use sea_orm::PaginatorTrait;

    fn line(function: &str, n: u32) -> LogRecord {
        LogRecord {
            function: FunctionName::parse(function).unwrap(),
            request_id: RequestId(uuid::Uuid::now_v7()),
            attempt: 1,
            sequence: n,
            time: DateTime::<Utc>::from_timestamp(i64::from(n), 0).unwrap(),
            stream: LogStream::Stderr,
            text: "x".repeat(1000 - LINE_BYTES as usize),
        }
    }

    #[tokio::test]
    async fn lines_are_written_while_the_sizes_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(&directory.path().join("nova.db")).await.unwrap();
        let due = || store.log_size.since_last_look.load(Ordering::Relaxed) >= LOOK_EVERY_BYTES;
        let look = Arc::clone(&store.log_size.looking).lock_owned().await;
        store.append_records(&[], &[line("f", 1)]).await.unwrap();
        assert!(due(), "there is one look at a time");
        drop(look);
        store.append_records(&[], &[line("f", 2)]).await.unwrap();
        assert!(!due(), "the next has begun");
    }

    #[tokio::test]
    async fn more_lines_than_one_statement_removes_go_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(&directory.path().join("nova.db")).await.unwrap();
        let lines: Vec<_> = (0..REMOVED_AT_ONCE as u32 * 2 + 10).map(|n| line("f", n)).collect();
        store.append_records(&[], &lines).await.unwrap();
        cut(&store.db, 10_000, u64::MAX >> 1).await.unwrap();
        let left = Entity::find().count(&store.db).await.unwrap();
        assert_eq!(left, 10);
    }

    #[tokio::test]
    async fn the_oldest_lines_go_first_of_the_longest_log() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(&directory.path().join("nova.db")).await.unwrap();
        let name = |text: &str| FunctionName::parse(text).unwrap();
        let mut lines: Vec<_> = (0..20).map(|n| line("long", n)).collect();
        lines.extend((0..5).map(|n| line("short", 100 + n)));
        store.append_records(&[], &lines).await.unwrap();
        let left = async |function: &str| {
            let function = name(function);
            let filter = LogFilter { function, request_id: None, contains: None, tail: 100 };
            let lines = store.logs(&filter).await.unwrap();
            lines.into_iter().map(|line| line.sequence).collect::<Vec<_>>()
        };
        cut(&store.db, 20_000, 25_000).await.unwrap();
        assert_eq!((left("long").await.len(), left("short").await.len()), (20, 5));
        cut(&store.db, 10_000, 25_000).await.unwrap();
        assert_eq!(left("long").await, (10..20).collect::<Vec<_>>());
        assert_eq!(left("short").await.len(), 5);
        cut(&store.db, 10_000, 8_000).await.unwrap();
        assert_eq!(left("long").await, [17, 18, 19]);
        assert_eq!(left("short").await.len(), 5);
    }
}
