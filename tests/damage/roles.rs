//! What processes do in a damaged space. Every wait has a deadline but one: a free lock is acquired without.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hostlock::{Error, Mutex, MutexGuard, Result, Space};

use crate::lane::open;
use crate::support::{hear, say};

/// How long a short wait is. Long enough to sleep once.
const SHORT: Duration = Duration::from_millis(2);
/// Longer than the first sleep of a wait, so that the owner is judged anew.
const LONGER: Duration = Duration::from_millis(12);

/// How often each thing happened. In one line, `what=times`.
#[derive(Default)]
struct Tally(BTreeMap<String, u32>);

impl Tally {
    fn note(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// Counts the outcome; what it is, if it is something.
    fn of<T>(&mut self, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.note("Ok");
                Some(value)
            }
            Err(error) => {
                // A sentence is made of whatever lies there.
                assert!(!error.to_string().is_empty());
                self.note(variant(&error));
                None
            }
        }
    }

    /// Counts an attempt at the lock that another process holds.
    fn at_held(&mut self, outcome: Result<MutexGuard<'_>>) {
        if let Some(guard) = self.of(outcome) {
            self.note("GOT");
            let _ = (guard.token(), guard.abandoned().map(ToString::to_string));
            let outcome = guard.unlock();
            self.of(outcome);
        }
    }

    fn line(&self) -> String {
        let mut line = String::new();
        for (what, times) in &self.0 {
            write!(line, "{what}={times} ").expect("a string");
        }
        line
    }
}

fn variant(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().into()
}

/// Everything a process can do, once.
fn battery(space: &Space, held: &Mutex, free: &Mutex, tally: &mut Tally) {
    tally.at_held(held.try_lock());
    tally.at_held(held.try_lock_for(SHORT));
    if let Some(Some(holder)) = tally.of(held.holder()) {
        assert!(!holder.to_string().is_empty());
    }
    lock_and_unlock(free, tally);
    if let Some(again) = tally.of(space.mutex("held")) {
        tally.at_held(again.try_lock_for(SHORT));
    }
    for name in ["free", "one", "two", "three"] {
        if let Some(mutex) = tally.of(space.mutex(name)) {
            lock_and_unlock(&mutex, tally);
        }
    }
    let usage = space.usage();
    assert!(usage.locks <= usage.locks_capacity && usage.participants <= usage.participants_capacity);
    tally.of(space.recover_dead());
    // Now that the dead are gone, if anybody was taken for dead.
    tally.at_held(held.try_lock());
}

fn lock_and_unlock(mutex: &Mutex, tally: &mut Tally) {
    if let Some(guard) = tally.of(mutex.try_lock_for(SHORT * 10)) {
        let outcome = guard.unlock();
        tally.of(outcome);
    }
}

/// Is in the space and does what it is told.
pub fn resident(arguments: &[String]) {
    let space = open(arguments[0].as_ref()).unwrap();
    let (held, free) = (space.mutex("held").unwrap(), space.mutex("free").unwrap());
    say("here");
    let mut guard = None;
    loop {
        let mut tally = Tally::default();
        match hear().as_str() {
            "hold" => {
                guard = Some(held.lock().unwrap());
                say("held");
                continue;
            }
            "wait" => {
                say("waiting");
                tally.at_held(held.try_lock_for(LONGER));
                battery(&space, &held, &free, &mut tally);
            }
            "battery" => battery(&space, &held, &free, &mut tally),
            "end" => {
                if let Some(guard) = guard.take() {
                    if guard.is_held() {
                        tally.note("is_held");
                    }
                    match guard.unlock() {
                        Ok(()) => tally.note("unlock:Ok"),
                        Err(error) => tally.note(format!("unlock:{}", variant(&error))),
                    }
                }
            }
            "after" => {
                let outcome = held.try_lock_for(SHORT * 20).map(drop);
                tally.of(outcome);
            }
            other => panic!("{other}?"),
        }
        say(tally.line());
    }
}

/// Comes into the space, does everything once, and leaves.
pub fn visitor(arguments: &[String]) {
    let root = arguments[0].as_ref();
    say("here");
    loop {
        hear();
        let mut tally = Tally::default();
        match open(root) {
            Err(error) => {
                // One line, with the sentence for whoever opens it alone.
                say(format!("{}: {error}", variant(&error)).replace('\n', " "));
                continue;
            }
            Ok(space) => {
                let (held, free) = (tally.of(space.mutex("held")), tally.of(space.mutex("free")));
                match (&held, &free) {
                    (Some(held), Some(free)) => battery(&space, held, free, &mut tally),
                    _ => tally.note("partly"),
                }
            }
        }
        // After the space was left.
        say(format!("opened {}", tally.line()));
    }
}

/// Sleeps on the lock until it is killed.
pub fn sleeper(arguments: &[String]) {
    let space = open(arguments[0].as_ref()).unwrap();
    let mutex = space.mutex("held").unwrap();
    say("waiting");
    let _guard = mutex.lock().unwrap();
    say("got it");
    hear();
}

/// Has nothing to do with any of this.
pub fn bystander(_: &[String]) {
    say("here");
    hear();
    say("yes");
    hear();
}
