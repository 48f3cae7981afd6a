//! What is seen of a space: who holds what, who waits, who died. Only reads.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicU64, fence};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{semaphore, wait::stamp};
use crate::Result;
use crate::holder::{Abandoned, Held, Holder, Process};
use crate::os::clock::{Boottime, Monotonic};
use crate::os::fork;
use crate::os::identity::Identity;
use crate::os::life::Sign;
use crate::os::liveness::Life;
use crate::protocol::cell::Cell;
use crate::protocol::lease;
use crate::protocol::mutex::LockWords;
use crate::protocol::seat::Seat;
use crate::protocol::slot::Slot;
use crate::protocol::word::{Owner, OwnerWord};
use crate::report::{Inspection, LockKind, LockReport, ParticipantReport, Permits, Usage, WaiterReport};
use crate::segment::Segment;
use crate::segment::format::{Entry, Kind, Meta, Place};
use crate::segment::inspect::Named;
use crate::segment::made::Made;
use crate::segment::open::Options;
use crate::segment::participants::Participant;
use crate::segment::waiters::{Sleeper, Target};

/// Who holds `words`, if anybody alive does, as seen by `me`, who is not to be judged if it is in the slot of code `own`.
pub(super) fn holder_of(
    segment: &Segment,
    me: &Identity,
    own: u16,
    words: &LockWords,
    since: Option<&AtomicU64>,
) -> Option<Holder> {
    let seen = words.look();
    let Owner::Held(slot) = seen.owner() else { return None };
    let them = segment.participant(slot)?;
    if slot.code() != own && matches!(segment.judge(slot, &them, me), Life::Dead(_)) {
        return None;
    }
    let thread = words.thread_of(seen).map(fork::kernel_thread);
    let held = since.map_or(Held::Unknown, |since| stamp::read(since.load(Relaxed), seen));
    let lease = lease_of(me, &them, &words.lease, seen);
    let holder = Holder { thread, lease, ..holder(segment, me, slot, &them, seen, held) };
    // What was read belongs together only if the lock did not change hands meanwhile.
    (words.look() == seen).then_some(holder)
}

fn holder(segment: &Segment, me: &Identity, slot: Slot, them: &Participant, seen: OwnerWord, held: Held) -> Holder {
    Holder {
        pid: them.identity.pid,
        thread: None,
        command: segment.command(slot),
        token: segment.token_of(seen),
        held,
        elsewhere: is_elsewhere(them, me),
        on_behalf_of: behalf(segment, slot),
        readers: 0,
        lease: None,
    }
}

/// How long the lease of whoever is in `seen` still runs, by the clock that it goes by.
fn lease_of(me: &Identity, them: &Participant, lease: &AtomicU64, seen: OwnerWord) -> Option<Duration> {
    let ends = lease::ends(lease, seen)?;
    (them.identity.time_namespace == me.time_namespace).then(|| Boottime(ends).left())
}

