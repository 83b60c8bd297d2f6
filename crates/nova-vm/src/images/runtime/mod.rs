//! Runtimes: what a language needs (its manifest), what is installed (the catalog).
mod builder;
mod catalog;
mod manifest;
mod recipe;
mod record;
mod shipped;
mod starter;
mod toolchain;

pub use builder::{BuildRecipe, BuilderRecord, CompileRecipe};
pub use catalog::RuntimeCatalog;
pub(crate) use catalog::read_record;
pub use manifest::{Manifest, ManifestError, ModeRecipe, SnapshotTemplate};
pub(crate) use recipe::{ArchiveRecipe, ArchiveRegistry, ImageRecipe, Step};
pub(crate) use record::ImageRecord;
pub use record::RuntimeRecord;
pub(crate) use shipped::{CommonRecipe, common_recipe, folder_text, recipe_texts, toolchain_texts};
pub use shipped::{layer_environment, shipped_manifests, shipped_toolchains};
pub use starter::{Starter, StarterError};
pub use toolchain::{DependencyRecipe, PrecompileRecipe, SourceNames, Toolchain};
