//! API keys.
use crate::{at, name};
use nova_store::{ApiKey, ApiKeyText, Role, Store, StoreError};
use std::sync::Arc;

pub async fn keys_are_found_by_id_until_they_are_deleted(store: Arc<impl Store>) {
    let text = ApiKeyText::generate();
    let key = ApiKey {
        id: text.id().into(),
        name: "ci".into(),
        secret_sha256: text.secret_sha256(),
        role: Role::Deploy,
        functions: vec![name("f")],
        expires_at: Some(at(60)),
        created_at: at(0),
    };
    store.create_api_key(&key).await.unwrap();
    let twice = store.create_api_key(&key).await.unwrap_err();
    assert!(matches!(twice, StoreError::Exists { .. }), "{twice}");
    assert_eq!(store.api_key(text.id()).await.unwrap(), Some(key.clone()));
    assert_eq!(store.api_keys().await.unwrap(), [key]);
    store.delete_api_key(text.id()).await.unwrap();
    assert_eq!(store.api_key(text.id()).await.unwrap(), None);
    let gone = store.delete_api_key(text.id()).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { .. }), "{gone}");
}
