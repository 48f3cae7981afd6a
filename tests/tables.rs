//! The tables of a space: participants and names come and go, nothing runs full of the dead, and no token comes twice.

mod support;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostlock::{Error, Mutex, Space};
use nix::sys::signal::Signal;
use support::raw::{NAMES_LOCK_AT, Raw, held_by};
use support::{Actor, act, hear, root, say, start, wait_until};

#[test]
fn role() {
    act(&[("member", member), ("creator", creator), ("holder", holder), ("worker", worker), ("registrar", registrar)]);
}

/// The space with that many places; stated by all, so that whoever comes first creates it so.
fn open(root: impl AsRef<Path>, participants: u32, locks: u32) -> Result<Space, Error> {
    Space::builder("test").root(root.as_ref()).participants(participants).locks(locks).open()
}

/// The space, whatever it is like.
fn join(root: impl AsRef<Path>) -> Result<Space, Error> {
    Space::builder("test").root(root.as_ref()).open()
}

/// Is in the space until told to leave, and says how that went.
fn member(arguments: &[String]) {
    say("ready");
    hear();
    let space = match join(&arguments[0]) {
        Ok(space) => space,
        Err(error) => {
            say(&error);
            return;
        }
    };
    say("in");
    hear();
    drop(space);
    say("out");
    hear();
}

/// Holds some names until told to let go, and again as often as told.
fn holder(arguments: &[String]) {
    let space = join(&arguments[0]).unwrap();
    let mutexes: Vec<_> = arguments[1..].iter().map(|name| space.mutex(name).unwrap()).collect();
    loop {
        let guards: Vec<_> = mutexes.iter().map(|mutex| mutex.lock().unwrap()).collect();
        let told: Vec<_> = guards.iter().filter_map(|guard| guard.abandoned()?.pid).collect();
        say(format!("{:?} {told:?}", guards.iter().map(|guard| guard.token()).collect::<Vec<_>>()));
        hear();
        drop(guards);
        say("released");
        hear();
    }
}

fn started_member(root: &Path) -> Actor {
    let mut actor = start("member", &[root.to_str().unwrap()]);
    actor.expect("ready");
    actor.tell("go");
    actor
}

/// A small generator of numbers that look random, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}

fn seed() -> u64 {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    seed
}

// Participants.

#[test]
fn a_table_full_of_the_dead_has_room() {
    // H61. Zombies as well as processes that are quite gone.
    let root = root();
    let creator = open(&root, 5, 4).unwrap();
    for round in 0..4 {
        let mut members: Vec<_> = (0..4).map(|_| started_member(root.path())).collect();
        members.iter().for_each(|member| member.expect("in"));
        assert_eq!(creator.usage().participants, 5);
        for member in &mut members {
            if round % 2 == 0 { member.kill() } else { member.kill_without_reaping() }
        }
        // A killed process dies a moment after the signal was sent.
        let newcomer = started_member(root.path());
        match newcomer.hear().as_str() {
            "in" => {}
            _ if round % 2 == 1 => wait_until("all are dead", || creator.recover_dead().is_ok_and(|count| count > 0)),
            refusal => panic!("round {round}: {refusal}"),
        }
        drop((members, newcomer));
        creator.recover_dead().unwrap();
        assert_eq!(creator.usage().participants, 1, "round {round}");
    }
}

#[test]
fn as_many_newcomers_as_there_are_dead_all_get_in() {
    let root = root();
    drop(open(&root, 6, 4096).unwrap());
    let path = root.path().to_str().unwrap();
    let mut members: Vec<_> = (0..6).map(|_| started_member(root.path())).collect();
    members.iter().for_each(|member| member.expect("in"));
    for round in 0..15 {
        let mut next: Vec<_> = (0..6).map(|_| start("member", &[path])).collect();
        next.iter().for_each(|member| member.expect("ready"));
        members.iter_mut().for_each(Actor::kill);
        next.iter_mut().for_each(|member| member.tell("go"));
        for member in &next {
            assert_eq!(member.hear(), "in", "round {round}");
        }
        members = next;
    }
}

