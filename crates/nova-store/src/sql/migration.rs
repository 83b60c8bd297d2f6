//! The schema, forward only. A migration that was released is never edited; a change is a new one.
use sea_orm_migration::prelude::{
    ColumnDef, DbErr, DeriveIden, DynIden, Index, IntoIden, MigrationName, MigrationTrait,
    MigratorTrait, SchemaManager, Table,
};

/// All migrations, oldest first.
pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(M0001Initial), Box::new(M0002Layers), Box::new(M0003Builds)]
    }
}

struct M0001Initial;

impl MigrationName for M0001Initial {
    fn name(&self) -> &str {
        "0001_initial"
    }
}

#[derive(DeriveIden)]
enum Function {
    Table,
    Name,
    Id,
    Revision,
    Version,
    CodeHash,
    Config,
    Build,
    CreatedAt,
    UpdatedAt,
}

#[derive(DeriveIden)]
enum Invocation {
    Table,
    RequestId,
    Attempt,
    Function,
    Version,
    Trigger,
    Start,
    DurationMs,
    Phases,
    ErrorCode,
    ErrorMessage,
    Node,
    CreatedAt,
}

#[derive(DeriveIden)]
enum LogLine {
    Table,
    RequestId,
    Attempt,
    Sequence,
    Function,
    Time,
    Stream,
    Text,
}

#[derive(DeriveIden)]
enum ApiKey {
    Table,
    Id,
    Name,
    #[sea_orm(iden = "secret_sha256")]
    SecretSha256,
    Role,
    Functions,
    ExpiresAt,
    CreatedAt,
}

#[derive(DeriveIden)]
enum Secret {
    Table,
    Name,
    Version,
    KeyId,
    Sealed,
    Functions,
    CreatedAt,
    UpdatedAt,
}

#[derive(DeriveIden)]
enum Layer {
    Table,
    Name,
    Version,
    Hash,
    Size,
    CreatedAt,
    UpdatedAt,
}

/// A column that must have a value; the caller adds its type.
fn required(name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.not_null();
    column
}

fn index(
    name: &str,
    table: DynIden,
    columns: Vec<DynIden>,
) -> sea_orm_migration::prelude::IndexCreateStatement {
    let mut index = Index::create();
    index.name(name).table(table);
    for column in columns {
        index.col(column);
    }
    index.take()
}

#[async_trait::async_trait]
impl MigrationTrait for M0001Initial {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Function::Table)
                    .col(required(Function::Name).string().primary_key())
                    .col(required(Function::Id).uuid())
                    .col(required(Function::Revision).big_integer())
                    .col(required(Function::Version).big_integer())
                    .col(required(Function::CodeHash).string())
                    .col(required(Function::Config).json_binary())
                    .col(required(Function::CreatedAt).timestamp_with_time_zone())
                    .col(required(Function::UpdatedAt).timestamp_with_time_zone())
                    .take(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table(Invocation::Table)
                    .col(required(Invocation::RequestId).uuid())
                    .col(required(Invocation::Attempt).integer())
                    .col(required(Invocation::Function).string())
                    .col(required(Invocation::Version).big_integer())
                    .col(required(Invocation::Trigger).string())
                    .col(ColumnDef::new(Invocation::Start).string())
                    .col(required(Invocation::DurationMs).double())
                    .col(required(Invocation::Phases).json_binary())
                    .col(ColumnDef::new(Invocation::ErrorCode).string())
                    .col(ColumnDef::new(Invocation::ErrorMessage).text())
                    .col(required(Invocation::Node).string())
                    .col(required(Invocation::CreatedAt).timestamp_with_time_zone())
                    .primary_key(
                        Index::create().col(Invocation::RequestId).col(Invocation::Attempt),
                    )
                    .take(),
            )
            .await?;
        manager
            .create_index(index(
                "invocation_by_function",
                Invocation::Table.into_iden(),
                vec![Invocation::Function.into_iden(), Invocation::RequestId.into_iden()],
            ))
            .await?;
        manager
            .create_table(
                Table::create()
                    .table(LogLine::Table)
                    .col(required(LogLine::RequestId).uuid())
                    .col(required(LogLine::Attempt).integer())
                    .col(required(LogLine::Sequence).integer())
                    .col(required(LogLine::Function).string())
                    .col(required(LogLine::Time).timestamp_with_time_zone())
                    .col(required(LogLine::Stream).string())
                    .col(required(LogLine::Text).text())
                    .primary_key(
                        Index::create()
                            .col(LogLine::RequestId)
                            .col(LogLine::Attempt)
                            .col(LogLine::Sequence),
                    )
                    .take(),
            )
            .await?;
        manager
            .create_index(index(
                "log_line_by_function",
                LogLine::Table.into_iden(),
                vec![LogLine::Function.into_iden(), LogLine::Time.into_iden()],
            ))
            .await?;
        manager
            .create_table(
                Table::create()
                    .table(ApiKey::Table)
                    .col(required(ApiKey::Id).string().primary_key())
                    .col(required(ApiKey::Name).string())
                    .col(required(ApiKey::SecretSha256).string())
                    .col(required(ApiKey::Role).string())
                    .col(required(ApiKey::Functions).json_binary())
                    .col(ColumnDef::new(ApiKey::ExpiresAt).timestamp_with_time_zone())
                    .col(required(ApiKey::CreatedAt).timestamp_with_time_zone())
                    .take(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table(Secret::Table)
                    .col(required(Secret::Name).string().primary_key())
                    .col(required(Secret::Version).big_integer())
                    .col(required(Secret::KeyId).string())
                    .col(required(Secret::Sealed).binary())
                    .col(required(Secret::Functions).json_binary())
                    .col(required(Secret::CreatedAt).timestamp_with_time_zone())
                    .col(required(Secret::UpdatedAt).timestamp_with_time_zone())
                    .take(),
            )
            .await
    }
}

struct M0002Layers;

impl MigrationName for M0002Layers {
    fn name(&self) -> &str {
        "0002_layers"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for M0002Layers {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table(Layer::Table)
                    .col(required(Layer::Name).string().primary_key())
                    .col(required(Layer::Version).big_integer())
                    .col(required(Layer::Hash).string())
                    .col(required(Layer::Size).big_integer())
                    .col(required(Layer::CreatedAt).timestamp_with_time_zone())
                    .col(required(Layer::UpdatedAt).timestamp_with_time_zone())
                    .take(),
            )
            .await
    }
}

/// The last build of a function.
struct M0003Builds;

impl MigrationName for M0003Builds {
    fn name(&self) -> &str {
        "0003_builds"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for M0003Builds {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut build = ColumnDef::new(Function::Build);
        build.json_binary();
        manager.alter_table(Table::alter().table(Function::Table).add_column(build).take()).await
    }
}
