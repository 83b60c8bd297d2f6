//! Functions: names are unique, revisions move one at a time.
use crate::{function, name, page};
use nova_domain::{Build, BuildKind, CodeHash};
use nova_store::{Store, StoreError};
use std::sync::Arc;

pub async fn a_function_is_read_back_as_it_was_written(store: Arc<impl Store>) {
    let written = function("hello");
    store.create_function(&written).await.unwrap();
    assert_eq!(store.function(&written.name).await.unwrap(), Some(written));
    assert_eq!(store.function(&name("other")).await.unwrap(), None);
}

pub async fn a_name_is_taken_once(store: Arc<impl Store>) {
    store.create_function(&function("hello")).await.unwrap();
    let error = store.create_function(&function("hello")).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    assert_eq!(error.to_string(), "function hello exists already");
}

pub async fn only_the_current_revision_can_be_replaced(store: Arc<impl Store>) {
    let mut changed = function("hello");
    store.create_function(&changed).await.unwrap();
    changed.revision = 2;
    changed.config.memory_mb = 256;
    store.replace_function(&changed, 1).await.unwrap();
    assert_eq!(store.function(&changed.name).await.unwrap(), Some(changed.clone()));

    let error = store.replace_function(&changed, 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Changed { .. }), "{error}");
    let error = store.replace_function(&function("gone"), 1).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
}

pub async fn one_of_many_writers_wins_each_revision(store: Arc<impl Store>) {
    let original = function("hello");
    store.create_function(&original).await.unwrap();
    let writers: Vec<_> = (0..8u32)
        .map(|n| {
            let (store, mut changed) = (store.clone(), original.clone());
            changed.revision = 2;
            changed.config.timeout_s = n + 1;
            tokio::spawn(async move { store.replace_function(&changed, 1).await.is_ok() })
        })
        .collect();
    let mut winners = 0;
    for writer in writers {
        winners += u32::from(writer.await.unwrap());
    }
    assert_eq!(winners, 1);
}

pub async fn deleting_what_is_not_there_says_so(store: Arc<impl Store>) {
    store.create_function(&function("hello")).await.unwrap();
    store.delete_function(&name("hello")).await.unwrap();
    let error = store.delete_function(&name("hello")).await.unwrap_err();
    assert_eq!(error.to_string(), "function hello does not exist");
}

pub async fn pages_cover_all_functions_once(store: Arc<impl Store>) {
    for n in 0..7 {
        store.create_function(&function(&format!("f{n}"))).await.unwrap();
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let part = store.functions(&page(3, cursor)).await.unwrap();
        assert!(part.items.len() <= 3);
        seen.extend(part.items.into_iter().map(|function| function.name.to_string()));
        cursor = part.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["f0", "f1", "f2", "f3", "f4", "f5", "f6"]);
}

pub async fn a_build_is_kept_with_its_function_and_so_is_its_source(store: Arc<impl Store>) {
    let mut written = function("hello");
    let mut build =
        Build::pending(BuildKind::Dependencies, CodeHash::of(b"source"), written.config.clone());
    build.error = Some("main.c:1: no".into());
    build.log = vec!["line".into()];
    written.build = Some(build);
    store.create_function(&written).await.unwrap();
    assert_eq!(store.function(&written.name).await.unwrap(), Some(written.clone()));
    let mut used = vec![written.code_hash, CodeHash::of(b"source")];
    used.sort();
    assert_eq!(store.code_in_use().await.unwrap(), used);
}

pub async fn code_in_use_is_what_functions_refer_to(store: Arc<impl Store>) {
    let (one, mut two) = (function("one"), function("two"));
    two.code_hash = one.code_hash.clone();
    store.create_function(&one).await.unwrap();
    store.create_function(&two).await.unwrap();
    assert_eq!(store.code_in_use().await.unwrap(), [one.code_hash]);
}
