//! A thread that gets a line to read by, and a name that is given up meanwhile.

use std::cell::RefCell;

use hostlock::RwLock;

use super::modes::rwlock;
use super::pairs::{Pair, play_alive};
use super::scene::walker;
use super::sweep::{BOUND, Case, NAME};
use super::walker::Walker;

/// So many reads, with nobody writing in between, and the next one gets a line: the first one looks for a cell.
const BEFORE_A_LINE: u32 = 2001;

fn read_much(rwlock: &RwLock) {
    (0..BEFORE_A_LINE).for_each(|_| drop(rwlock.read().expect("a free lock")));
}

/// The name goes, if nobody uses it at that moment.
fn remover(case: &Case) -> Option<Walker> {
    let space = case.space();
    walker(case, case.controls.second, |_| (), |_, ()| drop(space.remove(NAME)))
}

/// Whoever reads by a line asks for nothing but the word of its entry and the line: so none may be open for a name that is not there.
fn no_line_is_left_open(case: &mut Case) {
    let raw = case.raw();
    let present: Vec<u32> =
        raw.entries().iter().filter(|entry| !entry.name.is_empty()).map(|entry| (entry.meta >> 32) as u32).collect();
    for (at, open) in raw.open_lines() {
        let generation = (!open >> 32) as u32;
        assert!(present.contains(&generation), "line at {at} is open for {generation:#x}, of {present:x?}");
    }
    drop(rwlock(case).try_write_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}")));
    case.settle();
}

#[test]
fn a_name_that_is_given_up_leaves_no_line_open() {
    // Of this process, and open: so that there is something to shut, after which others may open theirs.
    let ours: RefCell<Option<RwLock>> = RefCell::default();
    let pair = Pair {
        what: "a reader gets a line; its name is given up",
        begin: &|case| {
            case.enter();
            let own = rwlock(case);
            read_much(&own);
            assert!(case.raw().open_lines().is_empty(), "as early as that");
            read_once(&own);
            assert_eq!(case.raw().open_lines().len(), 1, "after so many reads");
            ours.replace(Some(own));
            let reader = rwlock(case);
            let victim = walker(case, case.controls.victim, |_| read_much(&reader), |_, ()| read_once(&reader))?;
            Some(vec![victim, remover(case)?])
        },
        between: &|_| (),
        meanwhile: &|_, _| (),
        holds: &|_, _| Vec::new(),
        afterwards: &|case, _| {
            no_line_is_left_open(case);
            ours.take();
        },
    };
    // It is one place of each that matters.
    play_alive(&pair);
}

fn read_once(rwlock: &RwLock) {
    drop(rwlock.read().expect("a free lock"));
}
