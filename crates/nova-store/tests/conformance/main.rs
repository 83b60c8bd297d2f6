//! One suite for every [`Store`]: what the engine and the API rely on, whatever database is behind.
//! A backend joins by adding a module that opens an empty store and calls [`suite!`].
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod functions;
mod keys;
mod layers;
mod records;
mod secrets;

use chrono::{DateTime, Utc};
use nova_domain::{CodeHash, Function, FunctionConfig, FunctionName, RuntimeId};
use nova_store::{PageRequest, SqlStore};
use std::sync::Arc;
use uuid::Uuid;

/// Makes a test of each behaviour of the suite for one backend.
macro_rules! suite {
    ($open:path: $($module:ident::$behaviour:ident,)*) => {$(
        #[tokio::test]
        async fn $behaviour() {
            let (store, _keep) = $open().await;
            crate::$module::$behaviour(store).await;
        }
    )*};
}

mod sqlite {
    use super::*;

    async fn open() -> (Arc<SqlStore>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(&directory.path().join("nova.db")).await.unwrap();
        (Arc::new(store), directory)
    }

    suite! {
        open:
        functions::a_function_is_read_back_as_it_was_written,
        functions::a_name_is_taken_once,
        functions::only_the_current_revision_can_be_replaced,
        functions::one_of_many_writers_wins_each_revision,
        functions::deleting_what_is_not_there_says_so,
        functions::pages_cover_all_functions_once,
        functions::a_build_is_kept_with_its_function_and_so_is_its_source,
        functions::code_in_use_is_what_functions_refer_to,
        records::calls_are_listed_newest_first_in_pages_and_by_filter,
        records::the_same_batch_twice_changes_nothing,
        records::logs_are_the_newest_lines_in_order,
        records::long_logs_are_cut_to_the_newest_bytes,
        records::a_search_takes_percent_and_underscore_as_text,
        records::what_is_old_is_forgotten,
        records::a_foreign_cursor_is_refused,
        keys::keys_are_found_by_id_until_they_are_deleted,
        layers::a_layer_has_one_next_version,
        layers::archives_of_layers_and_of_functions_that_have_them_are_in_use,
        secrets::a_secret_has_one_next_version,
        secrets::no_two_values_of_a_name_look_the_same,
        secrets::the_vault_opens_only_for_those_allowed,
        secrets::no_value_is_readable_in_the_stored_row,
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nova.db");
        let written = function("kept");
        let store = SqlStore::open(&path).await.unwrap();
        nova_store::Store::create_function(&store, &written).await.unwrap();
        drop(store);
        let store = SqlStore::open(&path).await.unwrap();
        let read = nova_store::Store::function(&store, &written.name).await.unwrap();
        assert_eq!(read, Some(written));
    }
}

/// A time with the millisecond precision that every backend keeps.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 123_000_000).unwrap()
}

fn name(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

fn function(text: &str) -> Function {
    let mut config = FunctionConfig::new(RuntimeId::parse("python").unwrap());
    config.labels.insert("team".into(), "päyments".into());
    Function {
        id: Uuid::now_v7(),
        name: name(text),
        config,
        code_hash: CodeHash::of(text.as_bytes()),
        build: None,
        revision: 1,
        version: 1,
        created_at: at(0),
        updated_at: at(1),
    }
}

fn page(limit: u32, cursor: Option<String>) -> PageRequest {
    PageRequest { limit, cursor }
}
