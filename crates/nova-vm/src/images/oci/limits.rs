//! How much of an image is taken.

/// Most bytes of a manifest, an index or a configuration; registries take no larger ones.
pub(super) const DOCUMENT_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Most layers: twice what image builders make.
pub(super) const LAYERS_MAX: usize = 256;

/// The bounds that tests make smaller.
#[derive(Debug, Clone, Copy)]
pub(in crate::images) struct Limits {
    /// Bytes of all layers as they are sent or stored.
    pub packed_bytes: u64,
    /// Bytes of all layers unpacked, also of files that a later layer removes.
    pub unpacked_bytes: u64,
    /// Entries of all layers.
    pub entries: u64,
}

impl Limits {
    /// What AWS Lambda takes, which users know: images of up to 10 GB. A million entries is several times
    /// the largest language image, and bounds what is remembered of their names.
    pub(in crate::images) const STANDARD: Self =
        Self { packed_bytes: 10_000_000_000, unpacked_bytes: 10_000_000_000, entries: 1_000_000 };
}
