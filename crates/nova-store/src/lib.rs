//! What Nova remembers: functions, invocations, logs, keys and secrets behind [`Store`], code
//! archives behind [`Blobs`].
//!
//! Each trait has one conformance suite (`tests/conformance.rs`) that every backend passes; SQLite and
//! a directory are the first backends. Nothing here is on the path of a warm call: the engine keeps
//! what it needs in memory and hands records over in batches.
#![forbid(unsafe_code)]

mod api_key;
mod blobs;
mod master_key;
mod secret_vault;
mod sql;
mod store;

pub use api_key::{ApiKey, ApiKeyText, InvalidApiKey, Role};
pub use blobs::{BlobReader, Blobs, DirectoryBlobs, NEW_FOR};
pub use master_key::{MasterKey, MasterKeyError};
pub use secret_vault::{SecretInfo, SecretVault, VaultError};
pub use sql::SqlStore;
pub use store::{
    InvocationFilter, LogFilter, PAGE_MAX, Page, PageRequest, SealedSecret, Store, StoreError,
};
