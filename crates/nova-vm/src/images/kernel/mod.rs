//! The guest kernel: from a distribution's package to what Firecracker loads.
//!
//! A package holds a bzImage, a small program that unpacks the kernel behind it. Firecracker starts the
//! unpacked ELF itself (`vmlinux`), so [`vmlinux`] does the unpacking once. The modules that the guest
//! needs before it has a root file system travel in the initramfs, in the order that [`load_order`] finds.
mod bzimage;
mod initramfs;
mod modules;

pub(crate) use bzimage::vmlinux;
pub use initramfs::prepare_initramfs;
pub(crate) use modules::load_order;
