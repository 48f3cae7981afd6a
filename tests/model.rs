//! Random histories of three processes, one step after the other, against a model that is a few plain fields: who has what, who died with
//! what, and which token was the last. Every outcome is foretold: got or refused, the token larger than all before, told of a death or not.
//!
//! `PROPTEST_CASES` makes it longer; a history that fails is made shorter, and printed with how to repeat it.

mod support;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use hostlock::{
    Abandoned, Acquired, Error, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit,
    Result,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use support::{Actor, act, hear, root, say, space, start};

const ACTORS: usize = 3;
const PERMITS: u32 = 3;
const CAPACITY: u32 = 2;
/// What is free is got in this time.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn role() {
    act(&[("actor", actor)]);
}

/// One step of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Lock,
    Unlock,
    Read,
    Unread,
    Write,
    Unwrite,
    Downgrade,
    Acquire,
    AcquireAll,
    Release,
    /// Reads the number behind the lock, adds one, and lets go.
    Add,
    /// The same, but dies with the new number in hand.
    AddAndDie,
    Push,
    Pop,
    Recover,
    /// Killed, and another one in its place.
    Die,
    /// Ends without dropping what it has.
    Exit,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    use Step::*;
    let step = prop_oneof![
        3 => Just(Lock), 2 => Just(Unlock), 4 => Just(Read), 3 => Just(Unread), 3 => Just(Write), 2 => Just(Unwrite),
        1 => Just(Downgrade), 4 => Just(Acquire), 1 => Just(AcquireAll), 3 => Just(Release), 2 => Just(Add),
        1 => Just(AddAndDie), 3 => Just(Push), 3 => Just(Pop), 1 => Just(Recover), 2 => Just(Die), 1 => Just(Exit),
    ];
    (0..ACTORS, step)
}

// The processes.

fn line(outcome: Result<(u64, Option<u64>)>) -> String {
    match outcome {
        Ok((token, told)) => format!("got {token} {}", told.unwrap_or(0)),
        Err(Error::WouldBlock { .. }) => "refused".into(),
        Err(error) => format!("failed: {error}"),
    }
}

fn told(abandoned: Option<&Abandoned>) -> Option<u64> {
    abandoned.map(|dead| dead.token)
}

fn actor(arguments: &[String]) {
    let space = space(Path::new(&arguments[0]));
    let mutex = space.mutex("mutex").unwrap();
    let rwlock = space.rwlock("rwlock").unwrap();
    let semaphore = space.semaphore("semaphore", PERMITS).unwrap();
    let number = space.mutex_with::<u64>("number", 0).unwrap();
    let queue = space.queue::<u64>("queue", CAPACITY).unwrap();
    let mut locked: Option<OwnedMutexGuard> = None;
    let mut reads: Vec<OwnedRwLockReadGuard> = Vec::new();
    let mut write: Option<OwnedRwLockWriteGuard> = None;
    let mut permits: Vec<OwnedSemaphorePermit> = Vec::new();
    say("here");
    loop {
        let heard = hear();
        let (what, expected) = heard.split_once(' ').unwrap_or((&heard, ""));
        // What is free after a death is got a moment later; what is not must be refused at once.
        let free = expected == "free";
        let answer = match what {
            "Lock" => {
                let got = if free { mutex.try_lock_owned_for(BOUND) } else { mutex.try_lock_owned() };
                line(got.map(|guard| {
                    let facts = (guard.token(), told(guard.abandoned()));
                    locked = Some(guard);
                    facts
                }))
            }
            "Unlock" => format!("{:?}", locked.take().unwrap().unlock().is_ok()),
            "Read" => {
                let got = if free { rwlock.try_read_owned_for(BOUND) } else { rwlock.try_read_owned() };
                line(got.map(|guard| {
                    let facts = (guard.token(), told(guard.abandoned()));
                    reads.push(guard);
                    facts
                }))
            }
            "Unread" => format!("{:?}", reads.pop().unwrap().unlock().is_ok()),
            "Write" => {
                let got = if free { rwlock.try_write_owned_for(BOUND) } else { rwlock.try_write_owned() };
                line(got.map(|guard| {
                    let facts = (guard.token(), told(guard.abandoned()));
                    write = Some(guard);
                    facts
                }))
            }
            "Unwrite" => format!("{:?}", write.take().unwrap().unlock().is_ok()),
            "Downgrade" => {
                let guard = write.take().unwrap().downgrade().unwrap();
                let token = guard.token();
                reads.push(guard);
                format!("got {token} 0")
            }
            "Acquire" | "AcquireAll" => {
                let count = if what == "Acquire" { 1 } else { PERMITS };
                let got = if free {
                    semaphore.try_acquire_many_owned_for(count, BOUND)
                } else {
                    semaphore.try_acquire_many_owned(count)
                };
                line(got.map(|permit| {
                    let facts = (permit.token(), told(permit.abandoned()));
                    permits.push(permit);
                    facts
                }))
            }
            "Release" => format!("{:?}", permits.pop().unwrap().unlock().is_ok()),
            "Add" | "AddAndDie" => {
                let mut dead = None;
                let mut guard = match number.try_lock_for(BOUND).unwrap() {
                    Acquired::Clean(guard) => guard,
                    Acquired::Abandoned(guard) => {
                        dead = told(Some(guard.abandoned()));
                        guard.repaired()
                    }
                };
                *guard += 1;
                if what == "AddAndDie" {
                    std::mem::forget(guard);
                    say("now");
                    hear();
                    return;
                }
                let (token, value) = (guard.token(), *guard);
                drop(guard);
                format!("got {token} {} {value}", dead.unwrap_or(0))
            }
            "Push" => match queue.try_push(expected.parse().unwrap()) {
                Ok(()) => "pushed".into(),
                Err(error) => format!("{error}"),
            },
            "Pop" => match queue.try_pop() {
                Ok(value) => format!("{value:?}"),
                Err(error) => format!("{error}"),
            },
            "Recover" => format!("{:?}", space.recover_dead().is_ok()),
            "Exit" => std::process::exit(0),
            other => panic!("{other}?"),
        };
        say(answer);
    }
}

