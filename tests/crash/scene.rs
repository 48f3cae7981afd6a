//! Victims and those beside them, as several sweeps have them.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{RwLock, Semaphore};

use super::control::{Control, ENDED};
use super::support::wait_until;
use super::sweep::{Case, JOIN, NAME, join_in};
use super::trace::{self, Victim};

/// A survivor that does not get what is free, or a dead one's, in this time is stuck.
pub const BOUND: Duration = Duration::from_secs(20);

/// Of the semaphore that sweeps are about.
pub const PERMITS: u32 = 3;

pub fn rwlock(case: &Case) -> RwLock {
    case.space().rwlock(NAME).unwrap_or_else(|e| panic!("a survivor cannot have the read-write lock: {e}"))
}

pub fn semaphore(case: &Case) -> Semaphore {
    case.space().semaphore(NAME, PERMITS).unwrap_or_else(|e| panic!("a survivor cannot have the semaphore: {e}"))
}

/// The victim of most sweeps: joins, then does `what`.
pub fn victim(case: &Case, what: impl FnOnce(&'static Control)) -> Option<Victim> {
    after(case, || (), |control, ()| what(control))
}

/// A victim that joins and does something `before` the operation, which goes on with what came of that.
pub fn after<T>(case: &Case, before: impl FnOnce() -> T, what: impl FnOnce(&'static Control, T)) -> Option<Victim> {
    let join = case.mutex(JOIN);
    Victim::new(case.controls.victim, |control| {
        join_in(&join);
        let given = before();
        control.begin();
        what(control, given);
    })
}

/// Leads a victim into its sleep, in which it is then.
pub fn put_to_sleep(victim: &mut Victim) {
    loop {
        victim.run_to_call();
        if trace::is_futex_wait(victim) {
            break;
        }
        victim.run_to_call();
    }
    victim.start_to_call();
    wait_until("it sleeps, or did", || victim.is_asleep() || victim.is_stopped());
}

/// The look at a victim that says when it is inside: it is, as far as others can tell.
pub fn look(case: &mut Case, victim: &Victim) {
    case.look(victim);
    let is_inside = case.controls.victim.inside.load(SeqCst) == 1;
    assert!(!is_inside || case.death.token != 0, "it holds the lock, and nobody would be told");
}

pub fn note(case: &mut Case, _: &Victim) {
    case.note_strays();
}

/// In a victim: it has the lock from here on, for all it knows.
pub fn enter(control: &Control) {
    control.inside.store(1, SeqCst);
    // A call: so it is stopped inside, too, and not only where it gets in and out.
    std::thread::yield_now();
}

pub fn leave(control: &Control) {
    control.inside.store(0, SeqCst);
}

/// Whoever slept got what it waited for, alone if it has to be.
pub fn end_of_sleeper(case: &mut Case) {
    if let Some(mut sleeper) = case.sleeper.take() {
        let control = case.controls.sleeper;
        control.wait_for(ENDED, "a sleeper is stuck");
        assert_eq!(control.crowded.load(SeqCst), 0, "two who exclude each other were inside");
        sleeper.kill();
    }
}

/// In the sleeper, which is inside: nobody else is, but the dead.
pub fn look_around(control: &Control, victim: &Control) {
    enter(control);
    if victim.inside.load(SeqCst) == 1 && victim.dead.load(SeqCst) == 0 {
        control.crowded.store(1, SeqCst);
    }
    leave(control);
}