#[test]
fn a_table_full_of_the_living_is_an_error_until_one_leaves() {
    let root = root();
    drop(open(&root, 3, 4).unwrap());
    let mut members: Vec<_> = (0..3).map(|_| started_member(root.path())).collect();
    members.iter().for_each(|member| member.expect("in"));
    // Stopped is alive.
    members[1].signal(Signal::SIGSTOP);
    let error = join(&root).unwrap_err();
    let Error::Full { path, what: "participants", capacity: 3 } = &error else { panic!("{error:?}") };
    assert_eq!(path, &root.path().join("test"));
    for part in [path.to_str().unwrap(), "3 participants", "Space::builder(..).participants(..)"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    members[1].signal(Signal::SIGCONT);
    members[0].tell("leave");
    members[0].expect("out");
    let space = join(&root).unwrap();
    assert_eq!(space.usage().participants, 3);
    drop(space.mutex("a").unwrap().lock().unwrap());
    // And by dying.
    members[2].kill();
    let one_more = started_member(root.path());
    one_more.expect("in");
    let refused = started_member(root.path());
    assert!(refused.hear().contains("room for 3 participants"));
}

#[test]
fn a_slot_is_not_taken_from_under_its_cleaner() {
    // Whoever cleans up after the dead has the slot's recovery byte. If it is stopped there, what it will write when it goes
    // on must not hit a newcomer: others are free, and if none is, an error, not a hang, says so.
    let root = root();
    drop(open(&root, 2, 4).unwrap());
    let mut dead = started_member(root.path());
    dead.expect("in");
    let [(slot, _, _)] = Raw::open(root.path().join("test")).participants()[..] else { panic!() };
    dead.kill();
    let byte = ofd_lock(root.path(), (1 << 20) + u64::from(slot));
    let space = join(&root).unwrap();
    assert_eq!(space.recover_dead().unwrap(), 0, "somebody else is at it");
    let second = started_member(root.path());
    assert!(second.hear().contains("room for 2 participants"));
    drop(byte);
    let third = started_member(root.path());
    third.expect("in");
}

/// Locks one byte of the segment, as a participant does: the file that keeps it locked.
fn ofd_lock(root: &Path, byte: u64) -> File {
    let file = File::options().read(true).write(true).open(root.join("test/segment")).unwrap();
    let lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as _,
        l_whence: nix::libc::SEEK_SET as _,
        l_start: byte as _,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}

/// Whether somebody has that byte locked.
fn is_locked(root: &Path, byte: u64) -> bool {
    let file = File::options().read(true).write(true).open(root.join("test/segment")).unwrap();
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as _,
        l_whence: nix::libc::SEEK_SET as _,
        l_start: byte as _,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type != nix::libc::F_UNLCK as nix::libc::c_short
}

#[test]
fn a_participant_has_the_byte_of_its_slot_locked_until_it_leaves() {
    let root = root();
    let space = open(&root, 4, 4).unwrap();
    let raw = Raw::open(space.path());
    let mut other = started_member(root.path());
    other.expect("in");
    assert_eq!(raw.participants().len(), 2);
    for (slot, incarnation, pid) in raw.participants() {
        assert_eq!(incarnation, 1);
        assert!([std::process::id(), other.process.id()].contains(&pid));
        assert!(is_locked(root.path(), slot.into()));
        assert!(!is_locked(root.path(), (1 << 20) + u64::from(slot)), "nobody is cleaning up");
    }
    assert!(!is_locked(root.path(), 2));
    other.kill();
    assert!(is_locked(root.path(), 0) && !is_locked(root.path(), 1), "the kernel lets go of what the dead held");
    assert_eq!(raw.participants().len(), 2, "and nobody has cleaned up yet");
    drop(space);
    wait_until("we left", || !is_locked(root.path(), 0));
    // A slot's next inhabitant is another incarnation.
    let space = join(&root).unwrap();
    assert_eq!(raw.participants()[0], (0, 2, std::process::id()));
    drop(space);
}

#[test]
fn a_free_byte_alone_is_no_free_place() {
    // The record says "occupied", and the witnesses say who is meant: here a process that lives and whose byte is locked
    // by nobody we know. It must be judged, not overrun: the byte is free, so it is dead, and its locks are given back first.
    let root = root();
    drop(open(&root, 1, 4).unwrap());
    let mut first = start("holder", &[root.path().to_str().unwrap(), "a"]);
    first.hear();
    first.kill();
    let space = join(&root).unwrap();
    // Overrun, the newcomer would take the dead one's lock for its own.
    let guard = space.mutex("a").unwrap().try_lock_owned_for(support::PATIENCE).unwrap();
    assert_eq!(guard.abandoned().and_then(|dead| dead.pid), Some(first.process.id()));
}

#[test]
fn opening_twice_is_one_participant_and_leaving_is_complete() {
    let root = root();
    let observer = started_member(root.path());
    observer.expect("in");
    let raw = Raw::open(root.path().join("test"));
    assert_eq!(raw.participants().len(), 1);
    let (one, two) = (join(&root).unwrap(), join(&root).unwrap());
    assert_eq!((one.usage().participants, raw.participants().len()), (2, 2));
    let three = std::thread::spawn({
        let root = root.path().to_owned();
        move || join(root).unwrap()
    });
    let three = three.join().unwrap();
    assert_eq!(raw.participants().len(), 2);
    let mutex = one.mutex("a").unwrap();
    // Two handles from two opens are one lock.
    let guard = mutex.lock_owned().unwrap();
    assert!(matches!(two.mutex("a").unwrap().try_lock().unwrap_err(), Error::WouldBlock { .. }));
    drop((one, two, three));
    assert_eq!(raw.participants().len(), 2, "a handle keeps it in");
    drop(mutex);
    assert_eq!(raw.participants().len(), 2, "a guard keeps it in");
    assert!(guard.is_held());
    drop(guard);
    wait_until("we left", || raw.participants().len() == 1);
    drop(observer);
    let space = join(&root).unwrap();
    space.recover_dead().unwrap();
    assert_eq!(space.usage().participants, 1);
}

#[test]
fn a_guard_leaked_by_one_who_leaves_is_told_as_abandoned() {
    let root = root();
    let space = open(&root, 4, 4).unwrap();
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    let token = guard.token();
    std::mem::forget(guard);
    drop((mutex, space));
    let mut next = start("holder", &[root.path().to_str().unwrap(), "a"]);
    let heard = next.hear();
    let (tokens, told) = heard.split_once(' ').unwrap();
    assert!(tokens.trim_matches(['[', ']']).parse::<u64>().unwrap() > token);
    assert_eq!(told, format!("[{}]", std::process::id()));
    next.tell("release");
    next.expect("released");
    next.tell("again");
    assert!(next.hear().ends_with(" []"), "it is told once");
}

#[test]
fn threads_that_open_and_drop_at_the_same_time_are_one_participant() {
    let root = root();
    let space = open(&root, 2, 4).unwrap();
    let path = root.path();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mutex = join(path).unwrap().mutex("a").unwrap();
                    drop(mutex.lock().unwrap());
                }
            });
        }
    });
    assert_eq!(space.usage().participants, 1);
    drop(space);
    wait_until("we left", || Raw::open(path.join("test")).participants().is_empty());
}

