//! Kills a victim at every point of an operation, and judges what is left each time.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use hostlock::{Abandoned, Backend, Error, Mutex, OwnedMutexGuard, RwLock, Space};

use super::control::{Control, READY};
use super::support::raw::{NAMES_LOCK_AT, Raw, held_by};
use super::support::{root, wait_until};
use super::trace::{Forked, KNOWN_PROCESSOR, Victim};

/// A survivor that does not get a free lock, or a dead one's, in this time is stuck.
pub const BOUND: Duration = Duration::from_secs(20);
/// Survivors look for themselves this often, so that a sweep takes seconds.
const CHECK: Duration = Duration::from_millis(10);
/// In the quick form: every seventh point, but not many more than this of them.
const QUICK: usize = 12;
/// An operation of no more calls is short, if hardly anything seems to change between them.
const SHORT_CALLS: usize = 20;
/// Who goes different ways makes so many calls more or less before it changes something.
const WAVER: usize = 20;
/// To lead it from one call to the next takes so long, about.
const LED: Duration = Duration::from_millis(6);
/// In the quick form: of the points that survivors can tell apart, the first and the last so many.
const ENDS: usize = 20;

/// The lock that most sweeps are about, and one beside it.
pub const NAME: &str = "a";
pub const OTHER: &str = "b";
/// A lock that nobody holds for long, by which forked children join.
pub const JOIN: &str = "c";

/// In a forked child: joins, so that this is no part of the operation.
pub fn join_in(mutex: &Mutex) {
    drop(mutex.lock().expect("a lock"));
}

/// The controls of a sweep's processes.
#[derive(Clone, Copy)]
pub struct Controls {
    pub victim: &'static Control,
    /// Of a second one, where two are led in turns.
    pub second: &'static Control,
    pub sleeper: &'static Control,
    pub other: &'static Control,
}

impl Controls {
    pub fn new() -> Self {
        let [victim, second, sleeper, other] = [(); 4].map(|()| Control::new());
        Self { victim, second, sleeper, other }
    }
}

/// What is swept.
pub struct Plan<'a> {
    pub what: &'a str,
    /// Victims go different ways, as the operation depends on what time it is and on what others do.
    pub wavers: bool,
    pub begin: &'a dyn Fn(&mut Case) -> Option<Victim>,
    /// The victim is stopped at a point of the operation.
    pub meanwhile: &'a dyn Fn(&mut Case, &Victim),
    /// The victim is dead.
    pub afterwards: &'a dyn Fn(&mut Case),
}

/// One victim's world: a space of its own.
pub struct Case {
    root: PathBuf,
    pub name: String,
    pub controls: Controls,
    pub backend: Backend,
    pub participants: u32,
    pub locks: u32,
    /// Bytes for what has extents.
    pub extents: Option<u64>,
    /// `None` while the test is not in the space.
    pub space: Option<Space>,
    pub sleeper: Option<Forked>,
    pub guard: Option<OwnedMutexGuard>,
    /// A handle of the test's own, with which it read before.
    pub kept: Option<RwLock>,
    /// The largest token seen so far.
    pub token: u64,
    pub death: Death,
    /// PIDs of processes that ended before the victim did, without releasing what they held.
    pub dead: Vec<u32>,
    /// Inode of the segment when the victim was killed; 0: there was none.
    pub inode: u64,
}

/// What the words said of the victim's lock before it was killed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Death {
    pub word: u64,
    /// The acquisition that the next owner has to be told of; 0: none.
    pub token: u64,
    /// Of two permits, the other's: whoever gets both is told of one of them.
    pub other: u64,
    /// Sleepers counted that no record stands for, as [`counts`] lists them.
    pub stray: [u32; COUNTS],
}

impl Case {
    /// The so many-th case below `root`.
    pub fn new(root: &Path, number: u32, controls: Controls) -> Self {
        Self {
            root: root.into(),
            // Of one length, so that all victims execute the same instructions.
            name: format!("{number:08}"),
            controls,
            backend: Backend::Auto,
            participants: 6,
            locks: 4,
            extents: None,
            space: None,
            sleeper: None,
            guard: None,
            kept: None,
            token: 0,
            death: Death::default(),
            dead: Vec::new(),
            inode: 0,
        }
    }

    /// It is over: nothing is left of it.
    pub fn end(self) {
        let directory = self.directory();
        drop(self);
        std::fs::remove_dir_all(directory).expect("the space can be removed");
    }

