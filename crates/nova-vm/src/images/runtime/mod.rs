//! Runtimes: what a language needs (its manifest), what is installed (the catalog).
mod catalog;
mod manifest;
mod recipe;
mod record;
mod shipped;
mod starter;
mod toolchain;

pub use catalog::RuntimeCatalog;
pub(crate) use catalog::read_record;
pub use manifest::{Manifest, ManifestError, ModeRecipe, SnapshotTemplate};
pub(crate) use recipe::{ArchiveRecipe, ArchiveRegistry, ImageRecipe, Step};
pub use record::RuntimeRecord;
pub(crate) use shipped::{
    CommonRecipe, common_recipe, folder_text, recipe_texts, shipped_toolchain,
};
pub use shipped::{layer_environment, shipped_manifests};
pub use starter::{Starter, StarterError};
pub use toolchain::Toolchain;
