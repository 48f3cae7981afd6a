//! Locks in a mapped segment: owner words, a futex to wait on, and the oracle for the dead.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::holder::{Abandoned, Held, Holder};
use crate::os::clock::{Deadline, Monotonic};
use crate::os::file::{FileId, KeptFile};
use crate::os::fork::{self, ForkWord, Guarded};
use crate::os::futex::{self, Woken};
use crate::os::identity::Identity;
use crate::os::liveness::Life;
use crate::os::map::Table;
use crate::protocol::mutex::{Acquired, Failure, LockWords};
use crate::protocol::word::{Owner, OwnerWord, Slot};
use crate::protocol::{Host, Verdict};
use crate::segment::Segment;
use crate::segment::format::{Entry, Kind, Meta, Place, load_printable};
use crate::segment::names::{self, Known};
use crate::segment::open::Options;
use crate::segment::participants::Membership;
use crate::segment::waiters::{Enlisted, Target};
use crate::{Error, Result};

/// How long a sleeper sleeps before it looks for itself again, unless the builder says otherwise.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The first sleep of a wait is short: the owner may have died just after it was judged.
const FIRST_SLEEP: Duration = Duration::from_millis(10);
/// How long "alive" is believed without asking again.
const BELIEVED: Duration = Duration::from_millis(5);
/// How long to wait for somebody who gives a name a place, which takes microseconds: longer only if it is stopped there.
const NAMES_PATIENCE: Duration = Duration::from_secs(10);
/// Looks at a held lock before going to sleep, each after a pause twice as long as the one before, up to [`LONGEST_PAUSE`].
const SPINS: u32 = 40;
const LONGEST_PAUSE: u32 = 8;

/// The spaces this process is in. Everything that changes membership happens under this lock, which a fork waits for.
static SPACES: Guarded<Vec<Weak<SharedSpace>>> = Guarded::new(Vec::new());

extern "C" fn before_fork() {
    SPACES.before_fork();
}

extern "C" fn after_fork() {
    SPACES.after_fork();
}

extern "C" fn in_forked_child() {
    fork::forget_thread();
    SPACES.after_fork();
}

/// A space that this process is in.
#[derive(Debug)]
pub(crate) struct SharedSpace {
    segment: Segment,
    /// With a shared `flock` for as long as we are in the space.
    _directory: KeptFile,
    /// Code of our slot (low half) and incarnation (high half). Zero in a forked child until it joined by itself.
    me: ForkWord,
    /// Only touched under [`SPACES`].
    membership: Mutex<Option<Membership>>,
    /// Of us, what judging others needs; a child may live in other namespaces.
    namespaces: [AtomicU64; 3],
    /// By slot: low half of the incarnation (high half) and when it was last judged alive (milliseconds, low half).
    judged: Box<[AtomicU64]>,
    check_interval: Duration,
}

