//! [`Store`] in SQL through SeaORM, so that SQLite and later PostgreSQL share one code path. Rows are
//! their own types ([`entity`]); conversion to the vocabulary happens in [`convert`].
//!
//! No method reads before it writes: compare-and-set is one statement, so two writers can't meet in
//! between, and SQLite never has to upgrade a read lock.
mod convert;
mod entity;
mod functions;
mod keys;
mod layers;
mod log_size;
mod migration;
mod records;
mod secrets;

use crate::store::{InvocationFilter, LogFilter, Page, PageRequest, SealedSecret};
use crate::{ApiKey, Store, StoreError};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use log_size::LogSize;
use nova_domain::{
    CodeHash, Function, FunctionName, InvocationRecord, Layer, LayerName, LogRecord, RequestId,
    SecretName,
};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, SqlErr};
use sea_orm_migration::MigratorTrait;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Connections to the SQLite file: readers beside the one writer that SQLite allows.
const SQLITE_CONNECTIONS_MAX: u32 = 4;

/// How long a writer waits for another before it gives up; a batch of records takes milliseconds.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of a daemon waits for statements under way: a look at the sizes of logs can take longer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A store in a SQL database.
#[derive(Debug, Clone)]
pub struct SqlStore {
    db: DatabaseConnection,
    log_size: Arc<LogSize>,
}

impl SqlStore {
    /// Opens the SQLite file, making and migrating it as needed. A file that a newer Nova has
    /// migrated further is refused.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new("sqlite::memory:");
        let file = path.to_owned();
        options.max_connections(SQLITE_CONNECTIONS_MAX).sqlx_logging(false).map_sqlx_sqlite_opts(
            move |sqlite| {
                use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
                sqlite
                    .filename(&file)
                    .in_memory(false)
                    .shared_cache(false)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // In WAL mode NORMAL survives a crash of Nova; only a power cut may lose the
                    // last transactions, never the file.
                    .synchronous(SqliteSynchronous::Normal)
                    .foreign_keys(true)
                    .busy_timeout(SQLITE_BUSY_TIMEOUT)
            },
        );
        let db = Database::connect(options).await.map_err(unavailable)?;
        migration::Migrator::up(&db, None).await.map_err(|error| {
            StoreError::Unavailable(format!("{} cannot be migrated: {error}", path.display()))
        })?;
        Ok(Self { db, log_size: Arc::default() })
    }

    /// Closes the database for all clones, which leaves its file whole: until then SQLite keeps the
    /// latest changes in a second one beside it. To be called when nobody writes any more.
    ///
    /// # Errors
    /// When a statement is still under way after ten seconds: it ends with the process, without harm.
    pub async fn close(&self) -> Result<(), StoreError> {
        let closed = timeout(CLOSE_TIMEOUT, self.db.close_by_ref()).await;
        let late = |_| StoreError::Unavailable("a statement is still under way".into());
        closed.map_err(late)?.map_err(unavailable)
    }
}

/// A database error that is nobody's fault but the database's.
fn unavailable(error: DbErr) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// An error of an insert, where a unique key says that `what` exists.
fn exists_or_unavailable(error: DbErr, what: String) -> StoreError {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(_)) => StoreError::Exists { what },
        _ => unavailable(error),
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn create_function(&self, function: &Function) -> Result<(), StoreError> {
        functions::create(&self.db, function).await
    }

    async fn function(&self, name: &FunctionName) -> Result<Option<Function>, StoreError> {
        functions::get(&self.db, name).await
    }

    async fn functions(&self, page: &PageRequest) -> Result<Page<Function>, StoreError> {
        functions::list(&self.db, page).await
    }

    async fn replace_function(
        &self,
        function: &Function,
        expected_revision: u64,
    ) -> Result<(), StoreError> {
        functions::replace(&self.db, function, expected_revision).await
    }

    async fn delete_function(&self, name: &FunctionName) -> Result<(), StoreError> {
        functions::delete(&self.db, name).await
    }

    async fn code_in_use(&self) -> Result<Vec<CodeHash>, StoreError> {
        functions::code_in_use(&self.db).await
    }

    async fn append_records(
        &self,
        invocations: &[InvocationRecord],
        logs: &[LogRecord],
    ) -> Result<(), StoreError> {
        records::append(&self.db, invocations, logs).await?;
        self.log_size.grew(&self.db, logs);
        Ok(())
    }

    async fn invocations(
        &self,
        filter: &InvocationFilter,
        page: &PageRequest,
    ) -> Result<Page<InvocationRecord>, StoreError> {
        records::list(&self.db, filter, page).await
    }

    async fn invocation(&self, id: RequestId) -> Result<Vec<InvocationRecord>, StoreError> {
        records::get(&self.db, id).await
    }

    async fn logs(&self, filter: &LogFilter) -> Result<Vec<LogRecord>, StoreError> {
        records::logs(&self.db, filter).await
    }

    async fn forget_records(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        records::forget(&self.db, before).await
    }

    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        keys::create(&self.db, key).await
    }

    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        keys::get(&self.db, id).await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        keys::list(&self.db).await
    }

    async fn delete_api_key(&self, id: &str) -> Result<(), StoreError> {
        keys::delete(&self.db, id).await
    }

    async fn put_secret(&self, secret: &SealedSecret) -> Result<(), StoreError> {
        secrets::put(&self.db, secret).await
    }

    async fn secret(&self, name: &SecretName) -> Result<Option<SealedSecret>, StoreError> {
        secrets::get(&self.db, name).await
    }

    async fn secrets(&self) -> Result<Vec<SealedSecret>, StoreError> {
        secrets::list(&self.db).await
    }

    async fn delete_secret(&self, name: &SecretName) -> Result<(), StoreError> {
        secrets::delete(&self.db, name).await
    }

    async fn put_layer(&self, layer: &Layer) -> Result<(), StoreError> {
        layers::put(&self.db, layer).await
    }

    async fn layer(&self, name: &LayerName) -> Result<Option<Layer>, StoreError> {
        layers::get(&self.db, name).await
    }

    async fn layers(&self) -> Result<Vec<Layer>, StoreError> {
        layers::list(&self.db).await
    }

    async fn delete_layer(&self, name: &LayerName) -> Result<(), StoreError> {
        layers::delete(&self.db, name).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await.map_err(unavailable)
    }
}
