//! How a function becomes another: with new code, new settings, or both, at once or when it is built.
use super::Api;
use super::builds;
use super::code::{self, StoredCode};
use super::functions::{find, not_found};
use super::problem::{ErrorCode, Problem};
use super::runtimes;
use chrono::Utc;
use nova_domain::{
    Build, BuildStatus, EnvValue, Function, FunctionConfig, FunctionName, InvalidField, SecretName,
};
use nova_store::{StoreError, VaultError};

/// How often a change is tried again when somebody else changed the function in between.
const CHANGE_ATTEMPTS: u32 = 5;

/// Changes a function, with new code or with what it has. Source is built first: what `apply` changes
/// then becomes true together with the result, and until then the function stays as it is.
pub async fn deploy(
    api: &Api,
    name: &FunctionName,
    stored: Option<StoredCode>,
    apply: impl Fn(&mut FunctionConfig) -> Result<(), Problem>,
) -> Result<Function, Problem> {
    let function = change(api, name, |function| {
        if function.is_being_built() {
            return Err(builds::in_progress(name));
        }
        let mut config = function.config.clone();
        apply(&mut config)?;
        match &stored {
            Some(StoredCode::ToBuild(kind, source)) => {
                function.build = Some(Build::pending(*kind, source.clone(), config));
            }
            Some(StoredCode::Program(hash)) => {
                (function.config, function.code_hash) = (config, hash.clone());
                function.build = None;
            }
            None => function.config = config,
        }
        Ok(())
    })
    .await?;
    if function.is_being_built() {
        api.builds.submit(function.clone());
    }
    Ok(function)
}

/// Changes a function and makes it current. Where nothing changed, nothing is written. A change that
/// alters what a call runs is a new version; any other is only a new revision.
async fn change(
    api: &Api,
    name: &FunctionName,
    apply: impl Fn(&mut Function) -> Result<(), Problem>,
) -> Result<Function, Problem> {
    for _ in 0..CHANGE_ATTEMPTS {
        let before = find(api, name).await?;
        let mut after = before.clone();
        apply(&mut after)?;
        if after == before {
            return Ok(before);
        }
        let pending = after.build.as_ref().filter(|_| after.is_being_built());
        let config = pending.map_or(&after.config, |build| &build.config);
        check_references(api, name, config).await?;
        let starts = |function: &Function| {
            let FunctionConfig { runtime, mode, handler, .. } = &function.config;
            (runtime.clone(), *mode, handler.clone(), function.code_hash.clone())
        };
        // Source has no program yet.
        if pending.is_none()
            && after.status() == BuildStatus::Ready
            && starts(&after) != starts(&before)
        {
            code::check_handler(api, &after.config, &after.code_hash).await?;
        }
        after.revision += 1;
        if after.revision_hash() != before.revision_hash() {
            after.version += 1;
        }
        after.updated_at = Utc::now();
        match api.store.replace_function(&after, before.revision).await {
            Err(StoreError::Changed { .. }) => continue,
            Err(StoreError::NotFound { .. }) => return Err(not_found(name)),
            other => other?,
        }
        api.executor.functions_changed(name).await;
        return Ok(after);
    }
    let detail = format!("function {name} is being changed by others; try again");
    Err(Problem::new(ErrorCode::Conflict, detail))
}

/// Checks what a configuration names: the runtime must be here, secrets must exist and allow it.
pub async fn check_references(
    api: &Api,
    name: &FunctionName,
    config: &FunctionConfig,
) -> Result<(), Problem> {
    runtimes::check(api, config).await?;
    let in_env = config.env_vars.iter().filter_map(|(variable, value)| match value {
        EnvValue::Secret(secret) => Some((format!("env_vars.{variable}"), secret)),
        EnvValue::Plain(_) => None,
    });
    let as_files = config.secrets.iter().map(|secret| ("secrets".to_owned(), secret.clone()));
    let referred: Vec<(String, SecretName)> = in_env.chain(as_files).collect();
    for (field, secret) in referred {
        match api.vault.check(&secret, name).await {
            Ok(_) => {}
            Err(VaultError::NotFound(secret)) => {
                let hint = format!("set it first with `nova secret set {secret}`");
                let problem = format!("secret {secret} does not exist");
                return Err(InvalidField::new(field, problem, hint).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
