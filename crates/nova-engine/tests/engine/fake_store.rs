//! A store in memory that counts what it is asked and can be switched off.
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use nova_domain::{
    CodeHash, Function, FunctionName, InvocationRecord, Layer, LayerName, LogRecord, RequestId,
    SecretName,
};
use nova_store::{
    ApiKey, InvocationFilter, LogFilter, Page, PageRequest, SealedSecret, Store, StoreError,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

#[derive(Default)]
pub struct FakeStore {
    content: Mutex<Content>,
    reads: AtomicU64,
    writes: AtomicU64,
    down: AtomicBool,
}

#[derive(Default)]
pub struct Content {
    pub functions: BTreeMap<FunctionName, Function>,
    pub secrets: BTreeMap<SecretName, SealedSecret>,
    pub invocations: Vec<InvocationRecord>,
    pub logs: Vec<LogRecord>,
}

impl FakeStore {
    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    /// Questions asked so far, records excluded.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Batches of records written so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn read(&self) -> Result<MutexGuard<'_, Content>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.up()
    }

    fn up(&self) -> Result<MutexGuard<'_, Content>, StoreError> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("switched off by the test".into())),
            false => Ok(self.content()),
        }
    }
}

fn not_needed<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the engine has no business with this".into()))
}

#[async_trait]
impl Store for FakeStore {
    async fn create_function(&self, _: &Function) -> Result<(), StoreError> {
        not_needed()
    }

    async fn function(&self, name: &FunctionName) -> Result<Option<Function>, StoreError> {
        Ok(self.read()?.functions.get(name).cloned())
    }

    async fn functions(&self, _: &PageRequest) -> Result<Page<Function>, StoreError> {
        let items = self.read()?.functions.values().cloned().collect();
        Ok(Page { items, next_cursor: None })
    }

    async fn replace_function(&self, _: &Function, _: u64) -> Result<(), StoreError> {
        not_needed()
    }

    async fn delete_function(&self, _: &FunctionName) -> Result<(), StoreError> {
        not_needed()
    }

    async fn code_in_use(&self) -> Result<Vec<CodeHash>, StoreError> {
        not_needed()
    }

    async fn append_records(
        &self,
        invocations: &[InvocationRecord],
        logs: &[LogRecord],
    ) -> Result<(), StoreError> {
        let mut content = self.up()?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        content.invocations.extend_from_slice(invocations);
        content.logs.extend_from_slice(logs);
        Ok(())
    }

    async fn invocations(
        &self,
        _: &InvocationFilter,
        _: &PageRequest,
    ) -> Result<Page<InvocationRecord>, StoreError> {
        not_needed()
    }

    async fn invocation(&self, _: RequestId) -> Result<Vec<InvocationRecord>, StoreError> {
        not_needed()
    }

    async fn logs(&self, _: &LogFilter) -> Result<Vec<LogRecord>, StoreError> {
        not_needed()
    }

    async fn forget_records(&self, _: DateTime<Utc>) -> Result<u64, StoreError> {
        not_needed()
    }

    async fn create_api_key(&self, _: &ApiKey) -> Result<(), StoreError> {
        not_needed()
    }

    async fn api_key(&self, _: &str) -> Result<Option<ApiKey>, StoreError> {
        not_needed()
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        not_needed()
    }

    async fn delete_api_key(&self, _: &str) -> Result<(), StoreError> {
        not_needed()
    }

    async fn put_secret(&self, secret: &SealedSecret) -> Result<(), StoreError> {
        self.up()?.secrets.insert(secret.name.clone(), secret.clone());
        Ok(())
    }

    async fn secret(&self, name: &SecretName) -> Result<Option<SealedSecret>, StoreError> {
        Ok(self.read()?.secrets.get(name).cloned())
    }

    async fn secrets(&self) -> Result<Vec<SealedSecret>, StoreError> {
        not_needed()
    }

    async fn delete_secret(&self, name: &SecretName) -> Result<(), StoreError> {
        self.up()?.secrets.remove(name);
        Ok(())
    }

    async fn put_layer(&self, _: &Layer) -> Result<(), StoreError> {
        not_needed()
    }

    async fn layer(&self, _: &LayerName) -> Result<Option<Layer>, StoreError> {
        not_needed()
    }

    async fn layers(&self) -> Result<Vec<Layer>, StoreError> {
        not_needed()
    }

    async fn delete_layer(&self, _: &LayerName) -> Result<(), StoreError> {
        not_needed()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        not_needed()
    }
}
