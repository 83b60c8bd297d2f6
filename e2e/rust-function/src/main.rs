//! Answers with what it was given and what it was told about its call, or fails as the event says.
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (input, context) = event.into_parts();
    match input["do"].as_str() {
        Some("fail") => Err("no such order".into()),
        Some("panic") => panic!("a bug"),
        _ => Ok(json!({
            "input": input,
            "request_id": context.request_id,
            "deadline_ms": context.deadline,
            "function_arn": context.invoked_function_arn,
            "name": context.env_config.function_name,
            "memory_mb": context.env_config.memory,
        })),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handler)).await
}
