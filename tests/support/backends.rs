//! Spaces that are made of what a test wants, and how a role is told.

use std::path::Path;

use hostlock::{Backend, Space};

/// The space under `root`, made so.
pub fn space(root: impl AsRef<Path>, backend: Backend) -> Space {
    Space::builder("test").root(root.as_ref()).backend(backend).open().expect("a space")
}

pub fn name_of(backend: Backend) -> &'static str {
    if backend == Backend::Files { "files" } else { "segment" }
}

pub fn by_name(name: &str) -> Backend {
    if name == "files" { Backend::Files } else { Backend::Segment }
}
