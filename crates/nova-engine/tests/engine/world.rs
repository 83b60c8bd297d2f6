//! An executor between a fake driver and a fake store, on a paused clock.
use crate::fake_driver::{FakeDriver, OVERHEAD_MB};
use crate::fake_store::FakeStore;
use chrono::DateTime;
use nova_domain::{
    CodeHash, Environment, Function, FunctionConfig, FunctionName, Invocation, Mode, Outcome,
    RequestId, RuntimeId, RuntimeImage, SecretName, Trigger,
};
use nova_engine::{EngineConfig, Executor, InvokeError, LogSink, Parts};
use nova_store::{MasterKey, SecretVault};
use nova_vm::images::RuntimeCatalog;
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub struct World {
    pub executor: Executor,
    pub driver: Arc<FakeDriver>,
    pub store: Arc<FakeStore>,
    pub vault: SecretVault,
}

pub fn name(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

pub fn secret(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

impl World {
    pub fn new() -> Self {
        Self::with_config(|_| ())
    }

    /// A host with room for as many VMs of the default size.
    pub fn with_room_for(vms: u32) -> Self {
        Self::with_config(|config| config.vms_max = vms)
    }

    pub fn with_config(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let store = Arc::new(FakeStore::default());
        let driver = Arc::new(FakeDriver::default());
        let directory = tempfile::tempdir().unwrap();
        let key = MasterKey::load_or_create(&directory.path().join("master.key")).unwrap();
        let vault = SecretVault::new(store.clone(), key);
        let command = vec!["/bin/run".to_owned(), "/code/{handler}".to_owned()];
        let runtime = RuntimeImage {
            id: RuntimeId::parse("base").unwrap(),
            version: "1".into(),
            digest: "d1".into(),
            size: 1,
            commands: BTreeMap::from([
                (Mode::Process, command.clone()),
                (Mode::Persistent, command),
            ]),
            extension: None,
            env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
            memory_min_mb: 64,
            own: None,
        };
        let mut config = EngineConfig::new("node-1".into(), 100_000, 16);
        change(&mut config);
        let executor = Executor::new(Parts {
            driver: driver.clone(),
            store: store.clone(),
            vault: vault.clone(),
            catalog: Arc::new(RuntimeCatalog::fixed(vec![runtime], vec![])),
            config,
        });
        Self { executor, driver, store, vault }
    }

    /// Creates a function, or changes it, and tells the executor, as the API does.
    pub async fn put(&self, function: &str, change: impl FnOnce(&mut Function)) {
        self.put_silently(function, change);
        self.executor.functions_changed(&name(function)).await;
    }

    /// Changes the store only.
    pub fn put_silently(&self, function: &str, change: impl FnOnce(&mut Function)) {
        let mut content = self.store.content();
        let mut function = content.functions.remove(&name(function)).unwrap_or_else(|| Function {
            id: Uuid::now_v7(),
            name: name(function),
            config: FunctionConfig::new(RuntimeId::parse("base").unwrap()),
            code_hash: CodeHash::of(b"first"),
            build: None,
            revision: 0,
            version: 1,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        });
        change(&mut function);
        function.revision += 1;
        content.functions.insert(function.name.clone(), function);
    }

    pub async fn delete(&self, function: &str) {
        self.store.content().functions.remove(&name(function));
        self.executor.functions_changed(&name(function)).await;
    }

    pub async fn set_secret(&self, text: &str, value: &str) {
        let now = DateTime::UNIX_EPOCH;
        self.vault.set(&secret(text), value.as_bytes(), vec![], now).await.unwrap();
        self.executor.secrets_changed(&secret(text)).await;
    }

    pub async fn call(&self, function: &str, payload: Value) -> Result<Outcome, InvokeError> {
        self.executor.invoke(invocation(function, &payload), None).await
    }

    pub async fn call_with_sink(
        &self,
        function: &str,
        payload: Value,
        sink: LogSink,
    ) -> Result<Outcome, InvokeError> {
        self.executor.invoke(invocation(function, &payload), Some(sink)).await
    }

    /// The output of a call that succeeds.
    pub async fn output(&self, function: &str, payload: Value) -> Value {
        output(&self.call(function, payload).await.unwrap())
    }

    /// A call in the background.
    pub fn spawn(
        &self,
        function: &str,
        payload: Value,
    ) -> JoinHandle<Result<Outcome, InvokeError>> {
        let executor = self.executor.clone();
        let invocation = invocation(function, &payload);
        tokio::spawn(async move { executor.invoke(invocation, None).await })
    }

    /// Lets everything happen that is due within this time.
    pub async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// VMs that exist on the host.
    pub fn alive(&self) -> usize {
        self.driver.host().alive.len()
    }

    pub fn boots(&self) -> usize {
        self.driver.host().boots
    }

    /// Nothing is left once the time of idle VMs is over, neither on the host nor in the books.
    pub async fn assert_nothing_leaks(&self) {
        self.pass(61_000).await;
        let stats = self.executor.stats();
        assert_eq!(self.alive(), 0, "{stats:?}");
        assert_eq!((stats.vms.len(), stats.waiting, stats.memory_mb), (0, 0, 0));
        assert_eq!(self.executor.metrics().active_requests, 0);
    }
}

/// What one VM with the default memory takes, MiB.
pub const VM_MB: u64 = 128 + OVERHEAD_MB as u64;

pub fn invocation(function: &str, payload: &Value) -> Invocation {
    Invocation {
        request_id: RequestId(Uuid::now_v7()),
        attempt: 1,
        function: name(function),
        trigger: Trigger::Http,
        payload: to_raw_value(payload).unwrap(),
        traceparent: None,
    }
}

pub fn output(outcome: &Outcome) -> Value {
    serde_json::from_str(outcome.output.as_ref().expect("a result").get()).unwrap()
}

pub fn environment(variables: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Environment::parse(variables.iter().map(owned).collect()).unwrap()
}