#[test]
fn whoever_dropped_its_last_handle_has_left() {
    // Whatever other threads do with other spaces at that time.
    let (root, elsewhere) = (root(), support::root());
    drop((open(&root, 2, 4).unwrap(), open(&elsewhere, 2, 4).unwrap()));
    let raw = Raw::open(root.path().join("test"));
    let (path, elsewhere) = (root.path(), elsewhere.path());
    let end = std::sync::atomic::AtomicBool::new(false);
    let late = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !end.load(std::sync::atomic::Ordering::Relaxed) {
                drop(join(elsewhere).unwrap());
            }
        });
        let late = (0..2000).filter(|_| {
            drop(join(path).unwrap());
            !raw.participants().is_empty()
        });
        let late = late.count();
        end.store(true, std::sync::atomic::Ordering::Relaxed);
        other.join().unwrap();
        late
    });
    assert_eq!(late, 0, "of 2000 times");
}

#[test]
fn leaving_and_coming_back_at_the_same_time_finds_its_own_place() {
    // With room for one process only: while its last handle is dropped in one thread, another thread opens.
    let root = root();
    drop(open(&root, 1, 4).unwrap());
    let path = root.path();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for round in 0..1000 {
                    let mutex = join(path).unwrap_or_else(|error| panic!("round {round}: {error}")).mutex("a").unwrap();
                    drop(mutex.lock().unwrap());
                }
            });
        }
    });
}

// Names.

