//! `nova invoke --local`: one call on this machine, without a daemon that keeps running.
//!
//! It is a daemon nevertheless, the same one in this process, with a data directory that is removed
//! afterwards and a key that nobody else is told: what comes out is what `nova register` and `nova invoke`
//! would have printed. Only the runtime images are those of the real data directory. Secrets and layers are
//! not: they are the daemon's.
use super::build;
use super::client::Client;
use super::function_args::{FunctionArgs, LocalArgs};
use super::functions;
use super::invoke::{self, AnswerFormat};
use super::project::{PROJECT_FILE, Project};
use crate::config::{Config, RawConfig};
use crate::daemon;
use crate::data_dir::admin_key;
use anyhow::{Context, bail};
use nova_domain::Mode;
use reqwest::{Method, Url};
use serde_json::{Map, Value};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a function is called that has no name.
const NAME: &str = "local";

/// Runs the code at `path` once; `data_dir` has the images.
pub async fn invoke(
    path: &Path,
    given: LocalArgs,
    payload: Vec<u8>,
    output: Option<AnswerFormat>,
    data_dir: &Path,
) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "containers are made by root: run it with sudo, or deploy to a daemon with `nova dev`"
        );
    }
    let body = body(path, given.into()).await?;
    let home = tempfile::Builder::new().prefix("nova-local-").tempdir()?;
    let config = config(home.path(), data_dir)?;
    let answered = daemon::serve_for(&config, async |url| {
        let client = Client::new(Url::parse(url)?, admin_key(home.path()))?;
        let name = body["name"].as_str().unwrap_or(NAME).to_owned();
        let created = client.send_json(Method::POST, &["functions"], &Value::Object(body)).await?;
        build::follow(&client, created).await?;
        Ok((invoke::call(&client, &name, payload, true).await?, name))
    })
    .await;
    home.close().context("the temporary data directory stays")?;
    let (answer, name) = answered?;
    invoke::show(&name, &answer, output)
}

/// The function as a create would send it.
async fn body(path: &Path, given: FunctionArgs) -> anyhow::Result<Map<String, Value>> {
    if path.join(PROJECT_FILE).is_file() {
        // Without code nothing is stored at a path.
        return Project::read(path)?.body(given.body(Mode::Process, "")?).await;
    }
    if given.runtime().is_none() {
        let path = path.display();
        bail!(
            "{path} has no {PROJECT_FILE} that says its runtime; give one with --runtime RUNTIME"
        );
    }
    functions::new_body(NAME, Mode::Process, given.with_code(path))
}

/// A daemon that shares nothing but the images with the one of `data_dir`.
fn config(home: &Path, data_dir: &Path) -> anyhow::Result<Config> {
    let images = std::path::absolute(data_dir)?.join("artifacts");
    if images.is_dir() {
        symlink(images, home.join("artifacts"))?;
    }
    let text = |path: PathBuf| path.to_str().map(str::to_owned).context("TMPDIR is not UTF-8");
    let mut raw = RawConfig::read(None, Some(home))?;
    raw.add_flag("listen", Some("127.0.0.1:0".into()));
    raw.add_flag("backend", Some("container".into()));
    raw.add_flag("insecure_no_auth", Some("false".into()));
    raw.add_flag("master_key_file", Some(text(home.join("master.key"))?));
    Ok(Config::new(raw)?)
}
