//! Read-only images: EROFS files written from a directory, without root and without a loop mount.
//!
//! The same tree gives the same bytes: owners are root's, dates zero, the file system's id fixed. That
//! is what makes the digest of an image mean its contents.
use super::host_tool::{HostTool, ToolError};
use std::path::Path;

/// A fixed id instead of a random one.
const FILE_SYSTEM_ID: &str = "00000000-0000-0000-0000-000000000000";

/// How much work an image is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Runtime images: made once, read by every guest. Halves their size.
    Lz4hc,
    /// Builders: large, and read by few guests. Seconds where the better compression takes minutes.
    Lz4,
    /// Code images: made on the way to a cold start. A tenth of the time to write.
    None,
}

/// Writes `tree` to the file `image`, which must not exist yet.
pub(crate) async fn write(
    tree: &Path,
    image: &Path,
    compression: Compression,
) -> Result<(), ToolError> {
    let mut command = HostTool::find("mkfs.erofs", "erofs-utils")?.command();
    command.args(["--quiet", "--all-root", "-T0", "-U", FILE_SYSTEM_ID]);
    match compression {
        Compression::Lz4hc => _ = command.arg("-zlz4hc"),
        Compression::Lz4 => _ = command.arg("-zlz4"),
        Compression::None => {}
    }
    super::host_tool::run(command.arg(image).arg(tree)).await?;
    Ok(())
}