#[test]
fn more_names_than_places_are_served_and_old_handles_find_their_names_again() {
    let root = root();
    let space = open(&root, 2, 8).unwrap();
    let raw = Raw::open(space.path());
    let names: Vec<String> = (0..1000).map(|n| format!("name {n}")).collect();
    let handles: Vec<Mutex> = names.iter().map(|name| space.mutex(name).unwrap()).collect();
    let mut last = vec![0; names.len()];
    for round in 0..3 {
        for (index, (name, handle)) in names.iter().zip(&handles).enumerate() {
            let guard = if round == 1 { space.mutex(name).unwrap().lock_owned() } else { handle.lock_owned() }.unwrap();
            assert!(guard.token() > last[index], "{name}: {} after {}", guard.token(), last[index]);
            assert_eq!(guard.abandoned(), None, "{name}");
            last[index] = guard.token();
            // It is the lock of that name, and no other's, that is held.
            let entry = raw.entry(name).expect("a held name has an entry");
            assert_ne!(entry.owner & 0xFFFC, 0);
            assert_eq!(raw.entries().iter().filter(|entry| entry.owner & 0xFFFC != 0).count(), 1);
            assert!(handle.holder().unwrap().is_some());
        }
    }
    assert_eq!(space.usage().locks, 8);
    no_name_twice(&raw);
}

fn no_name_twice(raw: &Raw) {
    let names = raw.names();
    let different: HashSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len(), "a name has two entries: {names:?}");
    // The index leads to each entry that has a name, once, and to no other.
    let entries = raw.entries();
    let mut reached: Vec<_> = raw.index().into_iter().map(|(_, cell)| cell).collect();
    reached.retain(|cell| ![0, u32::MAX].contains(cell));
    assert!(reached.iter().all(|cell| cell.count_ones() % 2 == 0), "cells have a parity bit: {reached:x?}");
    reached.iter_mut().for_each(|cell| *cell &= (1 << 25) - 1);
    reached.sort();
    let mut named =
        (1..).zip(&entries).filter(|(_, entry)| !entry.name.is_empty()).map(|(cell, _)| cell).collect::<Vec<u32>>();
    named.sort();
    assert_eq!(reached, named, "of {entries:?}");
}

#[test]
fn two_handles_of_a_name_are_one_lock_however_often_it_moved() {
    // The heart of it: a handle that remembers a place which is another name's by now must not exclude, or let in, the wrong ones.
    let root = root();
    let space = open(&root, 2, 4).unwrap();
    let (old, other) = (space.mutex("a").unwrap(), space.mutex("b").unwrap());
    for round in 0..100 {
        for n in 0..5 {
            drop(space.mutex(&format!("round {round} {n}")).unwrap().lock().unwrap());
        }
        let new = space.mutex("a").unwrap();
        let guard = if round % 2 == 0 { new.lock_owned() } else { old.lock_owned() }.unwrap();
        for handle in [&old, &new] {
            assert!(matches!(handle.try_lock().unwrap_err(), Error::WouldBlock { .. }), "round {round}");
        }
        assert!(guard.is_held());
        drop(other.try_lock().unwrap_or_else(|error| panic!("round {round}: another name's lock is held: {error}")));
        guard.unlock().unwrap();
    }
}

#[test]
fn a_name_that_moved_is_not_waited_for_where_it_was() {
    let root = root();
    let space = open(&root, 2, 2).unwrap();
    let raw = Raw::open(space.path());
    let moved = space.mutex("moved").unwrap();
    let place = raw.entry("moved").unwrap().at;
    let _spare = space.mutex("spare").unwrap();
    // It has the place now, and holds it for longer than anybody waits.
    let other = space.mutex("other").unwrap().lock_owned().unwrap();
    assert_eq!((raw.entry("moved"), raw.entry("other").unwrap().at), (None, place));
    for way in ["at once", "waiting", "owned"] {
        // Each remembers where it was.
        let handle = moved.clone();
        let token = match way {
            "at once" => handle.try_lock().map(|guard| guard.token()),
            "waiting" => handle.try_lock_for(Duration::from_secs(5)).map(|guard| guard.token()),
            _ => handle.try_lock_owned().map(|guard| guard.token()),
        };
        token.unwrap_or_else(|error| panic!("{way}: another name's lock is held, and not this one: {error}"));
    }
    assert!(other.is_held());
}

