//! Layers, by name. An upload is only ever replaced by the next version of it.
use super::entity::layer::{Column, Entity};
use super::{convert, exists_or_unavailable, unavailable};
use crate::StoreError;
use nova_domain::{Layer, LayerName};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseConnection, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder,
};

pub(super) async fn put(db: &DatabaseConnection, layer: &Layer) -> Result<(), StoreError> {
    let changed = || StoreError::Changed { what: what(&layer.name) };
    let row = convert::layer_row(layer).into_active_model();
    if layer.version == 1 {
        let inserted = Entity::insert(row).exec_without_returning(db).await;
        return match inserted.map_err(|error| exists_or_unavailable(error, what(&layer.name))) {
            Err(StoreError::Exists { .. }) => Err(changed()),
            other => other.map(|_| ()),
        };
    }
    let updated = Entity::update_many()
        .set(row.reset_all())
        .filter(Column::Name.eq(layer.name.as_str()))
        .filter(Column::Version.eq(layer.version - 1))
        .exec(db)
        .await
        .map_err(unavailable)?;
    if updated.rows_affected == 1 { Ok(()) } else { Err(changed()) }
}

pub(super) async fn get(
    db: &DatabaseConnection,
    name: &LayerName,
) -> Result<Option<Layer>, StoreError> {
    let row = Entity::find_by_id(name.as_str()).one(db).await.map_err(unavailable)?;
    row.map(convert::layer).transpose()
}

pub(super) async fn list(db: &DatabaseConnection) -> Result<Vec<Layer>, StoreError> {
    let rows = Entity::find().order_by_asc(Column::Name).all(db).await.map_err(unavailable)?;
    rows.into_iter().map(convert::layer).collect()
}

pub(super) async fn delete(db: &DatabaseConnection, name: &LayerName) -> Result<(), StoreError> {
    let deleted = Entity::delete_by_id(name.as_str()).exec(db).await.map_err(unavailable)?;
    if deleted.rows_affected == 0 {
        return Err(StoreError::NotFound { what: what(name) });
    }
    Ok(())
}

fn what(name: &LayerName) -> String {
    format!("layer {name}")
}
