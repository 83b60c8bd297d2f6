//! Following the build of a function to its end.
use super::client::Client;
use super::output::cell;
use anyhow::bail;
use serde_json::Value;

/// Shows the log of the build that `function` waits for, if it does, and returns the function as it is
/// then.
///
/// # Errors
/// What the compiler said, when it failed.
pub async fn follow(client: &Client, function: Value) -> anyhow::Result<Value> {
    if function["build"]["status"] != "pending" {
        return Ok(function);
    }
    let name = cell(&function["name"]);
    let path = ["functions", &name, "build"];
    let mut next = 0;
    loop {
        let query = [("after", next.to_string()), ("wait", "true".to_owned())];
        let part = client.get(&path, &query).await?;
        for line in part["lines"].as_array().into_iter().flatten() {
            eprintln!("{}", cell(line));
        }
        next = part["next"].as_u64().unwrap_or(next);
        match part["status"].as_str() {
            Some("pending") => {}
            Some("ready") => return Ok(client.get(&["functions", &name], &[]).await?),
            _ => {
                let error = cell(&part["error"]);
                // The rest of it is the end of the log, which has just been shown.
                let what = error.lines().next().unwrap_or_default().trim_end_matches(':');
                bail!("function {name} was not built: {what} [build_failed]");
            }
        }
    }
}
