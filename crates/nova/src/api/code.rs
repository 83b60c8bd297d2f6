//! `/functions/{name}/code`, and how code that was sent becomes a stored archive.
//!
//! Packing or unpacking code takes a few hundred MiB at most; [`CODE_JOBS`] bounds how many do so at once.
use super::body::{self, Limit, Received};
use super::builds;
use super::change;
use super::function_body::{CodeBody, FunctionView, Upload};
use super::functions;
use super::handler::{self, HandlerError};
use super::path::FunctionPath;
use super::problem::{ErrorCode, Problem};
use super::source::{self, Found, SourceError};
use super::{Api, to_the_end};
use crate::pack;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use bytes::{Bytes, BytesMut};
use futures::Stream;
use nova_domain::{BuildKind, CodeHash, FunctionConfig, InvalidField};
use nova_store::BlobReader;
use nova_vm::images::code::{UPLOAD_MAX_BYTES, UploadKind, canonicalise, empty};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncReadExt;

/// Code that is packed or unpacked at once: each may take as much memory as `UNPACKED_MAX_BYTES` twice.
pub const CODE_JOBS: usize = 2;

/// Bytes of an archive that are read at once to be sent.
const PIECE_BYTES: usize = 64 * 1024;

/// An archive sent as it is.
const UPLOAD_LIMIT: Limit =
    Limit { bytes: UPLOAD_MAX_BYTES, what: "the archive", code: ErrorCode::CodeTooLarge };

/// `GET /functions/{name}/code`: the canonical archive, a tar.
pub async fn get(
    State(api): State<Arc<Api>>,
    FunctionPath(name): FunctionPath,
) -> Result<Response, Problem> {
    let function = functions::find(&api, &name).await?;
    let archive = api.blobs.open(&function.code_hash).await.map_err(|error| {
        Problem::internal(&format!("the code of function {name} cannot be read"), &error)
    })?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_LENGTH, archive.length.to_string()),
        (header::ETAG, format!("\"{}\"", function.code_hash)),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.tar\"")),
    ];
    Ok((headers, Body::from_stream(pieces(archive))).into_response())
}

/// What the client has taken is read on: one that is slow holds a piece of the archive and not all of it.
fn pieces(archive: BlobReader) -> impl Stream<Item = io::Result<Bytes>> {
    futures::stream::try_unfold(archive.bytes, async |mut rest| {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let length = rest.read_buf(&mut piece).await?;
        Ok((length > 0).then(|| (piece.freeze(), rest)))
    })
}

/// `PUT /functions/{name}/code`: a tar.gz, zip or tar as the body.
pub async fn put(
    State(api): State<Arc<Api>>,
    FunctionPath(name): FunctionPath,
    request: Request,
) -> Result<Json<FunctionView>, Problem> {
    let function = functions::find(&api, &name).await?;
    let (parts, body) = request.into_parts();
    let Received { bytes, held } =
        body::read(&api.bodies, &parts.headers, body, UPLOAD_LIMIT).await?;
    to_the_end(async move {
        let upload = Upload::Archive(bytes.into());
        let code = store(&api, upload, &function.config).await?;
        drop(held);
        let changed = change::deploy(&api, &name, Some(code), |_| Ok(()));
        Ok(Json(changed.await?.into()))
    })
    .await
}

/// Stores the code that a create or update gave, in whichever way, for a function that will have this
/// configuration; `None` where it gave none.
pub async fn store_given(
    api: &Api,
    code: Option<CodeBody>,
    code_path: Option<String>,
    config: &FunctionConfig,
) -> Result<Option<StoredCode>, Problem> {
    let upload = match (code, code_path) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            let hint = "give either `code` or `code_path`";
            return Err(InvalidField::new("code_path", "given beside code", hint).into());
        }
        (Some(code), None) => code.into_upload()?,
        (None, Some(path)) => Upload::Path(allowed_path(&api.settings.code_paths, &path)?),
    };
    store(api, upload, config).await.map(Some)
}

/// Stores that a function has no code: its program is in its image.
pub async fn store_none(api: &Api) -> Result<CodeHash, Problem> {
    let stored = api.blobs.put(empty().into()).await;
    stored.map_err(|error| Problem::internal("the code was not stored", &error))
}

/// Refuses a configuration whose handler is not in the code of that hash.
pub async fn check_handler(
    api: &Api,
    config: &FunctionConfig,
    hash: &CodeHash,
) -> Result<(), Problem> {
    if !names_handler(api, config) {
        return Ok(());
    }
    let broken = |error: &dyn std::fmt::Display| Problem::internal("the code was not read", error);
    let _turn = api.code_jobs.acquire().await.map_err(|error| broken(&error))?;
    let archive = api.blobs.get(hash).await.map_err(|error| broken(&error))?;
    let config = config.clone();
    let checked = tokio::task::spawn_blocking(move || handler::check(&config, &archive)).await;
    checked.map_err(|error| broken(&error))?.map_err(Problem::from)
}

