//! Models of [`claim`](super::super::claim): a file is replaced under its holder, whoever dies, and there is never a second one.

use core::convert::Infallible;
use core::sync::atomic::Ordering::SeqCst;
use std::cell::Cell;
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::claim::{Claim, Claimed, Entry, beside, claim, replace, standing, unclaim};
use super::{Mode, explore, is_caught, sweep};
use crate::sync::{AtomicU32, AtomicU64, with_fuse};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Whoever claimed does not look whether the file was replaced meanwhile.
    NoSecondLook,
    /// Whoever reads does not look for a claim.
    ReadersDoNotLook,
    /// The new file is the name's before it is counted.
    CountsAfterwards,
    /// The old file is the name's until it is counted.
    InodeStaysMeanwhile,
    /// A claim is looked at, and then stored over.
    ClaimsByStore,
    /// Claims that were made by other files are nobody's.
    OldClaimsIgnored,
    /// Who holds the lock is whose file it is: what others do.
    NoClaim,
}

const BUGS: &[Bug] = &[
    Bug::NoSecondLook,
    Bug::ReadersDoNotLook,
    Bug::CountsAfterwards,
    Bug::InodeStaysMeanwhile,
    Bug::ClaimsByStore,
    Bug::OldClaimsIgnored,
    Bug::NoClaim,
];

/// Files have the inodes 1, 2 and 3.
const FILES: usize = 3;
const PEOPLE: usize = 4;

struct Name {
    claim: AtomicU64,
    count: AtomicU32,
    inode: AtomicU64,
    /// The kernel's locks: who has which file locked.
    locked: [AtomicU32; FILES],
    /// Who died.
    dead: [AtomicU32; PEOPLE],
    /// Whoever believes that it holds the lock.
    inside: AtomicU32,
    /// Whoever believes that it reads.
    reading: AtomicU32,
    bug: Bug,
}

impl Entry for Name {
    type Error = Infallible;

    fn claim(&self) -> Result<u64, Infallible> {
        Ok(self.claim.load(SeqCst))
    }

    fn swap_claim(&self, expected: u64, new: u64) -> Result<bool, Infallible> {
        if self.bug == Bug::ClaimsByStore && new != 0 {
            self.claim.store(new, SeqCst);
            return Ok(true);
        }
        Ok(self.claim.compare_exchange(expected, new, SeqCst, SeqCst).is_ok())
    }

    fn count(&self) -> Result<u32, Infallible> {
        Ok(self.count.load(SeqCst))
    }

    fn set_count(&self, count: u32) -> Result<(), Infallible> {
        self.count.store(count, SeqCst);
        Ok(())
    }

    fn inode(&self) -> Result<u64, Infallible> {
        Ok(self.inode.load(SeqCst))
    }

    fn set_inode(&self, inode: u64) -> Result<(), Infallible> {
        self.inode.store(inode, SeqCst);
        Ok(())
    }
}

fn sure<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
    }
}

impl Name {
    fn new(bug: Bug) -> Rc<Self> {
        Rc::new(Self {
            claim: AtomicU64::new(0),
            count: AtomicU32::new(1),
            inode: AtomicU64::new(1),
            locked: core::array::from_fn(|_| AtomicU32::new(0)),
            dead: core::array::from_fn(|_| AtomicU32::new(0)),
            inside: AtomicU32::new(0),
            reading: AtomicU32::new(0),
            bug,
        })
    }

    fn replace(&self, inode: u64) {
        match self.bug {
            Bug::CountsAfterwards => {
                self.inode.store(inode, SeqCst);
                self.count.fetch_add(1, SeqCst);
            }
            Bug::InodeStaysMeanwhile => {
                self.count.fetch_add(1, SeqCst);
                self.inode.store(inode, SeqCst);
            }
            _ => sure(replace(self, inode)),
        }
    }