    pub fn directory(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The file that the words are in, and where they begin.
    fn words(&self) -> (PathBuf, u64) {
        match self.backend {
            Backend::Files => (self.directory().join("files"), 0),
            _ => (self.directory().join("segment"), 1024),
        }
    }

    pub fn open(&self) -> hostlock::Result<Space> {
        let mut builder = Space::builder(&self.name).root(&self.root).locks(self.locks).check_interval(CHECK);
        if let Some(bytes) = self.extents {
            builder = builder.extents(bytes);
        }
        match self.backend {
            Backend::Files => builder.backend(Backend::Files).open(),
            _ => builder.participants(self.participants).open(),
        }
    }

    pub fn enter(&mut self) {
        self.space = Some(self.open().unwrap_or_else(|e| panic!("a survivor cannot open the space: {e}")));
    }

    pub fn space(&self) -> &Space {
        self.space.as_ref().expect("in the space")
    }

    pub fn mutex(&self, name: &str) -> Mutex {
        self.space().mutex(name).unwrap_or_else(|e| panic!("a survivor cannot find {name}: {e}"))
    }

    pub fn raw(&self) -> Raw {
        Raw::open(self.directory())
    }

    /// The PID of whoever stands in an owner word; 0: nobody.
    pub fn owner_of(raw: &Raw, word: u64) -> u32 {
        // Free, or reserved for whoever waited for long.
        if word & 0xFFFC == 0 || word & 0xFFFE == 6 {
            return 0;
        }
        // With a lease, the code's last bit is the other way round.
        let code = if word & 2 != 0 { (word ^ 4) & 0xFFFC } else { word & 0xFFFC };
        let mut owners = raw.participants().into_iter().filter(|(slot, ..)| held_by(*slot, 0) == code);
        owners.next().unwrap_or_else(|| panic!("{word:#x} is held by nobody known")).2
    }

    /// The words of a lock: where its owner word is, and what it says.
    pub fn word(&self, name: &str) -> u64 {
        self.raw().entry(name).map_or(0, |entry| entry.owner)
    }

    /// What a look at the stopped victim tells of its death. It must own nothing that others have.
    pub fn look(&mut self, victim: &Victim) {
        self.inode = self.directory().join("segment").metadata().map_or(0, |meta| meta.ino());
        if self.inode == 0 {
            return;
        }
        let raw = self.raw();
        let word = self.word(NAME);
        let owner = Self::owner_of(&raw, word);
        let pid = victim.pid.as_raw() as u32;
        assert!(
            owner != 0 || word & 1 == 0 || !self.dead.is_empty(),
            "marked as abandoned, and nobody died: {word:#x}"
        );
        let seen = (word >> 16) + raw.u64_at(104);
        assert!(word == 0 || seen >= self.token, "the word {word:#x} is older than the last token, {}", self.token);
        let ends_by_death = owner == pid || self.dead.contains(&owner) || (owner == 0 && word & 1 != 0);
        let token = if ends_by_death { seen } else { 0 };
        self.death = Death { word, token, other: 0, stray: strays(&raw) };
        // Who looks a name up waits for whoever is changing the names, as long as it lives.
        let names_are_free = raw.u64_at(NAMES_LOCK_AT) & 0xFFFC == 0;
        if owner == pid && self.space.is_some() && names_are_free {
            let refused = self.mutex(NAME).try_lock().map(|guard| guard.token());
            assert!(matches!(refused, Err(Error::WouldBlock { .. })), "two hold the lock at once: {refused:?}");
            assert_eq!(self.controls.sleeper.inside.load(SeqCst), 0, "two hold the lock at once");
        }
    }

    /// Notes what [`settle`](Self::settle) has to know, of whatever the operation was.
    pub fn note_strays(&mut self) {
        self.death.stray = strays(&self.raw());
    }

    /// A third party acquires the lock if the victim does not hold it, and keeps it while the victim dies.
    pub fn barge(&mut self, victim: &Victim) {
        self.look(victim);
        if Self::owner_of(&self.raw(), self.death.word) == victim.pid.as_raw() as u32 {
            return;
        }
        let guard = self.mutex(NAME).try_lock_owned_for(BOUND).expect("a free lock can be acquired");
        self.check(guard.token(), guard.abandoned());
        self.guard = Some(guard);
    }

    /// Judges an acquisition: a larger token, and told of a death if and only if there was one.
    #[track_caller]
    pub fn check(&mut self, token: u64, told: Option<&Abandoned>) {
        assert!(token > self.token, "the token is {token} after {}", self.token);
        self.token = token;
        let (told, expected) = (told.map_or(0, |dead| dead.token), std::mem::take(&mut self.death.token));
        let is_of_other = told != 0 && told == std::mem::take(&mut self.death.other);
        assert!(told == expected || is_of_other, "told of a death (with 0 for none): {told}, and expected: {expected}");
    }

    /// The survivors go on: whoever sleeps gets the lock, then others do, and nothing is left.
    pub fn judge(&mut self) {
        if let Some(guard) = self.guard.take() {
            assert!(guard.is_held(), "a dead one's release ended a living one's acquisition");
            guard.unlock().expect("the dead one's release counts for nothing");
        }
        if let Some(mut sleeper) = self.sleeper.take() {
            let control = self.controls.sleeper;
            control.wait_for(super::control::ENDED, "a sleeper is stuck");
            assert_eq!(control.crowded.load(SeqCst), 0, "two held the lock at once");
            let told = control.told.load(SeqCst);
            let token = control.token.load(SeqCst);
            // It may have had its turn before the victim's last one, when there was nothing to tell.
            let before = token <= (self.death.word >> 16) + self.raw().u64_at(104);
            let expected = if before { 0 } else { std::mem::take(&mut self.death.token) };
            assert_eq!(told, expected, "told of a death (with 0 for none), and expected");
            assert_ne!(token, self.token, "two acquisitions with one token");
            self.token = self.token.max(token);
            sleeper.kill();
        }
        self.token = self.token.max(self.raw().u64_at(104) + (self.death.word >> 16));
        for _ in 0..2 {
            let mutex = self.mutex(NAME);
            let guard = mutex.try_lock_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
            self.check(guard.token(), guard.abandoned());
        }
        self.settle();
    }

    /// When all dead are cleaned up nothing is left of them.
    pub fn settle(&mut self) {
        self.space().recover_dead().expect("cleaning up");
        let raw = self.raw();
        let me = std::process::id();
        let left: Vec<_> = raw.participants().into_iter().filter(|(.., pid)| *pid != me).collect();
        assert!(left.is_empty(), "still registered: {left:?}");
        assert_eq!(waiters(&raw), [], "sleepers still noted");
        let names = raw.names();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "a name has two entries: {names:?}");
        for at in [NAMES_LOCK_AT].into_iter().chain(raw.entries().into_iter().map(|entry| entry.at)) {
            assert_eq!(raw.u64_at(at) & 0xFFFC, 0, "a lock is still held");
        }
        for ((at, _), stray) in counts(&raw).into_iter().zip(self.death.stray) {
            let counted = raw.u32_at(at) & !MARKS;
            assert!(counted <= stray, "{counted} still counted as asleep, {stray} had no record");
        }
    }