impl SharedSpace {
    pub(crate) fn open(options: &Options, check_interval: Duration) -> Result<Arc<Self>> {
        let found = options.find()?;
        let id: FileId = found.id;
        let registered = fork::at_fork(before_fork, after_fork, in_forked_child);
        let path = || options.name.as_str().as_ref();
        registered.map_err(|e| Error::system("watch for forks in", path(), e))?;
        let (segment, directory) = found.map(options)?;

        let mut spaces = SPACES.lock();
        spaces.retain(|space| space.strong_count() > 0);
        // Kept until the lock is free: if one of these were the last, dropping it would take the lock again.
        let all: Vec<_> = spaces.iter().filter_map(Weak::upgrade).collect();
        let space = match all.iter().find(|space| space.segment.file.id() == id) {
            Some(space) => space.clone(),
            None => {
                let me = ForkWord::new().map_err(|e| Error::system("join", &segment.path, e))?;
                let judged = (0..segment.header.participants).map(|_| AtomicU64::new(0)).collect();
                let space = Arc::new(Self {
                    segment,
                    _directory: directory,
                    me,
                    membership: Mutex::new(None),
                    namespaces: Default::default(),
                    judged,
                    check_interval,
                });
                spaces.push(Arc::downgrade(&space));
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
        }
        let identity = Identity::mine();
        let joined = self.segment.join(&identity)?;
        let marks = [identity.pid_namespace, identity.time_namespace, identity.boot];
        for (mine, mark) in self.namespaces.iter().zip(marks) {
            mine.store(mark, Relaxed);
        }
        fork::forget_thread();
        self.me.set((joined.incarnation as u64) << 32 | joined.slot.code() as u64);
        *membership = Some(joined);
        Ok(())
    }

    /// This process's slot and incarnation. A forked child joins anew.
    fn member(&self) -> Result<(Slot, u32)> {
        if self.me.get() == 0 {
            let _spaces = SPACES.lock();
            if self.me.get() == 0 {
                self.join()?;
            }
        }
        let me = self.me.get();
        Ok((Slot::own(me as u16), (me >> 32) as u32))
    }

    fn slot_code(&self) -> u16 {
        self.me.get() as u16
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(crate) fn token_of(&self, word: OwnerWord) -> u64 {
        self.segment.header.token_base + word.epoch()
    }

    /// What judging others needs to know of us.
    fn me_as_judge(&self) -> Identity {
        let [pid_namespace, time_namespace, boot] = self.namespaces.each_ref().map(|mark| mark.load(Relaxed));
        Identity { pid: std::process::id(), pid_inode: 0, start_time: 0, pid_namespace, time_namespace, boot }
    }

    /// Cleans up after everybody who died in this space.
    pub(crate) fn recover_dead(&self, only: Option<Slot>) -> Result<usize> {
        self.member()?;
        self.segment.recover_dead(&self.me_as_judge(), only)
    }

    /// Who holds `words`, if anybody alive does.
    fn holder_of(&self, words: &LockWords, since: Option<&AtomicU64>) -> Option<Holder> {
        let seen = words.look();
        let Owner::Held(slot) = seen.owner() else { return None };
        let them = self.segment.participant(slot)?;
        let me = self.me_as_judge();
        if slot.code() != self.slot_code() && matches!(self.segment.judge(slot, &them, &me), Life::Dead(_)) {
            return None;
        }
        let holder = Holder {
            pid: them.identity.pid,
            thread: words.thread_of(seen).map(fork::kernel_thread),
            command: self.segment.command(slot),
            token: self.token_of(seen),
            held: since.map_or(Held::Unknown, |since| stamp::read(since.load(Relaxed), seen)),
            elsewhere: them.identity.pid_namespace != me.pid_namespace,
        };
        // What was read belongs together only if the lock did not change hands meanwhile.
        (words.look() == seen).then_some(holder)
    }

    /// Finds the lock of `name`, giving it a place if it has none.
    fn look_up(&self, name: &Arc<str>, kind: Kind) -> Result<Place> {
        let agrees = |known: Known| match known.kind == kind as u8 {
            true => Ok(known.place),
            false => Err(Error::WrongKind {
                name: name.to_string(),
                is: kind_name(known.kind).into(),
                wanted: kind_name(kind as u8),
            }),
        };
        if let Some(known) = self.segment.find(name) {
            return agrees(known);
        }
        if self.segment.is_removed() {
            return Err(Error::Removed { path: self.segment.space().into() });
        }
        let (slot, incarnation) = self.member()?;
        let words = &self.segment.globals().names;
        let wait = Wait {
            space: self,
            words,
            since: None,
            target: Target::Names,
            incarnation,
            slot,
            thread: fork::thread(),
            started: Monotonic::now(),
            deadline: Deadline::after(NAMES_PATIENCE),
            sleeps: Cell::new(0),
            enlisted: RefCell::new(None),
        };
        let acquired = wait.acquire().map_err(|failure| wait.explain(failure, &"(the names of the space)".into()))?;
        if acquired.word.is_abandoned() {
            self.segment.rebuild_index(None);
        }
        let known = match self.segment.find(name) {
            Some(known) => Ok(known),
            None => self.segment.register(name, kind, slot),
        };
        let _ = words.release(acquired.word, wake_one);
        agrees(known?)
    }
}

impl Drop for SharedSpace {
    fn drop(&mut self) {
        let _spaces = SPACES.lock();
        let membership = self.membership.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        match membership {
            // Zero: forked, and never used here.
            Some(parents) if self.me.get() == 0 => parents.forget(),
            Some(mine) => {
                self.me.set(0);
                self.segment.leave(mine);
            }
            None => {}
        }
    }
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        1 => "mutex",
        _ => "lock of a kind that this version does not know",
    }
}

fn wake_one(word: &AtomicU64) -> bool {
    futex::wake(word, 1) > 0
}

/// When an acquisition was first seen, in one word: the epoch it belongs to, whether that was its beginning, and when.
mod stamp {
    use super::*;

