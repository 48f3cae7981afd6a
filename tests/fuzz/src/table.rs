//! A table of names, and what it has to do.
//!
//! The model does not know which of the names that nobody uses gives room to another, so it looks which one went, and whether that one could.

use std::collections::BTreeMap;

use hostlock::{Barrier, Error, Event, Latch, LockKind, Mutex, Result, RwLock, Semaphore, Space};

use crate::arena::{Arena, NAMES, ROOM};
use crate::damage::EDITS;
use crate::deeds::{of, sound};
use crate::input::Input;

/// A program that goes on after that is another program's copy.
const MOST: usize = 120;

/// All kinds of names; names that fill the table; of some that are held; removed and made anew; damage in between; a name whose place another one holds; one that goes
/// as others come, and comes again.
pub const SEEDS: &[&[u8]] = &[
    &[
        12, 0, 0, 0, 12, 1, 1, 0, 12, 2, 2, 0, 12, 3, 3, 0, 12, 4, 4, 0, 12, 5, 5, 0, 12, 6, 6, 0, 12, 7, 7, 0, 12, 8,
        8, 0,
    ],
    &[12, 9, 9, 0, 12, 10, 10, 0, 12, 11, 11, 0, 12, 12, 12, 0, 18, 14, 9, 14, 10, 13, 3, 13, 4, 19],
    &[17, 0, 16, 15, 0, 3, 0, 15, 0, 4, 0, 17, 5, 16, 15, 0, 3, 1, 18, 16, 0, 14, 3, 14, 4],
    &[15, 2, 1, 0, 15, 3, 2, 0, 15, 3, 2, 0, 14, 1, 14, 2, 16, 0, 16, 0, 14, 2, 12, 0, 2, 0, 15, 0, 2, 0],
    &[15, 5, 1, 0, 15, 6, 2, 0, 15, 4, 3, 0, 17, 4, 12, 16, 0, 16, 0, 14, 1, 14, 2, 20, 13, 1, 18],
    &[17, 0, 12, 7, 4, 2, 4, 1, 9, 12, 0, 14, 0, 13, 2, 14, 3, 17, 3, 9, 18],
    &[17, 0, 12, 21, 0, 14, 15, 15, 5, 15, 0, 14, 0, 15, 3, 14, 0, 21, 2, 15, 0, 14, 0, 21, 1],
    &[12, 7, 1, 4, 12, 7, 1, 2, 14, 1, 12, 7, 1, 2, 12, 8, 3, 1, 12, 8, 3, 3, 12, 0, 3, 0],
    &[15, 5, 14, 4, 12, 16, 0, 2, 16, 0, 15, 4, 3, 0, 17, 4, 12],
];

/// What there is, by the numbers of the programs.
const KINDS: [Kind; 13] = [
    Kind::new(LockKind::Mutex, true, false),
    Kind::new(LockKind::Condvar, true, false),
    Kind::new(LockKind::RwLock, true, true),
    Kind::new(LockKind::Semaphore, true, true),
    Kind::new(LockKind::Event, false, false),
    Kind::new(LockKind::Barrier, false, true),
    Kind::new(LockKind::Latch, false, true),
    Kind::new(LockKind::Queue, false, true),
    Kind::new(LockKind::MutexData, false, true),
    Kind::new(LockKind::RwLockData, false, true),
    Kind::new(LockKind::Once, false, false),
    Kind::new(LockKind::Fence, false, false),
    Kind::new(LockKind::Event, false, false),
];
/// The one of the two events that resets itself.
const AUTO: usize = 12;

#[derive(Clone, Copy)]
struct Kind {
    kind: LockKind,
    /// Goes when its room is needed.
    goes: bool,
    /// May find no room in the extents.
    needs_room: bool,
}

impl Kind {
    const fn new(kind: LockKind, goes: bool, needs_room: bool) -> Self {
        Self { kind, goes, needs_room }
    }
}

/// A part of something that this process has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Of what is held alone, or announced.
    All,
    Read,
    /// A permit, the place of a party.
    One,
}

struct Held {
    name: usize,
    part: Part,
    let_go: LetGo,
}

/// A name as the model knows it: its kind by number, and what it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    kind: usize,
    count: u32,
}

