//! What guests boot from: runtime images, code images, the guest kernel and its initramfs.
//!
//! Two halves. [`code`] turns what a user uploads into one canonical archive, and that archive into
//! what a backend mounts. The rest makes and finds the host's own artefacts.
#![forbid(unsafe_code)]

mod artifacts;
pub mod code;
mod debian;
mod erofs;
mod files;
mod host_tool;
mod install;
mod kernel;
mod oci;
mod progress;
mod runtime;

pub use artifacts::{Artifacts, FirecrackerFiles, KernelFiles, MissingArtifact};
pub use debian::DebianError;
pub(crate) use files::write_program;
pub use host_tool::ToolError;
pub use install::{
    FirecrackerRecord, ImportOptions, InstallError, Installer, KernelChoice, KernelRecord,
};
pub use kernel::prepare_initramfs;
pub use oci::{Credentials, ImageReference, OciError, Password, RegistryOptions};
pub use progress::{Progress, Silent};
pub use runtime::{
    BuildRecipe, BuilderRecord, CompileRecipe, DependencyRecipe, Manifest, ManifestError,
    ModeRecipe, PrecompileRecipe, RuntimeCatalog, RuntimeRecord, SnapshotTemplate, SourceNames,
    Starter, StarterError, Toolchain, layer_environment, shipped_manifests, shipped_toolchains,
};
