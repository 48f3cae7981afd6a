//! A process that does as it is told, in lines: `mutex a` acquires, `release a` ends what it holds under that name.

use std::collections::HashMap;
use std::time::Duration;

use hostlock::{Abandoned, Backend, Error, Result, Space};
use hostlock::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit};

use crate::support::{self, Actor, hear, say, start};
use crate::{by_name, name_of, space};

enum Guard {
    Mutex(OwnedMutexGuard),
    Read(OwnedRwLockReadGuard),
    Write(OwnedRwLockWriteGuard),
    Permits(OwnedSemaphorePermit),
}

/// For each kind of guard the same.
macro_rules! of {
    ($guard:expr, $held:ident => $what:expr) => {
        match $guard {
            Guard::Mutex($held) => $what,
            Guard::Read($held) => $what,
            Guard::Write($held) => $what,
            Guard::Permits($held) => $what,
        }
    };
}

pub fn start_in(root: &std::path::Path, backend: Backend) -> Actor {
    let actor = start("actor", &[root.to_str().unwrap(), name_of(backend)]);
    actor.expect("ready");
    actor
}

/// Asks an actor, and hears its answer.
pub trait Ask {
    fn ask(&mut self, line: &str) -> String;

    /// An acquisition that has to come off: its token.
    #[track_caller]
    fn acquire(&mut self, line: &str) -> u64 {
        let answer = self.ask(line);
        token_in(&answer).unwrap_or_else(|| panic!("{line}: {answer}"))
    }
}

impl Ask for Actor {
    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }
}

/// `token 12 dead 34`: 12.
pub fn token_in(answer: &str) -> Option<u64> {
    answer.strip_prefix("token ")?.split(' ').next()?.parse().ok()
}

/// `token 12 dead 34`: 34, or 0 if that is not known.
pub fn dead_in(answer: &str) -> Option<u32> {
    answer.split_once(" dead ")?.1.parse().ok()
}

pub fn act(arguments: &[String]) {
    let space = space(&arguments[0], by_name(&arguments[1]));
    let mut held = HashMap::new();
    say("ready");
    loop {
        let line = hear();
        let words: Vec<&str> = line.split(' ').collect();
        say(answer(&space, &mut held, &words).unwrap_or_else(|error| describe(&error)));
    }
}

fn describe(error: &Error) -> String {
    let pid = |holder: &Option<Box<hostlock::Holder>>| holder.as_ref().map_or(0, |holder| holder.pid);
    match error {
        Error::WouldBlock { holder, .. } => format!("would-block {}", pid(holder)),
        Error::TimedOut { holder, .. } => format!("timed-out {}", pid(holder)),
        Error::Deadlock { .. } => "deadlock".into(),
        Error::Lost { token, .. } => format!("lost {token}"),
        Error::InUse { .. } => "in-use".into(),
        other => format!("error {other}"),
    }
}

fn acquired(token: u64, dead: Option<&Abandoned>) -> String {
    match dead {
        Some(dead) => format!("token {token} dead {}", dead.pid.unwrap_or(0)),
        None => format!("token {token}"),
    }
}

fn answer(space: &Space, held: &mut HashMap<String, Guard>, words: &[&str]) -> Result<String> {
    let name = words.get(1).copied().unwrap_or_default();
    let number = |at: usize| words[at].parse::<u32>().unwrap();
    let guard = match words[0] {
        "mutex" => Guard::Mutex(space.mutex(name)?.lock_owned()?),
        "try-mutex" => Guard::Mutex(space.mutex(name)?.try_lock_owned()?),
        "mutex-for" => Guard::Mutex(space.mutex(name)?.try_lock_owned_for(Duration::from_millis(number(2).into()))?),
        "read" => Guard::Read(space.rwlock(name)?.read_owned()?),
        "try-read" => Guard::Read(space.rwlock(name)?.try_read_owned()?),
        "write" => Guard::Write(space.rwlock(name)?.write_owned()?),
        "try-write" => Guard::Write(space.rwlock(name)?.try_write_owned()?),
        "permits" => Guard::Permits(space.semaphore(name, number(2))?.acquire_many_owned(number(3))?),
        "try-permits" => Guard::Permits(space.semaphore(name, number(2))?.try_acquire_many_owned(number(3))?),
        "release" => {
            let guard = held.remove(name).expect("it holds that");
            of!(guard, held => held.unlock()?);
            return Ok("released".into());
        }
        "abandon" => {
            match held.remove(name).expect("it holds that") {
                Guard::Mutex(guard) => guard.abandon()?,
                Guard::Write(guard) => guard.abandon()?,
                Guard::Permits(guard) => guard.abandon()?,
                Guard::Read(_) => unreachable!("readers abandon nothing"),
            }
            return Ok("abandoned".into());
        }
        "is-held" => return Ok(of!(&held[name], held => held.is_held()).to_string()),
        other => panic!("{other}?"),
    };
    let told = of!(&guard, held => acquired(held.token(), held.abandoned()));
    held.insert(name.into(), guard);
    Ok(told)
}

/// Starts a line and does not wait for the answer; then says whether one comes soon.
pub fn begins_to_wait(actor: &mut Actor, line: &str) {
    actor.tell(line);
    let answer = actor.hear_within(Duration::from_millis(200));
    assert_eq!(answer, None, "{line} had to wait");
}

pub fn root() -> tempfile::TempDir {
    support::root()
}