/// Who has a read-write lock: its writer, once it is in, or everybody who reads, one for each process. As [`holder_of`].
pub(super) fn holders_of_rwlock(segment: &Segment, me: &Identity, own: u16, entry: &Entry) -> Result<Vec<Holder>> {
    let word = entry.lock.look();
    if word.is_held() && entry.state.load(Relaxed) == word.epoch() {
        return Ok(holder_of(segment, me, own, &entry.lock, Some(&entry.since)).into_iter().collect());
    }
    let generation = Meta(entry.meta.load(Relaxed)).generation();
    let mut readings = Vec::new();
    for cell in segment.cells_of(entry) {
        let cell = cell?;
        if let Some((lent, readers @ 1.., Some(line))) = segment.reads_by_line(cell, generation) {
            readings.push((lent, readers, &line.since));
        }
        let seen = cell.look();
        if let Some(readers @ 1..) = seen.readers() {
            readings.push((seen, readers.into(), &cell.since));
        }
    }
    let mut holders: Vec<(Slot, Holder)> = Vec::new();
    for (seen, readers, since) in readings {
        let Owner::Held(slot) = seen.owner() else { continue };
        let Some(them) = segment.participant(slot) else { continue };
        let is_dead = || slot.code() != own && matches!(segment.judge(slot, &them, me), Life::Dead(_));
        if !seen.is_with(Cell::of(slot, them.incarnation)) || is_dead() {
            continue;
        }
        match holders.iter_mut().find(|(of, _)| *of == slot) {
            // A process may have several cells, and lines.
            Some((_, holder)) => holder.readers += readers,
            None => {
                let held = stamp::read_plain(since.load(Relaxed));
                let written = OwnerWord::free_at(entry.state.load(Relaxed) & OwnerWord::MAX_EPOCH);
                let holder = holder(segment, me, slot, &them, written, held);
                holders.push((slot, Holder { readers, ..holder }));
            }
        }
    }
    Ok(holders.into_iter().map(|(_, holder)| holder).collect())
}

/// Who holds permits, one for each, in the order of their tokens. As [`holder_of`].
pub(super) fn holders_of_seats(segment: &Segment, me: &Identity, own: u16, seats: &[Seat]) -> Vec<Holder> {
    // Each process is judged once, however many it holds.
    let mut judged: HashMap<u16, Option<Participant>> = HashMap::new();
    let mut holders: Vec<_> = seats
        .iter()
        .filter_map(|seat| {
            let seen = seat.look();
            let Owner::Held(slot) = seen.owner() else { return None };
            let judge = || {
                segment
                    .participant(slot)
                    .filter(|them| slot.code() == own || !matches!(segment.judge(slot, them, me), Life::Dead(_)))
            };
            let them = judged.entry(slot.code()).or_insert_with(judge).as_ref()?;
            let held = if seen.is_leased() { Held::Unknown } else { stamp::read(seat.note.load(Relaxed), seen) };
            let lease = lease_of(me, them, &seat.note, seen);
            let holder = Holder { lease, ..holder(segment, me, slot, them, seen, held) };
            (seat.look() == seen).then_some(holder)
        })
        .collect();
    holders.sort_by_key(|holder| holder.token);
    holders
}

fn is_elsewhere(them: &Participant, me: &Identity) -> bool {
    them.identity.pid_namespace != me.pid_namespace
}

fn behalf(segment: &Segment, slot: Slot) -> Option<Process> {
    segment.behalf(slot).map(|(pid, command)| Process { pid, command })
}

pub(super) fn usage(segment: &Segment) -> Usage {
    Usage {
        participants: segment.slots().filter(|slot| segment.participant(*slot).is_some()).count(),
        participants_capacity: segment.header.participants as usize,
        locks: segment.names_in_use(),
        locks_capacity: segment.header.names as usize,
        waiting: segment.waiting(),
    }
}

/// Looks at a space that this process need not be in. Of one that there is not, the segment is what is missed.
pub(crate) fn look(options: &Options) -> Result<Inspection> {
    match Made::of(&options.space_path()?)? {
        Some(Made::Files) => super::files::inspect::look(options),
        Some(Made::Segment) | None => look_at_segment(options),
    }
}

