//! Layers: one current archive per name, and no archive forgotten that a function still has.
use crate::{at, function};
use nova_domain::{CodeHash, Layer, LayerName, LayerVersion, Layers};
use nova_store::{Store, StoreError};
use std::sync::Arc;

fn layer(version: u64, content: &[u8]) -> Layer {
    Layer {
        name: LayerName::parse("shared").unwrap(),
        version,
        hash: CodeHash::of(content),
        size: content.len() as u64,
        created_at: at(0),
        updated_at: at(version as i64),
    }
}

pub async fn a_layer_has_one_next_version(store: Arc<impl Store>) {
    let (first, second) = (layer(1, b"one"), layer(2, b"two"));
    store.put_layer(&first).await.unwrap();
    store.put_layer(&second).await.unwrap();
    for stale in [&first, &second] {
        let error = store.put_layer(stale).await.unwrap_err();
        assert!(matches!(error, StoreError::Changed { .. }), "{error}");
    }
    assert_eq!(store.layer(&first.name).await.unwrap(), Some(second.clone()));
    assert_eq!(store.layers().await.unwrap(), [second]);
    store.delete_layer(&first.name).await.unwrap();
    assert_eq!(store.layer(&first.name).await.unwrap(), None);
    let gone = store.delete_layer(&first.name).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { .. }), "{gone}");
}

pub async fn archives_of_layers_and_of_functions_that_have_them_are_in_use(store: Arc<impl Store>) {
    let (old, new, merged) = (CodeHash::of(b"one"), layer(1, b"two"), CodeHash::of(b"merged"));
    store.put_layer(&new).await.unwrap();
    let mut user = function("user");
    let version = LayerVersion { name: new.name.clone(), hash: old.clone() };
    user.config.layers = Layers { versions: vec![version], merged: Some(merged.clone()) };
    store.create_function(&user).await.unwrap();
    assert_eq!(store.function(&user.name).await.unwrap(), Some(user.clone()));
    let mut expected = vec![old, new.hash, merged, user.code_hash];
    expected.sort();
    let mut in_use = store.code_in_use().await.unwrap();
    in_use.sort();
    assert_eq!(in_use, expected);
}
