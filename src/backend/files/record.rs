//! Who holds a lock file: written by its holder only, and taken back before the lock is released. It lies in the space's own file, and so is there
//! when the lock file is not.
//!
//! | word | meaning |
//! | --- | --- |
//! | 0 | state: the token (from bit 2), died (bit 1), held (bit 0) |
//! | 1 | PID (low half), thread (high half) |
//! | 2 | when the process started |
//! | 3 | its PID namespace |
//! | 4 | since when it holds the lock: monotonic milliseconds |
//! | 5–8 | its command |
//! | 9 | died: the token of whoever died holding it |
//! | 10 | its PID |
//! | 11–14 | its command |
//! | 15 | a digest of the kernel's boot id |
//! | 16 | on behalf of which PID |
//! | 17–20 | that one's command |
//! | 21 | the inode that it has locked |
//! | 22 | 1: the lock was passed on to programs that it started |
//! | 23 | the inode of its pidfd |
//! | 24 | its time namespace |
//!
//! * Whoever has the lock and finds the record held follows an owner that died: nobody else leaves it so.
//! * The state is written last, and taken back first, so whoever reads without the lock and finds the same state before and after has read one
//!   acquisition: tokens are never the same.

use std::io;

use crate::os::clock::Monotonic;
use crate::os::file::FileId;
use crate::os::identity::{self, Identity};
use crate::os::liveness::{self, Life};
use crate::os::words::Words;
use crate::{Abandoned, Held, Holder, Process};

const STATE: usize = 0;
const OWNER: usize = 1;
const DIED: usize = 9;
const BOOT: usize = 15;
const BEHALF: usize = 16;
const INODE: usize = 21;
const PASSED_ON: usize = 22;
const COMMAND_WORDS: usize = 4;
/// How many words there are.
pub(crate) const RECORD_WORDS: usize = 25;

const HELD: u64 = 1;
const DEAD: u64 = 2;

/// The record of a lock file, among the words of the space's file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) words: &'a Words,
    /// Where it begins.
    pub(crate) at: usize,
}

/// This process, as it stands in records.
#[derive(Clone, Debug)]
pub(crate) struct Me {
    identity: Identity,
    command: [u64; COMMAND_WORDS],
}

impl Me {
    pub(crate) fn pid(&self) -> u32 {
        self.identity.pid
    }

    pub(crate) fn new() -> Self {
        Self { identity: Identity::mine(), command: to_words(&String::from_utf8_lossy(&identity::command())) }
    }
}

fn to_words(text: &str) -> [u64; COMMAND_WORDS] {
    let mut bytes = [0; COMMAND_WORDS * 8];
    for (byte, value) in bytes.iter_mut().zip(text.bytes()) {
        *byte = value;
    }
    core::array::from_fn(|word| u64::from_ne_bytes(bytes[word * 8..][..8].try_into().unwrap_or_default()))
}

