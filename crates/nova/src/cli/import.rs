//! `nova runtime import`, and the same for the `--image` of `nova register` and `nova update`.
//!
//! Like `nova runtime add` it works on the data directory itself, with the rights and the registry logins of
//! who runs it.
use super::function_args::ModeArg;
use super::output;
use super::progress::Shown;
use anyhow::{Context, bail};
use clap::Args;
use nova_domain::{Mode, RuntimeId, RuntimeImage};
use nova_vm::images::{
    Credentials, ImageReference, ImportOptions, Installer, Password, RegistryOptions,
};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

/// Most bytes that are read of a password: tokens of some registries have a few kilobytes.
const PASSWORD_MAX_BYTES: u64 = 64 * 1024;
/// Names the user of a registry, in place of the flag.
const USERNAME_VARIABLE: &str = "NOVA_REGISTRY_USERNAME";
/// Holds their password. There is no flag for it: everybody on the host can read flags.
const PASSWORD_VARIABLE: &str = "NOVA_REGISTRY_PASSWORD";

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// NAME[:TAG][@DIGEST] in a registry, the directory of an OCI layout, or a file of `docker save`
    image: String,
    /// What to call the runtime [default: the last part of the image's name]
    #[arg(long, value_name = "RUNTIME")]
    id: Option<String>,
    /// How functions on it are run, instead of what is found in the image
    #[arg(long)]
    mode: Option<ModeArg>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// The image of a function's own.
#[derive(Debug, Args)]
pub struct FunctionImageArgs {
    /// Make a runtime of this image first, and run the function on it; see `nova runtime import`
    #[arg(long, value_name = "IMAGE", conflicts_with = "runtime")]
    image: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// How to speak to a registry.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    /// User of the registry, by default the one of `docker login` [env: NOVA_REGISTRY_USERNAME]
    #[arg(long, value_name = "NAME")]
    registry_username: Option<String>,
    /// Read their password from standard input [env: NOVA_REGISTRY_PASSWORD]
    #[arg(long)]
    registry_password_stdin: bool,
    /// Speak to the registry without TLS
    #[arg(long)]
    plain_http: bool,
}

/// `nova runtime import`
pub async fn import(data_dir: &Path, args: ImportArgs) -> anyhow::Result<ExitCode> {
    let ImportArgs { image, id, mode, registry } = args;
    let id = id.map(|id| RuntimeId::parse(&id)).transpose()?;
    let options = ImportOptions {
        id,
        id_by_digest: false,
        mode: mode.map(Mode::from),
        registry: registry.options()?,
    };
    let made = make(data_dir, &image, &options).await?;
    let size = made.size / (1024 * 1024);
    let (mode, source) = match &made.own {
        Some(own) => (own.mode.as_str(), own.source.as_str()),
        None => ("", ""),
    };
    output::print_line(&format!("{} ({size} MiB), mode {mode}, of {source}", made.id))?;
    Ok(ExitCode::SUCCESS)
}

impl FunctionImageArgs {
    /// A runtime for one function, where an image was given: named by its digest too, so that it stays what
    /// it is.
    pub async fn make(self, data_dir: &Path) -> anyhow::Result<Option<RuntimeImage>> {
        let Some(image) = self.image else { return Ok(None) };
        let registry = self.registry.options()?;
        let options = ImportOptions { id_by_digest: true, registry, ..ImportOptions::default() };
        make(data_dir, &image, &options).await.map(Some)
    }
}

async fn make(
    data_dir: &Path,
    image: &str,
    options: &ImportOptions,
) -> anyhow::Result<RuntimeImage> {
    let reference = ImageReference::parse(image)?;
    let progress = Shown::new();
    let made = Installer::new(data_dir).import_image(&reference, options, &progress).await;
    progress.finish();
    Ok(made?.image)
}

impl RegistryArgs {
    fn options(self) -> anyhow::Result<RegistryOptions> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let username = self.registry_username.or_else(|| variable(USERNAME_VARIABLE));
        let password = if self.registry_password_stdin {
            let mut password = String::new();
            std::io::stdin()
                .take(PASSWORD_MAX_BYTES)
                .read_to_string(&mut password)
                .context("the password on standard input")?;
            Some(password.trim_end_matches(['\r', '\n']).to_owned())
        } else {
            variable(PASSWORD_VARIABLE)
        };
        let credentials = match (username, password) {
            (None, None) => None,
            (Some(username), Some(password)) => {
                Some(Credentials { username, password: Password::new(password) })
            }
            (Some(_), None) => bail!(
                "the user's password is needed: --registry-password-stdin, or {PASSWORD_VARIABLE}"
            ),
            (None, Some(_)) => bail!("a password needs a user: --registry-username NAME"),
        };
        Ok(RegistryOptions { credentials, plain_http: self.plain_http })
    }
}