// The model.

#[derive(Default)]
struct Model {
    locked_by: Option<usize>,
    /// The token of an owner that died, of whom nobody was told yet.
    lock_mark: Option<u64>,
    lock_token: u64,
    readers: [usize; ACTORS],
    writer: Option<usize>,
    write_mark: Option<u64>,
    write_token: u64,
    /// The tokens of each acquisition, and how many permits it is.
    permits: [Vec<(u64, u32)>; ACTORS],
    permit_token: u64,
    /// Permits whose owners died: at most so many deaths are still to be told of, and with these tokens.
    permit_marks: BTreeSet<u64>,
    unknown_marks: bool,
    number: u64,
    number_mark: bool,
    number_token: u64,
    queue: Vec<u64>,
    pushed: u64,
}

impl Model {
    fn permits_free(&self) -> u32 {
        PERMITS - self.permits.iter().flatten().map(|(_, count)| count).sum::<u32>()
    }

    /// What `who` had is nobody's now.
    fn bury(&mut self, who: usize) {
        if self.locked_by == Some(who) {
            (self.locked_by, self.lock_mark) = (None, Some(self.lock_token));
        }
        if self.writer == Some(who) {
            (self.writer, self.write_mark) = (None, Some(self.write_token));
        }
        self.readers[who] = 0;
        for (token, count) in std::mem::take(&mut self.permits[who]) {
            self.permit_marks.insert(token);
            // Those before the last one have tokens of their own.
            self.unknown_marks |= count > 1;
        }
    }
}

struct World {
    root: tempfile::TempDir,
    actors: Vec<Actor>,
    model: Model,
}

fn same<T: PartialEq + Debug>(is: T, foretold: T, what: &str) -> std::result::Result<(), TestCaseError> {
    prop_assert_eq!(is, foretold, "{}", what);
    Ok(())
}

impl World {
    fn new() -> Self {
        let root = root();
        let actors = (0..ACTORS).map(|_| Self::start(root.path())).collect();
        Self { root, actors, model: Model::default() }
    }

    fn start(root: &Path) -> Actor {
        let actor = start("actor", &[root.to_str().unwrap()]);
        actor.expect("here");
        actor
    }

    fn ask(&mut self, who: usize, step: Step, expected: impl std::fmt::Display) -> String {
        self.actors[who].tell(format!("{step:?} {expected}"));
        self.actors[who].hear()
    }

    /// Asks for what is free or not; if it is, the token and the token told.
    fn try_for(
        &mut self,
        who: usize,
        step: Step,
        free: bool,
    ) -> std::result::Result<Option<(u64, Option<u64>)>, TestCaseError> {
        let answer = self.ask(who, step, if free { "free" } else { "taken" });
        let words: Vec<&str> = answer.split(' ').collect();
        match (words[0], free) {
            ("refused", false) => Ok(None),
            ("got", true) => {
                let told: u64 = words[2].parse().unwrap();
                Ok(Some((words[1].parse().unwrap(), (told != 0).then_some(told))))
            }
            _ => Err(TestCaseError::fail(format!("{step:?} of {who}, which is free: {free}: {answer}"))),
        }
    }

    fn restart(&mut self, who: usize) {
        self.actors[who].kill();
        self.model.bury(who);
        self.actors[who] = Self::start(self.root.path());
    }