    /// Starts a process that waits for the lock, up to where it only has to be let go.
    pub fn prepare_sleeper(&mut self) {
        let mutex = self.mutex(NAME);
        let victim = self.controls.victim;
        self.prepare(|control| {
            let guard = mutex.lock().expect("a lock");
            control.inside.store(1, SeqCst);
            if victim.inside.load(SeqCst) == 1 && victim.dead.load(SeqCst) == 0 {
                control.crowded.store(1, SeqCst);
            }
            control.token.store(guard.token(), SeqCst);
            control.told.store(guard.abandoned().map_or(0, |dead| dead.token), SeqCst);
            control.inside.store(0, SeqCst);
            drop(guard);
        });
    }

    /// Starts a process that is about to do `what`, up to where it only has to be let go.
    pub fn prepare(&mut self, what: impl FnOnce(&'static Control)) {
        let join = self.mutex(JOIN);
        self.sleeper = Some(Forked::new(self.controls.sleeper, |control| {
            join_in(&join);
            control.wait_at_gate();
            what(control);
        }));
        self.controls.sleeper.wait_for(READY, "a sleeper does not come into being");
    }

    /// Lets it go, and waits until it sleeps.
    pub fn send_sleeper_to_sleep(&self) {
        let pid = self.sleeper.as_ref().expect("a sleeper").pid.as_raw() as u32;
        let raw = self.raw();
        let slot = raw.participants().into_iter().find(|(.., of)| *of == pid).expect("it is in the space").0;
        self.controls.sleeper.gate.store(1, SeqCst);
        let is_noted = || waiters(&raw).iter().any(|who| (*who >> 16) as u16 == slot as u16 + 1 && who & CLAIMED == 0);
        wait_until("it sleeps", || is_noted() && self.sleeper.as_ref().is_some_and(Forked::is_asleep));
    }

    /// A process that acquires these locks and is killed holding them, perhaps after somebody who waited for the first
    /// lock was killed asleep.
    pub fn die_holding(&mut self, names: &[&str], with_sleeper: bool) {
        let mutexes: Vec<_> = names.iter().map(|name| self.mutex(name)).collect();
        self.die_with(with_sleeper, || {
            for mutex in &mutexes {
                std::mem::forget(mutex.lock_owned().expect("a lock"));
            }
        });
    }

    /// The same, of whatever it acquires and forgets.
    pub fn die_with(&mut self, with_sleeper: bool, acquire: impl FnOnce()) {
        let mut holder = Forked::new(self.controls.other, |control| {
            acquire();
            control.phase.store(READY, SeqCst);
        });
        self.controls.other.wait_for(READY, "a process does not get its locks");
        if with_sleeper {
            self.prepare_sleeper();
            self.send_sleeper_to_sleep();
            let mut sleeper = self.sleeper.take().expect("asleep");
            sleeper.kill();
        }
        self.dead.push(holder.pid.as_raw() as u32);
        holder.kill();
    }
}

/// Beside a count: somebody was woken, somebody has waited for long, a fence was made.
const MARKS: u32 = 7 << 29;
/// In a waiter record: not filled in yet.
const CLAIMED: u64 = 1 << 15;

/// The names' lock, and lock and bell of the first entries.
const COUNTS: usize = 9;

/// Where all counts of sleepers are, and what the record of a sleeper there says that it waits for.
fn counts(raw: &Raw) -> Vec<(u64, u64)> {
    let entries = (1..).zip(raw.entries());
    let of_entries = entries.flat_map(|(number, entry)| [(entry.at + 16, number), (entry.at + 52, number | 1 << 31)]);
    [(NAMES_LOCK_AT + 16, 0)].into_iter().chain(of_entries).take(COUNTS).collect()
}

/// Who is noted as sleeping.
fn waiters(raw: &Raw) -> Vec<u64> {
    let (count, at) = (u64::from(raw.u32_at(36)), raw.u64_at(56));
    (0..count).map(|index| raw.u64_at(at + index * 64)).filter(|who| *who != 0).collect()
}

/// How many sleepers each count has that no record stands for.
fn strays(raw: &Raw) -> [u32; COUNTS] {
    let counts = counts(raw);
    let count = || counts.iter().map(|(at, _)| raw.u32_at(*at) & !MARKS).collect::<Vec<_>>();
    let before = count();
    let at = raw.u64_at(56);
    let noted: Vec<_> = (0..u64::from(raw.u32_at(36)))
        .map(|index| at + index * 64)
        .filter(|at| !matches!(raw.u64_at(*at), who if who == 0 || who & CLAIMED != 0))
        .map(|at| raw.u64_at(at + 8) >> 32)
        .collect();
    let after = count();
    let mut strays = [0; COUNTS];
    for (index, stray) in strays.iter_mut().enumerate().take(counts.len()) {
        let noted = noted.iter().filter(|of| **of == counts[index].1).count() as u32;
        // A sleeper may come or go while this reads.
        let counted = before[index].max(after[index]);
        assert!(counted >= noted, "{noted} noted as asleep, {counted} counted: who clears a record takes off another");
        *stray = counted - noted;
    }
    strays
}

/// The segment behind its header, or the file of lock files, as it was at the last look.
struct Seen {
    path: PathBuf,
    from: u64,
    file: Option<File>,
    bytes: Vec<u8>,
    before: Vec<u8>,
}

impl Seen {
    fn new(case: &Case) -> Self {
        let (path, from) = case.words();
        Self { path, from, file: None, bytes: Vec::new(), before: Vec::new() }
    }

