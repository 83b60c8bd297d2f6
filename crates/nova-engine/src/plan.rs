//! What a call of a function needs to know, worked out once: a [`Plan`] is a function at one moment,
//! with its runtime image and the versions of its secrets. It lives until one of these changes.
//!
//! The revision is a hash of all that a running VM depends on; a plan with another revision gets
//! other VMs. Secret *values* are not in here: they are opened when a VM boots and never kept.
use crate::SetupError;
use crate::metrics::Series;
use crate::pool::policy::Shape;
use nova_domain::{
    BuildStatus, CodeHash, EnvValue, Function, FunctionName, RuntimeImage, SecretName,
};
use nova_proto::{FunctionSetup, OwnImage, SecretFile};
use nova_store::SecretVault;
use nova_vm::images::{RuntimeCatalog, code, layer_environment};
use nova_vm::{VmDriver, VmId, VmSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

/// Most bytes of a function's variables once its secrets are filled in: half of what Linux hands to
/// a program, so that the language's own variables and the arguments always fit.
const ENVIRONMENT_MAX_BYTES: usize = 1024 * 1024;

/// A function at one moment.
pub(crate) struct Plan {
    pub function: Function,
    pub series: Arc<Series>,
    image: RuntimeImage,
    command: Vec<String>,
    /// What points the language to its layers.
    layer_env: BTreeMap<String, String>,
    revision: Arc<str>,
    vault: SecretVault,
}

impl Plan {
    /// Looks up what the function refers to, or says what is missing.
    pub async fn make(
        function: Function,
        catalog: &RuntimeCatalog,
        vault: &SecretVault,
        series: Arc<Series>,
    ) -> Result<Self, SetupError> {
        match function.status() {
            BuildStatus::Ready => {}
            BuildStatus::Pending => return Err(SetupError::BuildPending),
            BuildStatus::Failed => {
                let error = function.build.as_ref().and_then(|build| build.error.clone());
                return Err(SetupError::BuildFailed(error.unwrap_or_default()));
            }
        }
        let config = &function.config;
        let image = catalog
            .get(&config.runtime)
            .ok_or_else(|| SetupError::RuntimeNotInstalled(config.runtime.clone()))?;
        let command = image.commands.get(&config.mode).ok_or_else(|| {
            SetupError::ModeNotSupported { runtime: config.runtime.clone(), mode: config.mode }
        })?;
        let with_handler = |part: &String| part.replace("{handler}", &config.handler);
        let command: Vec<_> = command.iter().map(with_handler).collect();
        let mut revision = format!("{}/{}", function.revision_hash().as_str(), image.digest);
        for secret in secrets_of(&function) {
            let value = vault.check(&secret, &function.name).await?;
            // Writing to a string cannot fail.
            let _ = write!(revision, "/{secret}={value}");
        }
        let layer_env = match config.layers.merged {
            Some(_) => layer_environment(&image.id)?,
            None => BTreeMap::new(),
        };
        let vault = vault.clone();
        Ok(Self { series, image, command, layer_env, revision: revision.into(), vault, function })
    }

    pub fn name(&self) -> &FunctionName {
        &self.function.name
    }

    /// Whether the secret is one of this function's.
    pub fn uses(&self, secret: &SecretName) -> bool {
        secrets_of(&self.function).contains(secret)
    }

    /// What the pool must know of guests that this driver makes.
    pub fn shape(&self, driver: &dyn VmDriver) -> Shape {
        let config = &self.function.config;
        Shape {
            revision: Arc::clone(&self.revision),
            memory_mb: u64::from(config.memory_mb)
                + u64::from(driver.overhead_mb(config.memory_mb)),
            slots: config.instance_concurrency,
            replicas_min: config.min_replicas,
            replicas_max: config.max_replicas,
            wait_max_ms: self.timeout_ms(),
        }
    }

    /// Time a call may take, and at most wait.
    pub fn timeout_ms(&self) -> u64 {
        u64::from(self.function.config.timeout_s) * 1000
    }

    /// Everything about a guest that is about to boot, secrets opened.
    pub async fn spec(&self, id: VmId) -> Result<VmSpec, SetupError> {
        let config = &self.function.config;
        let mut secrets = Vec::new();
        for name in &config.secrets {
            let value = self.vault.open_for(name, self.name()).await?;
            secrets.push(SecretFile { name: name.as_str().to_owned(), value });
        }
        Ok(VmSpec {
            id,
            function: self.name().clone(),
            image_digest: self.image.digest.clone(),
            code_hash: self.function.code_hash.clone(),
            layers_hash: config.layers.merged.clone(),
            memory_mb: config.memory_mb,
            limits: config.limits,
            network: config.network.clone(),
            setup: FunctionSetup {
                name: self.name().as_str().to_owned(),
                version: self.function.version.to_string(),
                mode: config.mode,
                command: self.command.clone(),
                handler: config.handler.clone(),
                env: self.environment().await?,
                secrets,
                memory_mb: config.memory_mb,
                tmp_mb: config.limits.tmp_mb,
                out_mb: 0,
                instance_concurrency: config.instance_concurrency,
                own_image: self.image.own.as_ref().map(|own| OwnImage {
                    working_dir: own.working_dir.clone(),
                    has_code: self.function.code_hash != CodeHash::of(&code::empty()),
                }),
            },
        })
    }

    async fn environment(&self) -> Result<BTreeMap<String, String>, SetupError> {
        let mut environment = self.image.env.clone();
        environment.extend(self.layer_env.clone());
        let mut bytes = 0;
        for (variable, value) in self.function.config.env_vars.iter() {
            let problem = |problem: &str| SetupError::Variable {
                variable: variable.to_owned(),
                problem: problem.to_owned(),
            };
            let value = match value {
                EnvValue::Plain(text) => text.to_owned(),
                EnvValue::Secret(name) => {
                    let value = self.vault.open_for(&name, self.name()).await?;
                    String::from_utf8(value).ok().filter(|text| !text.contains('\0')).ok_or_else(
                        || {
                            problem(
                                "the secret is not text without zero bytes; deliver it as a file \
                                 with `secrets`",
                            )
                        },
                    )?
                }
            };
            bytes += variable.len() + value.len();
            if bytes > ENVIRONMENT_MAX_BYTES {
                return Err(problem(
                    "the variables with their secrets are over 1 MiB; deliver some secrets as \
                     files with `secrets`",
                ));
            }
            environment.insert(variable.to_owned(), value);
        }
        Ok(environment)
    }
}

/// The secrets of a function, as variables and as files, each once.
fn secrets_of(function: &Function) -> BTreeSet<SecretName> {
    let config = &function.config;
    config.env_vars.secrets().chain(config.secrets.iter().cloned()).collect()
}
