//! One thread that looks after all leases of this process: it renews those that are to be kept, and notices those that ran out.
//!
//! It is there while there is anything to look after, and for a moment longer. A forked child has none of it, and starts its own when it needs it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

use nix::sys::signal::SigSet;

use crate::os::clock::Boottime;
use crate::os::fork::Guarded;
use crate::os::lock_file::process;

/// What is looked after.
pub(super) trait Tended: Send + Sync {
    /// Does what is due; when to come again, or `None`: never.
    fn tend(&self) -> Option<Boottime>;

    /// It need not be looked after any more.
    fn is_over(&self) -> bool;
}

struct Keeper {
    /// The thread is there, and has not decided to end.
    runs: bool,
    /// How many will have it look after something: it does not end before.
    expected: usize,
    tended: Vec<(Arc<dyn Tended>, Boottime)>,
}

static KEEPER: Guarded<Keeper> = Guarded::new(Keeper { runs: false, expected: 0, tended: Vec::new() });
/// Something changed that the thread has to know of.
static CALL: Condvar = Condvar::new();

/// How long it waits for more when there is nothing left.
const IDLE: Duration = Duration::from_secs(2);
/// The clock of a sleep stands still while the machine is suspended, and that of leases goes on: it looks at least so often.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn before_fork() {
    KEEPER.before_fork();
}

pub(super) fn after_fork() {
    KEEPER.after_fork();
}

/// The thread is the parent's, and so are the leases. Nothing is freed here, where that may not be done.
pub(super) fn in_forked_child() {
    KEEPER.with_held(|keeper| {
        (keeper.runs, keeper.expected) = (false, 0);
        std::mem::forget(std::mem::take(&mut keeper.tended));
    });
}

/// The thread is there, and stays until this is used, or dropped.
pub(super) struct Started {
    process: u64,
}

/// Makes sure that the thread is there: to be asked before anything is acquired that has to be looked after.
pub(super) fn start() -> io::Result<Started> {
    let mut keeper = KEEPER.lock();
    if !keeper.runs {
        // The program's signal handlers are for its own threads.
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
        let spawned = std::thread::Builder::new().name("hostlock-keeper".into()).stack_size(256 << 10).spawn(run);
        keeper.runs = spawned.is_ok();
        before.thread_set_mask()?;
        spawned?;
    }
    let process = process()?;
    keeper.expected += 1;
    Ok(Started { process })
}

impl Started {
    /// Looks after this from now on.
    pub(super) fn keep(self, tended: Arc<dyn Tended>) {
        KEEPER.lock().tended.push((tended, Boottime(0)));
        CALL.notify_one();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Not that of a parent, in a forked child.
        if process().is_ok_and(|process| process == self.process) {
            let mut keeper = KEEPER.lock();
            keeper.expected = keeper.expected.saturating_sub(1);
        }
    }
}

/// Lets go of what is over.
pub(super) fn forget() {
    let over: Vec<_> = KEEPER.lock().tended.extract_if(.., |(tended, _)| tended.is_over()).collect();
    // Not under the lock: with it a space may be left.
    drop(over);
}

/// Has everything looked at now.
pub(super) fn call() {
    for (_, when) in &mut KEEPER.lock().tended {
        *when = Boottime(0);
    }
    CALL.notify_one();
}

fn run() {
    let mine = process().ok();
    let mut keeper = KEEPER.lock();
    loop {
        // The program was told of a loss, and forked: this is the child's only thread, and the leases are the parent's.
        if process().ok() != mine {
            return;
        }
        let now = Boottime::now();
        let due: Vec<_> = keeper.tended.extract_if(.., |(_, when)| *when <= now).map(|(tended, _)| tended).collect();
        if !due.is_empty() {
            // What is done may take this lock.
            drop(keeper);
            let later: Vec<_> = due.into_iter().filter_map(tend).collect();
            keeper = KEEPER.lock();
            keeper.tended.extend(later);
            continue;
        }
        let next = keeper.tended.iter().map(|(_, when)| *when).min();
        let span = next.map_or(IDLE, |next| next.left().min(LOOK));
        let (woken, slept) = CALL.wait_timeout(keeper, span).unwrap_or_else(PoisonError::into_inner);
        keeper = woken;
        if next.is_none() && slept.timed_out() && keeper.tended.is_empty() && keeper.expected == 0 {
            keeper.runs = false;
            return;
        }
    }
}

fn tend(tended: Arc<dyn Tended>) -> Option<(Arc<dyn Tended>, Boottime)> {
    // What the program is told may panic, and so may what it left to be dropped; the other leases are not to be lost for that.
    let tend = AssertUnwindSafe(move || tended.tend().map(|next| (tended, next)));
    catch_unwind(tend).unwrap_or_else(|panicked| {
        std::mem::forget(panicked);
        None
    })
}
