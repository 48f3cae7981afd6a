//! Models of [`ring`](super::super::ring) under a mutex: what comes out is what was put in, whole, in order and once, whoever dies.
//!
//! An item is two words that agree, and nobody is told of a death: there is nothing to repair.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::cell::RefCell;
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::Host;
use super::super::mutex::{FENCED, LockWords, WOKEN};
use super::super::ring::Ring;
use super::super::word::OwnerWord;
use super::machine::{Futex, Machine, Thread, slot};
use super::{Mode, explore, is_caught, sweep};
use crate::digest::Checked;
use crate::sync::AtomicU64;

const CAPACITY: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The tail is moved, then the item is written.
    TailBeforeTheItem,
    /// The head is moved, then the item is read.
    HeadBeforeTheItem,
    /// Whoever pops does not take the lock.
    PopsWithoutTheLock,
}

const BUGS: &[Bug] = &[Bug::TailBeforeTheItem, Bug::HeadBeforeTheItem, Bug::PopsWithoutTheLock];

struct Belt {
    machine: Rc<Machine>,
    lock: LockWords,
    head: AtomicU64,
    tail: AtomicU64,
    items: [[AtomicU64; 2]; CAPACITY],
    bug: Bug,
    /// What was popped. Not watched.
    popped: RefCell<Vec<u64>>,
}