    const MILLIS_BITS: u32 = 38;
    const EXACT: u64 = 1 << MILLIS_BITS;
    const EPOCH_SHIFT: u32 = MILLIS_BITS + 1;

    fn millis(now: Monotonic) -> u64 {
        (now.0 / 1_000_000) & (EXACT - 1)
    }

    pub(super) fn new(word: OwnerWord, now: Monotonic, exact: bool) -> u64 {
        word.epoch() << EPOCH_SHIFT | if exact { EXACT } else { 0 } | millis(now)
    }

    /// Whether `stamp` is of the acquisition in `word`.
    pub(super) fn is_of(stamp: u64, word: OwnerWord) -> bool {
        stamp >> EPOCH_SHIFT == (word.epoch() << EPOCH_SHIFT) >> EPOCH_SHIFT
    }

    pub(super) fn read(stamp: u64, word: OwnerWord) -> Held {
        if stamp == 0 || !is_of(stamp, word) {
            return Held::Unknown;
        }
        let span = millis(Monotonic::now()).saturating_sub(stamp & (EXACT - 1));
        let span = Duration::from_millis(span);
        if stamp & EXACT != 0 { Held::For(span) } else { Held::AtLeast(span) }
    }
}

/// Who died, read before it was judged.
#[derive(Debug)]
pub(crate) struct Obituary {
    pid: u32,
    command: String,
    slot: Slot,
}

/// Why the world ended a wait.
enum Refusal {
    TimedOut,
    Removed,
}

/// One wait of one thread for one lock.
struct Wait<'a> {
    space: &'a SharedSpace,
    words: &'a LockWords,
    since: Option<&'a AtomicU64>,
    target: Target,
    slot: Slot,
    incarnation: u32,
    thread: u32,
    started: Monotonic,
    deadline: Deadline,
    /// Sleeps that ended by themselves.
    sleeps: Cell<u32>,
    enlisted: RefCell<Option<Enlisted>>,
}

impl Wait<'_> {
    fn acquire(&self) -> std::result::Result<Acquired<Obituary>, Failure<Refusal>> {
        let seen = self.words.look();
        match self.words.try_acquire(self.slot, self.thread, seen) {
            Ok(word) => Ok(Acquired { word, obituary: None }),
            Err(seen) => self.words.acquire_contended(self, self.slot, seen),
        }
    }

    fn explain(&self, failure: Failure<Refusal>, name: &Arc<str>) -> Error {
        let space = self.space;
        match failure {
            Failure::Deadlock => Error::Deadlock { name: name.clone(), token: space.token_of(self.words.look()) },
            Failure::Damaged(word) => {
                Error::damaged(&space.segment.path, format!("lock \"{name}\" is {word:?}, whom nobody knows"))
            }
            Failure::Exhausted => Error::TokensExhausted { name: name.clone(), path: space.segment.space().into() },
            Failure::Refused(Refusal::TimedOut) => Error::TimedOut {
                name: name.clone(),
                holder: space.holder_of(self.words, self.since).map(Box::new),
                waited: Monotonic::now().since(self.started),
            },
            Failure::Refused(Refusal::Removed) => Error::Removed { path: space.segment.space().into() },
        }
    }
}

