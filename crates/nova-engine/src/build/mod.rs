//! Builds: from the source of a function to code that can be run, each in a guest of its own.
//!
//! ```text
//!  pending in the store ──submit──▶ queue ──▶ guest: builder image, source at /code, nothing else
//!                                               │ log lines ──▶ LiveLog ──▶ whoever follows
//!                                               ▼
//!                       the same reader as for uploads ◀── tar of /out
//!                                               ▼
//!                              blob ──▶ function: ready, or failed with what the build said
//! ```
//!
//! What is to be built is in the store, and only there: a daemon that was killed finds it pending and
//! builds it again, and its guest is removed like any other. While a function is built, the code that
//! was built before goes on serving; a build that fails changes nothing of it.
mod job;
mod live_log;
mod results;

use self::job::Job;
pub use self::live_log::{LiveLog, LogPart};
use self::results::Results;
use crate::Executor;
use chrono::Utc;
use nova_domain::{Build, BuildStatus, CodeHash, Function, FunctionName, NetworkPolicy};
use nova_store::{Blobs, PAGE_MAX, PageRequest, Store, StoreError};
use nova_vm::VmDriver;
use nova_vm::images::RuntimeCatalog;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Builds at once: each takes as much memory as its recipe says from what functions may have.
const BUILDS_AT_ONCE: usize = 2;
/// Lines of the log that are kept with the function.
const LOG_KEPT_LINES: usize = 200;
/// Bytes of the log that are kept with the function: a page of functions is in memory at once.
const LOG_KEPT_BYTES: usize = 64 * 1024;
/// Logs of builds that have ended which are kept in memory, for those who follow them.
const LOGS_KEPT: usize = 64;
/// How long a store that does not answer is left alone before a result is written again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How often a result is written again when the function was changed in between.
const CHANGE_ATTEMPTS: u32 = 20;

/// What builds are made of.
pub struct BuildParts {
    /// Makes guests.
    pub driver: Arc<dyn VmDriver>,
    /// Knows functions.
    pub store: Arc<dyn Store>,
    /// Source and results.
    pub blobs: Arc<dyn Blobs>,
    /// Builder images of this host.
    pub catalog: Arc<RuntimeCatalog>,
    /// Has room for guests, and is told when a function runs something else.
    pub executor: Executor,
    /// What builds that fetch packages may reach.
    pub network: BuildNetwork,
}

/// What builds that fetch packages may reach; all others reach nothing.
#[derive(Debug, Clone, Default)]
pub struct BuildNetwork {
    /// Variables that name other package indexes than the public ones.
    pub env: BTreeMap<String, String>,
    /// Where packets may go.
    pub policy: NetworkPolicy,
}

/// Runs builds. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Builds {
    inner: Arc<Inner>,
}

struct Inner {
    parts: BuildParts,
    turns: Semaphore,
    books: Mutex<Books>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Rings when there is another entry in the books.
    submitted: watch::Sender<()>,
}

#[derive(Default)]
struct Books {
    /// What is or was built lately, the latest last; at most one for each function.
    builds: VecDeque<Entry>,
    /// What was built lately.
    results: Results,
}

/// A build that waits, runs or ran in this daemon.
struct Entry {
    function: FunctionName,
    source: CodeHash,
    log: Arc<LiveLog>,
    stop: CancellationToken,
}