    fn has_changed(&mut self) -> bool {
        if self.file.is_none() {
            let Ok(file) = File::open(&self.path) else { return false };
            let size = (file.metadata().expect("a file").len() - self.from) as usize;
            self.file = Some(file);
            self.bytes = vec![0; size];
            self.before = vec![0; size];
        }
        let file = self.file.as_ref().expect("opened above");
        file.read_exact_at(&mut self.bytes, self.from).expect("a whole file");
        std::mem::swap(&mut self.bytes, &mut self.before);
        self.bytes != self.before
    }
}

/// Whether all is tried that there is.
pub fn is_long() -> bool {
    std::env::var("HOSTLOCK_CRASH").is_ok_and(|form| form == "all")
}

/// Kills victims at all points of the operation, or, in the quick form, at those that survivors can tell apart, those after every other of
/// them, and every so many of those between two calls between which something changes.
pub fn sweep(plan: &Plan) {
    if !KNOWN_PROCESSOR {
        crate::skip!("{}: nobody taught this test the system calls of this processor", plan.what);
    }
    let all = is_long();
    let temp = root();
    let controls = Controls::new();
    let mut number = 0;
    let mut begin = || {
        number += 1;
        let mut case = Case::new(temp.path(), number, controls);
        (plan.begin)(&mut case).map(|victim| (case, victim))
    };
    let end = |mut case: Case, mut victim: Victim| {
        (plan.meanwhile)(&mut case, &victim);
        victim.kill();
        (plan.afterwards)(&mut case);
        case.end();
    };

    let watch = Instant::now();
    let Some((case, mut victim)) = begin() else {
        crate::skip!("{}: this process may not trace its children", plan.what);
    };
    // To stop after each instruction is slow. Where nothing changes between two calls survivors cannot tell the points apart.
    let mut seen = Seen::new(&case);
    let mut looks = 0;
    let look = || {
        looks += 1;
        if looks % 2 == 1 && plan.wavers {
            // Its time goes by as when it is led.
            std::thread::sleep(LED);
        }
        seen.has_changed()
    };
    let mut outline = if all { None } else { Some(victim.outline(look)) };
    if let Some(spans) = outline.as_mut().filter(|_| plan.wavers) {
        let exact = spans.clone();
        let is_near = |at: usize| exact.iter().skip(at.saturating_sub(WAVER)).take(2 * WAVER).any(|changes| *changes);
        spans.iter_mut().enumerate().for_each(|(at, changes)| *changes = is_near(at));
    }
    let (case, mut victim) = match outline {
        None => (case, victim),
        Some(_) => {
            end(case, victim);
            begin().expect("as before")
        }
    };
    // What is changed and put back between two calls is not seen from one to the next: a short operation is gone through as it is.
    let is_long = |spans: &Vec<bool>| spans.len() > SHORT_CALLS || spans.iter().filter(|changes| **changes).count() > 2;
    let outline = outline.filter(is_long);
    let mut seen = Seen::new(&case);
    let points = victim.record(outline.as_deref(), || seen.has_changed());
    end(case, victim);

    let apart = points.iter().filter(|point| point.told_apart).count();
    let stride = if all { 1 } else { (points.len() / QUICK).max(7) };
    // Of a wait that sleeps again and again, its beginning and its end.
    let ranks: Vec<usize> = points
        .iter()
        .scan(0, |rank, point| {
            *rank += usize::from(point.told_apart);
            Some(*rank)
        })
        .collect();
    let is_told_apart = |of: usize| points[of].told_apart && (all || ranks[of] <= ENDS || ranks[of] + ENDS > apart);
    // In the quick form, after every other of them.
    let is_after = |of: usize| of > 0 && is_told_apart(of - 1) && (all || ranks[of].is_multiple_of(2));
    let chosen = (0..points.len()).filter(|&index| index % stride == 0 || is_told_apart(index) || is_after(index));
    let (mut tried, mut missed, mut calls, mut missed_calls) = (0, 0, 0, 0);
    for index in chosen {
        let _context = Context { what: plan.what, index, of: points.len() };
        let point = points[index];
        let (case, mut victim) = begin().expect("as before");
        // Allocations and the clock take an instruction more or less each time; where it does not get to the very point, it is
        // killed near by.
        let mut seen = Seen::new(&case);
        let miss = usize::from(!victim.go_to(point, || seen.has_changed()));
        end(case, victim);
        (tried, missed) = (tried + 1, missed + miss);
        if point.steps == 0 {
            (calls, missed_calls) = (calls + 1, missed_calls + miss);
        }
    }
    println!(
        "crash: {}: {tried} of {} points ({missed} only nearly), {apart} that survivors can tell apart; \
         0 stuck, 0 held twice, in {:.1} s",
        plan.what,
        points.len(),
        watch.elapsed().as_secs_f64()
    );
    assert!(apart >= 2, "an operation that does nothing");
    // Its system calls are the same every time.
    assert!(plan.wavers || missed_calls * 4 <= calls, "victims go different ways: {missed_calls} of {calls}");
}

/// Says at which point it was when a judge fails.
struct Context<'a> {
    what: &'a str,
    index: usize,
    of: usize,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("crash: {}: this was at point {} of {}", self.what, self.index, self.of);
        }
    }
}