impl Host for Wait<'_> {
    type Obituary = Obituary;
    type Refusal = Refusal;

    fn judge(&self, slot: Slot) -> Verdict<Obituary> {
        let space = self.space;
        let segment = &space.segment;
        let Some(incarnation) = segment.incarnation(slot) else { return Verdict::Unregistered };
        let now = Monotonic::now().0 / 1_000_000;
        let Some(judged) = space.judged.get(slot.index() as usize) else { return Verdict::Unregistered };
        let last = judged.load(Relaxed);
        if (last >> 32) as u32 == incarnation && (now as u32).wrapping_sub(last as u32) < BELIEVED.as_millis() as u32 {
            return Verdict::Alive;
        }
        let Some(them) = segment.participant(slot) else { return Verdict::Unregistered };
        // Before the verdict: afterwards somebody else may have moved in. If somebody did before, the word has changed.
        let command = segment.command(slot);
        match segment.judge(slot, &them, &space.me_as_judge()) {
            Life::Dead(_) => Verdict::Dead(Obituary { pid: them.identity.pid, command, slot }),
            Life::Alive | Life::Unknown(_) => {
                judged.store((them.incarnation as u64) << 32 | now & 0xFFFF_FFFF, Relaxed);
                Verdict::Alive
            }
        }
    }

    fn thread(&self) -> u32 {
        self.thread
    }

    fn spin(&self, step: u32) -> bool {
        if step >= SPINS {
            return false;
        }
        for _ in 0..1u32 << step.min(LONGEST_PAUSE) {
            core::hint::spin_loop();
        }
        true
    }

    fn may_sleep(&self, seen: OwnerWord) -> std::result::Result<(), Refusal> {
        let now = Monotonic::now();
        if self.deadline.has_passed(now) {
            return Err(Refusal::TimedOut);
        }
        // The first to see an acquisition notes when that was.
        if let Some(since) = self.since {
            let noted = since.load(Relaxed);
            if noted == 0 || !stamp::is_of(noted, seen) {
                // If it fails, somebody else noted it.
                let _ = since.compare_exchange(noted, stamp::new(seen, now, false), Relaxed, Relaxed);
            }
        }
        if self.sleeps.get() > 0 && self.space.segment.is_removed() {
            return Err(Refusal::Removed);
        }
        Ok(())
    }

    fn enlist(&self) {
        let enlisted = self.space.segment.enlist(self.slot, self.incarnation, self.thread, self.target);
        *self.enlisted.borrow_mut() = enlisted;
    }

    fn delist(&self) -> bool {
        let enlisted = self.enlisted.borrow_mut().take();
        enlisted.is_none_or(|enlisted| self.space.segment.delist(&enlisted))
    }

    fn sleep(&self, owner: &AtomicU64, seen: OwnerWord) {
        let span = FIRST_SLEEP.saturating_mul(1 << self.sleeps.get().min(16)).min(self.space.check_interval);
        let until = Monotonic::now().saturating_add(span);
        let until = match self.deadline {
            Deadline::At(at) => until.min(at),
            Deadline::Never => until,
        };
        match futex::wait(owner, seen.low_half(), until) {
            Woken::TimedOut => self.sleeps.set(self.sleeps.get() + 1),
            // No futex: look again soon, as often as others would be woken.
            Woken::Refused(_) => {
                self.sleeps.set(self.sleeps.get() + 1);
                std::thread::sleep(Duration::from_millis(1).min(until.since(Monotonic::now())));
            }
            Woken::Called | Woken::Changed | Woken::Signal => {}
        }
    }

    fn wake(&self, owner: &AtomicU64) -> bool {
        wake_one(owner)
    }
}

/// One acquisition of a lock: which one, and in which entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acquisition {
    word: OwnerWord,
    entry: u32,
}

/// An acquisition that took its time, and what it found out.
#[derive(Debug)]
pub(crate) struct Waited {
    pub(crate) acquisition: Acquisition,
    pub(crate) abandoned: Option<Box<Abandonment>>,
}

/// A death that the acquisition was told of.
#[derive(Debug)]
pub(crate) struct Abandonment {
    pub(crate) told: Abandoned,
    /// The slot of the dead, to be cleaned up when the lock is released.
    slot: Option<Slot>,
}

/// A named lock, as a handle keeps it.
#[derive(Debug)]
pub(crate) struct SharedLock {
    // What the fast path touches, without going through `space`.
    me: ForkWord,
    entries: Table<Entry>,
    /// A packed [`Place`]: where the name was the last time.
    place: AtomicU64,
    /// The free word that this handle left behind, with which the next acquisition starts.
    guess: AtomicU64,
    space: Arc<SharedSpace>,
    name: Arc<str>,
    kind: Kind,
}

