//! The trait behind which metadata is kept, and the shapes of its questions and answers.
use crate::ApiKey;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use nova_domain::{
    CodeHash, Function, FunctionName, InvocationRecord, Layer, LayerName, LogRecord, RequestId,
    SecretName,
};

/// Most items of one page; what every list of the HTTP API promises.
pub const PAGE_MAX: u32 = 500;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A thing of that name exists already.
    #[error("{what} exists already")]
    Exists {
        /// The thing, for example `function hello`.
        what: String,
    },
    /// There is no such thing.
    #[error("{what} does not exist")]
    NotFound {
        /// The thing.
        what: String,
    },
    /// Somebody else changed it since it was read.
    #[error("{what} was changed meanwhile; read it again and repeat the change")]
    Changed {
        /// The thing.
        what: String,
    },
    /// A stored row cannot be read: written by a newer Nova, or damaged.
    #[error("{what} in the store cannot be read: {problem}")]
    Corrupt {
        /// The thing.
        what: String,
        /// What the reader stumbled over.
        problem: String,
    },
    /// The cursor of a page request was not made by this store.
    #[error("the cursor is not one that this list gave out")]
    BadCursor,
    /// The database does not answer, or answers with an error of its own.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Most items, 1 to [`PAGE_MAX`].
    pub limit: u32,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page starts; `None` at the end.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page from items fetched one beyond `limit`: the extra one only tells that there is more.
    pub(crate) fn cut(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next_cursor = items.last().filter(|_| more).map(cursor);
        Self { items, next_cursor }
    }
}

/// Which invocations are wanted.
#[derive(Debug, Clone, Default)]
pub struct InvocationFilter {
    /// Of this function only.
    pub function: Option<FunctionName>,
    /// Only failures (`true`) or successes (`false`).
    pub failed: Option<bool>,
}

/// Which log lines are wanted; always of one function.
#[derive(Debug, Clone)]
pub struct LogFilter {
    /// The function.
    pub function: FunctionName,
    /// Of this call only.
    pub request_id: Option<RequestId>,
    /// Only lines that contain this text.
    pub contains: Option<String>,
    /// The newest so many lines, in the order they were written; at most 10,000, and fewer where their
    /// text is over 8 MiB.
    pub tail: u32,
}

/// A secret as it is stored: sealed, useless without the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Its name.
    pub name: SecretName,
    /// Counts values, from 1; part of what the seal authenticates.
    pub version: u64,
    /// Which master key sealed it.
    pub key_id: String,
    /// Nonce and AES-256-GCM ciphertext.
    pub sealed: Vec<u8>,
    /// The functions that may use it; empty means every function.
    pub functions: Vec<FunctionName>,
    /// When the first value was set.
    pub created_at: DateTime<Utc>,
    /// When this value was set.
    pub updated_at: DateTime<Utc>,
}

/// What Nova remembers. Every method but [`append_records`](Store::append_records) and
/// [`forget_records`](Store::forget_records) is one atomic statement.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Adds a function; [`StoreError::Exists`] where the name is taken.
    async fn create_function(&self, function: &Function) -> Result<(), StoreError>;

    /// The function of that name.
    async fn function(&self, name: &FunctionName) -> Result<Option<Function>, StoreError>;

    /// Functions by name.
    async fn functions(&self, page: &PageRequest) -> Result<Page<Function>, StoreError>;

    /// Puts `function` in the place of its revision `expected_revision`;
    /// [`StoreError::Changed`] where that is no longer the current one.
    async fn replace_function(
        &self,
        function: &Function,
        expected_revision: u64,
    ) -> Result<(), StoreError>;

    /// Removes a function; [`StoreError::NotFound`] where there is none. Records stay.
    async fn delete_function(&self, name: &FunctionName) -> Result<(), StoreError>;

    /// Archives that any function or layer refers to, the source of a function's last build included.
    async fn code_in_use(&self) -> Result<Vec<CodeHash>, StoreError>;

    /// Adds records of calls and their log lines. What is there already (same request id, attempt
    /// and place) is left as it is, so a batch that failed half-way is simply given again.
    async fn append_records(
        &self,
        invocations: &[InvocationRecord],
        logs: &[LogRecord],
    ) -> Result<(), StoreError>;

    /// Invocations, newest first.
    async fn invocations(
        &self,
        filter: &InvocationFilter,
        page: &PageRequest,
    ) -> Result<Page<InvocationRecord>, StoreError>;

    /// Every attempt of one call, the latest first.
    async fn invocation(&self, request_id: RequestId) -> Result<Vec<InvocationRecord>, StoreError>;

    /// The newest log lines that match, at most 8 MiB of text, oldest of them first.
    async fn logs(&self, filter: &LogFilter) -> Result<Vec<LogRecord>, StoreError>;

    /// Removes records and log lines older than `before`; returns how many calls were forgotten.
    async fn forget_records(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;

    /// Adds an API key; [`StoreError::Exists`] where its id is taken.
    async fn create_api_key(&self, key: &ApiKey) -> Result<(), StoreError>;

    /// The key with that id.
    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError>;

    /// All keys, newest first.
    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError>;

    /// Removes a key; [`StoreError::NotFound`] where there is none.
    async fn delete_api_key(&self, id: &str) -> Result<(), StoreError>;

    /// Sets a secret, new or not. [`StoreError::Changed`] unless the stored version is
    /// `secret.version - 1` (0 standing for no secret of that name).
    async fn put_secret(&self, secret: &SealedSecret) -> Result<(), StoreError>;

    /// The secret of that name.
    async fn secret(&self, name: &SecretName) -> Result<Option<SealedSecret>, StoreError>;

    /// All secrets, by name.
    async fn secrets(&self) -> Result<Vec<SealedSecret>, StoreError>;

    /// Removes a secret; [`StoreError::NotFound`] where there is none.
    async fn delete_secret(&self, name: &SecretName) -> Result<(), StoreError>;

    /// Sets a layer, new or not. [`StoreError::Changed`] unless the stored version is
    /// `layer.version - 1` (0 standing for no layer of that name).
    async fn put_layer(&self, layer: &Layer) -> Result<(), StoreError>;

    /// The layer of that name.
    async fn layer(&self, name: &LayerName) -> Result<Option<Layer>, StoreError>;

    /// All layers, by name.
    async fn layers(&self) -> Result<Vec<Layer>, StoreError>;

    /// Removes a layer; [`StoreError::NotFound`] where there is none. What functions keep of it stays.
    async fn delete_layer(&self, name: &LayerName) -> Result<(), StoreError>;

    /// Answers whether the store can be reached.
    async fn ping(&self) -> Result<(), StoreError>;
}
