//! Runtimes: what a language needs (its manifest), what is installed (the catalog).
mod catalog;
mod manifest;
mod record;
mod shipped;

pub use catalog::RuntimeCatalog;
pub(crate) use manifest::{ImageRecipe, Step};
pub use manifest::{Manifest, ManifestError, ModeRecipe};
pub use record::RuntimeRecord;
pub(crate) use shipped::common_recipe;
pub use shipped::{Example, shipped_manifests};