impl Belt {
    fn new(bug: Bug) -> Rc<Self> {
        let machine = Machine::new();
        machine.tells(|_| false);
        Rc::new(Self {
            machine,
            lock: LockWords::new(),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            items: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))),
            bug,
            popped: RefCell::default(),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring { head: &self.head, tail: &self.tail, capacity: CAPACITY as u64 }
    }

    fn spawn(
        self: &Rc<Self>,
        number: usize,
        fuse: usize,
        body: impl FnOnce(&Self, &Thread) + 'static,
    ) -> JoinHandle<()> {
        let (belt, me) = (self.clone(), self.machine.thread(number));
        thread::spawn(move || {
            me.mortal(fuse, || body(&belt, &me), || ());
        })
    }

    fn locked<R>(&self, me: &Thread, act: impl FnOnce() -> R) -> R {
        let seen = self.lock.look();
        let held: OwnerWord = match self.lock.try_acquire(slot(me.slot), me.thread(), seen) {
            Ok(word) => word,
            Err(seen) => self.lock.acquire_contended(me, slot(me.slot), seen).expect("no deadline").word,
        };
        assert!(!held.is_abandoned(), "told of a death");
        let done = act();
        let _ = self.lock.release(held, |_| self.machine.wake(Futex::Lock));
        done
    }

    fn push(&self, me: &Thread, value: u64) {
        self.locked(me, || {
            let (head, len) = self.ring().look().expect("positions that can be");
            let write = |place: usize| self.items[place].iter().for_each(|word| word.store(value, Relaxed));
            if self.bug == Bug::TailBeforeTheItem {
                self.tail.store(Checked(head + len + 1).word(), SeqCst);
                write(self.ring().place(head + len));
            } else {
                self.ring().push(head, len, write);
            }
        });
    }

    /// Pops an item, if there is one, and notes it before it is gone.
    fn pop(&self, me: &Thread) {
        let act = || {
            let (head, len) = self.ring().look().expect("positions that can be");
            if len == 0 {
                return;
            }
            let read = |place: usize| {
                let [one, two] = [0, 1].map(|word: usize| self.items[place][word].load(Relaxed));
                assert_eq!(one, two, "half an item");
                assert_ne!(one, 0, "no item");
                self.popped.borrow_mut().push(one);
            };
            if self.bug == Bug::HeadBeforeTheItem {
                self.head.store(Checked(head + 1).word(), SeqCst);
                read(self.ring().place(head));
            } else {
                self.ring().pop(head, read, || true);
            }
        };
        match self.bug {
            Bug::PopsWithoutTheLock => act(),
            _ => self.locked(me, act),
        }
    }

    /// All that is left comes out; each item at least once, and as long as nobody died noting it, once.
    fn assert_whole(&self, me: &Thread, pushed: &[u64], may_be_lost: &[u64], may_be_twice: bool) {
        // Out of a dead hand, perhaps.
        self.locked(me, || ());
        while self.ring().look().expect("positions that can be").1 != 0 {
            self.pop(me);
        }
        let mut popped = self.popped.borrow().clone();
        popped.sort_unstable();
        if may_be_twice {
            popped.dedup();
        }
        let must: Vec<u64> = pushed.iter().copied().filter(|value| !may_be_lost.contains(value)).collect();
        assert!(must.iter().all(|value| popped.contains(value)), "{must:?} went in, {popped:?} came out");
        assert!(popped.windows(2).all(|pair| pair[0] != pair[1]), "twice: {popped:?}");
        assert!(self.lock.look().is_free(), "held by nobody");
        let counted = self.lock.sleepers.load(Acquire) & !(WOKEN | FENCED);
        assert!(counted <= self.machine.strays() + 1, "{counted} are counted at the end");
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

const FOR_EVER: usize = usize::MAX;

/// One pushes two, two others pop.
fn one_pushes_two_pop(bug: Bug) {
    let belt = Belt::new(bug);
    let threads = vec![
        belt.spawn(0, FOR_EVER, |belt, me| [1, 2].iter().for_each(|value| belt.push(me, *value))),
        belt.spawn(1, FOR_EVER, |belt, me| belt.pop(me)),
        belt.spawn(2, FOR_EVER, |belt, me| belt.pop(me)),
    ];
    join(threads);
    belt.assert_whole(&belt.machine.thread(3), &[1, 2], &[], false);
}

/// Whoever pushes dies at any point; what it pushed before is there.
fn pusher_dies(bug: Bug, fuse: usize) {
    let belt = Belt::new(bug);
    let threads = vec![
        belt.spawn(0, fuse, |belt, me| belt.push(me, 1)),
        belt.spawn(1, FOR_EVER, |belt, me| belt.pop(me)),
        belt.spawn(2, FOR_EVER, |belt, me| belt.push(me, 2)),
    ];
    join(threads);
    belt.assert_whole(&belt.machine.thread(3), &[1, 2], &[1], false);
}

/// Whoever pops dies at any point; what it had not noted is still there, and what it had noted may be as well.
fn popper_dies(bug: Bug, fuse: usize) {
    let belt = Belt::new(bug);
    let me = belt.machine.thread(3);
    [1, 2].iter().for_each(|value| belt.push(&me, *value));
    let threads = vec![belt.spawn(0, fuse, |belt, me| belt.pop(me)), belt.spawn(1, FOR_EVER, |belt, me| belt.pop(me))];
    join(threads);
    belt.assert_whole(&me, &[1, 2], &[], true);
}

#[test]
fn what_goes_in_comes_out() {
    explore("one pushes, two pop", Mode::Rmw, 2, || one_pushes_two_pop(Bug::None));
    explore("one pushes, two pop", Mode::Plain, 1, || one_pushes_two_pop(Bug::None));
    sweep("pusher dies", Mode::Rmw, 1, |fuse| pusher_dies(Bug::None, fuse));
    sweep("popper dies", Mode::Rmw, 2, |fuse| popper_dies(Bug::None, fuse));
}

/// Names the bug that [`one_bug`] is to run with.
const SEEDED: &str = "HOSTLOCK_SEEDED_RING";

/// In a process started by [`every_bug_is_caught`].
#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let bug = *BUGS.iter().find(|bug| format!("{bug:?}") == wanted).expect("a bug that exists");
    explore("seeded, one pushes, two pop", Mode::Rmw, 2, move || one_pushes_two_pop(bug));
    sweep("seeded, popper dies", Mode::Rmw, 2, move |fuse| popper_dies(bug, fuse));
    sweep("seeded, pusher dies", Mode::Rmw, 2, move |fuse| pusher_dies(bug, fuse));
}

#[test]
fn every_bug_is_caught() {
    for bug in BUGS {
        is_caught(&format!("{bug:?}"), Mode::Rmw, SEEDED, module_path!(), &["item", "came out", "twice", "positions"]);
    }
}
