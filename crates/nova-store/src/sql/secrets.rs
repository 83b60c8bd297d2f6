//! Sealed secrets, by name. A value is only ever replaced by the next version of it.
use super::entity::secret::{Column, Entity};
use super::{convert, exists_or_unavailable, unavailable};
use crate::{SealedSecret, StoreError};
use nova_domain::SecretName;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseConnection, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder,
};

pub(super) async fn put(db: &DatabaseConnection, secret: &SealedSecret) -> Result<(), StoreError> {
    let changed = || StoreError::Changed { what: what(&secret.name) };
    let row = convert::secret_row(secret)?.into_active_model();
    if secret.version == 1 {
        let inserted = Entity::insert(row).exec_without_returning(db).await;
        return match inserted.map_err(|error| exists_or_unavailable(error, what(&secret.name))) {
            Err(StoreError::Exists { .. }) => Err(changed()),
            other => other.map(|_| ()),
        };
    }
    let updated = Entity::update_many()
        .set(row.reset_all())
        .filter(Column::Name.eq(secret.name.as_str()))
        .filter(Column::Version.eq(secret.version - 1))
        .exec(db)
        .await
        .map_err(unavailable)?;
    if updated.rows_affected == 1 { Ok(()) } else { Err(changed()) }
}

pub(super) async fn get(
    db: &DatabaseConnection,
    name: &SecretName,
) -> Result<Option<SealedSecret>, StoreError> {
    let row = Entity::find_by_id(name.as_str()).one(db).await.map_err(unavailable)?;
    row.map(convert::secret).transpose()
}

pub(super) async fn list(db: &DatabaseConnection) -> Result<Vec<SealedSecret>, StoreError> {
    let rows = Entity::find().order_by_asc(Column::Name).all(db).await.map_err(unavailable)?;
    rows.into_iter().map(convert::secret).collect()
}

pub(super) async fn delete(db: &DatabaseConnection, name: &SecretName) -> Result<(), StoreError> {
    let deleted = Entity::delete_by_id(name.as_str()).exec(db).await.map_err(unavailable)?;
    if deleted.rows_affected == 0 {
        return Err(StoreError::NotFound { what: what(name) });
    }
    Ok(())
}

fn what(name: &SecretName) -> String {
    format!("secret {name}")
}
