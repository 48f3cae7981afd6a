//! The 64-bit words of a file that processes share: mapped by all of them, or read and written by all of them.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::sys::uio::{pread, pwrite};

use super::file::KeptFile;
use super::map::{Mapping, Table};

/// Words at the start of a file, in the byte order of the machine.
///
/// Mapped, each load and store is one of an atomic. Otherwise it is a system call for all words of a range, which the kernel does not tear
/// between processes in one page, but does not order with others either: who relies on that holds a lock.
#[derive(Clone, Debug)]
pub(crate) enum Words {
    Mapped(Table<AtomicU64>),
    Unmapped(Arc<KeptFile>),
}

impl Words {
    /// The first `count` words of a file that is that long, mapped.
    ///
    /// This and the next keep the file's description: nobody may lock that.
    pub(crate) fn mapped(file: &File, count: usize) -> io::Result<Self> {
        Self::of(Mapping::new(file, count * 8)?, count)
    }

    /// The same, for looking only.
    pub(crate) fn mapped_to_look_at(file: &File, count: usize) -> io::Result<Self> {
        Self::of(Mapping::read_only(file, count * 8)?, count)
    }

    fn of(mapping: Arc<Mapping>, count: usize) -> io::Result<Self> {
        mapping.table(0, count as u64).map(Self::Mapped).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The same, not mapped.
    pub(crate) fn unmapped(file: File) -> io::Result<Self> {
        Ok(Self::Unmapped(Arc::new(KeptFile::new(file)?)))
    }

    #[inline]
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_))
    }

    #[inline]
    pub(crate) fn load(&self, at: usize) -> io::Result<u64> {
        match self {
            // Acquire: pairs with the Release of `store`.
            Self::Mapped(table) => Ok(word(table, at)?.load(Acquire)),
            Self::Unmapped(_) => self.load_all::<1>(at).map(|[word]| word),
        }
    }

    #[inline]
    pub(crate) fn store(&self, at: usize, value: u64) -> io::Result<()> {
        match self {
            // Release: what was stored before. SeqCst would do nothing for it: who asks the kernel next is ordered by that.
            Self::Mapped(table) => word(table, at).map(|word| word.store(value, Release)),
            Self::Unmapped(_) => self.store_all(at, &[value]),
        }
    }

    #[inline]
    pub(crate) fn load_all<const N: usize>(&self, at: usize) -> io::Result<[u64; N]> {
        let mut words = [0; N];
        match self {
            Self::Mapped(table) => {
                for (number, value) in words.iter_mut().enumerate() {
                    *value = word(table, at + number)?.load(Acquire);
                }
            }
            Self::Unmapped(file) => {
                let mut bytes = vec![0; N * 8];
                if pread(open(file)?, &mut bytes, at as i64 * 8)? != bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                    *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
                }
            }
        }
        Ok(words)
    }

    #[inline]
    pub(crate) fn store_all(&self, at: usize, values: &[u64]) -> io::Result<()> {
        match self {
            Self::Mapped(table) => {
                for (number, value) in values.iter().enumerate() {
                    word(table, at + number)?.store(*value, Relaxed);
                }
                Ok(())
            }
            Self::Unmapped(file) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
                match pwrite(open(file)?, &bytes, at as i64 * 8)? == bytes.len() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::WriteZero.into()),
                }
            }
        }
    }

    /// Adds to a word, and returns what it was. Unmapped, only for whoever keeps all others out.
    #[inline]
    pub(crate) fn add(&self, at: usize, more: u64) -> io::Result<u64> {
        match self {
            Self::Mapped(table) => Ok(word(table, at)?.fetch_add(more, SeqCst)),
            Self::Unmapped(_) => {
                let was = self.load(at)?;
                self.store(at, was.wrapping_add(more))?;
                Ok(was)
            }
        }
    }
}

impl Words {
    /// Sets a word to `new` if it is `expected`. Unmapped, only for whoever keeps all others out.
    #[inline]
    pub(crate) fn compare_exchange(&self, at: usize, expected: u64, new: u64) -> io::Result<bool> {
        match self {
            Self::Mapped(table) => Ok(word(table, at)?.compare_exchange(expected, new, SeqCst, SeqCst).is_ok()),
            Self::Unmapped(_) if self.load(at)? != expected => Ok(false),
            Self::Unmapped(_) => self.store(at, new).map(|()| true),
        }
    }

    /// A load that is in one order with all of its kind, and with `compare_exchange`.
    #[inline]
    pub(crate) fn load_in_order(&self, at: usize) -> io::Result<u64> {
        match self {
            Self::Mapped(table) => Ok(word(table, at)?.load(SeqCst)),
            Self::Unmapped(_) => self.load(at),
        }
    }

    /// A store, as [`load_in_order`](Self::load_in_order).
    #[inline]
    pub(crate) fn store_in_order(&self, at: usize, value: u64) -> io::Result<()> {
        match self {
            Self::Mapped(table) => word(table, at).map(|word| word.store(value, SeqCst)),
            Self::Unmapped(_) => self.store(at, value),
        }
    }
}

fn open(file: &KeptFile) -> io::Result<BorrowedFd<'_>> {
    file.get().ok_or_else(|| nix::errno::Errno::EBADF.into())
}

#[inline]
fn word(table: &Table<AtomicU64>, at: usize) -> io::Result<&AtomicU64> {
    table.get(at).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_show_the_same_words() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64).unwrap();
        let mapped = Words::mapped(&file, 8).unwrap();
        assert!(mapped.is_mapped());
        let unmapped = Words::unmapped(file).unwrap();
        mapped.store(1, 7).unwrap();
        assert_eq!(unmapped.load(1).unwrap(), 7);
        unmapped.store_all(2, &[8, u64::MAX]).unwrap();
        assert_eq!(mapped.load_all::<3>(1).unwrap(), [7, 8, u64::MAX]);
        assert_eq!((unmapped.add(2, 3).unwrap(), mapped.add(2, 1).unwrap(), mapped.load(2).unwrap()), (8, 11, 12));
        assert!(mapped.load(8).is_err() && unmapped.load(8).is_err());
    }
}
