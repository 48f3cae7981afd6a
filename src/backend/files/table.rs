//! What this process has open: the lock files that it holds, and those that it keeps for later.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::index::Place;
use super::record::Me;
use crate::Process;
use crate::os::file::FileId;
use crate::os::fork::Guarded;
use crate::os::lock_file::{self, LockFile};
use crate::protocol::claim::Claim;

/// How many descriptions of one name's lock files are kept open for later.
const IDLE: usize = 16;
/// And how many of all names together: whatever this process else wants to open should be possible.
const IDLE_OF_ALL: usize = 128;
/// How many names there may be of which some are kept, and no handle is left.
const NAMES: usize = 32;

/// An open lock file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) file: LockFile,
    pub(super) place: Place,
    pub(super) space: FileId,
    /// By which the lock is held alone, while it is.
    pub(super) claim: Option<Claim>,
}

/// Descriptions of a name's lock files that nobody has locked. Clones are the same.
///
/// Its lock is only tried, so that a child whose parent was forked in the middle just opens its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Idle(Arc<Mutex<Stock>>);

/// How many are idle, of all names.
static KEPT: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug, Default)]
#[allow(clippy::vec_box)] // They go in and out as they are.
struct Stock(Vec<Box<Opened>>);

impl Drop for Stock {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0.len(), Relaxed);
    }
}

impl Idle {
    /// One of that lock file.
    #[inline]
    pub(super) fn take(&self, place: Place) -> Option<Box<Opened>> {
        let mut all = self.0.try_lock().ok()?;
        let at = all.0.iter().rposition(|opened| opened.place == place)?;
        let opened = all.0.swap_remove(at);
        drop(all);
        KEPT.fetch_sub(1, Relaxed);
        // A forked child has those of its parent.
        opened.file.is_of_this_process().then_some(opened)
    }

    #[inline]
    pub(super) fn put(&self, opened: Box<Opened>) {
        let surplus = match self.0.try_lock() {
            Ok(mut all) if all.0.len() >= IDLE => {
                let oldest = all.0.remove(0);
                all.0.push(opened);
                Some(oldest)
            }
            // Relaxed: it is a number, and a few more or less do no harm.
            Ok(mut all) if KEPT.load(Relaxed) < IDLE_OF_ALL => {
                KEPT.fetch_add(1, Relaxed);
                all.0.push(opened);
                None
            }
            _ => Some(opened),
        };
        // Closed without the lock.
        drop(surplus);
    }
}

#[derive(Debug, Default)]
struct Table {
    /// What is locked, by the number of the acquisition, less one.
    held: Vec<Option<Box<Opened>>>,
    free: Vec<u32>,
    idle: HashMap<(FileId, u32), Idle>,
    /// This process, if it is still the one that it was.
    me: Option<(u64, Arc<Me>)>,
    /// For whom it holds its locks, by the space.
    behalf: HashMap<FileId, Process>,
    /// By which a forked child is in a space: its parent unlocks its own when it leaves.
    joined: HashMap<FileId, LockFile>,
}

static TABLE: Guarded<Option<Table>> = Guarded::new(None);

pub(super) fn before_fork() {
    TABLE.before_fork();
}

pub(super) fn after_fork() {
    TABLE.after_fork();
}

fn with_table<T>(act: impl FnOnce(&mut Table) -> T) -> T {
    act(TABLE.lock().get_or_insert_default())
}

/// Keeps what is locked now, until [`take_held`]; the number of the acquisition.
#[inline]
pub(super) fn keep_held(opened: Box<Opened>) -> u32 {
    with_table(|table| match table.free.pop() {
        Some(slot) => {
            table.held[slot as usize] = Some(opened);
            slot + 1
        }
        None => {
            table.held.push(Some(opened));
            table.held.len() as u32
        }
    })
}

/// What that acquisition has locked, if it is this process's.
#[inline]
pub(super) fn take_held(number: u32) -> Option<Box<Opened>> {
    let slot = number.checked_sub(1)?;
    with_table(|table| {
        let held = table.held.get_mut(slot as usize)?.take_if(|held| held.file.is_of_this_process())?;
        table.free.push(slot);
        Some(held)
    })
}

pub(super) fn with_held<T>(number: u32, act: impl FnOnce(&Opened) -> T) -> Option<T> {
    let slot = number.checked_sub(1)?;
    with_table(|table| {
        let held = table.held.get(slot as usize)?.as_ref().filter(|held| held.file.is_of_this_process())?;
        Some(act(held))
    })
}

/// Everything of that space that this process has locked.
pub(super) fn for_each_held(space: FileId, mut act: impl FnMut(&Opened)) {
    with_table(|table| {
        let mine = table.held.iter().flatten().filter(|held| held.space == space && held.file.is_of_this_process());
        mine.for_each(|held| act(held));
    });
}

/// The descriptions that are kept for that name.
pub(super) fn idle_of(space: FileId, entry: u32) -> Idle {
    let (idle, surplus) = with_table(|table| {
        let is_new = !table.idle.contains_key(&(space, entry));
        let surplus: Vec<_> = match is_new && table.idle.len() >= NAMES {
            true => table.idle.extract_if(|_, idle| Arc::strong_count(&idle.0) == 1).collect(),
            false => Vec::new(),
        };
        (table.idle.entry((space, entry)).or_default().clone(), surplus)
    });
    // Closed without the lock.
    drop(surplus);
    idle
}

/// Closes all that is kept for that space.
pub(super) fn close_idle(space: FileId) {
    let (idle, joined): (Vec<Idle>, _) = with_table(|table| {
        let keys: Vec<_> = table.idle.keys().filter(|key| key.0 == space).copied().collect();
        (keys.iter().filter_map(|key| table.idle.remove(key)).collect(), table.joined.remove(&space))
    });
    drop((idle, joined));
}

/// This process, and for whom it acts in that space.
pub(super) fn me(space: FileId) -> (Arc<Me>, Option<Process>) {
    let process = lock_file::process().unwrap_or(0);
    with_table(|table| {
        let behalf = if table.behalf.is_empty() { None } else { table.behalf.get(&space).cloned() };
        match &table.me {
            Some((of, me)) if *of == process => (me.clone(), behalf),
            _ => {
                // Nobody made the child say so.
                table.behalf.clear();
                let me = Arc::new(Me::new());
                table.me = Some((process, me.clone()));
                (me, None)
            }
        }
    })
}

/// Whether this process, which is a forked child, is in that space by a description of its own.
pub(super) fn has_joined(space: FileId) -> bool {
    with_table(|table| table.joined.get(&space).is_some_and(LockFile::is_of_this_process))
}

pub(super) fn note_joined(space: FileId, directory: LockFile) {
    let before = with_table(|table| table.joined.insert(space, directory));
    drop(before);
}

pub(super) fn set_behalf(space: FileId, process: Process) {
    me(space);
    with_table(|table| table.behalf.insert(space, process));
}
