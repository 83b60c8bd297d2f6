//! The function's root directory (first step: the paths in it).
use nova_proto::FunctionSetup;

/// Where the function's code is, and its working directory.
pub const CODE_DIR: &str = "/code";

pub fn assemble(_image: &str, _code: &str, _function: &FunctionSetup) -> Result<(), String> {
    Err("not yet".into())
}
