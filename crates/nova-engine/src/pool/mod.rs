//! The pool.
pub(crate) mod policy;
