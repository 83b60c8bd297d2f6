//! What long work tells whoever shows it: the command line's bar, the daemon's log, or nobody.

/// Receives the course of an installation. Called from one task at a time.
pub trait Progress: Send + Sync {
    /// A step begins, for example `downloading 23 packages`; the one before it is done.
    fn step(&self, what: &str);

    /// The current step has done `percent` of its work, 0 to 100. Not every step can say.
    fn percent(&self, percent: f32);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn percent(&self, _: f32) {}
}
