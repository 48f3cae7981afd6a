//! The note beside a lock of who died holding it, for the next owner and for people.
//!
//! It is written before the lock is given back, by whoever gives it back, and counts only while its epoch is that of the acquisition
//! which the death ended. Two who write it at once write of the same death, or the epoch tells. Only if one of them is stopped
//! amid it, and somebody else dies meanwhile, the name in it may be wrong for as long: it is for people.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::fence;

use super::format::{Entry, Kind, Meta, load_printable, store_text};
use crate::protocol::word::OwnerWord;

/// Noting a death takes less than so many looks, unless whoever does it is stopped there.
const LOOKS: u32 = 100;

impl Entry {
    /// Notes that acquisition `epoch` ended by the death of that process.
    pub(crate) fn note_death(&self, epoch: u64, pid: u32, command: &str) {
        let note = (pid as u64) << 32 | epoch & 0xFFFF_FFFF;
        // Who finds out about a death that is noted leaves the note, which somebody may be reading.
        if self.dead.load(Relaxed) == note {
            return;
        }
        // First nothing, then the name, then whose it is: a reader that finds an epoch that fits finds its name.
        self.dead.store(0, Relaxed);
        fence(Release);
        store_text(&self.dead_command, command.as_bytes());
        // Release: the name. Pairs with the Acquire in `death_of`.
        self.dead.store(note, Release);
    }

    /// Whether the death of the owner in `seen` left something half done that the next owner has to know of. Asked for after the
    /// owner was found dead.
    pub(crate) fn is_told_of(&self, seen: OwnerWord) -> bool {
        // Acquire: pairs with nothing of the dead one's, whose stores were ordered by the verdict.
        match Kind::from_number(Meta(self.meta.load(Acquire)).kind()) {
            // A writer that still waited for readers, or a reader that went in by the writers' door.
            Some(Kind::RwLock | Kind::RwLockData) => self.state.load(Acquire) == seen.epoch(),
            // Whoever was at the gate changed nothing yet.
            Some(Kind::Semaphore | Kind::Barrier | Kind::Latch | Kind::Condvar | Kind::Queue) => false,
            Some(Kind::Mutex | Kind::MutexData | Kind::Once | Kind::Event | Kind::AutoEvent | Kind::Fence) | None => {
                true
            }
        }
    }

    /// Of a lock whose word is marked as abandoned: the epoch of the acquisition that death ended.
    pub(crate) fn died_as(&self, word: OwnerWord) -> u64 {
        match Kind::from_number(Meta(self.meta.load(Relaxed)).kind()) {
            Some(Kind::RwLock | Kind::RwLockData) => match self.state.load(Relaxed) & OwnerWord::MAX_EPOCH {
                // Who was told is inside, and only the note says of what.
                inside if inside == word.epoch() && word.is_held() => {
                    let since = (inside as u32).wrapping_sub(self.dead.load(Relaxed) as u32);
                    inside.saturating_sub(since.into())
                }
                // Others may have had the word since, who did not write.
                written => written,
            },
            _ if word.is_held() => word.epoch().saturating_sub(1),
            _ => word.epoch(),
        }
    }

    /// Of which program that process was, if it was the last whose death was noted.
    pub(crate) fn command_of_dead(&self, pid: u32) -> String {
        let is_noted = (self.dead.load(Acquire) >> 32) as u32 == pid;
        if is_noted { load_printable(&self.dead_command) } else { String::new() }
    }

    /// Who died holding acquisition `epoch`, if that was noted.
    pub(crate) fn death_of(&self, epoch: u64) -> Option<(u32, String)> {
        // It is nothing while somebody notes a death, at the same time as another one the same death, for example.
        let look = || {
            core::hint::spin_loop();
            Some(self.dead.load(Acquire)).filter(|noted| *noted != 0)
        };
        let noted = (0..LOOKS).find_map(|_| look())?;
        let pid = (noted >> 32) as u32;
        (pid != 0 && noted as u32 == epoch as u32).then(|| (pid, load_printable(&self.dead_command)))
    }
}