/// Whether the handler is what is started: not where an image brings its own program.
fn names_handler(api: &Api, config: &FunctionConfig) -> bool {
    api.catalog.get(&config.runtime).is_none_or(|image| image.own.is_none())
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Code(error) => error.into(),
            SourceError::Archive(error) => Self::internal("stored code is damaged", &error),
        }
    }
}

impl From<HandlerError> for Problem {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::Missing(field) => field.into(),
            HandlerError::Archive(error) => Self::internal("stored code is damaged", &error),
        }
    }
}

/// Code that was stored.
#[derive(Debug, Clone)]
pub enum StoredCode {
    /// To be run as it is.
    Program(CodeHash),
    /// To be built first.
    ToBuild(BuildKind, CodeHash),
}

async fn store(api: &Api, upload: Upload, config: &FunctionConfig) -> Result<StoredCode, Problem> {
    let broken =
        |error: &dyn std::fmt::Display| Problem::internal("the code was not stored", error);
    let _turn = api.code_jobs.acquire().await.map_err(|error| broken(&error))?;
    // Without its runtime the function is refused a little later.
    let ending = api.catalog.get(&config.runtime).and_then(|image| image.extension);
    let named = names_handler(api, config);
    let rules = builds::rules(api, &config.runtime).await?;
    let deployed = config;
    let config = config.clone();
    let found =
        tokio::task::spawn_blocking(move || -> Result<(Vec<u8>, Option<BuildKind>), Problem> {
            let program = pack::program_path(config.mode, &config.handler, ending.as_deref());
            let inline = UploadKind::Inline { handler: &program };
            let archive = match upload {
                Upload::Inline(text) => canonicalise(&text, inline)?,
                Upload::Archive(bytes) => canonicalise(&bytes, UploadKind::Archive)?,
                Upload::Path(path) => canonicalise(&packed(&path, &config)?, UploadKind::Archive)?,
            };
            let (archive, kind) = match source::find(archive, &config, &rules)? {
                Found::ToBuild(kind, archive) => (archive, Some(kind)),
                Found::Program(archive) => (archive, None),
            };
            if named && kind != Some(BuildKind::Compile) {
                handler::check(&config, &archive)?;
            }
            Ok((archive, kind))
        });
    let (archive, kind) = found.await.map_err(|error| broken(&error))??;
    if kind == Some(BuildKind::Compile) {
        builds::check_builder(api, deployed)?;
    }
    let hash = api.blobs.put(archive.into()).await.map_err(|error| broken(&error))?;
    Ok(match kind {
        Some(kind) => StoredCode::ToBuild(kind, hash),
        None => StoredCode::Program(hash),
    })
}

/// Code from the daemon's own file system as an archive, all of it in memory.
fn packed(path: &Path, config: &FunctionConfig) -> Result<Vec<u8>, InvalidField> {
    let program = pack::program_path(config.mode, &config.handler, pack::ending(path));
    pack::pack(path, &program).map_err(|error| {
        InvalidField::new("code_path", error.to_string(), "correct it and try again")
    })
}

/// A path of the daemon's own file system, if the configuration allows reading code from there.
fn allowed_path(allowed: &[PathBuf], given: &str) -> Result<PathBuf, Problem> {
    let refuse =
        |problem: &str, hint: &str| Problem::from(InvalidField::new("code_path", problem, hint));
    if allowed.is_empty() {
        return Err(refuse(
            "the daemon reads no code from its own files",
            "upload the code (`nova register -c PATH` does), or list directories under `code_paths` \
             in the daemon's configuration",
        ));
    }
    // Links are followed first, so that what is compared is what will be read.
    let outside =
        || refuse("not below a directory of `code_paths`", "move the code there, or upload it");
    let path = Path::new(given).canonicalize().map_err(|_| outside())?;
    if allowed.iter().any(|directory| path.starts_with(directory)) {
        return Ok(path);
    }
    Err(outside())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn of_code_that_is_sent_one_piece_is_in_memory() {
        let length = 10 * PIECE_BYTES as u64 + 1;
        let bytes = Box::new(tokio::io::repeat(7).take(length));
        let sent: Vec<Bytes> = pieces(BlobReader { length, bytes }).try_collect().await.unwrap();
        assert_eq!(sent.iter().map(Bytes::len).sum::<usize>() as u64, length);
        assert!(sent.iter().all(|piece| piece.len() <= PIECE_BYTES));
    }

    #[test]
    fn a_code_path_is_read_only_below_the_configured_directories() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().canonicalize().unwrap();
        let (inside, outside) = (base.join("allowed"), base.join("secret"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let allowed = [inside.clone()];
        let check = |path: &Path| allowed_path(&allowed, path.to_str().unwrap());
        assert_eq!(check(&inside).unwrap(), inside);
        for path in [outside.clone(), inside.join("link"), inside.join("../secret")] {
            assert_eq!(check(&path).unwrap_err().code(), ErrorCode::InvalidField, "{path:?}");
        }
        assert_eq!(allowed_path(&[], "/etc").unwrap_err().code(), ErrorCode::InvalidField);
    }
}
