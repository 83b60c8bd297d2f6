//! The vocabulary of Nova: what a function, a runtime and an invocation are, and what makes them
//! valid. Pure: no I/O, no clock; every other host-side crate speaks in these types.
//!
//! Names are parsed once, at the edge ([`FunctionName::parse`] and its kin); past that point a value
//! of the type is the proof that it is valid.
#![forbid(unsafe_code)]

mod build;
mod environment;
mod function;
mod invocation;
mod layer;
mod name;
mod network;
mod runtime;
mod validation;

pub use build::{Build, BuildKind, BuildStatus};
pub use environment::{EnvValue, Environment};
pub use function::{
    CodeHash, Function, FunctionConfig, Limits, RevisionHash, SnapshotPolicy, default_handler,
    handler_module,
};
pub use invocation::{
    Invocation, InvocationRecord, LogRecord, Outcome, Phases, RequestId, Start, Trigger,
};
pub use layer::{LAYERS_MAX, Layer, LayerVersion, Layers};
pub use name::{FunctionName, LayerName, RuntimeId, SecretName};
pub use network::{EgressRule, NetworkPolicy};
pub use nova_proto::{FunctionError, FunctionErrorKind, LogLine, LogStream, Mode};
pub use runtime::{OwnProgram, RuntimeImage};
pub use validation::InvalidField;
