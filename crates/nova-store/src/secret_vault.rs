//! Secrets: sealed on their way into the store, opened only when a guest is about to be told.
use crate::{MasterKey, MasterKeyError, SealedSecret, Store, StoreError};
use chrono::{DateTime, Utc};
use nova_domain::{FunctionName, SecretName};
use std::sync::Arc;

/// Most bytes of a secret: enough for a certificate chain, small enough for an environment.
pub const SECRET_MAX_BYTES: usize = 64 * 1024;

/// Why a secret cannot be set or used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is no secret of that name.
    #[error("secret {0} does not exist; set it with `nova secret set {0}`")]
    NotFound(SecretName),
    /// The secret is limited to other functions.
    #[error(
        "function {function} may not use secret {secret}; allow it with `nova secret set {secret} --function {function}`"
    )]
    NotAllowed {
        /// The secret.
        secret: SecretName,
        /// Who asked for it.
        function: FunctionName,
    },
    /// The value is too long.
    #[error("a secret of {0} bytes is over the limit of {SECRET_MAX_BYTES}")]
    TooLarge(usize),
    /// The stored bytes do not open.
    #[error("secret {name}: {source}")]
    Sealed {
        /// The secret.
        name: SecretName,
        /// Why not.
        #[source]
        source: MasterKeyError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What may be shown of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// Its name.
    pub name: SecretName,
    /// Counts values, from 1.
    pub version: u64,
    /// The functions that may use it; empty means every function.
    pub functions: Vec<FunctionName>,
    /// When the first value was set.
    pub created_at: DateTime<Utc>,
    /// When this value was set.
    pub updated_at: DateTime<Utc>,
}

/// The store's secrets, with the key that opens them.
#[derive(Clone)]
pub struct SecretVault {
    store: Arc<dyn Store>,
    key: MasterKey,
}

impl SecretVault {
    /// A vault over a store.
    pub fn new(store: Arc<dyn Store>, key: MasterKey) -> Self {
        Self { store, key }
    }

    /// Sets a secret's value and who may use it; returns what may be shown of it.
    pub async fn set(
        &self,
        name: &SecretName,
        value: &[u8],
        functions: Vec<FunctionName>,
        now: DateTime<Utc>,
    ) -> Result<SecretInfo, VaultError> {
        if value.len() > SECRET_MAX_BYTES {
            return Err(VaultError::TooLarge(value.len()));
        }
        let before = self.store.secret(name).await?;
        let version = before.as_ref().map_or(1, |secret| secret.version + 1);
        let sealed = self
            .key
            .seal(value, context(name, version).as_bytes())
            .map_err(|source| VaultError::Sealed { name: name.clone(), source })?;
        let secret = SealedSecret {
            name: name.clone(),
            version,
            key_id: self.key.id().to_owned(),
            sealed,
            functions,
            created_at: before.map_or(now, |secret| secret.created_at),
            updated_at: now,
        };
        self.store.put_secret(&secret).await?;
        Ok(info(secret))
    }

    /// What may be shown of all secrets.
    pub async fn list(&self) -> Result<Vec<SecretInfo>, VaultError> {
        Ok(self.store.secrets().await?.into_iter().map(info).collect())
    }

    /// What may be shown of one secret.
    pub async fn get(&self, name: &SecretName) -> Result<SecretInfo, VaultError> {
        self.store.secret(name).await?.map(info).ok_or_else(|| VaultError::NotFound(name.clone()))
    }

    /// Says whether `function` may use the secret, and what tells its present value from every other
    /// one that it had or will have: part of the pool key, so that a new value means a new VM.
    pub async fn check(
        &self,
        name: &SecretName,
        function: &FunctionName,
    ) -> Result<String, VaultError> {
        let secret = self.sealed_for(name, function).await?;
        // Versions begin again at 1 when a name is deleted and set anew.
        let life = secret.created_at.timestamp_nanos_opt().unwrap_or_default();
        Ok(format!("{}.{life}", secret.version))
    }

    /// The value, for a guest of `function` that is about to start.
    pub async fn open_for(
        &self,
        name: &SecretName,
        function: &FunctionName,
    ) -> Result<Vec<u8>, VaultError> {
        let secret = self.sealed_for(name, function).await?;
        self.key
            .open(&secret.sealed, context(name, secret.version).as_bytes())
            .map_err(|source| VaultError::Sealed { name: name.clone(), source })
    }

    /// Removes a secret.
    pub async fn delete(&self, name: &SecretName) -> Result<(), VaultError> {
        match self.store.delete_secret(name).await {
            Err(StoreError::NotFound { .. }) => Err(VaultError::NotFound(name.clone())),
            other => Ok(other?),
        }
    }

    async fn sealed_for(
        &self,
        name: &SecretName,
        function: &FunctionName,
    ) -> Result<SealedSecret, VaultError> {
        let secret = self.store.secret(name).await?;
        let secret = secret.ok_or_else(|| VaultError::NotFound(name.clone()))?;
        if secret.functions.is_empty() || secret.functions.contains(function) {
            return Ok(secret);
        }
        Err(VaultError::NotAllowed { secret: name.clone(), function: function.clone() })
    }
}

/// What the seal authenticates beside the value: a sealed value moved to another name or version
/// does not open.
fn context(name: &SecretName, version: u64) -> String {
    format!("nova-secret:{name}:{version}")
}

fn info(secret: SealedSecret) -> SecretInfo {
    SecretInfo {
        name: secret.name,
        version: secret.version,
        functions: secret.functions,
        created_at: secret.created_at,
        updated_at: secret.updated_at,
    }
}