struct Table<'a> {
    arena: &'a Arena,
    space: Option<Space>,
    names: BTreeMap<usize, Known>,
    held: Vec<Held>,
    /// The last token of each name, whatever became of it since.
    tokens: [u64; NAMES.len()],
    /// Handles that are kept, of names that may be gone.
    handles: Vec<(usize, Mutex)>,
    /// Nothing was damaged yet.
    sound: bool,
}

/// Runs the program.
pub fn play(arena: &Arena, program: &[u8]) {
    let mut table = Table {
        arena,
        space: None,
        names: BTreeMap::new(),
        held: Vec::new(),
        tokens: [0; NAMES.len()],
        handles: Vec::new(),
        sound: true,
    };
    let mut input = Input(program);
    for _ in 0..MOST {
        let Some(operation) = input.operation() else { break };
        if table.space.is_none() {
            match arena.builder().open() {
                Ok(space) => table.space = Some(space),
                Err(error) => {
                    assert!(!table.sound, "{error}");
                    sound(&error);
                    return;
                }
            }
        }
        table.step(operation % 24, &mut input);
        table.compare();
    }
    while !table.held.is_empty() {
        table.let_go(0);
    }
    // Once, of what was damaged: whatever there is, it can be looked at.
    let _ = of(arena.any_builder().inspect());
}

