//! Between rows and the vocabulary. A row that does not convert is [`StoreError::Corrupt`], never a
//! panic: the file may have been written by another Nova or edited by hand.
use super::entity::{api_key, function, invocation, layer, log_line, secret};
use crate::{ApiKey, SealedSecret, StoreError};
use nova_domain::{Function, InvocationRecord, Layer, LogRecord, RequestId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Display;

/// What a conversion of one row needs to say what is wrong with it.
struct Row(String);

impl Row {
    fn corrupt(&self, problem: impl Display) -> StoreError {
        StoreError::Corrupt { what: self.0.clone(), problem: problem.to_string() }
    }

    fn json<T: DeserializeOwned>(&self, value: Value) -> Result<T, StoreError> {
        serde_json::from_value(value).map_err(|error| self.corrupt(error))
    }

    fn text<T: DeserializeOwned>(&self, text: String) -> Result<T, StoreError> {
        self.json(Value::String(text))
    }

    fn number<T: TryFrom<i64, Error: Display>>(&self, value: i64) -> Result<T, StoreError> {
        T::try_from(value).map_err(|error| self.corrupt(error))
    }
}

/// Plain data as JSON for a column.
fn to_json(value: &impl Serialize) -> Result<Value, StoreError> {
    serde_json::to_value(value).map_err(|error| StoreError::Corrupt {
        what: "a value for the store".into(),
        problem: error.to_string(),
    })
}

/// A name or unit-like enum as the text of a column.
fn to_text(value: &impl Serialize) -> Result<String, StoreError> {
    match to_json(value)? {
        Value::String(text) => Ok(text),
        other => Err(StoreError::Corrupt {
            what: "a value for the store".into(),
            problem: format!("{other} is not text"),
        }),
    }
}

/// Counters are far below 2^63; saturating keeps a broken one visible instead of negative.
fn to_signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn to_signed_32(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

pub(super) fn function_row(function: &Function) -> Result<function::Model, StoreError> {
    Ok(function::Model {
        name: function.name.to_string(),
        id: function.id,
        revision: to_signed(function.revision),
        version: to_signed(function.version),
        code_hash: function.code_hash.to_string(),
        config: to_json(&function.config)?,
        build: function.build.as_ref().map(to_json).transpose()?,
        created_at: function.created_at,
        updated_at: function.updated_at,
    })
}

pub(super) fn function(row: function::Model) -> Result<Function, StoreError> {
    let of = Row(format!("function {}", row.name));
    Ok(Function {
        id: row.id,
        config: of.json(row.config)?,
        build: row.build.map(|build| of.json(build)).transpose()?,
        code_hash: of.text(row.code_hash)?,
        revision: of.number(row.revision)?,
        version: of.number(row.version)?,
        created_at: row.created_at,
        updated_at: row.updated_at,
        name: of.text(row.name)?,
    })
}

pub(super) fn invocation_row(record: &InvocationRecord) -> Result<invocation::Model, StoreError> {
    Ok(invocation::Model {
        request_id: record.request_id.0,
        attempt: to_signed_32(record.attempt),
        function: record.function.to_string(),
        version: to_signed(record.version),
        trigger: to_text(&record.trigger)?,
        start: record.start.as_ref().map(to_text).transpose()?,
        duration_ms: record.duration_ms,
        phases: to_json(&record.phases)?,
        error_code: record.error_code.clone(),
        error_message: record.error_message.clone(),
        node: record.node.clone(),
        created_at: record.created_at,
    })
}

pub(super) fn invocation(row: invocation::Model) -> Result<InvocationRecord, StoreError> {
    let of = Row(format!("invocation {}", row.request_id));
    Ok(InvocationRecord {
        request_id: RequestId(row.request_id),
        attempt: of.number(row.attempt.into())?,
        function: of.text(row.function)?,
        version: of.number(row.version)?,
        trigger: of.text(row.trigger)?,
        start: row.start.map(|start| of.text(start)).transpose()?,
        duration_ms: row.duration_ms,
        phases: of.json(row.phases)?,
        error_code: row.error_code,
        error_message: row.error_message,
        node: row.node,
        created_at: row.created_at,
    })
}

pub(super) fn log_row(line: &LogRecord) -> Result<log_line::Model, StoreError> {
    Ok(log_line::Model {
        request_id: line.request_id.0,
        attempt: to_signed_32(line.attempt),
        sequence: to_signed_32(line.sequence),
        function: line.function.to_string(),
        time: line.time,
        stream: to_text(&line.stream)?,
        text: line.text.clone(),
    })
}

pub(super) fn log(row: log_line::Model) -> Result<LogRecord, StoreError> {
    let of = Row(format!("log line of {}", row.request_id));
    Ok(LogRecord {
        function: of.text(row.function)?,
        request_id: RequestId(row.request_id),
        attempt: of.number(row.attempt.into())?,
        sequence: of.number(row.sequence.into())?,
        time: row.time,
        stream: of.text(row.stream)?,
        text: row.text,
    })
}

pub(super) fn key_row(key: &ApiKey) -> Result<api_key::Model, StoreError> {
    Ok(api_key::Model {
        id: key.id.clone(),
        name: key.name.clone(),
        secret_sha256: key.secret_sha256.clone(),
        role: to_text(&key.role)?,
        functions: to_json(&key.functions)?,
        expires_at: key.expires_at,
        created_at: key.created_at,
    })
}

pub(super) fn key(row: api_key::Model) -> Result<ApiKey, StoreError> {
    let of = Row(format!("api key {}", row.id));
    Ok(ApiKey {
        name: row.name,
        secret_sha256: row.secret_sha256,
        role: of.text(row.role)?,
        functions: of.json(row.functions)?,
        expires_at: row.expires_at,
        created_at: row.created_at,
        id: row.id,
    })
}

pub(super) fn layer_row(layer: &Layer) -> layer::Model {
    layer::Model {
        name: layer.name.to_string(),
        version: to_signed(layer.version),
        hash: layer.hash.to_string(),
        size: to_signed(layer.size),
        created_at: layer.created_at,
        updated_at: layer.updated_at,
    }
}

pub(super) fn layer(row: layer::Model) -> Result<Layer, StoreError> {
    let of = Row(format!("layer {}", row.name));
    Ok(Layer {
        version: of.number(row.version)?,
        hash: of.text(row.hash)?,
        size: of.number(row.size)?,
        created_at: row.created_at,
        updated_at: row.updated_at,
        name: of.text(row.name)?,
    })
}

pub(super) fn secret_row(secret: &SealedSecret) -> Result<secret::Model, StoreError> {
    Ok(secret::Model {
        name: secret.name.to_string(),
        version: to_signed(secret.version),
        key_id: secret.key_id.clone(),
        sealed: secret.sealed.clone(),
        functions: to_json(&secret.functions)?,
        created_at: secret.created_at,
        updated_at: secret.updated_at,
    })
}

pub(super) fn secret(row: secret::Model) -> Result<SealedSecret, StoreError> {
    let of = Row(format!("secret {}", row.name));
    Ok(SealedSecret {
        version: of.number(row.version)?,
        key_id: row.key_id,
        sealed: row.sealed,
        functions: of.json(row.functions)?,
        created_at: row.created_at,
        updated_at: row.updated_at,
        name: of.text(row.name)?,
    })
}
