//! From a name to a [`Plan`], without a query once it is known.
//!
//! A plan is made when a function is called first, and made anew when the edge says that something it
//! was made of has changed. Making one is serialised: the one made last has seen the last change, so
//! that a slow read of the old state never replaces the new.
use crate::InvokeError;
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::pool::Pool;
use nova_domain::{FunctionName, SecretName};
use nova_store::{PAGE_MAX, PageRequest, SecretVault, Store, StoreError};
use nova_vm::images::RuntimeCatalog;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Mutex;

/// The functions that are in use.
pub(crate) struct Directory {
    pub store: Arc<dyn Store>,
    pub vault: SecretVault,
    pub catalog: Arc<RuntimeCatalog>,
    pub pool: Pool,
    pub metrics: Arc<Metrics>,
    plans: RwLock<HashMap<FunctionName, Arc<Plan>>>,
    /// Held while a plan is made.
    making: Mutex<()>,
}

impl Directory {
    pub fn new(
        store: Arc<dyn Store>,
        vault: SecretVault,
        catalog: Arc<RuntimeCatalog>,
        pool: Pool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let plans = RwLock::default();
        Self { store, vault, catalog, pool, metrics, plans, making: Mutex::default() }
    }

    /// The function as it is now; from memory, if it was called before.
    pub async fn plan(&self, name: &FunctionName) -> Result<Arc<Plan>, InvokeError> {
        if let Some(plan) = self.known(name) {
            return Ok(plan);
        }
        let _making = self.making.lock().await;
        match self.known(name) {
            Some(plan) => Ok(plan),
            None => self.make(name).await,
        }
    }

    /// Makes the plan anew: something it was made of has changed.
    pub async fn changed(&self, name: &FunctionName) -> Result<Arc<Plan>, InvokeError> {
        let _making = self.making.lock().await;
        self.make(name).await
    }

    /// The known functions that use this secret.
    pub fn users_of(&self, secret: &SecretName) -> Vec<FunctionName> {
        let uses = |plan: &&Arc<Plan>| plan.uses(secret);
        self.plans().values().filter(uses).map(|plan| plan.name().clone()).collect()
    }

    /// All known functions.
    pub fn known_names(&self) -> Vec<FunctionName> {
        self.plans().keys().cloned().collect()
    }

    /// Makes plans for the functions that want VMs kept ready, so that the pool boots them.
    pub async fn keep_ready(&self) -> Result<(), StoreError> {
        let mut cursor = None;
        loop {
            let request = PageRequest { limit: PAGE_MAX, cursor };
            let page = self.store.functions(&request).await?;
            for function in page.items.iter().filter(|function| function.config.min_replicas > 0) {
                if let Err(error) = self.plan(&function.name).await {
                    tracing::warn!(function = %function.name, %error, "no microVMs kept ready");
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn known(&self, name: &FunctionName) -> Option<Arc<Plan>> {
        self.plans().get(name).cloned()
    }

    /// Reads and makes; only while `making` is held. A function that is gone or cannot run is
    /// forgotten; where the store does not answer, the next call asks it again.
    async fn make(&self, name: &FunctionName) -> Result<Arc<Plan>, InvokeError> {
        let function = match self.store.function(name).await {
            Ok(Some(function)) => function,
            Ok(None) => {
                self.forget(name);
                self.metrics.forget(name);
                return Err(InvokeError::FunctionNotFound(name.clone()));
            }
            Err(error) => {
                self.plans_mut().remove(name);
                return Err(InvokeError::Store(Arc::new(error)));
            }
        };
        let series = self.metrics.series(name, &function.config.runtime);
        match Plan::make(function, &self.catalog, &self.vault, series).await {
            Ok(plan) => {
                let plan = Arc::new(plan);
                self.pool.configure(Arc::clone(&plan));
                self.plans_mut().insert(name.clone(), Arc::clone(&plan));
                Ok(plan)
            }
            Err(error) => {
                self.forget(name);
                Err(InvokeError::Setup { function: name.clone(), cause: Arc::new(error) })
            }
        }
    }

    fn forget(&self, name: &FunctionName) {
        self.plans_mut().remove(name);
        self.pool.forget(name);
    }

    fn plans(&self) -> RwLockReadGuard<'_, HashMap<FunctionName, Arc<Plan>>> {
        self.plans.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn plans_mut(&self) -> RwLockWriteGuard<'_, HashMap<FunctionName, Arc<Plan>>> {
        self.plans.write().unwrap_or_else(PoisonError::into_inner)
    }
}
