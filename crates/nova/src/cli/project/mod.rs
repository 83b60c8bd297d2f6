//! A project: a directory with the code of one function and a `nova.yaml` that says the rest. `nova init`
//! makes one, `nova dev` deploys it again and again, `nova invoke --local` runs it once.
//!
//! The fields of `nova.yaml` are those of `POST /functions`, judged by the daemon; `build` is the command
//! line's own, and the code is the directory.
pub mod dev;
pub mod init;
mod watch;

use super::build::follow;
use super::client::{Client, ClientError};
use super::function_args::packed;
use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Says what a directory's function is called, and how it is run.
pub const PROJECT_FILE: &str = "nova.yaml";
/// The input of a project's test call.
pub const EVENT_FILE: &str = "event.json";
/// Most bytes of a `nova.yaml`: room for a few hundred variables.
const PROJECT_FILE_MAX_BYTES: u64 = 256 * 1024;

/// What a directory's `nova.yaml` says.
#[derive(Debug)]
pub struct Project {
    directory: PathBuf,
    name: String,
    /// Shell command that makes the handler.
    build: Option<String>,
    fields: Map<String, Value>,
}

impl Project {
    /// Reads the project in `directory`.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(PROJECT_FILE);
        let mut fields = read_fields(&path).with_context(|| path.display().to_string())?;
        let mut take = |field: &str| match fields.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => bail!("{}: {field} is not text", path.display()),
        };
        let (name, build) = (take("name")?, take("build")?);
        let name = name.with_context(|| format!("{}: there is no name", path.display()))?;
        if let Some(field) = ["code", "code_path"].iter().find(|field| fields.contains_key(**field))
        {
            bail!("{}: {field} makes no sense, the code is the directory", path.display());
        }
        Ok(Self { directory: directory.to_owned(), name, build, fields })
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the build writes: a change of it is none of the sources'.
    fn built(&self) -> Option<PathBuf> {
        self.build.as_ref()?;
        let handler = self.fields.get("handler").and_then(Value::as_str).unwrap_or("handler");
        Some(self.directory.join(handler))
    }

    /// The body that creates the function; what `given` says goes before `nova.yaml`. Compiles first.
    pub async fn body(&self, given: Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
        if let Some(command) = &self.build {
            build(command, &self.directory).await?;
        }
        let mut body = self.fields.clone();
        body.extend(given);
        body.insert("name".into(), json!(self.name));
        // The name of a single program, which a directory is not.
        body.insert("code".into(), packed(&self.directory, "handler")?);
        Ok(body)
    }

    /// Makes the function what the directory holds, and returns it when it is built.
    async fn deploy(&self, client: &Client) -> anyhow::Result<Value> {
        let body = Value::Object(self.body(Map::new()).await?);
        let changed = client.send_json(Method::PATCH, &["functions", &self.name], &body).await;
        let function = match changed {
            Err(ClientError::Refused { code, .. }) if code == "function_not_found" => {
                client.send_json(Method::POST, &["functions"], &body).await?
            }
            other => other?,
        };
        follow(client, function).await
    }
}

fn read_fields(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("there is none; `nova init NAME --runtime RUNTIME` makes a project")
        }
        other => other?,
    };
    let mut text = String::new();
    file.take(PROJECT_FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > PROJECT_FILE_MAX_BYTES {
        bail!("it is over {} KiB; shorten it", PROJECT_FILE_MAX_BYTES / 1024);
    }
    Ok(serde_saphyr::from_str(&text)?)
}

/// Runs a build; what it says goes to stderr.
async fn build(command: &str, directory: &Path) -> anyhow::Result<()> {
    eprintln!("building: {command}");
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    let status = tokio::process::Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(stderr)
        .kill_on_drop(true)
        .status()
        .await
        .context("/bin/sh cannot be started")?;
    if !status.success() {
        bail!("the build failed ({status}): {command}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(text: &str) -> anyhow::Result<(tempfile::TempDir, Project)> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(PROJECT_FILE), text).unwrap();
        let project = Project::read(directory.path())?;
        Ok((directory, project))
    }

    #[tokio::test]
    async fn a_project_becomes_the_body_of_a_create_with_its_build_run_before() {
        let text = "name: hello\nruntime: base\nbuild: echo made > handler\nmemory_mb: 256\n";
        let (directory, project) = project(text).unwrap();
        assert_eq!(project.built(), Some(directory.path().join("handler")));
        let given = Map::from_iter([("memory_mb".to_owned(), json!(512))]);
        let mut body = project.body(given).await.unwrap();
        assert!(body.remove("code").unwrap()["archive"].is_string());
        let expected = json!({ "name": "hello", "runtime": "base", "memory_mb": 512 });
        assert_eq!(Value::Object(body), expected);
        assert_eq!(std::fs::read(directory.path().join("handler")).unwrap(), b"made\n");
    }

    #[tokio::test]
    async fn a_build_that_fails_is_named() {
        let (_directory, project) = project("name: hello\nbuild: exit 3\n").unwrap();
        let error = project.body(Map::new()).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("exit 3"), "{error}");
    }

    #[test]
    fn a_project_file_that_makes_no_sense_is_named_with_what_is_wrong() {
        for (text, part) in [
            ("runtime: python\n", "there is no name"),
            ("name: [a]\n", "name is not text"),
            ("name: a\ncode: x\n", "the code is the directory"),
            ("name: a\nname: b\n", "nova.yaml"),
            ("- a\n", "nova.yaml"),
        ] {
            let error = project(text).map(|_| ()).unwrap_err();
            let error = crate::cli::with_causes(&error);
            assert!(error.contains(part) && error.contains("nova.yaml"), "{text}: {error}");
        }
        let nowhere = Project::read(Path::new("/nonexistent")).unwrap_err();
        assert!(crate::cli::with_causes(&nowhere).contains("nova init"), "{nowhere:?}");
    }
}
