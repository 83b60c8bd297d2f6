//! API keys, by their public id.
use super::entity::api_key::{Column, Entity};
use super::{convert, exists_or_unavailable, unavailable};
use crate::{ApiKey, StoreError};
use sea_orm::{DatabaseConnection, EntityTrait, IntoActiveModel, QueryOrder};

pub(super) async fn create(db: &DatabaseConnection, key: &ApiKey) -> Result<(), StoreError> {
    let row = convert::key_row(key)?.into_active_model();
    let inserted = Entity::insert(row).exec_without_returning(db).await;
    inserted
        .map(|_| ())
        .map_err(|error| exists_or_unavailable(error, format!("api key {}", key.id)))
}

pub(super) async fn get(db: &DatabaseConnection, id: &str) -> Result<Option<ApiKey>, StoreError> {
    let row = Entity::find_by_id(id).one(db).await.map_err(unavailable)?;
    row.map(convert::key).transpose()
}

pub(super) async fn list(db: &DatabaseConnection) -> Result<Vec<ApiKey>, StoreError> {
    let rows = Entity::find()
        .order_by_desc(Column::CreatedAt)
        .order_by_asc(Column::Id)
        .all(db)
        .await
        .map_err(unavailable)?;
    rows.into_iter().map(convert::key).collect()
}

pub(super) async fn delete(db: &DatabaseConnection, id: &str) -> Result<(), StoreError> {
    let deleted = Entity::delete_by_id(id).exec(db).await.map_err(unavailable)?;
    if deleted.rows_affected == 0 {
        return Err(StoreError::NotFound { what: format!("api key {id}") });
    }
    Ok(())
}