#[test]
fn held_names_are_never_given_up_and_all_held_is_an_error() {
    let root = root();
    let space = open(&root, 2, 8).unwrap();
    let mut guards: Vec<_> = (0..7).map(|n| space.mutex(&format!("held {n}")).unwrap().lock_owned().unwrap()).collect();
    let last = space.mutex("held 7").unwrap();
    for n in 0..100 {
        drop(space.mutex(&format!("passing {n}")).unwrap().lock().unwrap());
    }
    assert!(guards.iter().all(|guard| guard.is_held()));
    guards.push(last.lock_owned().unwrap());
    let error = space.mutex("one more").unwrap_err();
    let Error::Full { path, what: "locks", capacity: 8 } = &error else { panic!("{error:?}") };
    assert_eq!(path, space.path());
    for part in [path.to_str().unwrap(), "8 locks", "Space::builder(..).locks(..)"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // Those that exist go on, and one that is let go makes room.
    for n in 0..8 {
        let held = space.mutex(&format!("held {n}")).unwrap();
        assert!(matches!(held.try_lock().unwrap_err(), Error::WouldBlock { .. }));
    }
    assert!(guards.iter().all(|guard| guard.is_held()));
    guards.swap_remove(3).unlock().unwrap();
    let one_more = space.mutex("one more").unwrap();
    assert!(one_more.lock().unwrap().abandoned().is_none());
    guards.into_iter().for_each(|guard| guard.unlock().unwrap());
}

/// Somebody was killed after it had counted itself among the sleepers, and before it had its record.
#[test]
fn a_sleeper_that_was_killed_before_it_was_noted_keeps_no_name() {
    let root = root();
    let space = open(&root, 2, 8).unwrap();
    let raw = Raw::open(space.path());
    let (sleepers, of_the_bell) = (16, 48 + 4);
    drop(space.mutex("mutex").unwrap().lock().unwrap());
    space.condvar("condvar").unwrap();
    raw.put_u32(raw.entry("mutex").unwrap().at + sleepers, 1);
    raw.put_u32(raw.entry("condvar").unwrap().at + of_the_bell, 1);
    // They go when they are taken away.
    for name in ["condvar", "mutex"] {
        space.remove(name).unwrap();
    }
}

#[test]
fn an_abandoned_name_is_kept_until_somebody_was_told() {
    let root = root();
    let space = open(&root, 4, 8).unwrap();
    for cleaned_up in [false, true] {
        let mut owner = start("holder", &[root.path().to_str().unwrap(), "abandoned", "too"]);
        owner.hear();
        owner.kill();
        if cleaned_up {
            // Otherwise a dead owner stands in the word; now nobody does, and only the mark keeps it.
            assert_eq!(space.recover_dead().unwrap(), 1);
        }
        let mut last = HashMap::new();
        for n in 0..1000 {
            let name = format!("{}", n % 40);
            let token = space.mutex(&name).unwrap().lock().unwrap().token();
            assert!(last.insert(name, token).is_none_or(|before| before < token));
        }
        for name in ["abandoned", "too"] {
            let mutex = space.mutex(name).unwrap();
            let guard = mutex.lock().unwrap();
            assert_eq!(guard.abandoned().and_then(|dead| dead.pid), Some(owner.process.id()), "{name} {cleaned_up}");
            assert!(guard.abandoned().unwrap().token < guard.token());
        }
        assert!(space.mutex("too").unwrap().lock().unwrap().abandoned().is_none());
    }
}

#[test]
fn a_name_that_somebody_sleeps_for_is_kept() {
    let root = root();
    let space = open(&root, 4, 8).unwrap();
    let raw = Raw::open(space.path());
    let mutex = space.mutex("wanted").unwrap();
    let guard = mutex.lock().unwrap();
    let mut sleeper = start("holder", &[root.path().to_str().unwrap(), "wanted"]);
    wait_until("it sleeps", || raw.entry("wanted").unwrap().sleepers == 1);
    // It cannot take itself off the count, nor take the lock.
    sleeper.signal(Signal::SIGSTOP);
    let before = raw.entry("wanted").unwrap();
    let token = guard.token();
    drop(guard);
    let mut last = HashMap::new();
    for n in 0..200 {
        let name = format!("{}", n % 20);
        let token = space.mutex(&name).unwrap().lock().unwrap().token();
        assert!(last.insert(name, token).is_none_or(|before| before < token));
    }
    let after = raw.entry("wanted").expect("it still has its entry");
    assert_eq!((after.at, after.meta), (before.at, before.meta));
    sleeper.signal(Signal::SIGCONT);
    let heard = sleeper.hear();
    assert_eq!(heard.split_once(' ').unwrap().1, "[]");
    assert!(matches!(mutex.try_lock().unwrap_err(), Error::WouldBlock { .. }));
    sleeper.tell("release");
    sleeper.expect("released");
    assert!(mutex.lock().unwrap().token() > token);
}

/// Gives names places and takes them, for ever; stops for nothing.
fn registrar(arguments: &[String]) {
    let space = join(&arguments[0]).unwrap();
    let count: u64 = arguments[1].parse().unwrap();
    let mut dice = Dice(u64::from(std::process::id()) | 1);
    say("go");
    loop {
        let name = format!("name {}", dice.throw(count));
        let mutex = space.mutex(&name).unwrap();
        if dice.throw(2) == 0 {
            let _ = mutex.try_lock();
        }
    }
}

#[test]
fn processes_killed_while_names_move_lose_no_name_and_no_place() {
    // H19, H61: what a process leaves that dies half-way through giving a name a place. Killed at any point, 100 times.
    let root = root();
    let (names, places) = (40, 16);
    let space = open(&root, 256, places).unwrap();
    let raw = Raw::open(space.path());
    let path = root.path().to_str().unwrap();
    let mut dice = Dice(seed());
    let mut last = vec![0; names as usize];
    for round in 0..100 {
        let mut registrar = start("registrar", &[path, &names.to_string()]);
        registrar.expect("go");
        std::thread::sleep(Duration::from_micros(dice.throw(2000)));
        registrar.kill();
        for (n, last) in last.iter_mut().enumerate() {
            let name = format!("name {n}");
            let mutex =
                space.mutex(&name).unwrap_or_else(|error| panic!("round {round}: {error}: {:?}", raw.entries()));
            let guard = mutex.lock().unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(guard.token() > *last, "round {round}, {name}: {} after {last}", guard.token());
            *last = guard.token();
        }
        no_name_twice(&raw);
    }
    space.recover_dead().unwrap();
    assert_eq!(space.usage().participants, 1);
    assert!(raw.entries().iter().all(|entry| entry.owner & 0xFFFC == 0 && entry.sleepers == 0), "{:?}", raw.entries());
}

#[test]
fn a_name_missing_in_the_index_of_one_who_died_is_not_given_a_second_place() {
    // What is left by a process killed between naming an entry and entering it in the index, or while making the index anew.
    let root = root();
    let space = open(&root, 4, 8).unwrap();
    let raw = Raw::open(space.path());
    let guards: Vec<_> = ["a", "b"].map(|name| space.mutex(name).unwrap().lock_owned().unwrap()).into();
    let mut namer = started_member(root.path());
    namer.expect("in");
    let slot = raw.participants().into_iter().find(|(_, _, pid)| *pid == namer.process.id()).unwrap().0;
    raw.put(NAMES_LOCK_AT, held_by(slot, (raw.u64_at(NAMES_LOCK_AT) >> 16) + 1));
    raw.index().into_iter().for_each(|(at, _)| raw.put_u32(at, 0));
    namer.kill();
    for name in ["a", "b"] {
        let mutex = space.mutex(name).unwrap();
        assert!(matches!(mutex.try_lock().unwrap_err(), Error::WouldBlock { .. }), "{name} has two locks");
    }
    no_name_twice(&raw);
    assert!(guards.iter().all(|guard| guard.is_held()));
}

#[test]
fn a_place_held_by_one_who_died_naming_it_is_found_again() {
    // What is left by a process killed between taking an entry and naming it: the entry is held by the dead and has no name,
    // so nobody asks for it. When there is no other, it must be found.
    let root = root();
    let space = open(&root, 4, 1).unwrap();
    let raw = Raw::open(space.path());
    drop(space.mutex("a").unwrap().lock().unwrap());
    let mut namer = started_member(root.path());
    namer.expect("in");
    let slot = raw.participants().into_iter().find(|(_, _, pid)| *pid == namer.process.id()).unwrap().0;
    let entry = raw.entry("a").unwrap();
    let generation = entry.meta >> 32;
    raw.put(entry.at, held_by(slot, (entry.owner >> 16) + 1));
    raw.put(entry.at + 32, (generation + 1) << 32);
    let error = space.mutex("b").unwrap_err();
    assert!(matches!(error, Error::Full { what: "locks", capacity: 1, .. }), "it lives, and is at it: {error:?}");
    namer.kill();
    let mutex = space.mutex("b").unwrap_or_else(|error| panic!("the dead keep the place: {error}"));
    assert!(mutex.lock().unwrap().abandoned().is_none(), "nobody died holding b");
}

#[test]
fn a_sleeper_that_died_keeps_no_place() {
    let root = root();
    let space = open(&root, 4, 1).unwrap();
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    let mut sleeper = start("holder", &[root.path().to_str().unwrap(), "a"]);
    wait_until("it sleeps", || space.usage().waiting == 1);
    sleeper.kill();
    drop(guard);
    // Its count on the lock is the only thing in the way.
    let mutex = space.mutex("b").unwrap_or_else(|error| panic!("the dead keep the place: {error}"));
    drop(mutex.lock().unwrap());
}

/// Increments the number of each name it holds, in a plain file, round after round: reading, dallying, writing.
fn worker(arguments: &[String]) {
    let [root, file, names, rounds, seed] = arguments else { panic!() };
    let numbers = File::options().read(true).write(true).open(file).unwrap();
    let space = join(root).unwrap();
    let (names, rounds): (u64, u64) = (names.parse().unwrap(), rounds.parse().unwrap());
    let mut dice = Dice(seed.parse().unwrap());
    // Handles are kept, so that most of them are stale when they are used again.
    let mut handles = HashMap::new();
    say("ready");
    hear();
    for _ in 0..rounds * names {
        // Few names are hot, so that workers meet.
        let n = if dice.throw(2) == 0 { dice.throw(4) } else { dice.throw(names) };
        let mutex = handles.entry(n).or_insert_with(|| space.mutex(&format!("name {n}")).unwrap());
        let guard = mutex.lock().unwrap();
        let mut bytes = [0; 16];
        numbers.read_exact_at(&mut bytes, n * 16).unwrap();
        let [count, token] = [0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()));
        if dice.throw(8) == 0 {
            std::thread::yield_now();
        }
        assert!(guard.token() > token, "name {n}: {} after {token}", guard.token());
        assert!(guard.is_held() && guard.abandoned().is_none());
        bytes[..8].copy_from_slice(&(count + 1).to_ne_bytes());
        bytes[8..].copy_from_slice(&guard.token().to_ne_bytes());
        numbers.write_all_at(&bytes, n * 16).unwrap();
        guard.unlock().unwrap();
        // Some handles are looked up anew.
        if dice.throw(8) == 0 {
            handles.remove(&n);
        }
    }
    say("done");
    hear();
}

