//! Locks in a mapped segment: owner words, a futex to wait on, and the oracle for the dead.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::lock::Spec;
use super::wait::{Wait, Waiting, wake_one};
use super::{files, inspect, keeper, reentrant};
use crate::holder::Holder;
use crate::os::clock::{Deadline, Monotonic};
use crate::os::fence as membarrier;
use crate::os::file::{self, FileId, KeptFile};
use crate::os::fork::{self, ForkWord, Guarded};
use crate::os::identity::Identity;
use crate::os::liveness::Life;
use crate::os::lock_file;
use crate::protocol::mutex::LockWords;
use crate::protocol::reader::LINES;
use crate::protocol::recovery;
use crate::protocol::slot::{Me, Slot};
use crate::protocol::word::OwnerWord;
use crate::report::Usage;
use crate::segment::Segment;
use crate::segment::extents::Wanted;
use crate::segment::format::{Kind, Meta, Place};
use crate::segment::names::Known;
use crate::segment::open::{Found, Options};
use crate::segment::participants::Membership;
use crate::segment::waiters::Target;
use crate::{Error, Result};

/// How long a sleeper sleeps before it looks for itself again, unless the builder says otherwise.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait for somebody who gives a name a place, which takes microseconds: longer only if it is stopped there.
const NAMES_PATIENCE: Duration = Duration::from_secs(10);

/// The spaces this process is in. Everything that changes membership happens under this lock, which a fork waits for.
static SPACES: Guarded<Vec<Entered>> = Guarded::new(Vec::new());

/// A space this process is in, or is just leaving.
#[derive(Debug)]
struct Entered {
    id: FileId,
    space: Weak<SharedSpace>,
    /// The process that entered: in a forked child whoever was leaving never comes to the end of it.
    pid: u32,
}

/// Has forks wait for what they must not copy half done.
pub(super) fn watch_forks(space: &str) -> Result<()> {
    fork::at_fork(before_fork, after_fork, in_forked_child)
        .map_err(|e| Error::system("watch for forks in", space.as_ref(), e))
}

extern "C" fn before_fork() {
    // In this order, as everywhere.
    reentrant::before_fork();
    SPACES.before_fork();
    files::before_fork();
    fork::NOT_NOW.before_fork();
    lock_file::before_fork();
    keeper::before_fork();
}

extern "C" fn after_fork() {
    keeper::after_fork();
    lock_file::after_fork();
    fork::NOT_NOW.after_fork();
    files::after_fork();
    SPACES.after_fork();
    reentrant::after_fork();
}

extern "C" fn in_forked_child() {
    fork::forget_thread();
    lock_file::in_forked_child();
    keeper::in_forked_child();
    after_fork();
}

/// A space that this process is in.
#[derive(Debug)]
pub(crate) struct SharedSpace {
    pub(super) segment: Segment,
    /// With a shared `flock` for as long as we are in the space.
    directory: KeptFile,
    /// A [`Me`]: nobody in a forked child until it joined by itself.
    pub(super) me: ForkWord,
    /// Only touched under [`SPACES`].
    membership: Mutex<Option<Membership>>,
    /// Only touched under [`SPACES`].
    lifeline: Mutex<Option<KeptFile>>,
    /// A parent was in the space, and forked us: there may be guards of its.
    inherited: AtomicBool,
    /// Which of our lines for reading are lent, a bit each.
    lent_lines: AtomicU32,
    /// Of us, what judging others needs; a child may live in other namespaces.
    namespaces: [AtomicU64; 3],
    /// By slot: low half of the incarnation (high half) and when it was last judged alive (milliseconds, low half).
    pub(super) judged: Box<[AtomicU64]>,
    pub(super) check_interval: Duration,
}