fn look_at_segment(options: &Options) -> Result<Inspection> {
    let segment = options.look()?;
    let me = Identity::mine();
    let mut waiters: HashMap<Target, Vec<WaiterReport>> = HashMap::new();
    let mut asleep: Vec<_> = segment.sleepers().collect();
    asleep.sort_by_key(|sleeper| sleeper.since.0);
    for sleeper in asleep {
        if let Some(waiter) = waiter(&segment, &me, &sleeper) {
            waiters.entry(sleeper.target).or_default().push(waiter);
        }
    }
    let mut locks: Vec<_> = segment
        .named()
        .map(|named| {
            let place = Place { entry: named.index, generation: named.meta.generation() };
            let mut asleep = waiters.remove(&Target::Lock(place)).unwrap_or_default();
            asleep.extend(waiters.remove(&Target::Bell(place)).unwrap_or_default());
            asleep.sort_by_key(|waiter| std::cmp::Reverse(waiter.waiting));
            let waiters = asleep;
            lock(&segment, &me, named, waiters)
        })
        .collect();
    locks.extend(segment.nameless().map(|(index, entry)| nameless(&segment, index, entry)));
    locks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Inspection {
        path: segment.space().into(),
        created: wall_clock(segment.header.token_base),
        mode: segment.header.mode,
        usage: usage(&segment),
        backend: crate::Backend::Segment,
        locks,
        participants: segment.slots().filter_map(|slot| participant(&segment, &me, slot)).collect(),
    })
}