#[test]
fn names_exclude_by_name_while_they_move_between_places() {
    let root = root();
    let (workers, names, rounds) = (8, 200, 10);
    // More places than workers: each holds one at a time, and one may be on its way.
    let space = open(&root, workers + 1, 32).unwrap();
    let raw = Raw::open(space.path());
    let file = root.path().join("numbers");
    fs::write(&file, vec![0; names * 16]).unwrap();
    let mut dice = Dice(seed());
    let mut actors: Vec<_> = (0..workers)
        .map(|_| {
            let seed = (dice.throw(u64::MAX >> 16) | 1).to_string();
            let (root, file) = (root.path().to_str().unwrap(), file.to_str().unwrap());
            start("worker", &[root, file, &names.to_string(), &rounds.to_string(), &seed])
        })
        .collect();
    actors.iter().for_each(|actor| actor.expect("ready"));
    actors.iter_mut().for_each(|actor| actor.tell("go"));
    actors.iter().for_each(|actor| actor.expect("done"));
    let counts: u64 =
        fs::read(&file).unwrap().chunks_exact(16).map(|chunk| u64::from_ne_bytes(chunk[..8].try_into().unwrap())).sum();
    assert_eq!(counts, u64::from(workers) * rounds * names as u64, "two were in at once, and one increment is lost");
    no_name_twice(&raw);
    assert_eq!(space.usage().waiting, 0);
    drop(actors);
}