impl Table<'_> {
    fn step(&mut self, operation: u8, input: &mut Input) {
        let name = |input: &mut Input| usize::from(input.byte()) % NAMES.len();
        match operation {
            edit @ 0..EDITS => {
                self.sound = false;
                self.arena.damage_in_use(edit, input);
            }
            12 => {
                let (kind, name) = (usize::from(input.byte()) % KINDS.len(), name(input));
                self.create(kind, name, 1 + u32::from(input.byte() % 6));
            }
            13 => self.look_up(name(input)),
            14 => self.remove(name(input)),
            15 => {
                let (kind, name) = (usize::from(input.byte()) % 7, name(input));
                self.hold(kind, name, input.byte() & 1 == 0);
            }
            16 => {
                let which = usize::from(input.byte());
                if !self.held.is_empty() {
                    self.let_go(which % self.held.len());
                }
            }
            17 => {
                let (first, count) = (name(input), usize::from(input.byte()) % NAMES.len() + 1);
                for name in first..first + count {
                    self.create(0, name % NAMES.len(), 0);
                    // One of the next may be one that just went.
                    self.compare();
                }
            }
            18 => {
                let _ = of(self.space().recover_dead());
            }
            19 | 20 => self.leave(),
            _ => self.use_a_handle(usize::from(input.byte())),
        }
    }

    fn space(&self) -> &Space {
        self.space.as_ref().expect("entered before each step")
    }

    /// What the model says of a call that fails.
    fn expect(&self, holds: bool, error: &Error) {
        sound(error);
        assert!(holds || !self.sound, "{error:?}, and the model has {:?}", self.names);
    }

    fn create(&mut self, kind: usize, name: usize, count: u32) {
        let count = if has_count(kind) { count.max(1) } else { 0 };
        let (space, called) = (self.space(), NAMES[name]);
        let made = match kind {
            0 => space.mutex(called).map(|handle| {
                if self.handles.len() < 4 {
                    self.handles.push((name, handle));
                }
            }),
            1 => space.condvar(called).map(drop),
            2 => space.rwlock(called).map(drop),
            3 => space.semaphore(called, count).map(drop),
            4 => space.event(called).map(drop),
            5 => space.barrier(called, count).map(drop),
            6 => space.latch(called, count).map(drop),
            7 => space.queue::<u64>(called, count).map(drop),
            8 => space.mutex_with::<u64>(called, 7).map(drop),
            9 => space.rwlock_with::<[u64; 3]>(called, [7; 3]).map(drop),
            10 => space.once(called).map(drop),
            11 => space.fence(called).map(drop),
            _ => space.auto_event(called).map(drop),
        };
        self.note(kind, name, count, &made);
    }

    /// What the model makes of a handle that was asked for.
    fn note(&mut self, kind: usize, name: usize, count: u32, made: &Result<()>) {
        let wanted = Known { kind, count };
        let there = self.names.get(&name).copied();
        match made {
            Ok(()) => {
                assert!(!self.sound || there.is_none_or(|there| there == wanted), "{wanted:?} is {there:?}");
                self.names.insert(name, wanted);
            }
            Err(error) => {
                let holds = match error {
                    Error::WrongKind { .. } => there.is_some_and(|there| there.kind != kind),
                    Error::WrongCount { .. } => there.is_some_and(|there| there.kind == kind && there.count != count),
                    Error::Full { .. } => there.is_none() && self.is_full(),
                    Error::NoExtents { .. } => there.is_none() && KINDS[kind].needs_room,
                    _ => false,
                };
                self.expect(holds, error);
            }
        }
    }

    /// Whether all entries have names that must stay.
    fn is_full(&self) -> bool {
        self.names.len() == ROOM as usize && self.names.iter().all(|(name, known)| !self.may_go(*name, *known))
    }

    fn may_go(&self, name: usize, known: Known) -> bool {
        KINDS[known.kind].goes && !self.held.iter().any(|held| held.name == name)
    }

    fn look_up(&mut self, name: usize) {
        let found = match self.space().look_up(NAMES[name]) {
            Ok(found) => found,
            Err(error) => return self.expect(false, &error),
        };
        if self.sound {
            let known = self.names.get(&name).map(|known| KINDS[known.kind].kind);
            assert_eq!(found.map(|(kind, _)| kind), known, "{}", NAMES[name]);
            if let (Some((LockKind::Semaphore, count)), Some(known)) = (found, self.names.get(&name)) {
                assert_eq!(count, known.count, "{}", NAMES[name]);
            }
        }
    }

    fn remove(&mut self, name: usize) {
        let is_held = self.held.iter().any(|held| held.name == name);
        let there = self.names.contains_key(&name);
        match self.space().remove(NAMES[name]) {
            Ok(()) => {
                assert!(!self.sound || there && !is_held, "{} was taken away", NAMES[name]);
                self.names.remove(&name);
            }
            Err(error) => {
                let holds = match error {
                    Error::InUse { .. } => is_held,
                    Error::NoSuchName { .. } => !there,
                    _ => false,
                };
                self.expect(holds, &error);
            }
        }
    }

    /// Takes a part of what has the name, or makes it for that.
    fn hold(&mut self, kind: usize, name: usize, alone: bool) {
        let kind = [0, 2, 3, 4, 5, 6, 3][kind];
        let count = match self.names.get(&name) {
            Some(known) if known.kind == kind => known.count,
            _ if has_count(kind) => 2,
            _ => 0,
        };
        let space = self.space();
        let called = NAMES[name];
        // Making it is a step of its own, that may fail as every such step.
        let got = match kind {
            0 => space.mutex(called).map(|mutex| lock(&mutex)),
            2 => space.rwlock(called).map(|handle| read_or_write(&handle, alone)),
            3 => space.semaphore(called, count).map(|semaphore| permit(&semaphore)),
            4 => space.event(called).map(|event| announce(&event)),
            5 => space.barrier(called, count).map(|barrier| member(&barrier)),
            _ => space.latch(called, count).map(|latch| party(&latch)),
        };
        let (made, got) = match got {
            Ok(got) => (Ok(()), Some(got)),
            Err(error) => (Err(error), None),
        };
        self.note(kind, name, count, &made);
        match got {
            Some(Ok((part, token, let_go))) => {
                if self.sound {
                    assert!(self.is_free(name, count, part), "{called} is held already");
                    let newer = if part == Part::Read { token >= self.tokens[name] } else { token > self.tokens[name] };
                    // Of members and parties a place has a token, not the name.
                    assert!(newer || matches!(kind, 5 | 6), "{called}: {token} after {}", self.tokens[name]);
                }
                self.tokens[name] = token.max(self.tokens[name]);
                self.held.push(Held { name, part, let_go });
            }
            Some(Err(error)) => {
                let part = if kind == 2 && !alone {
                    Part::Read
                } else if matches!(kind, 0 | 2 | 4) {
                    Part::All
                } else {
                    Part::One
                };
                // Whoever counted a latch down does not have its place any more, but nobody else gets it.
                let was_counted = matches!(error, Error::NoSeat { kind: "latch", .. });
                self.expect(was_counted || !self.is_free(name, count, part), &error);
            }
            None => {}
        }
    }

    /// Whether somebody can have that part of what this process may have parts of.
    fn is_free(&self, name: usize, count: u32, part: Part) -> bool {
        let mut held = self.held.iter().filter(|held| held.name == name);
        match part {
            Part::All => held.next().is_none(),
            Part::Read => held.all(|held| held.part == Part::Read),
            Part::One => held.count() < count as usize,
        }
    }

    fn let_go(&mut self, which: usize) {
        let held = self.held.swap_remove(which);
        if let Err(error) = (held.let_go)() {
            self.expect(false, &error);
        }
    }

    fn leave(&mut self) {
        while !self.held.is_empty() {
            self.let_go(0);
        }
        self.handles.clear();
        self.space = None;
    }

    /// A handle finds its name, or makes it anew, wherever it went.
    fn use_a_handle(&mut self, which: usize) {
        if self.handles.is_empty() {
            return;
        }
        let (name, mutex) = self.handles[which % self.handles.len()].clone();
        let was_free = self.is_free(name, 0, Part::All);
        let got = mutex.try_lock_owned().and_then(|guard| {
            let token = guard.token();
            guard.unlock().map(|()| token)
        });
        match got {
            Ok(token) => {
                assert!(!self.sound || was_free && token > self.tokens[name], "{}: {token}", NAMES[name]);
                self.tokens[name] = token.max(self.tokens[name]);
                self.note(0, name, 0, &Ok(()));
            }
            Err(error @ Error::WouldBlock { .. }) => self.expect(!was_free, &error),
            Err(error) => self.note(0, name, 0, &Err(error)),
        }
    }

    /// What is there is what the model has, but for what went to make room.
    fn compare(&mut self) {
        if !self.sound {
            return;
        }
        let found = self.arena.any_builder().inspect().expect("a sound segment can be looked at");
        let there: BTreeMap<_, _> = found.locks.iter().map(|lock| (lock.name.as_str(), lock.kind)).collect();
        assert_eq!((there.len(), found.usage.locks), (found.locks.len(), found.locks.len()), "{:?}", found.locks);
        let gone: Vec<_> = self.names.keys().copied().filter(|name| !there.contains_key(NAMES[*name])).collect();
        for name in gone {
            let known = self.names.remove(&name).expect("it was there a moment ago");
            assert!(self.may_go(name, known), "{} went, a {known:?}", NAMES[name]);
        }
        for (called, kind) in there {
            let name = NAMES.iter().position(|name| *name == called);
            let known = name.and_then(|name| self.names.get(&name)).map(|known| KINDS[known.kind].kind);
            assert_eq!(known, Some(kind), "{called}");
        }
        assert!(found.locks.iter().all(|lock| lock.damage.is_none()), "{:?}", found.locks);
    }
}

