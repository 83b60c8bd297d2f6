//! Runtimes: what a language needs (its manifest), what is installed (the catalog).
mod catalog;
mod manifest;
mod record;
mod shipped;

pub use catalog::RuntimeCatalog;
pub(crate) use catalog::read_record;
pub(crate) use manifest::{ImageRecipe, Step};
pub use manifest::{Manifest, ManifestError, ModeRecipe};
pub use record::RuntimeRecord;
pub(crate) use shipped::{CommonRecipe, common_recipe, folder_text, recipe_texts};
pub use shipped::{Example, shipped_manifests};