    /// Tries to acquire the lock by the file that it has open, and releases it; whether it had it.
    fn turn(&self, me: u32, file: u64, holds: &Cell<u64>) -> bool {
        let lock = &self.locked[file as usize - 1];
        if lock.compare_exchange(0, me, SeqCst, SeqCst).is_err() {
            return false;
        }
        // Known to the kernel with the lock.
        holds.set(file);
        let mut had_it = false;
        if let Some(count) = sure(standing(self, file)) {
            let obstacle = |seen| self.obstacle(seen);
            let claimed = match self.bug {
                Bug::NoClaim => Claimed::Yes(Claim(0)),
                Bug::NoSecondLook => {
                    let seen = self.claim.load(SeqCst);
                    let may = !Claim(seen).is_by_another(count) || sure(obstacle(Claim(seen))).is_none();
                    let mine = Claim::new(count, me);
                    match may && self.claim.compare_exchange(seen, mine.0, SeqCst, SeqCst).is_ok() {
                        true => Claimed::Yes(mine),
                        false => Claimed::Not(()),
                    }
                }
                _ => sure(claim(self, count, me, obstacle)),
            };
            if let Claimed::Yes(mine) = claimed {
                self.enter(me);
                had_it = true;
                self.inside.store(0, SeqCst);
                sure(unclaim(self, mine));
            }
        }
        lock.store(0, SeqCst);
        holds.set(0);
        had_it
    }

    fn obstacle(&self, seen: Claim) -> Result<Option<()>, Infallible> {
        let is_dead = self.bug == Bug::OldClaimsIgnored || self.dead[seen.pid() as usize].load(SeqCst) != 0;
        Ok((!is_dead).then_some(()))
    }

    /// Tries to read by the file that it has open.
    fn read(&self, me: u32, file: u64) {
        let lock = &self.locked[file as usize - 1];
        if lock.compare_exchange(0, me, SeqCst, SeqCst).is_err() {
            return;
        }
        if let Some(count) = sure(standing(self, file))
            && (self.bug == Bug::ReadersDoNotLook || sure(beside(self, count, |seen| self.obstacle(seen))).is_none())
        {
            self.reading.store(me, SeqCst);
            let inside = self.inside.load(SeqCst);
            assert!(inside == 0 || self.dead[inside as usize].load(SeqCst) != 0, "{me} reads beside {inside}");
            self.reading.store(0, SeqCst);
        }
        lock.store(0, SeqCst);
    }

    fn enter(&self, me: u32) {
        let before = self.inside.fetch_add(0, SeqCst);
        let is_free = before == 0 || self.dead[before as usize].load(SeqCst) != 0;
        assert!(is_free, "{me} is beside {before}");
        self.inside.store(me, SeqCst);
        assert_eq!(self.inside.load(SeqCst), me, "somebody came in beside {me}");
        assert_eq!(self.reading.load(SeqCst), 0, "somebody reads beside {me}");
    }

    /// The thread of `me`, which dies when its fuse is used up: the kernel then unlocks what it had locked.
    fn spawn(self: &Rc<Self>, me: u32, fuse: usize, body: impl FnOnce(&Self, &Cell<u64>) + 'static) -> JoinHandle<()> {
        let name = self.clone();
        thread::spawn(move || {
            let holds = Cell::new(0);
            if !with_fuse(fuse, || body(&name, &holds)) {
                name.dead[me as usize].store(1, SeqCst);
                if holds.get() != 0 {
                    name.locked[holds.get() as usize - 1].store(0, SeqCst);
                }
            }
        })
    }

    /// Whoever comes last gets it, by the file that is the name's.
    fn is_to_be_had(&self) {
        // A file that was counted and got no inode is replaced once more.
        if sure(self.inode()) == 0 {
            self.replace(3);
        }
        let file = sure(self.inode());
        assert!(self.turn(3, file, &Cell::new(0)), "nobody has it, and nobody gets it");
    }
}

const FOR_EVER: usize = usize::MAX;

/// One has the file open, another replaces it and takes the new one; the first dies at some point.
fn replaced_under_its_holder(bug: Bug, fuse: usize) {
    let name = Name::new(bug);
    let threads = [
        name.spawn(1, fuse, |name, holds| {
            name.turn(1, 1, holds);
        }),
        name.spawn(2, FOR_EVER, |name, holds| {
            name.replace(2);
            name.turn(2, 2, holds);
        }),
    ];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    name.is_to_be_had();
}

