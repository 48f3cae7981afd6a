//! The sole door into shared memory.
//!
//! Everything read through here is input: any process with the file mapped may write anything at any time. So a type may only
//! stand behind this door if it is made of atomics and every bit pattern is a value of it.

use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::fs::File;
use std::io;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

/// Types that may lie in shared memory.
///
/// # Safety
/// All fields are atomics (or of such types), any bit pattern is valid, the layout is fixed (`repr(C)`) without implicit
/// padding, and there is no drop glue.
pub(crate) unsafe trait Shared {}

// SAFETY: an atomic, for which every pattern is valid.
unsafe impl Shared for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU64 {}

/// Whether the kernel lets this process map shared memory at all.
pub(crate) fn try_shared() -> io::Result<()> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    const PAGE: core::num::NonZeroUsize = core::num::NonZeroUsize::new(4096).unwrap();
    // SAFETY: a new mapping at an address of the kernel's choice, never accessed.
    let page = unsafe { mmap_anonymous(None, PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)? };
    // SAFETY: what was just mapped, with its length. If it stays, that says nothing against mapping.
    let _ = unsafe { munmap(page, PAGE.get()) };
    Ok(())
}

/// A file mapped shared.
#[derive(Debug)]
pub(crate) struct Mapping(MmapRaw);

impl Mapping {
    /// Maps the first `len` bytes of `file`, readable and writable, which must be that long: touching what is not there is SIGBUS.
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(MmapOptions::new().len(len).map_raw(file)?)))
    }

    /// The same, for looking only: storing to it is a fault. (Loading an atomic of up to the size of a pointer is not, as core
    /// promises.)
    pub(crate) fn read_only(file: &File, len: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(MmapOptions::new().len(len).map_raw_read_only(file)?)))
    }

    /// A view of `count` values of `T` at `offset`; `None` if they are not all inside, or not aligned.
    pub(crate) fn table<T: Shared>(self: &Arc<Self>, offset: u64, count: u64) -> Option<Table<T>> {
        let bytes = count.checked_mul(size_of::<T>() as u64)?;
        let end = offset.checked_add(bytes)?;
        let start = usize::try_from(offset).ok()?;
        if end > self.0.len() as u64 || start % align_of::<T>() != 0 {
            return None;
        }
        // SAFETY: `start` is at most the mapping's length, by the check above.
        let first = unsafe { self.0.as_mut_ptr().add(start) };
        Some(Table { first: NonNull::new(first)?.cast(), count: usize::try_from(count).ok()?, _map: Arc::clone(self) })
    }
}

/// Values in shared memory. Keeps the mapping alive; clones are the same values.
#[derive(Debug)]
pub(crate) struct Table<T> {
    first: NonNull<T>,
    count: usize,
    _map: Arc<Mapping>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { first: self.first, count: self.count, _map: Arc::clone(&self._map) }
    }
}

// SAFETY: a table hands out shared references to atomics only.
unsafe impl<T: Shared + Sync> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Shared + Sync> Sync for Table<T> {}

impl<T: Shared> Deref for Table<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `Mapping::table` checked bounds and alignment (a mapping starts at a page); the mapping lives as long as
        // `_map`; `T: Shared` is valid for any bytes, and being made of atomics may change under the reference.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl<T: Shared> Table<T> {
    /// One of the values, by itself.
    pub(crate) fn spot(&self, index: usize) -> Option<Spot<T>> {
        self.get(index).map(|value| Spot { value: NonNull::from(value), _map: Arc::clone(&self._map) })
    }
}

/// A value of a [`Table`], for whoever wants it often. Keeps the mapping alive.
#[derive(Debug)]
pub(crate) struct Spot<T> {
    value: NonNull<T>,
    _map: Arc<Mapping>,
}

// SAFETY: as a table.
unsafe impl<T: Shared + Sync> Send for Spot<T> {}
// SAFETY: as a table.
unsafe impl<T: Shared + Sync> Sync for Spot<T> {}

impl<T: Shared> Deref for Spot<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: it was a reference into the mapping, which lives as long as `_map`; the rest as for a table.
        unsafe { self.value.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn views_stay_inside_and_aligned() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = Mapping::new(&file, 4096).unwrap();
        assert_eq!(map.table::<AtomicU64>(0, 512).unwrap().len(), 512);
        assert!(map.table::<AtomicU64>(0, 513).is_none());
        assert!(map.table::<AtomicU64>(4096, 0).is_some());
        assert!(map.table::<AtomicU64>(4096, 1).is_none());
        assert!(map.table::<AtomicU64>(4, 1).is_none());
        assert!(map.table::<AtomicU64>(u64::MAX - 7, 2).is_none());
        assert!(map.table::<AtomicU64>(0, u64::MAX).is_none());
    }

    #[test]
    fn two_mappings_of_a_file_show_each_other_what_they_store() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let one = Mapping::new(&file, 4096).unwrap().table::<AtomicU64>(8, 1).unwrap();
        let two = Mapping::new(&file, 4096).unwrap().table::<AtomicU64>(8, 1).unwrap();
        one[0].store(7, SeqCst);
        assert_eq!(two[0].load(SeqCst), 7);
    }
}
