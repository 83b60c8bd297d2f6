//! Removes code that no function refers to any more, while the daemon runs.
//!
//! A call that had begun before its function was changed or deleted may still have to boot a guest with
//! the old code. So code goes only when it was unused one round ago as well; what was stored since then is
//! kept by [`Blobs`] itself.
use nova_domain::CodeHash;
use nova_store::{Blobs, NEW_FOR, Store};
use std::sync::Arc;

/// Goes on for ever. A round takes as long as new code is kept, which is longer than any call may take.
pub async fn remove(store: Arc<dyn Store>, blobs: Arc<dyn Blobs>) {
    let mut used_before = None;
    loop {
        used_before = match round(store.as_ref(), blobs.as_ref(), used_before).await {
            Ok(used) => Some(used),
            Err(error) => {
                tracing::warn!(%error, "code that no function uses was not removed");
                None
            }
        };
        tokio::time::sleep(NEW_FOR).await;
    }
}

/// Removes what is used neither now nor in the round before, and returns what is used now. Where the round
/// before is not known, nothing is removed.
async fn round(
    store: &dyn Store,
    blobs: &dyn Blobs,
    used_before: Option<Vec<CodeHash>>,
) -> anyhow::Result<Vec<CodeHash>> {
    let used = store.code_in_use().await?;
    if let Some(mut keep) = used_before {
        keep.extend_from_slice(&used);
        let removed = blobs.retain(&keep).await?;
        if removed > 0 {
            tracing::info!(removed, "code that no function uses was removed");
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use chrono::Utc;
    use nova_domain::{Function, FunctionConfig, FunctionName, RuntimeId};
    use nova_store::{DirectoryBlobs, SqlStore};

    #[tokio::test]
    async fn code_goes_one_round_after_its_function() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(&directory.path().join("nova.db")).await.unwrap();
        let open = async || DirectoryBlobs::open(directory.path().join("blobs")).await.unwrap();
        let code_hash = open().await.put(Bytes::from_static(b"code")).await.unwrap();
        let name = FunctionName::parse("hello").unwrap();
        let function = Function {
            id: uuid::Uuid::now_v7(),
            name: name.clone(),
            config: FunctionConfig::new(RuntimeId::parse("python").unwrap()),
            code_hash: code_hash.clone(),
            build: None,
            revision: 1,
            version: 1,
            created_at: Utc::now(),
            updated_at: Utc::now(),
        };
        store.create_function(&function).await.unwrap();
        // Opened again, it does not count as new.
        let blobs = open().await;
        let used = round(&store, &blobs, None).await.unwrap();
        let used = round(&store, &blobs, Some(used)).await.unwrap();
        assert!(blobs.get(&code_hash).await.is_ok(), "a function uses it");

        store.delete_function(&name).await.unwrap();
        let used = round(&store, &blobs, Some(used)).await.unwrap();
        assert!(blobs.get(&code_hash).await.is_ok(), "a call may be about to use it");
        round(&store, &blobs, Some(used)).await.unwrap();
        assert!(blobs.get(&code_hash).await.is_err(), "it is gone");
    }
}
