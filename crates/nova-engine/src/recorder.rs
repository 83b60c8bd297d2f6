//! Remembers calls: records and log lines go into memory when a call ends, and from there into the
//! store in batches, so that no caller waits for the store.
//!
//! While the store is away the newest records are kept, up to a bound; the oldest are dropped,
//! counted, and the log says so.
use nova_domain::{InvocationRecord, LogRecord};
use nova_store::{Store, StoreError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How long a record waits for others to be written with it. Records are to be visible within a
/// second; this leaves most of it to the store.
const BATCH_WAIT: Duration = Duration::from_millis(150);

/// Most calls of one batch: one transaction, and what a bulk insert takes well.
const BATCH_CALLS: usize = 256;

/// Most bytes of one batch's log lines, so that a batch of talkative calls is no giant transaction.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Most bytes kept while the store is away: minutes of ordinary calls, and little beside the memory
/// of a host that runs VMs.
const PENDING_MAX_BYTES: usize = 64 * 1024 * 1024;

/// First and longest wait after a failed write.
const RETRY_WAIT: Duration = Duration::from_millis(250);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a record takes in memory beside its texts, roughly.
const RECORD_BYTES: usize = size_of::<InvocationRecord>() + 128;

/// One call and what it logged.
struct Entry {
    record: InvocationRecord,
    logs: Vec<LogRecord>,
    bytes: usize,
}

/// Takes records; a task of its own writes them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    pending: Mutex<Pending>,
    arrived: Notify,
    dropped: AtomicU64,
    /// How many records have left `pending` for good.
    settled: watch::Sender<u64>,
}

#[derive(Default)]
struct Pending {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Records that ever came.
    accepted: u64,
}

impl Recorder {
    /// Starts writing to `store`. Must be called within a tokio runtime.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let inner = Arc::new(Inner {
            pending: Mutex::default(),
            arrived: Notify::new(),
            dropped: AtomicU64::new(0),
            settled: watch::Sender::new(0),
        });
        tokio::spawn(write(Arc::clone(&inner), store));
        Self { inner }
    }

    /// Takes a call. Never waits.
    pub fn record(&self, record: InvocationRecord, logs: Vec<LogRecord>) {
        let text = logs.iter().map(|line| line.text.len() + size_of::<LogRecord>()).sum::<usize>();
        let message = record.error_message.as_ref().map_or(0, String::len);
        let entry = Entry { record, logs, bytes: RECORD_BYTES + text + message };
        let mut pending = self.inner.pending();
        pending.accepted += 1;
        pending.put(entry);
        let mut lost = 0;
        while pending.bytes > PENDING_MAX_BYTES && pending.take().is_some() {
            lost += 1;
        }
        drop(pending);
        if lost > 0 {
            self.inner.drop_records(lost);
        }
        self.inner.arrived.notify_one();
    }

    /// Records that were lost because the store was away for too long.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything that came before is written or dropped; at most `within`. Returns
    /// whether it is.
    pub async fn flush(&self, within: Duration) -> bool {
        let accepted = self.inner.pending().accepted;
        let mut settled = self.inner.settled.subscribe();
        let done = settled.wait_for(|settled| *settled >= accepted);
        timeout(within, done).await.is_ok_and(|done| done.is_ok())
    }
}

impl Pending {
    fn put(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.entries.push_back(entry);
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

/// Records and log lines that are written in one transaction.
type Batch = (Vec<InvocationRecord>, Vec<LogRecord>);

impl Inner {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_batch(&self) -> Batch {
        let mut pending = self.pending();
        let (mut records, mut logs, mut bytes) = (Vec::new(), Vec::new(), 0);
        while records.len() < BATCH_CALLS && bytes < BATCH_BYTES {
            let Some(entry) = pending.take() else { break };
            bytes += entry.bytes;
            records.push(entry.record);
            logs.extend(entry.logs);
        }
        (records, logs)
    }

    fn drop_records(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        self.settle(count);
    }

    fn settle(&self, count: usize) {
        self.settled.send_modify(|settled| *settled += count as u64);
    }
}

/// Writes batches as long as the process lives.
async fn write(inner: Arc<Inner>, store: Arc<dyn Store>) {
    loop {
        if inner.pending().entries.is_empty() {
            inner.arrived.notified().await;
            sleep(BATCH_WAIT).await;
        }
        let batch = inner.take_batch();
        if !batch.0.is_empty() {
            write_batch(&inner, store.as_ref(), &batch).await;
        }
    }
}

/// Writes one batch, however long the store is away. Writing it twice does no harm: the store leaves
/// a record that it has already as it is.
async fn write_batch(inner: &Inner, store: &dyn Store, (records, logs): &Batch) {
    let mut retry_wait = RETRY_WAIT;
    loop {
        match store.append_records(records, logs).await {
            Ok(()) => return inner.settle(records.len()),
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(
                    %error,
                    waiting = inner.pending().entries.len() + records.len(),
                    dropped = inner.dropped.load(Ordering::Relaxed),
                    "invocation records could not be written; trying again"
                );
                sleep(retry_wait).await;
                retry_wait = (retry_wait * 2).min(RETRY_WAIT_MAX);
            }
            Err(error) => {
                tracing::error!(%error, lost = records.len(), "invocation records were refused");
                return inner.drop_records(records.len());
            }
        }
    }
}