    fn take(&mut self, who: usize, step: Step) -> std::result::Result<(), TestCaseError> {
        let readers: usize = self.model.readers.iter().sum();
        match step {
            // A thread that waits for itself gets another error; owned guards belong to no thread, so it is refused like everybody.
            Step::Lock => {
                let free = self.model.locked_by.is_none();
                if let Some((token, told)) = self.try_for(who, step, free)? {
                    prop_assert!(token > self.model.lock_token);
                    same(told, self.model.lock_mark.take(), "told of the mutex's owner")?;
                    (self.model.locked_by, self.model.lock_token) = (Some(who), token);
                }
            }
            Step::Unlock if self.model.locked_by == Some(who) => {
                same(self.ask(who, step, ""), "true".into(), "unlocked")?;
                self.model.locked_by = None;
            }
            Step::Read => {
                let free = self.model.writer.is_none();
                if let Some((token, told)) = self.try_for(who, step, free)? {
                    // The last one that went in and did not die before; of a new lock it is whatever.
                    if self.model.write_token != 0 {
                        same(token, self.model.write_token, "a reader's token is the last writer's")?;
                    }
                    same(told, self.model.write_mark, "a reader is told of the writer, and leaves it to the next")?;
                    self.model.readers[who] += 1;
                }
            }
            Step::Unread if self.model.readers[who] > 0 => {
                same(self.ask(who, step, ""), "true".into(), "unlocked")?;
                self.model.readers[who] -= 1;
            }
            Step::Write => {
                let free = self.model.writer.is_none() && readers == 0;
                if let Some((token, told)) = self.try_for(who, step, free)? {
                    prop_assert!(token > self.model.write_token);
                    same(told, self.model.write_mark.take(), "told of the writer before")?;
                    (self.model.writer, self.model.write_token) = (Some(who), token);
                }
            }
            Step::Unwrite if self.model.writer == Some(who) => {
                same(self.ask(who, step, ""), "true".into(), "unlocked")?;
                self.model.writer = None;
            }
            Step::Downgrade if self.model.writer == Some(who) => {
                let got = self.ask(who, step, "");
                same(got, format!("got {} 0", self.model.write_token), "downgraded")?;
                self.model.writer = None;
                self.model.readers[who] += 1;
            }
            Step::Acquire | Step::AcquireAll => {
                let count = if step == Step::Acquire { 1 } else { PERMITS };
                let free = self.model.permits_free() >= count;
                if let Some((token, told)) = self.try_for(who, step, free)? {
                    let model = &mut self.model;
                    prop_assert!(token > model.permit_token);
                    match told {
                        Some(dead) => {
                            let known = model.permit_marks.remove(&dead);
                            prop_assert!(known || model.unknown_marks, "told of {dead}, which nobody died with");
                        }
                        // Seats that nobody died on are taken first or not; when all are taken, none is left out.
                        None if count == PERMITS => {
                            prop_assert!(model.permit_marks.is_empty(), "not told of {:?}", model.permit_marks);
                        }
                        None => {}
                    }
                    if count == PERMITS {
                        model.permit_marks.clear();
                        model.unknown_marks = false;
                    }
                    model.permit_token = token;
                    model.permits[who].push((token, count));
                }
            }
            Step::Release if !self.model.permits[who].is_empty() => {
                same(self.ask(who, step, ""), "true".into(), "released")?;
                self.model.permits[who].pop();
            }
            Step::Add => {
                let answer = self.ask(who, step, "free");
                let words: Vec<u64> = answer.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
                let mark = std::mem::take(&mut self.model.number_mark);
                self.model.number += 1;
                prop_assert!(words[0] > self.model.number_token);
                self.model.number_token = words[0];
                same(words[1] != 0, mark, "told that the number may be torn")?;
                same(words[2], self.model.number, "what was never written back does not count")?;
            }
            Step::AddAndDie => {
                same(self.ask(who, step, "free"), "now".into(), "it holds the number")?;
                self.restart(who);
                self.model.number_mark = true;
            }
            Step::Push => {
                let value = self.model.pushed + 1;
                let answer = self.ask(who, step, value);
                if self.model.queue.len() < CAPACITY as usize {
                    same(answer, "pushed".into(), "there was room")?;
                    self.model.queue.push(value);
                    self.model.pushed = value;
                } else {
                    prop_assert!(answer.contains("full"), "{answer}");
                }
            }
            Step::Pop => {
                let answer = self.ask(who, step, "");
                if self.model.queue.is_empty() {
                    prop_assert!(answer.contains("empty"), "{answer}");
                } else {
                    same(answer, self.model.queue.remove(0).to_string(), "first in, first out")?;
                }
            }
            Step::Recover => same(self.ask(who, step, ""), "true".into(), "cleaned up")?,
            Step::Die => self.restart(who),
            Step::Exit => {
                self.actors[who].tell("Exit now");
                prop_assert!(self.actors[who].finish());
                self.restart(who);
            }
            // Of what it does not have.
            Step::Unlock | Step::Unread | Step::Unwrite | Step::Downgrade | Step::Release => {}
        }
        Ok(())
    }
}

fn config() -> Config {
    // Each case starts three processes.
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { 40 };
    Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_outcome_of_a_history_is_foretold(steps in vec(step(), 1..60)) {
        let mut world = World::new();
        for (who, step) in steps {
            world.take(who, step)?;
        }
        // When all are gone, whatever they had can be had again.
        for who in 0..ACTORS {
            world.restart(who);
        }
        for step in [Step::Lock, Step::Unlock, Step::Write, Step::Unwrite, Step::AcquireAll, Step::Release, Step::Add] {
            world.take(0, step)?;
        }
    }
}
