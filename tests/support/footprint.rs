//! What a process has that might grow.

use std::path::Path;

use hostlock::{Error, Space};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    pub descriptors: usize,
    /// Of segments; what the allocator maps is its own affair.
    pub mappings: usize,
    pub threads: usize,
    /// Bytes of the space's extents that are free.
    pub free: u64,
    /// Kilobytes of memory of its own.
    pub anonymous: u64,
}

impl Footprint {
    pub fn of(space: &Space) -> Self {
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).map_or(0, Iterator::count);
        let read = |what: &str| std::fs::read_to_string(format!("/proc/self/{what}")).unwrap_or_default();
        let anonymous = read("status")
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok());
        Self {
            // One of them is that of the look itself, each time.
            descriptors: count("fd"),
            mappings: read("maps").lines().filter(|line| line.contains("/segment")).count(),
            threads: count("task"),
            free: free_extents(space),
            anonymous: anonymous.unwrap_or(0),
        }
    }
}

/// How many bytes of the extents are free: something much too large is refused, and the refusal says so.
pub fn free_extents(space: &Space) -> u64 {
    match space.queue::<[u64; 8]>("much too large", 1 << 24) {
        Err(Error::NoExtents { free, .. }) => free,
        _ => 0,
    }
}

/// How many files and directories there are below one.
pub fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| 1 + if entry.path().is_dir() { files(&entry.path()) } else { 0 }).sum()
}
