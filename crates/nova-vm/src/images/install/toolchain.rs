//! The compiler of a language, unpacked for a build in isolation.
use super::{InstallError, Installer};
use crate::images::host_tool::HostTool;
use crate::images::progress::Progress;
use crate::images::runtime::{Toolchain, shipped_toolchain};
use std::path::Path;

/// Where a build writes; mounted over.
const RESULTS: &str = "out";

impl Installer {
    /// Unpacks the toolchain that `runtimes/<folder>/build.toml` describes into the new directory `root`, to
    /// be used as a read-only root directory.
    pub async fn unpack_toolchain(
        &self,
        folder: &str,
        root: &Path,
        progress: &dyn Progress,
    ) -> Result<Toolchain, InstallError> {
        let toolchain = shipped_toolchain(folder)?;
        for (tool, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar")] {
            HostTool::find(tool, package)?;
        }
        let _lock = self.begin(progress).await?;
        self.make_tree(folder, &toolchain.image, root.to_owned(), progress).await?;
        let results = root.join(RESULTS);
        std::fs::create_dir(&results).map_err(InstallError::file(&results))?;
        Ok(toolchain)
    }
}