impl Clone for SharedLock {
    fn clone(&self) -> Self {
        Self {
            me: self.me.clone(),
            entries: self.entries.clone(),
            space: self.space.clone(),
            name: self.name.clone(),
            kind: self.kind,
            place: AtomicU64::new(self.place.load(Relaxed)),
            guess: AtomicU64::new(self.guess.load(Relaxed)),
        }
    }
}

impl SharedLock {
    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str, kind: Kind) -> Result<Self> {
        names::check(name)?;
        let name: Arc<str> = name.into();
        let place = space.look_up(&name, kind)?;
        Ok(Self {
            me: space.me.clone(),
            entries: space.segment.entries.clone(),
            place: AtomicU64::new(place.pack()),
            guess: AtomicU64::new(0),
            space: space.clone(),
            name,
            kind,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The code of this process's slot; 0 in a forked child that did not join yet.
    #[inline(always)]
    fn slot_code(&self) -> u16 {
        self.me.get() as u16
    }

    #[inline(always)]
    fn entry(&self, index: u32) -> &Entry {
        // A place comes from the table itself, so it is inside.
        &self.entries[index as usize]
    }

    /// Whether the entry still belongs to this name. To be asked while holding the entry's lock.
    #[inline(always)]
    fn is_ours(&self, place: Place) -> bool {
        // Relaxed: the name changes under the lock that the caller acquired with Acquire.
        Meta(self.entry(place.entry).meta.load(Relaxed)).generation() == place.generation
    }

    /// Acquires the lock if it is free. `Err(Some(_))`: acquired, but there is more to find out about it, which
    /// [`acquire`](Self::acquire) does; `Err(None)`: not acquired.
    #[inline(always)]
    pub(crate) fn acquire_fast(&self, thread: u32) -> std::result::Result<Acquisition, Option<Acquisition>> {
        let code = self.slot_code();
        if code == 0 {
            return Err(None);
        }
        let place = Place::unpack(self.place.load(Relaxed));
        let guess = OwnerWord(self.guess.load(Relaxed));
        match self.entry(place.entry).lock.try_acquire(Slot::own(code), thread, guess) {
            Ok(word) => {
                let acquisition = Acquisition { word, entry: place.entry };
                if word.is_abandoned() || !self.is_ours(place) {
                    return Err(Some(acquisition));
                }
                Ok(acquisition)
            }
            Err(_) => Err(None),
        }
    }

    /// Lets go of a lock that turned out to be another name's. Who has to be told of a death still is.
    #[cold]
    fn put_back(&self, entry: &Entry, acquired: Acquired<Obituary>) {
        let word = acquired.word;
        let freed = if word.is_abandoned() {
            let pid = match acquired.obituary {
                Some(dead) => u64::from(dead.pid),
                None => entry.dead.load(Relaxed) >> 32,
            };
            entry.dead.store(pid << 32 | word.epoch() & 0xFFFF_FFFF, Relaxed);
            word.abandon()
        } else {
            word.release()
        };
        if entry.lock.owner.compare_exchange(word.0, freed.0, SeqCst, Relaxed).is_ok() {
            entry.lock.wake_sleepers(freed, wake_one);
        }
    }

    /// Acquires the lock, waiting until `deadline`.
    /// `begun` is what [`acquire_fast`](Self::acquire_fast) left to be looked at.
    pub(crate) fn acquire(&self, thread: u32, deadline: Deadline, mut begun: Option<Acquisition>) -> Result<Waited> {
        let space = &*self.space;
        let started = Monotonic::now();
        loop {
            let (slot, incarnation) = space.member()?;
            let mut place = Place::unpack(self.place.load(Relaxed));
            if let Some(begun) = begun.filter(|begun| begun.entry != place.entry) {
                // Another thread found out meanwhile where the name is now.
                place = Place { entry: begun.entry, generation: place.generation.wrapping_sub(1) };
            }
            let entry = self.entry(place.entry);
            let wait = Wait {
                space,
                words: &entry.lock,
                since: Some(&entry.since),
                target: Target::Lock(place),
                slot,
                incarnation,
                thread,
                started,
                deadline,
                sleeps: Cell::new(0),
                enlisted: RefCell::new(None),
            };
            let outcome = match begun.take() {
                Some(begun) => Ok(Acquired { word: begun.word, obituary: None }),
                None => wait.acquire(),
            };
            // Also what we gave up waiting for may be another name's lock by now.
            let moved = !self.is_ours(place);
            match outcome {
                Ok(acquired) if moved => self.put_back(entry, acquired),
                Ok(acquired) => return Ok(self.welcome(entry, place, acquired)),
                Err(Failure::Refused(Refusal::TimedOut)) if moved => {
                    let waited = Monotonic::now().since(started);
                    return Err(Error::TimedOut { name: self.name.clone(), holder: None, waited });
                }
                Err(_) if moved => {}
                Err(failure) => return Err(wait.explain(failure, &self.name)),
            }
            self.place.store(space.look_up(&self.name, self.kind)?.pack(), Relaxed);
        }
    }

    /// Stamps an acquisition and finds out what its owner has to be told.
    fn welcome(&self, entry: &Entry, place: Place, acquired: Acquired<Obituary>) -> Waited {
        let word = acquired.word;
        entry.since.store(stamp::new(word, Monotonic::now(), true), Relaxed);
        let abandoned = word.is_abandoned().then(|| {
            // The acquisition before ours is the one that death ended.
            let epoch = word.epoch() - 1;
            let token = self.space.segment.header.token_base + epoch;
            let (pid, command, slot) = match acquired.obituary {
                Some(dead) => {
                    entry.recovered.fetch_add(1, Relaxed);
                    (Some(dead.pid), dead.command, Some(dead.slot))
                }
                None => {
                    let noted = entry.dead.load(Acquire);
                    let known = noted as u32 == epoch as u32 && noted >> 32 != 0;
                    let command = known.then(|| load_printable(&entry.dead_command));
                    (known.then_some((noted >> 32) as u32), command.unwrap_or_default(), None)
                }
            };
            Box::new(Abandonment { told: Abandoned { token, pid, command }, slot })
        });
        Waited { acquisition: Acquisition { word, entry: place.entry }, abandoned }
    }

    #[inline(always)]
    pub(crate) fn token(&self, acquisition: Acquisition) -> u64 {
        self.space.token_of(acquisition.word)
    }

    /// Whether this process still holds that acquisition.
    pub(crate) fn is_held(&self, acquisition: Acquisition) -> bool {
        self.slot_code() == acquisition.word.slot_code()
            && self.entry(acquisition.entry).lock.look() == acquisition.word
    }

    /// Ends an acquisition; `false` if it had ended before, or is another process's.
    #[inline(always)]
    pub(crate) fn release(&self, acquisition: Acquisition) -> bool {
        if self.slot_code() != acquisition.word.slot_code() {
            return false;
        }
        match self.entry(acquisition.entry).lock.release(acquisition.word, wake_one) {
            Ok(freed) => {
                self.guess.store(freed.0, Relaxed);
                true
            }
            Err(_) => false,
        }
    }

    /// Cleans up after the dead owner whose lock was taken over, now that the lock is released.
    #[cold]
    pub(crate) fn bury(&self, abandonment: &Abandonment) {
        if let Some(slot) = abandonment.slot {
            // If it fails, whoever needs the slot tries again.
            let _ = self.space.recover_dead(Some(slot));
        }
    }

    /// Who holds the lock now.
    pub(crate) fn holder(&self) -> Result<Option<Holder>> {
        let mut place = Place::unpack(self.place.load(Relaxed));
        let entry = self.entry(place.entry);
        if Meta(entry.meta.load(Relaxed)).generation() != place.generation {
            place = self.space.look_up(&self.name, self.kind)?;
            self.place.store(place.pack(), Relaxed);
        }
        let entry = self.entry(place.entry);
        Ok(self.space.holder_of(&entry.lock, Some(&entry.since)))
    }
}
