//! Functions, by name.
use super::entity::function::{Column, Entity};
use super::{convert, exists_or_unavailable, layers, unavailable};
use crate::store::{PAGE_MAX, Page, PageRequest, StoreError};
use nova_domain::{CodeHash, Function, FunctionName};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseConnection, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};
use std::collections::BTreeSet;

pub(super) async fn create(db: &DatabaseConnection, function: &Function) -> Result<(), StoreError> {
    let row = convert::function_row(function)?.into_active_model();
    let inserted = Entity::insert(row).exec_without_returning(db).await;
    inserted.map(|_| ()).map_err(|error| exists_or_unavailable(error, what(&function.name)))
}

pub(super) async fn get(
    db: &DatabaseConnection,
    name: &FunctionName,
) -> Result<Option<Function>, StoreError> {
    let row = Entity::find_by_id(name.as_str()).one(db).await.map_err(unavailable)?;
    row.map(convert::function).transpose()
}

pub(super) async fn list(
    db: &DatabaseConnection,
    page: &PageRequest,
) -> Result<Page<Function>, StoreError> {
    let mut query = Entity::find().order_by_asc(Column::Name).limit(u64::from(page.limit) + 1);
    if let Some(after) = &page.cursor {
        query = query.filter(Column::Name.gt(after));
    }
    let rows = query.all(db).await.map_err(unavailable)?;
    let items = rows.into_iter().map(convert::function).collect::<Result<_, _>>()?;
    Ok(Page::cut(items, page.limit, |function: &Function| function.name.to_string()))
}

pub(super) async fn replace(
    db: &DatabaseConnection,
    function: &Function,
    expected_revision: u64,
) -> Result<(), StoreError> {
    let row = convert::function_row(function)?.into_active_model().reset_all();
    let updated = Entity::update_many()
        .set(row)
        .filter(Column::Name.eq(function.name.as_str()))
        .filter(Column::Id.eq(function.id))
        .filter(Column::Revision.eq(expected_revision))
        .exec(db)
        .await
        .map_err(unavailable)?;
    if updated.rows_affected == 1 {
        return Ok(());
    }
    match get(db, &function.name).await? {
        Some(_) => Err(StoreError::Changed { what: what(&function.name) }),
        None => Err(StoreError::NotFound { what: what(&function.name) }),
    }
}

pub(super) async fn delete(db: &DatabaseConnection, name: &FunctionName) -> Result<(), StoreError> {
    let deleted = Entity::delete_by_id(name.as_str()).exec(db).await.map_err(unavailable)?;
    if deleted.rows_affected == 0 {
        return Err(StoreError::NotFound { what: what(name) });
    }
    Ok(())
}

pub(super) async fn code_in_use(db: &DatabaseConnection) -> Result<Vec<CodeHash>, StoreError> {
    let mut hashes = BTreeSet::new();
    let mut request = PageRequest { limit: PAGE_MAX, cursor: None };
    loop {
        // What changes between two pages is code that was stored lately, which stays in any case.
        let page = list(db, &request).await?;
        for function in page.items {
            hashes.extend(function.config.layers.hashes().cloned());
            hashes.insert(function.code_hash);
            if let Some(build) = function.build {
                hashes.extend(build.config.layers.hashes().cloned());
                hashes.insert(build.source);
            }
        }
        request.cursor = page.next_cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    hashes.extend(layers::list(db).await?.into_iter().map(|layer| layer.hash));
    Ok(hashes.into_iter().collect())
}

fn what(name: &FunctionName) -> String {
    format!("function {name}")
}
