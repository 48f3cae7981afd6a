//! What is seen of a space of lock files: who holds what, who died. Only reads.

use std::time::{Duration, UNIX_EPOCH};

use super::index::{Index, Named};
use super::record::{Me, Seen};
use super::{FileSpace, kind_of};
use crate::os::file::{self, FileId};
use crate::os::identity;
use crate::os::lock_file::{KernelLock, KernelLocks, Mode};
use crate::report::{Inspection, LockReport, Permits, Usage};
use crate::segment::format::Kind;
use crate::segment::made::Made;
use crate::segment::open::{Options, unusable_file};
use crate::{Abandoned, Error, Held, Holder, Result};

/// What was seen of one lock file.
#[derive(Debug, Default)]
pub(crate) struct LockSeen {
    pub(crate) holders: Vec<Holder>,
    pub(crate) dead: Option<Abandoned>,
}

/// One look at the kernel's list, and who looks.
pub(crate) struct Looking {
    locks: KernelLocks,
    me: std::sync::Arc<Me>,
}

impl Looking {
    pub(crate) fn of_space(space: &FileSpace) -> Self {
        Self { me: space.me(), ..Self::new() }
    }

    fn new() -> Self {
        // Without the list a record is what there is.
        let locks = KernelLocks::read().unwrap_or_default();
        Self { locks, me: Me::new().into() }
    }

    fn is_exclusive(&self, id: FileId) -> bool {
        self.locks.of(id).any(|lock| lock.mode == Mode::Exclusive)
    }

    /// Who has the lock file of that entry, by its record; what the kernel's list says against that has the last word.
    pub(crate) fn look(&self, index: &Index, entry: u32, kind: Kind) -> Result<LockSeen> {
        let record = index.record(entry);
        let token = index.last_token(entry)?;
        let files = index.inodes(entry)?;
        let locked = record.file(files[0]).map_err(|e| Error::system("read", &index.path, e))?;
        let seen = match record.look(&self.me).map_err(|e| Error::system("read", &index.path, e))? {
            // Whoever lives and lost its lock, by closing what it did not open, holds nothing.
            Seen::Held(holder) if !holder.elsewhere && !self.is_exclusive(locked) && index.is_listed_as_it_is() => {
                // Unless it released it between the two looks, or it is a later one's.
                let again = KernelLocks::read().unwrap_or_default();
                let is_held = again.of(locked).any(|lock| lock.mode == Mode::Exclusive);
                match record.is_held_as(holder.token) && !is_held {
                    true => Seen::Gone(Abandoned::noted(holder.token, holder.pid, holder.command)),
                    false => Seen::Held(holder),
                }
            }
            seen => seen,
        };
        // Readers come in after a dead writer, and leave its record for the next one.
        let beside = || match kind {
            Kind::RwLock => readers(files.iter().flat_map(|file| self.locks.of(*file)), token),
            _ => Vec::new(),
        };
        Ok(match seen {
            Seen::Held(holder) => LockSeen { holders: vec![holder], dead: None },
            // Somebody is left with the lock: a child of the dead one's.
            Seen::Gone(dead) if self.is_exclusive(locked) => {
                LockSeen { holders: vec![unknown(dead.token)], dead: None }
            }
            Seen::Gone(dead) => LockSeen { holders: beside(), dead: Some(dead) },
            Seen::Free(dead) => LockSeen { holders: beside(), dead },
            Seen::Busy => LockSeen::default(),
        })
    }

    fn report(&self, index: &Index, named: Named) -> Result<Option<LockReport>> {
        let Some(kind) = Kind::from_number(named.kind) else { return Ok(None) };
        let entries = match kind {
            Kind::Semaphore => named.first..named.first.saturating_add(named.count).min(index.capacity),
            _ => named.place.entry..named.place.entry + 1,
        };
        let (mut holders, mut abandoned) = (Vec::new(), None);
        for entry in entries {
            let seen = self.look(index, entry, kind)?;
            holders.extend(seen.holders);
            abandoned = abandoned.or(seen.dead);
        }
        holders.sort_by_key(|holder| holder.token);
        let used = holders.len() as u32;
        Ok(Some(LockReport {
            name: named.name,
            kind: kind_of(named.kind),
            holder: holders.first().cloned(),
            holders,
            abandoned,
            permits: (kind == Kind::Semaphore).then_some(Permits { used, total: named.count }),
            waiters: Vec::new(),
            token: named.token,
            contended: 0,
            recovered: named.recovered,
            damage: None,
        }))
    }
}

/// A holder of which only the lock is known.
fn unknown(token: u64) -> Holder {
    Holder {
        pid: 0,
        thread: None,
        command: String::new(),
        token,
        held: Held::Unknown,
        elsewhere: false,
        readers: 0,
        lease: None,
        on_behalf_of: None,
    }
}

fn readers<'a>(locks: impl Iterator<Item = &'a KernelLock>, token: u64) -> Vec<Holder> {
    let mut by_process: Vec<Holder> = Vec::new();
    for lock in locks.filter(|lock| lock.mode == Mode::Shared) {
        match by_process.iter_mut().find(|holder| holder.pid == lock.pid) {
            Some(holder) => holder.readers += 1,
            None => {
                let command = identity::command_of(lock.pid).unwrap_or_default();
                by_process.push(Holder { pid: lock.pid, command, readers: 1, ..unknown(token) });
            }
        }
    }
    by_process
}

pub(crate) fn usage(index: &Index) -> Usage {
    let in_it = || {
        let directory = FileId::at(&index.space).ok()?;
        let locks = KernelLocks::read().ok()?;
        let mut pids: Vec<u32> = locks.of(directory).map(|lock| lock.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        Some(pids.len())
    };
    Usage {
        participants: in_it().unwrap_or(0),
        participants_capacity: 0,
        locks: index.names().map_or(0, |names| names.len()),
        locks_capacity: index.capacity as usize,
        waiting: 0,
    }
}

/// Looks at a space that this process need not be in.
pub(crate) fn look(options: &Options) -> Result<Inspection> {
    let space = options.space_path()?;
    let path = space.join(Made::Files.file_name());
    let file = file::open_to_read(&path).map_err(|e| unusable_file(&path, e))?;
    let index = Index::read_to_look_at(file, &space)?;
    let looking = Looking::new();
    let mut locks = Vec::new();
    for named in index.names()? {
        locks.extend(looking.report(&index, named)?);
    }
    locks.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(Inspection {
        created: UNIX_EPOCH + Duration::from_nanos(index.token_base),
        mode: index.mode,
        usage: usage(&index),
        backend: crate::Backend::Files,
        path: space,
        locks,
        participants: Vec::new(),
    })
}
