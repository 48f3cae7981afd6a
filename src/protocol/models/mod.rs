//! The algorithms, explored by loom.
//!
//! ```text
//! RUSTFLAGS="--cfg hostlock_loom" cargo test --lib --release --target-dir target/loom -- --nocapture
//! ```
//!
//! That takes five minutes on two cores, and says how many executions each model has. `HOSTLOCK_MODELS=all` before it has the largest explored as far as
//! all others (eight of them, which are half of all executions then: 80,000 to 130,000 each), and `LOOM_MAX_PREEMPTIONS=4` raises all bounds for a long run.
//!
//! * [`machine`]: what surrounds all of them: futexes, who lives, who is asleep.
//! * [`world`]: a mutex in a machine, what it guards, and a participant's turn.
//! * [`bell`]: waiting for something that is not an owner word.
//! * [`meet`]: barriers, announced signals, condition variables.
//! * [`mutex`]: exclusion, wake-ups, tokens, giving up, among two and three of the living.
//! * [`recovery`]: owners that died, survivors, and a slot that somebody else moves into.
//! * [`deaths`]: somebody dies, at any point: one exploration for each length of its fuse, until nobody dies any more.
//! * [`seeded`]: bugs put in on purpose, each of which must be caught by one of these.
//! * [`handoff`]: a lock that is reserved for who waited for long; [`handoff_seeded`]: its bugs.
//! * [`lease`]: an acquisition that ends by itself. [`deadlock`]: looking for those who wait for each other.
//! * [`claim`]: a lock file that is replaced under its holder.
//! * [`ring`]: items under a mutex.
//! * [`semaphore`]: permits behind a gate, in the [`semaphore_world`]; [`semaphore_seeded`]: its bugs.
//! * [`rwlock`]: readers and writers, in the [`rwlock_world`]; [`rwlock_seeded`]: their bugs. [`reader`]: a reader by a line of its own, with a store buffer.
//!
//! Models run in two modes (see [`crate::sync`]): RMW for interleavings, plain for orderings. The bound on preemptions is 3, because
//! lost wake-ups with a third party need that many; in the plain mode, where stale loads multiply, it is 2 for those of three
//! participants that would take longer than a minute (owner comes back: 374,000 executions at 3; three survivors: 419,000), and
//! 1 for the one with a deadline (27,000 at 2, 697,000 at 3). All of them were run at 3 once, and passed. The [`largest`] have one less.
//!
//! The sweeps of [`deaths`] are so many explorations each that their bound is mostly 2. They count the accesses of one thread: which
//! point of the text that is differs between executions, but all are reached, since a sweep ends only when nobody dies any more.
//!
//! Nothing here covers: two fuses at once (a second death comes after one that was there before), a record in use by two
//! incarnations, `SeqCst` operations as such, and the oracle, which is told what is so.

mod bell;
mod claim;
mod deadlock;
mod deaths;
mod handoff;
mod handoff_seeded;
mod lease;
mod machine;
mod meet;
mod mutex;
mod reader;
mod recovery;
mod ring;
mod rwlock;
mod rwlock_seeded;
mod rwlock_world;
mod seeded;
mod semaphore;
mod semaphore_seeded;
mod semaphore_world;
mod world;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{burned, set_rmw, stopwatch};

/// How the atomics of a model behave: see [`crate::sync`].
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Every access is a read-modify-write: explores interleavings.
    Rmw,
    /// Every access is what it says: explores orderings.
    Plain,
}

/// Explores `model` with at most so many preemptions in an execution. `LOOM_MAX_PREEMPTIONS` overrides the bound.
fn explore(name: &str, mode: Mode, bound: usize, model: impl Fn() + Send + Sync + 'static) {
    let seconds = stopwatch();
    let (executions, bound) = check(mode, bound, model);
    println!("model {name} ({mode:?}, bound {bound}): {executions} executions in {:.2} s", seconds());
}

/// The bound of a model that would take as long as all others together: one less, unless `HOSTLOCK_MODELS=all`.
fn largest(bound: usize) -> usize {
    bound - usize::from(std::env::var_os("HOSTLOCK_MODELS").is_none_or(|which| which != "all"))
}

/// Explores `model` with every length of the fuse, from 0 until nobody dies any more.
fn sweep(name: &str, mode: Mode, bound: usize, model: impl Fn(usize) + Copy + Send + Sync + 'static) {
    let seconds = stopwatch();
    let (mut points, mut all) = (0, 0);
    burned();
    let bound = loop {
        let (executions, bound) = check(mode, bound, move || model(points));
        all += executions;
        if burned() == 0 {
            break bound;
        }
        points += 1;
    };
    assert!(points > 0, "{name}: nobody died");
    println!("sweep {name} ({mode:?}, bound {bound}): {points} crash points, {all} executions in {:.2} s", seconds());
}

/// How many executions there were, and the bound.
fn check(mode: Mode, bound: usize, model: impl Fn() + Send + Sync + 'static) -> (usize, usize) {
    set_rmw(matches!(mode, Mode::Rmw));
    let executions = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(bound);
    builder.max_branches = 20_000;
    let bound = builder.preemption_bound.unwrap_or(bound);
    builder.check({
        let executions = executions.clone();
        move || {
            executions.fetch_add(1, Ordering::Relaxed);
            model();
        }
    });
    (executions.load(Ordering::Relaxed), bound)
}

/// The test `one_bug` of `module`, run with this bug in a process of its own (loom may abort where a model fails), fails for a reason that
/// is expected.
fn is_caught(bug: &str, mode: Mode, variable: &str, module: &str, expected: &[&str]) {
    one_is_caught(bug, mode, variable, module, "one_bug", expected);
}

fn one_is_caught(bug: &str, mode: Mode, variable: &str, module: &str, one: &str, expected: &[&str]) {
    let (_, path) = module.split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{path}::{one}"), "--nocapture"])
        .env(variable, bug)
        .output()
        .unwrap();
    let passed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{bug} passed all models:\n{passed}");
    let said = errors.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or_default();
    assert!(expected.iter().any(|expected| said.contains(expected)), "{bug} failed for another reason:\n{errors}");
    let last = passed.lines().rfind(|line| line.contains(" seeded")).unwrap_or("nothing");
    println!("seeded bug {bug} ({mode:?}): caught after {last}: {said}");
}
