//! Killed at every instruction, as `tests/crash.rs` does it to the mutex: where processes wait for each other, pass items on, or change several things at once.
//!
//! ```text
//! HOSTLOCK_CRASH=all cargo test --release --test crash_meet -- --nocapture
//! ```

#[path = "../crash/mod.rs"]
mod crash;
#[path = "../support/mod.rs"]
mod support;

mod barriers;
mod changes;
mod queues;
mod signals;
mod turns;

use std::sync::atomic::Ordering::SeqCst;

use crash::control::Control;
use crash::sweep::{Case, NAME, Plan, sweep};
use crash::trace::Victim;
use hostlock::Error;

/// What came of a wait, in [`Control::token`].
const PASSED: u64 = 1;
const LOST: u64 = 2;

/// In a victim: the operation came to its end.
fn done(control: &Control) {
    control.inside.store(1, SeqCst);
}

fn is_done(case: &Case) -> bool {
    case.controls.victim.inside.load(SeqCst) == 1
}

/// In whoever waits: what came of it. A death is noted by the PID.
fn note_outcome<T>(control: &Control, outcome: hostlock::Result<T>) {
    match outcome {
        Ok(_) => control.token.store(PASSED, SeqCst),
        Err(Error::SignalLost { by, .. } | Error::Broken { by, .. }) => {
            control.told.store(by.pid.unwrap_or(0).into(), SeqCst);
            control.token.store(LOST, SeqCst);
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the words say of the stopped victim: what it waits for, and as what it holds the lock.
fn look(case: &mut Case, victim: &Victim) {
    look_at(case, victim, NAME);
    case.dead = vec![victim.pid.as_raw() as u32];
}

/// By which token the victim holds a lock; 0: it does not.
fn look_at(case: &mut Case, victim: &Victim, name: &str) {
    case.note_strays();
    let (raw, word) = (case.raw(), case.word(name));
    let holds = Case::owner_of(&raw, word) == victim.pid.as_raw() as u32;
    case.death.token = if holds { (word >> 16) + raw.u64_at(104) } else { 0 };
}

/// Sweeps that; in the end nothing is left.
fn sweep_meeting(plan: &Plan) {
    let afterwards = |case: &mut Case| {
        (plan.afterwards)(case);
        case.settle();
    };
    sweep(&Plan { afterwards: &afterwards, ..*plan });
}