// Tokens beyond the life of a process, and of a space.

#[test]
fn tokens_grow_across_reopening_and_re_creating() {
    let root = root();
    let mut last = 0;
    for round in 0..30 {
        if round % 5 == 4 {
            fs::remove_dir_all(root.path().join("test")).unwrap();
        }
        let space = open(&root, 2, 2).unwrap();
        for _ in 0..3 {
            let token = space.mutex("a").unwrap().lock().unwrap().token();
            assert!(token > last, "round {round}: {token} after {last}");
            last = token;
            // It moves in between.
            for other in ["b", "c", "d"] {
                drop(space.mutex(other).unwrap().lock().unwrap());
            }
        }
    }
}

#[test]
fn the_next_process_continues_the_tokens_of_the_last() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut last = 0;
    for round in 0..6 {
        let mut holder = start("holder", &[path, "a"]);
        let heard = holder.hear();
        let token: u64 = heard.split_once(' ').unwrap().0.trim_matches(['[', ']']).parse().unwrap();
        assert!(token > last);
        last = token;
        if round % 2 == 0 {
            holder.kill();
        } else {
            holder.tell("release");
            holder.expect("released");
        }
    }
}

// Creating. H44.

/// Opens a space when told, and says which file it got and what it can do there.
fn creator(arguments: &[String]) {
    let [root, name] = arguments else { panic!() };
    say("ready");
    hear();
    let space = Space::builder(name).root(root).open().unwrap();
    let token = space.mutex("a").unwrap().lock().unwrap().token();
    say(format!("{} {token}", fs::metadata(space.path().join("segment")).unwrap().ino()));
    hear();
}

