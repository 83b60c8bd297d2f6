//! `GET /runtimes`, and the check that a function names a runtime that is here.
//!
//! `nova runtime add` runs beside the daemon, so what is installed is read again whenever somebody
//! asks for the list or names a runtime that was not there before.
use super::Api;
use super::path::Paged;
use super::problem::Problem;
use crate::suggest::nearest;
use axum::extract::State;
use axum::response::Json;
use nova_domain::{FunctionConfig, InvalidField, Mode, RuntimeId, RuntimeImage};
use nova_vm::images::{Manifest, shipped_manifests};
use serde::Serialize;
use std::sync::Arc;

/// Names that people give to a runtime, beside its aliases, and the one that it has.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("javascript", "node"),
    ("js", "node"),
    ("ts", "typescript"),
    ("py", "python"),
    ("python2", "python"),
    ("rb", "ruby"),
    ("csharp", "dotnet"),
    ("lisp", "sbcl"),
    ("shell", "bash"),
    ("sh", "bash"),
    ("golang", "base"),
    ("binary", "base"),
    ("static", "base"),
];

/// A runtime, installed or only known.
#[derive(Debug, Serialize)]
pub struct RuntimeView {
    id: RuntimeId,
    version: Option<String>,
    installed: bool,
    digest: Option<String>,
    size: Option<u64>,
    modes: Vec<Mode>,
    /// The mode of functions that name none.
    mode: Mode,
    memory_min_mb: u32,
    aliases: Vec<RuntimeId>,
    description: Option<String>,
    /// What somebody's own image was made of; functions on it need no code.
    image: Option<String>,
    /// The languages whose source is compiled for it here.
    builders: Vec<RuntimeId>,
}

/// `GET /runtimes`: those that are installed, and those that `nova runtime add` can install.
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<Paged<RuntimeView>>, Problem> {
    reload(&api).await?;
    let manifests = shipped_manifests()
        .map_err(|error| Problem::internal("a runtime's manifest is faulty", &error))?;
    let installed = api.catalog.list();
    let builders: Vec<RuntimeId> =
        api.catalog.builders().into_iter().map(|record| record.language).collect();
    let mut items: Vec<RuntimeView> = installed
        .iter()
        .map(|image| {
            let record = api.catalog.record(&image.id);
            let manifest = manifests.iter().find(|manifest| manifest.id == image.id);
            let aliases = record.map(|record| record.aliases).unwrap_or_default();
            let here = |id: &&RuntimeId| **id == image.id || aliases.contains(id);
            RuntimeView {
                builders: builders.iter().filter(here).cloned().collect(),
                id: image.id.clone(),
                version: Some(image.version.clone()),
                installed: true,
                digest: Some(image.digest.clone()),
                size: Some(image.size),
                modes: image.commands.keys().copied().collect(),
                mode: image.own.as_ref().map_or(Mode::Process, |own| own.mode),
                memory_min_mb: image.memory_min_mb,
                aliases,
                description: manifest.map(|manifest| manifest.description.clone()),
                image: image.own.as_ref().map(|own| own.source.clone()),
            }
        })
        .collect();
    let only_known = |manifest: &Manifest| !installed.iter().any(|image| image.id == manifest.id);
    items.extend(manifests.into_iter().filter(only_known).map(|manifest| RuntimeView {
        id: manifest.id,
        version: None,
        installed: false,
        digest: None,
        size: None,
        modes: manifest.modes.keys().copied().collect(),
        mode: Mode::Process,
        memory_min_mb: manifest.memory_min_mb,
        aliases: manifest.aliases,
        builders: vec![],
        description: Some(manifest.description),
        image: None,
    }));
    Ok(Json(Paged::whole(items)))
}

/// Refuses a configuration whose runtime is not here, does not know the mode, or needs more memory.
pub async fn check(api: &Api, config: &FunctionConfig) -> Result<(), Problem> {
    fits(&find(api, &config.runtime).await?, config).map_err(Problem::from)
}

/// The image of a runtime, also of one that was installed a moment ago.
pub async fn find(api: &Api, id: &RuntimeId) -> Result<RuntimeImage, Problem> {
    let found = match api.catalog.get(id) {
        Some(image) => Some(image),
        None => {
            reload(api).await?;
            api.catalog.get(id)
        }
    };
    found.ok_or_else(|| not_installed(&api.catalog.list(), id))
}

fn fits(image: &RuntimeImage, config: &FunctionConfig) -> Result<(), InvalidField> {
    if !image.commands.contains_key(&config.mode) {
        let modes: Vec<&str> = image.commands.keys().map(|mode| mode.as_str()).collect();
        let problem = format!("runtime {} has no mode {}", image.id, config.mode.as_str());
        return Err(InvalidField::new("mode", problem, format!("use {}", modes.join(" or "))));
    }
    if config.memory_mb < image.memory_min_mb {
        let problem = format!("{} MiB is too little for runtime {}", config.memory_mb, image.id);
        let hint = format!("give at least {}", image.memory_min_mb);
        return Err(InvalidField::new("memory_mb", problem, hint));
    }
    Ok(())
}

fn not_installed(installed: &[RuntimeImage], id: &RuntimeId) -> Problem {
    let shipped = shipped_manifests().unwrap_or_default();
    let here: Vec<&str> = installed.iter().map(|image| image.id.as_str()).collect();
    let known = || here.iter().copied().chain(shipped.iter().map(|manifest| manifest.id.as_str()));
    let text = id.as_str().to_ascii_lowercase();
    let named = |id: &RuntimeId| id.as_str() == text;
    let exact = shipped
        .iter()
        .find(|manifest| named(&manifest.id) || manifest.aliases.iter().any(named))
        .map(|manifest| manifest.id.as_str());
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == text).map(|(_, id)| *id);
    let hint = match exact.or(other).or_else(|| nearest(&text, known())) {
        Some(meant) if here.contains(&meant) => format!("did you mean `{meant}`?"),
        Some(meant) if exact.is_some() => format!("install it with `nova runtime add {meant}`"),
        Some(meant) => {
            format!("did you mean `{meant}`? Install that with `nova runtime add {meant}`")
        }
        None => "`nova runtime list` shows all".to_owned(),
    };
    let list = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
    let problem = format!("{id} is not installed (installed: {list})");
    InvalidField::new("runtime", problem, hint).into()
}

/// Reads what is installed and tells the engine if that changed.
pub async fn reload(api: &Api) -> Result<(), Problem> {
    let before = api.catalog.list();
    let catalog = api.catalog.clone();
    let read = tokio::task::spawn_blocking(move || catalog.reload()).await;
    let failed =
        |error: &dyn std::fmt::Display| Problem::internal("the runtimes cannot be read", error);
    read.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    if api.catalog.list() != before {
        api.executor.runtimes_changed().await;
    }
    Ok(())
}
