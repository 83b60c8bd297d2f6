//! What guests boot from: runtime images, code images, the guest kernel and its initramfs.
//!
//! Two halves. [`code`] turns what a user uploads into one canonical archive, and that archive into
//! what a backend mounts. The rest makes and finds the host's own artefacts.
pub mod code;
mod erofs;
mod files;
mod host_tool;

pub use host_tool::ToolError;
