//! Secrets: sealed at rest, versioned, for those they were set for.
use crate::{at, name};
use nova_domain::SecretName;
use nova_store::{MasterKey, SecretVault, Store, StoreError, VaultError};
use std::sync::Arc;

fn vault(store: Arc<impl Store>) -> SecretVault {
    let directory = tempfile::tempdir().unwrap();
    let key = MasterKey::load_or_create(&directory.path().join("master.key")).unwrap();
    SecretVault::new(store, key)
}

fn secret(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

pub async fn a_secret_has_one_next_version(store: Arc<impl Store>) {
    let vault = vault(store.clone());
    assert_eq!(vault.set(&secret("api"), b"one", vec![], at(0)).await.unwrap().version, 1);
    let second = vault.set(&secret("api"), b"two", vec![], at(9)).await.unwrap();
    assert_eq!((second.version, second.created_at, second.updated_at), (2, at(0), at(9)));
    assert_eq!(vault.list().await.unwrap(), [second]);
    assert_eq!(vault.open_for(&secret("api"), &name("f")).await.unwrap(), b"two");

    let row = store.secret(&secret("api")).await.unwrap().unwrap();
    let stale = store.put_secret(&row).await.unwrap_err();
    assert!(matches!(stale, StoreError::Changed { .. }), "{stale}");

    vault.delete(&secret("api")).await.unwrap();
    let gone = vault.delete(&secret("api")).await.unwrap_err();
    assert!(gone.to_string().contains("nova secret set api"), "{gone}");
}

pub async fn no_two_values_of_a_name_look_the_same(store: Arc<impl Store>) {
    let vault = vault(store);
    let mut seen = std::collections::HashSet::new();
    for life in 0..3 {
        for change in 0..2 {
            vault.set(&secret("api"), b"value", vec![], at(life * 10 + change)).await.unwrap();
            assert!(seen.insert(vault.check(&secret("api"), &name("f")).await.unwrap()));
        }
        vault.delete(&secret("api")).await.unwrap();
    }
}

pub async fn the_vault_opens_only_for_those_allowed(store: Arc<impl Store>) {
    let vault = vault(store);
    vault.set(&secret("api"), b"value", vec![name("payments")], at(0)).await.unwrap();
    assert_eq!(vault.open_for(&secret("api"), &name("payments")).await.unwrap(), b"value");
    let refused = vault.open_for(&secret("api"), &name("intruder")).await.unwrap_err();
    assert!(matches!(refused, VaultError::NotAllowed { .. }), "{refused}");
    let missing = vault.check(&secret("none"), &name("payments")).await.unwrap_err();
    assert!(matches!(missing, VaultError::NotFound(_)), "{missing}");
}

pub async fn no_value_is_readable_in_the_stored_row(store: Arc<impl Store>) {
    let value = b"a-value-to-look-for";
    vault(store.clone()).set(&secret("api"), value, vec![], at(0)).await.unwrap();
    let row = store.secret(&secret("api")).await.unwrap().unwrap();
    assert!(!row.sealed.windows(value.len()).any(|window| window == value));

    let other_key = vault(store);
    let refused = other_key.open_for(&secret("api"), &name("f")).await.unwrap_err();
    assert!(matches!(refused, VaultError::Sealed { .. }), "{refused}");
}