#[test]
fn all_who_create_a_space_at_once_are_in_the_same_one() {
    let root = root();
    let path = root.path().to_str().unwrap();
    for round in 0..4 {
        let name = format!("space {round}");
        let mut actors: Vec<_> = (0..20).map(|_| start("creator", &[path, &name])).collect();
        actors.iter().for_each(|actor| actor.expect("ready"));
        actors.iter_mut().for_each(|actor| actor.tell("go"));
        let heard: Vec<_> = actors.iter().map(Actor::hear).collect();
        let (inodes, tokens): (HashSet<_>, HashSet<_>) =
            heard.iter().map(|line| line.split_once(' ').expect("an inode and a token")).unzip();
        assert_eq!((inodes.len(), tokens.len()), (1, 20), "{heard:?}");
        let space = Space::builder(&name).root(root.path()).open().unwrap();
        assert_eq!(space.usage().participants, 21);
        assert_eq!(left_in(space.path()), ["segment"]);
    }
}

fn left_in(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_creator_killed_anywhere_leaves_nothing_in_the_way() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut dice = Dice(seed());
    // How long creating takes here, to spread the kills over it.
    let begin = Instant::now();
    drop(Space::builder("rehearsal").root(root.path()).open().unwrap());
    let whole = begin.elapsed().as_micros() as u64 + 200;
    let mut found = [0; 4];
    for round in 0..200 {
        let name = format!("space {round}");
        let directory: PathBuf = root.path().join(&name);
        let mut creator = start("creator", &[path, &name]);
        creator.expect("ready");
        creator.tell("go");
        std::thread::sleep(Duration::from_micros(dice.throw(whole)));
        creator.kill();
        found[match directory.is_dir().then(|| left_in(&directory)) {
            None => 0,
            Some(left) if left.is_empty() => 1,
            Some(left) if left == ["segment"] => 3,
            Some(_) => 2,
        }] += 1;
        let space = Space::builder(&name).root(root.path()).open().unwrap_or_else(|error| panic!("{round}: {error}"));
        let guard = space.mutex("a").unwrap().lock_owned().unwrap();
        assert!(guard.is_held());
        assert_eq!(left_in(&directory), ["segment"], "round {round}");
        drop((guard, space));
        fs::remove_dir_all(directory).unwrap();
    }
    let [nothing, empty, half, whole] = found;
    eprintln!("killed before the directory {nothing}, the file {empty}, its publication {half}, after it {whole}");
}

#[test]
fn a_creator_killed_after_any_of_its_system_calls_leaves_nothing_in_the_way() {
    if !std::process::Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        skip!("strace is not there to kill at a chosen system call");
    }
    let root = root();
    let path = root.path().to_str().unwrap();
    // What creating is made of. Where one is not called that often, the process is not killed, and opens.
    let calls =
        ["mkdir", "chmod", "flock", "openat", "fallocate", "fchmod", "pwrite64", "fsync", "renameat2", "fcntl", "mmap"];
    let mut killed = 0;
    for call in calls {
        for nth in 1..=3 {
            let name = format!("{call} {nth}");
            let inner = support::command("creator", &[path, &name]);
            let mut traced = std::process::Command::new("strace");
            // Counted from the first call that has to do with the space: the runner's own come before.
            traced.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(root.path().join(&name)).arg("-P");
            traced.arg(root.path().join(&name).join("segment")).arg("-P");
            traced.arg(root.path().join(&name).join(".segment.new"));
            traced.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
            traced.arg(inner.get_program()).args(inner.get_args());
            traced.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let mut creator = support::start_command(traced);
            if creator.hear_within(support::PATIENCE).as_deref() != Some("ready") {
                skip!("strace cannot trace here");
            }
            creator.tell("go");
            let went_through = creator.finish();
            killed += u32::from(!went_through);
            let space = Space::builder(&name).root(root.path()).open().unwrap_or_else(|e| panic!("{name}: {e}"));
            drop(space.mutex("a").unwrap().lock().unwrap());
            assert_eq!(left_in(space.path()), ["segment"], "{name}");
        }
    }
    eprintln!("{killed} creators were killed");
}