fn has_count(kind: usize) -> bool {
    debug_assert!(kind <= AUTO);
    matches!(kind, 3 | 5 | 6 | 7)
}

/// What was got: which part, its token, and how to let go of it.
type Got = Result<(Part, u64, LetGo)>;

type LetGo = Box<dyn FnOnce() -> Result<()>>;

fn lock(mutex: &Mutex) -> Got {
    let guard = mutex.try_lock_owned()?;
    Ok((Part::All, guard.token(), Box::new(move || guard.unlock())))
}

fn read_or_write(lock: &RwLock, alone: bool) -> Got {
    if alone {
        let guard = lock.try_write_owned()?;
        return Ok((Part::All, guard.token(), Box::new(move || guard.unlock())));
    }
    let guard = lock.try_read_owned()?;
    Ok((Part::Read, guard.token(), Box::new(move || guard.unlock())))
}

fn permit(semaphore: &Semaphore) -> Got {
    let guard = semaphore.try_acquire_owned()?;
    Ok((Part::One, guard.token(), Box::new(move || guard.unlock())))
}

fn announce(event: &Event) -> Got {
    let setter = event.announce()?;
    Ok((Part::All, setter.token(), dropped(setter)))
}

fn member(barrier: &Barrier) -> Got {
    let member = barrier.join()?;
    Ok((Part::One, member.token(), dropped(member)))
}

/// Of what is let go of by dropping it.
fn dropped(part: impl Sized + 'static) -> LetGo {
    Box::new(move || {
        drop(part);
        Ok(())
    })
}

fn party(latch: &Latch) -> Got {
    let party = latch.party()?;
    // In good order: who gives up without is told of to all, and the name stays for that.
    Ok((Part::One, 0, Box::new(move || party.count_down())))
}
