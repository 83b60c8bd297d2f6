//! The rows. Columns that are only ever read whole are JSON; what a query looks at is a column.

/// Functions, by name.
pub(super) mod function {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "function")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub id: Uuid,
        pub revision: i64,
        pub version: i64,
        pub code_hash: String,
        #[sea_orm(column_type = "JsonBinary")]
        pub config: Json,
        #[sea_orm(column_type = "JsonBinary")]
        pub build: Option<Json>,
        pub created_at: DateTimeUtc,
        pub updated_at: DateTimeUtc,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Calls, by request id (UUIDv7: sorts by time) and attempt.
pub(super) mod invocation {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "invocation")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub request_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub attempt: i32,
        pub function: String,
        pub version: i64,
        pub trigger: String,
        pub start: Option<String>,
        pub duration_ms: f64,
        #[sea_orm(column_type = "JsonBinary")]
        pub phases: Json,
        pub error_code: Option<String>,
        pub error_message: Option<String>,
        pub node: String,
        pub created_at: DateTimeUtc,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Log lines of calls.
pub(super) mod log_line {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "log_line")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub request_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub attempt: i32,
        #[sea_orm(primary_key, auto_increment = false)]
        pub sequence: i32,
        pub function: String,
        pub time: DateTimeUtc,
        pub stream: String,
        pub text: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// API keys, by their public id.
pub(super) mod api_key {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "api_key")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub name: String,
        pub secret_sha256: String,
        pub role: String,
        #[sea_orm(column_type = "JsonBinary")]
        pub functions: Json,
        pub expires_at: Option<DateTimeUtc>,
        pub created_at: DateTimeUtc,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Layers, by name.
pub(super) mod layer {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "layer")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub version: i64,
        pub hash: String,
        pub size: i64,
        pub created_at: DateTimeUtc,
        pub updated_at: DateTimeUtc,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// Sealed secrets, by name.
pub(super) mod secret {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "secret")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub version: i64,
        pub key_id: String,
        pub sealed: Vec<u8>,
        #[sea_orm(column_type = "JsonBinary")]
        pub functions: Json,
        pub created_at: DateTimeUtc,
        pub updated_at: DateTimeUtc,
    }

    impl ActiveModelBehavior for ActiveModel {}
}
