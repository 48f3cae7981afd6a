//! What the handles stand on.
//!
//! There is one backend so far: [`shared`], in which a mapped segment *is* the locks. A space is created with a backend, which is
//! recorded where every opener looks first; nobody falls back to another one silently.

pub(crate) mod shared;