fn to_text(words: &[u64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A process that died holding the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead {
    pub(crate) pid: u32,
    /// What it had locked.
    pub(crate) inode: u64,
    /// Programs that it started may have the lock.
    pub(crate) passed_on: bool,
}

/// What the record says without the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nobody holds it exclusively; a death is to be told of.
    Free(Option<Abandoned>),
    /// So it says, of a process that lives.
    Held(Holder),
    /// So it says, of a process that died, or of which nobody knows.
    Gone(Abandoned),
    /// It changes all the time.
    Busy,
}

impl Record<'_> {
    #[inline]
    fn load(&self, word: usize) -> io::Result<u64> {
        self.words.load(self.at + word)
    }

    #[inline]
    fn store(&self, word: usize, value: u64) -> io::Result<()> {
        self.words.store(self.at + word, value)
    }

    #[inline]
    fn store_all(&self, word: usize, values: &[u64]) -> io::Result<()> {
        self.words.store_all(self.at + word, values)
    }

    #[inline]
    fn load_all<const N: usize>(&self) -> io::Result<[u64; N]> {
        self.words.load_all(self.at)
    }

    pub(crate) fn clear(&self) -> io::Result<()> {
        self.store_all(STATE, &[0; RECORD_WORDS])
    }

    /// Whoever died holding the lock that the caller has now, if it is to be told.
    #[inline]
    pub(crate) fn dead(&self) -> io::Result<Option<Abandoned>> {
        if self.load(STATE)? & (HELD | DEAD) == 0 {
            return Ok(None);
        }
        let words: [u64; 15] = self.load_all()?;
        Ok(dead_in(&words))
    }

    /// Writes that the caller holds it, after having kept who died before.
    #[inline]
    pub(crate) fn hold(
        &self,
        me: &Me,
        inode: u64,
        thread: u32,
        token: u64,
        dead: Option<&Abandoned>,
    ) -> io::Result<()> {
        if let Some(dead) = dead {
            self.note_death(dead)?;
        }
        let Identity { pid, pid_inode, start_time, pid_namespace, time_namespace, boot } = me.identity;
        let mut words = [0; 8];
        words[0] = u64::from(pid) | u64::from(thread) << 32;
        (words[1], words[2], words[3]) = (start_time, pid_namespace, now());
        words[4..].copy_from_slice(&me.command);
        self.store_all(OWNER, &words)?;
        self.store(BOOT, boot)?;
        self.store_all(INODE, &[inode, 0, pid_inode, time_namespace])?;
        self.store(STATE, token << 2 | HELD)
    }

    /// Notes for whom the caller, who has the lock, holds it.
    #[inline]
    pub(crate) fn set_behalf(&self, process: Option<&Process>) -> io::Result<()> {
        let mut words = [0; 1 + COMMAND_WORDS];
        if process.is_none() && self.load(BEHALF)? == 0 {
            return Ok(());
        }
        if let Some(process) = process {
            words[0] = u64::from(process.pid);
            words[1..].copy_from_slice(&to_words(&process.command));
        }
        self.store_all(BEHALF, &words)
    }

    /// Takes that back; `told`: whoever comes next is told of the death that is noted.
    #[inline]
    pub(crate) fn release(&self, token: u64, told: bool) -> io::Result<()> {
        self.store(STATE, token << 2 | if told { DEAD } else { 0 })
    }

    /// Writes who died, to be told of by [`release`](Self::release).
    pub(crate) fn note_death(&self, dead: &Abandoned) -> io::Result<()> {
        let mut words = [0; 6];
        (words[0], words[1]) = (dead.token, u64::from(dead.pid.unwrap_or(0)));
        words[2..].copy_from_slice(&to_words(&dead.command));
        self.store_all(DIED, &words)
    }

    /// Whether the record says that this acquisition holds it.
    #[inline]
    pub(crate) fn is_held_as(&self, token: u64) -> bool {
        self.load(STATE).is_ok_and(|state| state == token << 2 | HELD)
    }

    /// Notes that programs that the holder started have the lock as well.
    pub(crate) fn note_passed_on(&self) -> io::Result<()> {
        self.store(PASSED_ON, 1)
    }

    /// Which process holds it, and the inode that it locked, if this process can tell that it died; and whether others may have the lock from it.
    pub(crate) fn dead_owner(&self, me: &Me) -> io::Result<Option<Dead>> {
        let words: [u64; RECORD_WORDS] = self.load_all()?;
        let is_dead = words[STATE] & HELD != 0 && is_dead(&words, me) && self.load(STATE)? == words[STATE];
        Ok(is_dead.then_some(Dead { pid: words[OWNER] as u32, inode: words[INODE], passed_on: words[PASSED_ON] != 0 }))
    }

    /// The file that the holder has locked, or had; in the directory of `beside`.
    pub(crate) fn file(&self, beside: FileId) -> io::Result<FileId> {
        self.load(INODE).map(|inode| FileId::new(beside.device(), inode))
    }

    pub(crate) fn stamp(&self) -> io::Result<()> {
        self.store(OWNER + 3, now())
    }

    /// Of this very process, for whoever abandons.
    pub(crate) fn as_dead(me: &Me, token: u64) -> Abandoned {
        Abandoned::noted(token, me.identity.pid, to_text(&me.command))
    }

    /// What it says to whoever has no lock.
    pub(crate) fn look(&self, me: &Me) -> io::Result<Seen> {
        for _ in 0..100 {
            let words: [u64; RECORD_WORDS] = self.load_all()?;
            if self.load(STATE)? != words[STATE] {
                continue;
            }
            if words[STATE] & HELD == 0 {
                return Ok(Seen::Free(dead_in(&words)));
            }
            let pid = words[OWNER] as u32;
            let elsewhere = words[3] != me.identity.pid_namespace;
            let (since, is_dead) = (words[4], is_dead(&words, me));
            let Some(dead) = dead_in(&words).filter(|_| is_dead) else {
                let thread = (words[OWNER] >> 32) as u32;
                return Ok(Seen::Held(Holder {
                    pid,
                    thread: (thread != 0).then(|| crate::os::fork::kernel_thread(thread)),
                    command: to_text(&words[5..9]),
                    token: words[STATE] >> 2,
                    held: Held::For(std::time::Duration::from_millis(now().saturating_sub(since))),
                    elsewhere,
                    readers: 0,
                    lease: None,
                    on_behalf_of: (words[BEHALF] != 0)
                        .then(|| Process { pid: words[BEHALF] as u32, command: to_text(&words[BEHALF + 1..]) }),
                }));
            };
            return Ok(Seen::Gone(dead));
        }
        Ok(Seen::Busy)
    }
}

/// Whether it is proven that the process which the record names died.
fn is_dead(words: &[u64; RECORD_WORDS], me: &Me) -> bool {
    let them = Identity {
        pid: words[OWNER] as u32,
        pid_inode: words[23],
        start_time: words[2],
        pid_namespace: words[3],
        time_namespace: words[24],
        boot: words[BOOT],
    };
    matches!(liveness::of_process(&them, &me.identity), Life::Dead(_))
}

/// Who died, by a record that the reader has the lock of.
fn dead_in(words: &[u64]) -> Option<Abandoned> {
    let (token, pid, command) = match words[STATE] & (HELD | DEAD) {
        0 => return None,
        DEAD => (words[DIED], words[DIED + 1], &words[DIED + 2..DIED + 6]),
        _ => (words[STATE] >> 2, words[OWNER], &words[5..9]),
    };
    Some(Abandoned::noted(token, pid as u32, to_text(command)))
}

fn now() -> u64 {
    Monotonic::now().0 / 1_000_000
}