impl SharedSpace {
    pub(crate) fn open(options: &Options, found: Found, check_interval: Duration) -> Result<Arc<Self>> {
        let id: FileId = found.id;
        let (segment, directory) = found.map(options)?;

        let mut spaces = SPACES.lock();
        let known = loop {
            let Some(index) = spaces.iter().position(|entered| entered.id == id) else { break None };
            match spaces[index].space.upgrade() {
                Some(space) => break Some(space),
                None if spaces[index].pid != std::process::id() => {
                    spaces.swap_remove(index);
                }
                // Another thread dropped the last handle, and is about to leave: after that we join anew.
                None => {
                    drop(spaces);
                    std::thread::yield_now();
                    spaces = SPACES.lock();
                }
            }
        };
        let space = match known {
            Some(space) => space,
            None => {
                let me = ForkWord::new().map_err(|e| Error::system("join", &segment.path, e))?;
                let judged = (0..segment.header.participants).map(|_| AtomicU64::new(0)).collect();
                let space = Arc::new(Self {
                    segment,
                    directory,
                    me,
                    membership: Mutex::new(None),
                    lifeline: Mutex::new(None),
                    inherited: AtomicBool::new(false),
                    lent_lines: AtomicU32::new(0),
                    namespaces: Default::default(),
                    judged,
                    check_interval,
                });
                spaces.push(Entered { id, space: Arc::downgrade(&space), pid: std::process::id() });
                space
            }
        };
        let joined = if space.me.get() == 0 { space.join() } else { Ok(()) };
        // Before `space` can go: leaving takes this lock.
        drop(spaces);
        joined.map(|()| space)
    }