impl Builds {
    /// Must be called within a tokio runtime, in which builds run.
    pub fn new(parts: BuildParts) -> Self {
        let inner = Inner {
            parts,
            turns: Semaphore::new(BUILDS_AT_ONCE),
            books: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            submitted: watch::Sender::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Begins what a daemon before this one left pending, and learns which results there are.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn resume(&self) -> Result<(), StoreError> {
        let mut cursor = None;
        loop {
            let request = PageRequest { limit: PAGE_MAX, cursor };
            let page = self.inner.parts.store.functions(&request).await?;
            for function in page.items {
                let Some(build) = &function.build else { continue };
                if let (BuildStatus::Ready, Some(key)) = (build.status, &build.key) {
                    self.books().results.add(key.clone(), function.code_hash.clone());
                }
                if function.is_being_built() {
                    tracing::info!(function = %function.name, "its build is begun again");
                    self.submit(function);
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Builds a function that was stored with a pending build, in the background.
    pub fn submit(&self, function: Function) {
        let Some(build) = function.build.clone() else { return };
        let log = Arc::new(LiveLog::default());
        let stop = self.inner.stop.child_token();
        {
            let mut books = self.books();
            books.builds.retain(|entry| entry.function != function.name);
            books.builds.push_back(Entry {
                function: function.name.clone(),
                source: build.source.clone(),
                log: log.clone(),
                stop: stop.clone(),
            });
            // What waits or runs stays, however much it is: it can be cancelled and followed.
            let ended = books.builds.iter().filter(|entry| entry.log.has_ended()).count();
            let mut surplus = ended.saturating_sub(LOGS_KEPT);
            books.builds.retain(|entry| {
                let goes = surplus > 0 && entry.log.has_ended();
                surplus -= usize::from(goes);
                !goes
            });
        }
        self.inner.submitted.send_replace(());
        let builds = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = builds.run(&function, &build, &log) => {}
                // Where the function is still there it stays pending in the store, for the next daemon.
                () = stop.cancelled() => {}
            }
            log.end();
        });
    }

    /// Ends the build of a function that was deleted.
    pub fn cancel(&self, function: &FunctionName) {
        let books = self.books();
        if let Some(entry) = books.builds.iter().find(|entry| entry.function == *function) {
            entry.stop.cancel();
        }
    }

    /// The log of the build of this source, while it is in memory.
    pub fn log(&self, function: &FunctionName, source: &CodeHash) -> Option<Arc<LiveLog>> {
        let books = self.books();
        let is_it = |entry: &&Entry| entry.function == *function && entry.source == *source;
        books.builds.iter().find(is_it).map(|entry| Arc::clone(&entry.log))
    }

    /// The same, as soon as there is one.
    pub async fn log_begun(&self, function: &FunctionName, source: &CodeHash) -> Arc<LiveLog> {
        let mut submitted = self.inner.submitted.subscribe();
        loop {
            if let Some(log) = self.log(function, source) {
                return log;
            }
            // Never closed: the sender is in `self`.
            let _ = submitted.changed().await;
        }
    }

    /// Ends all builds and waits until their guests are given up.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn run(&self, function: &Function, build: &Build, log: &LiveLog) {
        // Never closed.
        let Ok(_turn) = self.inner.turns.acquire().await else { return };
        let result = self.result(function, build, log).await;
        if let Err(error) = &result {
            tracing::info!(function = %function.name, error = error.as_str(), "a build failed");
        }
        self.finish(function, build, log, result).await;
    }

    /// What calls are to run, with the key of it; or why there is nothing.
    async fn result(
        &self,
        function: &Function,
        build: &Build,
        log: &LiveLog,
    ) -> Result<(CodeHash, String), String> {
        let job = Job::new(&self.inner.parts, &function.name, build)?;
        let key = job.key();
        let blobs = &self.inner.parts.blobs;
        let known = self.books().results.get(&key);
        // Stored again it counts as new, so that it stays until the function refers to it.
        if let Some(known) = known
            && let Ok(archive) = blobs.get(&known).await
            && blobs.put(archive).await.is_ok()
        {
            log.note("built before from the same source by the same builder");
            return Ok((known, key));
        }
        let archive = job.run(log).await?;
        let stored = blobs.put(archive.into()).await;
        let hash = stored.map_err(|error| format!("the result was not stored: {error}"))?;
        self.books().results.add(key.clone(), hash.clone());
        Ok((hash, key))
    }

    /// Writes what became of a build, unless the function has gone on to something else.
    async fn finish(
        &self,
        function: &Function,
        build: &Build,
        log: &LiveLog,
        result: Result<(CodeHash, String), String>,
    ) {
        let (name, store) = (&function.name, &self.inner.parts.store);
        for _ in 0..CHANGE_ATTEMPTS {
            let before = match store.function(name).await {
                Ok(Some(before)) => before,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(function = %name, %error, "a build's end is not written yet");
                    tokio::time::sleep(STORE_RETRY).await;
                    continue;
                }
            };
            if before.id != function.id || before.build.as_ref() != Some(build) {
                return;
            }
            let after = ended(&before, build, log.tail(LOG_KEPT_LINES, LOG_KEPT_BYTES), &result);
            match store.replace_function(&after, before.revision).await {
                Ok(()) => return self.inner.parts.executor.functions_changed(name).await,
                Err(StoreError::Changed { .. }) => {}
                Err(error) => {
                    tracing::warn!(function = %name, %error, "a build's end is not written yet");
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
        // Who follows it waits for the next start, and does not ask for its end again and again.
        self.books().builds.retain(|entry| !std::ptr::eq(Arc::as_ptr(&entry.log), log));
        tracing::error!(function = %name, "a build's end was not written; the next start builds it again");
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The function after its build.
fn ended(
    before: &Function,
    build: &Build,
    log: Vec<String>,
    result: &Result<(CodeHash, String), String>,
) -> Function {
    let mut after = before.clone();
    let served_before = before.status() == BuildStatus::Ready;
    let mut build = Build { log, ..build.clone() };
    match result {
        Ok((hash, key)) => {
            (build.status, build.key) = (BuildStatus::Ready, Some(key.clone()));
            after.code_hash = hash.clone();
            after.config = build.config.clone();
        }
        Err(error) => (build.status, build.error) = (BuildStatus::Failed, Some(error.clone())),
    }
    after.build = Some(build);
    after.revision += 1;
    if served_before && after.revision_hash() != before.revision_hash() {
        after.version += 1;
    }
    after.updated_at = Utc::now();
    after
}