fn wall_clock(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn participant(segment: &Segment, me: &Identity, slot: Slot) -> Option<ParticipantReport> {
    let them = segment.participant(slot)?;
    Some(ParticipantReport {
        process: Process { pid: them.identity.pid, command: segment.command(slot) },
        joined: wall_clock(segment.joined(slot)),
        dead: matches!(segment.judge(slot, &them, me), Life::Dead(_)),
        elsewhere: is_elsewhere(&them, me),
        on_behalf_of: behalf(segment, slot),
        wakes_at_once: matches!(segment.life_of(slot), Some((_, Sign::Thread(_)))),
        takes_fences: segment.takes_fences(slot),
    })
}

/// `None` for the dead, who wait no more.
fn waiter(segment: &Segment, me: &Identity, sleeper: &Sleeper) -> Option<WaiterReport> {
    let them = segment.participant(sleeper.slot).filter(|them| them.incarnation == sleeper.incarnation)?;
    if matches!(segment.judge(sleeper.slot, &them, me), Life::Dead(_)) {
        return None;
    }
    Some(WaiterReport {
        process: Process { pid: them.identity.pid, command: segment.command(sleeper.slot) },
        thread: (sleeper.thread != 0).then(|| fork::kernel_thread(sleeper.thread)),
        waiting: Monotonic::now().since(sleeper.since),
        elsewhere: is_elsewhere(&them, me),
    })
}

/// What a name is, and for how many.
pub(crate) fn look_up(segment: &Segment, name: &str) -> Result<Option<(LockKind, u32)>> {
    while let Some(known) = segment.find(name) {
        let entry = &segment.entries[known.place.entry as usize];
        let count = segment.count(entry);
        // The number was read after the name: it is the name's if the entry still is.
        fence(Acquire);
        if Meta(entry.meta.load(Relaxed)).generation() == known.place.generation {
            return Ok(Some((kind(known.kind), count?)));
        }
    }
    Ok(None)
}

pub(super) fn kind(number: u8) -> LockKind {
    match Kind::from_number(number) {
        Some(Kind::Mutex) => LockKind::Mutex,
        Some(Kind::RwLock) => LockKind::RwLock,
        Some(Kind::Semaphore) => LockKind::Semaphore,
        Some(Kind::Condvar) => LockKind::Condvar,
        Some(Kind::Event | Kind::AutoEvent) => LockKind::Event,
        Some(Kind::Barrier) => LockKind::Barrier,
        Some(Kind::Latch) => LockKind::Latch,
        Some(Kind::Once) => LockKind::Once,
        Some(Kind::Fence) => LockKind::Fence,
        Some(Kind::Queue) => LockKind::Queue,
        Some(Kind::MutexData) => LockKind::MutexData,
        Some(Kind::RwLockData) => LockKind::RwLockData,
        None => LockKind::Unknown,
    }
}

fn lock(segment: &Segment, me: &Identity, named: Named<'_>, waiters: Vec<WaiterReport>) -> LockReport {
    let Named { entry, meta, name, is_sound, .. } = named;
    let words = &entry.lock;
    let kind = kind(meta.kind());
    let state = match kind {
        LockKind::Semaphore | LockKind::Barrier | LockKind::Latch => State::of_seats(segment, me, entry, kind),
        LockKind::RwLock | LockKind::RwLockData => State::of_readers_and_writer(segment, me, entry),
        _ => State::of_word(segment, me, entry),
    };
    LockReport {
        name,
        kind,
        holder: state.holders.first().cloned(),
        permits: state.permits,
        holders: state.holders,
        abandoned: state.abandoned,
        waiters,
        token: segment.token_of(words.look()),
        contended: words.contended.load(Relaxed).into(),
        recovered: entry.recovered.load(Relaxed),
        damage: state.damage.or_else(|| (!is_sound).then(|| "its name is not the one that it had".into())),
    }
}

/// A lock of which it cannot be told whose it is, nor what.
fn nameless(segment: &Segment, index: u32, entry: &Entry) -> LockReport {
    LockReport {
        name: String::new(),
        kind: LockKind::Unknown,
        holder: None,
        permits: None,
        holders: Vec::new(),
        abandoned: None,
        waiters: Vec::new(),
        token: segment.token_of(entry.lock.look()),
        contended: entry.lock.contended.load(Relaxed).into(),
        recovered: entry.recovered.load(Relaxed),
        damage: Some(format!("entry {index} does not say any more what it is the lock of")),
    }
}

/// What the words of a lock say.
#[derive(Default)]
struct State {
    holders: Vec<Holder>,
    permits: Option<Permits>,
    abandoned: Option<Abandoned>,
    damage: Option<String>,
}

fn told_of(segment: &Segment, entry: &Entry, epoch: u64) -> Abandoned {
    told(segment, epoch, entry.death_of(epoch))
}

fn told(segment: &Segment, epoch: u64, dead: Option<(u32, String)>) -> Abandoned {
    let (pid, command) = dead.unwrap_or_default();
    Abandoned::noted(segment.header.token_base + epoch, pid, command)
}

impl State {
    fn of_word(segment: &Segment, me: &Identity, entry: &Entry) -> Self {
        let mut word = entry.lock.look();
        // A lock that changes hands all the time is looked at a few times; then who holds it is anybody's guess.
        for _ in 0..100 {
            let read = Self::read(segment, me, entry, word);
            let now = entry.lock.look();
            if now == word {
                return read;
            }
            word = now;
        }
        Self::default()
    }

    fn read(segment: &Segment, me: &Identity, entry: &Entry, word: OwnerWord) -> Self {
        let mut state = Self::default();
        match word.owner() {
            Owner::Nobody => {
                state.abandoned = word.is_abandoned().then(|| told_of(segment, entry, entry.died_as(word)));
            }
            Owner::Held(slot) => {
                state.holders.extend(holder_of(segment, me, 0, &entry.lock, Some(&entry.since)));
                match segment.participant(slot) {
                    Some(_) if !state.holders.is_empty() => {
                        let told = word.is_abandoned();
                        state.abandoned = told.then(|| told_of(segment, entry, entry.died_as(word)));
                    }
                    // Dead, and nobody was here since.
                    Some(them) => state.abandoned = Some(died(segment, slot, &them, word)),
                    None => state.damage = Some(format!("{word:?}, whom nobody knows")),
                }
            }
            Owner::Damaged => state.damage = Some(format!("{word:?}")),
        }
        state
    }

    /// Of a read-write lock, where whoever is in the word may only wait, or be done with waiting for nothing.
    fn of_readers_and_writer(segment: &Segment, me: &Identity, entry: &Entry) -> Self {
        let word = entry.lock.look();
        let mut state = Self::default();
        match holders_of_rwlock(segment, me, 0, entry) {
            Ok(holders) => state.holders = holders,
            Err(error) => state.damage = Some(error.to_string()),
        }
        if word.is_abandoned() {
            state.abandoned = Some(told_of(segment, entry, entry.died_as(word)));
        }
        match word.owner() {
            Owner::Nobody => {}
            Owner::Held(slot) => match segment.participant(slot) {
                Some(them) if entry.is_told_of(word) && matches!(segment.judge(slot, &them, me), Life::Dead(_)) => {
                    state.abandoned = Some(died(segment, slot, &them, word));
                }
                Some(_) => {}
                None => state.damage = state.damage.or_else(|| damage(word, entry.lock.look())),
            },
            Owner::Damaged => state.damage = Some(format!("{word:?}")),
        }
        let generation = Meta(entry.meta.load(Relaxed)).generation();
        for cell in segment.cells_of(entry).filter_map(|cell| cell.ok()) {
            for seen in [cell.look(), cell.lent()] {
                if seen.readers().is_none() || seen.owner() == Owner::Damaged {
                    state.damage = Some(format!("its readers cannot be counted: {:#x}", seen.0));
                }
            }
            let is_damaged = segment.reads_by_line(cell, generation).is_none();
            // Of another name by now, it was looked for the wrong readers.
            fence(Acquire);
            if is_damaged && Meta(entry.meta.load(Relaxed)).generation() == generation {
                state.damage = Some("its readers cannot be counted: a line by which it is read is damaged".into());
            }
        }
        state
    }

    /// Each permit is right at some moment, not all of them at the same.
    fn of_seats(segment: &Segment, me: &Identity, entry: &Entry, kind: LockKind) -> Self {
        let seats = match segment.seats_of(entry) {
            Ok(seats) => seats,
            Err(error) => return Self { damage: Some(error.to_string()), ..Self::default() },
        };
        let holders = holders_of_seats(segment, me, 0, seats);
        let used = holders.len() as u32;
        let mut state = Self { holders, permits: Some(Permits { used, total: seats.len() as u32 }), ..Self::default() };
        for seat in seats {
            let word = seat.look();
            match word.owner() {
                Owner::Nobody if word.is_abandoned() => {
                    let dead = match kind {
                        LockKind::Semaphore => semaphore::death_of(entry, word, seat.note.load(Relaxed)),
                        _ => entry.death_of(word.epoch()),
                    };
                    state.abandoned = Some(told(segment, word.epoch(), dead));
                }
                Owner::Nobody => {}
                Owner::Held(slot) => match segment.participant(slot) {
                    Some(them) if state.abandoned.is_none() && !is_held(&state.holders, segment, word) => {
                        let dead = matches!(segment.judge(slot, &them, me), Life::Dead(_));
                        state.abandoned = dead.then(|| died(segment, slot, &them, word));
                    }
                    Some(_) => {}
                    None => state.damage = state.damage.or_else(|| damage(word, seat.look())),
                },
                Owner::Damaged => state.damage = Some(format!("{word:?}")),
            }
        }
        // Whoever is at the gate waits, and holds nothing; but its word may be damaged.
        let word = entry.lock.look();
        match word.owner() {
            Owner::Held(slot) if segment.participant(slot).is_none() => {
                state.damage = state.damage.or_else(|| damage(word, entry.lock.look()));
            }
            Owner::Damaged => state.damage = Some(format!("{word:?}")),
            _ => {}
        }
        state
    }
}

/// Whoever is in `word` is not registered: that is damage, if the word still stands.
fn damage(word: OwnerWord, now: OwnerWord) -> Option<String> {
    (word == now).then(|| format!("{word:?}, whom nobody knows"))
}

fn is_held(holders: &[Holder], segment: &Segment, word: OwnerWord) -> bool {
    holders.binary_search_by_key(&segment.token_of(word), |holder| holder.token).is_ok()
}

fn died(segment: &Segment, slot: Slot, them: &Participant, word: OwnerWord) -> Abandoned {
    Abandoned::noted(segment.token_of(word), them.identity.pid, segment.command(slot))
}
