//! Container images of others: from a registry, an OCI layout or a `docker save` archive to a directory.
//!
//! ```text
//! registry ─────┐                     manifest, config     every digest checked
//! OCI layout ───┼─▶ source ─▶ Opened ─┬─▶ layers ─▶ tree   gzip, zstd or plain tar; whiteouts
//! docker save ──┘                     └─▶ contract         how its program is started, found by itself
//! ```
//! Everything in an image is hostile: sizes are bounded before anything is kept, no link of it leads out of
//! the tree that is written, and what is not a file, directory or link is left out. Nothing of it is run
//! here. The registry's protocol is spoken by a few hundred lines of our own: the client libraries there
//! are keep whole manifests in memory, whatever their size.
mod archive;
mod config;
mod contract;
mod credentials;
mod digest;
mod error;
mod layer;
mod layout;
mod limits;
mod manifest;
mod reference;
mod registry;
mod source;
#[cfg(test)]
mod tests;
mod token;
mod tree;

pub(super) use contract::Contract;
pub use credentials::{Credentials, Password};
pub use error::OciError;
pub(super) use limits::Limits;
pub use reference::ImageReference;
pub use registry::RegistryOptions;
pub(super) use source::{Opened, contract_of};
pub(super) use tree::unpack;