    /// Registers this process. Called under [`SPACES`].
    fn join(&self) -> Result<()> {
        let mut membership = self.membership.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parents) = membership.take() {
            parents.forget();
            self.inherited.store(true, Relaxed);
        }
        // A copy of a parent's: whoever takes part itself does not carry on for it.
        *self.lifeline.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let identity = Identity::mine();
        let joined = self.segment.join(&identity)?;
        let marks = [identity.pid_namespace, identity.time_namespace, identity.boot];
        for (mine, mark) in self.namespaces.iter().zip(marks) {
            mine.store(mark, Relaxed);
        }
        fork::forget_thread();
        self.lent_lines.store(0, Relaxed);
        let me = Me::new(joined.slot, joined.incarnation);
        // A parent's handles are used as they are, so nothing else does it.
        let is_light = self.inherited.load(Relaxed) && membarrier::register();
        if is_light {
            self.segment.note_light(joined.slot);
        }
        self.me.set(if is_light { me.lightly() } else { me }.0);
        *membership = Some(joined);
        Ok(())
    }

    /// This process's slot and incarnation. A forked child joins anew.
    pub(super) fn member(&self) -> Result<(Slot, u32)> {
        if self.me.get() == 0 {
            let _spaces = SPACES.lock();
            if self.me.get() == 0 {
                self.join()?;
            }
        }
        let me = Me(self.me.get());
        Ok((Slot::own(me.code()), me.incarnation()))
    }

    /// Has this thread register for this process if the one that did has ended: from now on a death wakes those who wait at once again.
    pub(super) fn renew_life(&self, slot: Slot) {
        if self.segment.is_life_over(slot) {
            let _spaces = SPACES.lock();
            if let Some(membership) = &mut *self.membership.lock().unwrap_or_else(PoisonError::into_inner) {
                self.segment.renew_life(membership);
            }
        }
    }

    /// Has this process take part in heavy fences, if it can, so that it may release lightly.
    pub(super) fn register_for_fences(&self) {
        let is_to_be = || matches!(Me(self.me.get()), me if me != Me::NOBODY && !me.is_light());
        if is_to_be() {
            let _spaces = SPACES.lock();
            if is_to_be() && membarrier::register() {
                self.segment.note_light(Slot::own(self.slot_code()));
                self.me.set(Me(self.me.get()).lightly().0);
            }
        }
    }

    /// A line of ours that is not lent.
    pub(super) fn take_line(&self) -> Option<u32> {
        let free = |lent: u32| (lent.trailing_ones() < LINES).then(|| lent.trailing_ones());
        // Acquire: pairs with `give_line_back`. Whoever sees what is read by it now also sees that it is not lent for what it was.
        self.lent_lines
            .fetch_update(Acquire, Relaxed, |lent| free(lent).map(|line| lent | 1 << line))
            .ok()
            .and_then(free)
    }

    pub(super) fn give_line_back(&self, line: u32) {
        self.lent_lines.fetch_and(!(1 << line), Release);
    }

    fn slot_code(&self) -> u16 {
        Me(self.me.get()).code()
    }

    pub(super) fn was_inherited(&self) -> bool {
        self.inherited.load(Relaxed)
    }

    /// Lets whatever `command` starts carry on for this process, should it die.
    pub(crate) fn pass_lifeline(&self, command: &mut Command) -> Result<()> {
        let (slot, _) = self.member()?;
        let _spaces = SPACES.lock();
        let mut lifeline = self.lifeline.lock().unwrap_or_else(PoisonError::into_inner);
        let lifeline = match &mut *lifeline {
            Some(lifeline) => lifeline,
            none => none.insert(self.segment.lifeline(slot)?),
        };
        file::pass_on(lifeline, command);
        // Whoever carries on for us is in the space: nobody may create it anew meanwhile.
        file::pass_on(&self.directory, command);
        Ok(())
    }

    pub(crate) fn set_behalf(&self, pid: u32, command: &str) -> Result<()> {
        let (slot, _) = self.member()?;
        self.segment.set_behalf(slot, pid, command);
        Ok(())
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(crate) fn token_of(&self, word: OwnerWord) -> u64 {
        self.segment.token_of(word)
    }

    /// What judging others needs to know of us.
    pub(super) fn me_as_judge(&self) -> Identity {
        if self.me.get() == 0 {
            // A forked child, perhaps in a namespace of its own, that only looks.
            return Identity::mine();
        }
        let [pid_namespace, time_namespace, boot] = self.namespaces.each_ref().map(|mark| mark.load(Relaxed));
        Identity { pid: std::process::id(), pid_inode: 0, start_time: 0, pid_namespace, time_namespace, boot }
    }

    /// Cleans up after everybody who died in this space.
    pub(crate) fn recover_dead(&self, only: Option<Slot>) -> Result<usize> {
        self.member()?;
        self.segment.recover_dead(&self.me_as_judge(), only)
    }

    /// Whether whoever is in that slot is dead, asked now.
    pub(super) fn is_dead(&self, slot: Slot) -> bool {
        let them = self.segment.participant(slot);
        them.is_some_and(|them| matches!(self.segment.judge(slot, &them, &self.me_as_judge()), Life::Dead(_)))
    }

    /// Who holds `words`, if anybody alive does.
    pub(super) fn holder_of(&self, words: &LockWords, since: Option<&AtomicU64>) -> Option<Holder> {
        inspect::holder_of(&self.segment, &self.me_as_judge(), self.slot_code(), words, since)
    }

    pub(crate) fn usage(&self) -> Usage {
        inspect::usage(&self.segment)
    }

    /// Finds the lock of `name`, giving it a place if it has none.
    pub(super) fn look_up(&self, spec: &Spec) -> Result<Place> {
        if self.me.get() != 0 {
            self.renew_life(Slot::own(self.slot_code()));
        }
        let Spec { name, kind, count, data, room } = spec;
        let agrees = |known: Known| {
            if known.kind != *kind as u8 {
                let is =
                    Kind::from_number(known.kind).map_or("lock of a kind that this version does not know", Kind::name);
                return Err(Error::WrongKind { name: name.to_string(), is: is.into(), wanted: kind.name() });
            }
            let entry = &self.segment.entries[known.place.entry as usize];
            let is = self.segment.count(entry)?;
            if is != *count {
                return Err(Error::WrongCount { name: name.to_string(), kind: kind.name(), is, wanted: *count });
            }
            Ok(known.place)
        };
        if let Some(known) = self.segment.find(name) {
            let agreed = agrees(known);
            // The number was read after the name: it is the name's if the entry still is.
            fence(Acquire);
            let meta = Meta(self.segment.entries[known.place.entry as usize].meta.load(Relaxed));
            if meta.generation() == known.place.generation {
                return agreed;
            }
        }
        if self.segment.is_removed() {
            return Err(Error::Removed { path: self.segment.space().into() });
        }
        if self.segment.is_overwritten() {
            return Err(self.segment.overwritten());
        }
        self.under_names(|slot| {
            let wanted = Wanted { kind: *kind, count: *count, data, room: *room };
            let known = match self.segment.find_for_sure(name)? {
                Some(known) => known,
                None => match self.segment.register(name, &wanted, slot) {
                    // Some of it may be kept by the dead: locks they hold, sleepers they were.
                    Err(Error::Full { .. } | Error::NoExtents { .. })
                        if self.recover_dead(None).is_ok_and(|dead| dead > 0) =>
                    {
                        self.segment.register(name, &wanted, slot)?
                    }
                    outcome => outcome?,
                },
            };
            // Before the names' lock is let go: afterwards the entry may be given to another name.
            agrees(known)
        })
    }

    /// Takes a name away, if nobody uses it.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let remove = || {
            self.under_names(|slot| {
                let Some(known) = self.segment.find_for_sure(name)? else {
                    return Err(Error::NoSuchName { name: name.into(), path: self.segment.space().into() });
                };
                Ok(self.segment.unregister(known.place.entry, slot).then_some(()).ok_or(known.place))
            })
        };
        let removed = match remove()? {
            // The dead use nothing.
            Err(_) if self.recover_dead(None)? > 0 => remove()?,
            removed => removed,
        };
        removed.map_err(|place| {
            let entry = &self.segment.entries[place.entry as usize];
            let holder = self.holder_of(&entry.lock, Some(&entry.since)).map(Box::new);
            Error::InUse { name: name.into(), holder }
        })
    }

    /// Does what changes names, or what they have in the extents, with the names' lock, as the participant in that slot.
    pub(super) fn under_names<T>(&self, change: impl FnOnce(Slot) -> Result<T>) -> Result<T> {
        let (slot, incarnation) = self.member()?;
        let words = &self.segment.globals().names;
        let waiting = Waiting {
            slot,
            incarnation,
            thread: fork::thread(),
            started: Monotonic::now(),
            deadline: Deadline::after(NAMES_PATIENCE),
            own: 0,
        };
        let wait = Wait::new(self, Target::Names, waiting);
        let acquired = wait.acquire().map_err(|failure| wait.explain(failure, &"(the names of the space)".into()))?;
        if acquired.word.is_abandoned()
            && let Err(damaged) = self.segment.rebuild_index(None)
        {
            // Still to be done, should anybody be able to.
            recovery::give_back(words, slot, |_| true, wake_one);
            return Err(damaged);
        }
        let outcome = change(slot);
        let _ = words.release(acquired.word, wake_one);
        outcome
    }
}

impl Drop for SharedSpace {
    fn drop(&mut self) {
        let mut spaces = SPACES.lock();
        let id = self.segment.file.id();
        spaces.retain(|entered| entered.id != id || entered.space.strong_count() > 0);
        let membership = self.membership.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        match membership {
            // Zero: forked, and never used here.
            Some(parents) if self.me.get() == 0 => parents.forget(),
            Some(mine) => {
                self.me.set(0);
                if let Some(lifeline) = self.lifeline.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
                    // In so many words: what was started by us, and lives on, has copies.
                    self.segment.end_lifeline(mine.slot, &lifeline);
                    file::unlock(&self.directory);
                }
                self.segment.leave(mine);
            }
            None => {}
        }
    }
}