/// The same, and somebody else has the old file open as well.
fn replaced_among_two(bug: Bug, fuse: usize) {
    let name = Name::new(bug);
    let threads = [
        name.spawn(1, FOR_EVER, |name, holds| {
            name.turn(1, 1, holds);
        }),
        name.spawn(2, fuse, |name, holds| {
            name.replace(2);
            name.turn(2, 2, holds);
        }),
        name.spawn(3, FOR_EVER, |name, holds| {
            // Whichever is there now.
            let file = sure(name.inode());
            if file != 0 {
                name.turn(3, file, holds);
            }
        }),
    ];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    name.is_to_be_had();
}

/// A file is replaced, and the new one as well.
fn replaced_twice(bug: Bug, fuse: usize) {
    let name = Name::new(bug);
    let threads = [
        name.spawn(1, FOR_EVER, |name, holds| {
            name.turn(1, 1, holds);
        }),
        name.spawn(2, fuse, |name, holds| {
            name.replace(2);
            name.turn(2, 2, holds);
        }),
        name.spawn(3, FOR_EVER, |name, holds| {
            if sure(name.inode()) == 2 {
                name.replace(3);
                name.turn(3, 3, holds);
            }
        }),
    ];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    name.is_to_be_had();
}

/// One replaces the file, and reads by the new one, while another has the old one open and writes.
fn replaced_by_a_reader(bug: Bug, fuse: usize) {
    let name = Name::new(bug);
    let threads = [
        name.spawn(1, fuse, |name, holds| {
            name.turn(1, 1, holds);
        }),
        name.spawn(2, FOR_EVER, |name, _| {
            name.replace(2);
            name.read(2, 2);
        }),
    ];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    name.is_to_be_had();
}

#[test]
fn a_replaced_file_makes_no_second_holder() {
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("a file replaced under its holder", mode, 3, || replaced_under_its_holder(Bug::None, FOR_EVER));
        sweep("a file replaced under its holder", mode, 3, |fuse| replaced_under_its_holder(Bug::None, fuse));
        explore("a file replaced by a reader", mode, 3, || replaced_by_a_reader(Bug::None, FOR_EVER));
        sweep("a file replaced by a reader", mode, 3, |fuse| replaced_by_a_reader(Bug::None, fuse));
    }
    explore("a file replaced twice", Mode::Rmw, 3, || replaced_twice(Bug::None, FOR_EVER));
    sweep("a file replaced twice", Mode::Rmw, 2, |fuse| replaced_twice(Bug::None, fuse));
    explore("a file replaced among two", Mode::Rmw, 3, || replaced_among_two(Bug::None, FOR_EVER));
    sweep("a file replaced among two", Mode::Rmw, 2, |fuse| replaced_among_two(Bug::None, fuse));
}

/// Names the bug that [`one_bug`] is to run with.
const SEEDED: &str = "HOSTLOCK_SEEDED_CLAIM";

/// In a process started by [`every_bug_is_caught`].
#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let bug = *BUGS.iter().find(|bug| format!("{bug:?}") == wanted).expect("a bug that exists");
    explore("seeded, a file replaced under its holder", Mode::Rmw, 3, move || replaced_under_its_holder(bug, FOR_EVER));
    explore("seeded, a file replaced by a reader", Mode::Rmw, 3, move || replaced_by_a_reader(bug, FOR_EVER));
    explore("seeded, a file replaced twice", Mode::Rmw, 3, move || replaced_twice(bug, FOR_EVER));
    explore("seeded, a file replaced among two", Mode::Rmw, 3, move || replaced_among_two(bug, FOR_EVER));
}

#[test]
fn every_bug_is_caught() {
    for bug in BUGS {
        is_caught(&format!("{bug:?}"), Mode::Rmw, SEEDED, module_path!(), &["beside", "nobody gets it"]);
    }
}
