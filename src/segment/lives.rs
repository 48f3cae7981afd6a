//! The life words of participants: hints that somebody may be dead, which come at once.
//!
//! A word is marked by the kernel when the *thread* that registered it ends, and before the rest of its process has: see [`os::life`](crate::os::life). So it is a reason to ask
//! [`judge`](Segment::judge), and never the answer. Its page is allocated by the first participant who needs it; until then it is a hole, which nobody touches.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::Segment;
use super::format::HAS_LIFE;
use crate::os::file::allocate;
use crate::os::life::{Registered, Sign, is_possible};
use crate::protocol::slot::Slot;

impl Segment {
    /// Registers the calling thread in the life word of `slot`, which is this process's. `None`: it cannot be, and others look by themselves.
    pub(super) fn begin_life(&self, slot: Slot) -> Option<Registered> {
        let record = self.records.get(slot.index() as usize)?;
        let begin = || -> io::Result<Option<Registered>> {
            if !is_possible() {
                return Ok(None);
            }
            let at = self.header.life_at(slot);
            self.with_file(|file| {
                // There may be no room for it, or no way to make room in this file system.
                allocate(file, at, size_of::<AtomicU32>() as u64)?;
                Registered::register(file, at)
            })
        };
        let life = begin().ok().flatten();
        // Release: the page is there. Pairs with the Acquire in `life_of`.
        match life {
            Some(_) => record.flags.fetch_or(HAS_LIFE, Release),
            None => record.flags.fetch_and(!HAS_LIFE, Release),
        };
        life
    }

    /// Does something with the file, which is opened anew if the program closed it.
    pub(super) fn with_file<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match self.file.get() {
            Some(file) => act(file),
            None => act(self.reopen().map_err(io::Error::other)?.as_fd()),
        }
    }

    /// The life word of whoever is in `slot`, and what it says; `None` if there is none.
    pub(crate) fn life_of(&self, slot: Slot) -> Option<(&AtomicU32, Sign)> {
        let record = self.records.get(slot.index() as usize)?;
        if record.flags.load(Acquire) & HAS_LIFE == 0 {
            return None;
        }
        let word = self.lives.get(((self.header.life_at(slot) - self.header.lives_at()) / 4) as usize)?;
        Some((word, Sign::of(word)))
    }
}
