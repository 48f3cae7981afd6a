//! Somebody died; whoever sets that right is killed at it, and so is the next one, and the third. The fourth has to come to its end.

use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::modes::{self, holds_permits, holds_writing, judge_permits, judge_rwlock};
use super::mutex::{self, comer, recoverer};
use super::pairs::chosen;
use super::scene::told;
use super::story::Story;
use super::support::root;
use super::sweep::{Case, Controls, JOIN, NAME, OTHER, is_long};
use super::trace::KNOWN_PROCESSOR;
use super::walker::{Walker, finish_after_a_death};

/// The first one is killed at so many places, at each of them the second one at so many, and then the third one.
const QUICK: [usize; 3] = [4, 2, 2];
/// In the long form, as all would take a day.
const LONG: [usize; 3] = [30, 20, 3];

/// What is done again and again.
struct Deep<'a> {
    what: &'a str,
    /// Makes the world in which somebody died.
    begin: &'a dyn Fn(&mut Case),
    /// The next one who sets it right, and how many were killed at it before.
    next: &'a dyn Fn(&Case, usize) -> Option<Walker>,
    /// As in a pair.
    holds: &'a dyn Fn(&Case, u32) -> Vec<u64>,
    afterwards: &'a dyn Fn(&mut Case, Story),
}

struct Play<'a> {
    deep: &'a Deep<'a>,
    root: &'a Path,
    controls: Controls,
    cases: u32,
}

/// Kills one after the other, in many ways.
fn play(deep: &Deep) {
    if !KNOWN_PROCESSOR {
        crate::skip!("{}: nobody taught this test the system calls of this processor", deep.what);
    }
    let (watch, temp, most) = (Instant::now(), root(), if is_long() { LONG } else { QUICK });
    let mut play = Play { deep, root: temp.path(), controls: Controls::new(), cases: 0 };
    let Some(firsts) = play.case(&[]) else {
        crate::skip!("{}: this process may not trace its children", deep.what);
    };
    let mut deepest = 0;
    for (turn, first) in chosen(firsts, most[0], 1).enumerate() {
        let seconds = play.case(&[first]).expect("as before");
        for (turn, second) in chosen(seconds, most[1], turn).enumerate() {
            let thirds = play.case(&[first, second]).expect("as before");
            for third in chosen(thirds, most[2], turn + first) {
                play.case(&[first, second, third]).expect("as before");
                deepest += 1;
            }
        }
    }
    println!(
        "crash: {}: {} cases, {deepest} of them three deep; the first is killed at {} of {firsts} places; \
         0 stuck, 0 held twice, in {:.1} s",
        deep.what,
        play.cases,
        chosen(firsts, most[0], 1).count(),
        watch.elapsed().as_secs_f64()
    );
    assert!(firsts >= 2 && deepest > 0, "an operation that does nothing");
}

impl Play<'_> {
    /// One case: one after the other is killed before the so many-th thing that others could tell, and the next one comes to its end; how many such
    /// things that one does. `None` where tracing is refused.
    fn case(&mut self, path: &[usize]) -> Option<usize> {
        let _context = Context { what: self.deep.what, path };
        self.cases += 1;
        let mut case = Case::new(self.root, self.cases, self.controls);
        (self.deep.begin)(&mut case);
        let mut story = Story { before: case.token, ..Story::default() };
        story.deaths = case.dead.iter().flat_map(|pid| (self.deep.holds)(&case, *pid)).collect();
        story.hear_of_death(case.controls.other);
        for (number, things) in path.iter().enumerate() {
            let mut walker = (self.deep.next)(&case, number)?;
            // Each thing takes being led to it and through it.
            walker.advance_by(2 * things + 1);
            story.deaths.extend((self.deep.holds)(&case, walker.pid()));
            case.note_strays();
            case.dead.push(walker.pid());
            walker.kill();
            story.hear(walker.control());
        }
        let mut walker = (self.deep.next)(&case, path.len())?;
        let things = walker.advance_by(usize::MAX) / 2;
        finish_after_a_death(&mut [&mut walker]);
        story.hear(walker.control());
        walker.kill();
        (self.deep.afterwards)(&mut case, story);
        case.end();
        Some(things)
    }
}

/// Says in which case it was when a judge fails.
struct Context<'a> {
    what: &'a str,
    path: &'a [usize],
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("crash: {}: they were killed before these of the things they did: {:?}", self.what, self.path);
        }
    }
}

const READ: &str = "r";
const PERMIT: &str = "s";

/// Somebody died with two locks, as a reader, with a permit, and before it somebody who waited.
fn after_a_death(case: &mut Case) {
    case.locks = 6;
    case.enter();
    case.token = case.mutex(NAME).lock().expect("a free lock").token();
    let mutexes = [NAME, OTHER].map(|name| case.mutex(name));
    let rwlock = case.space().rwlock(READ).expect("one");
    let semaphore = case.space().semaphore(PERMIT, 2).expect("one");
    drop(case.mutex(JOIN));
    case.die_with(true, || {
        for mutex in &mutexes {
            std::mem::forget(mutex.lock_owned().expect("a free lock"));
        }
        std::mem::forget(rwlock.read_owned().expect("a free lock"));
        std::mem::forget(semaphore.acquire_owned().expect("a free permit"));
    });
}

/// Without waiting everything is to be had, what has to be told is told once, and nobody is registered or noted any more.
fn judge_all(case: &mut Case, mut story: Story) {
    case.space().recover_dead().expect("cleaning up");
    let dead = Some(case.dead[0]);
    for _ in 0..2 {
        let mutex = case.mutex(NAME);
        let guard = mutex.try_lock().expect("a lock that was given back");
        story.add(guard.token(), told(guard.abandoned()));
    }
    story.judge_in_a_row();

    let mutex = case.mutex(OTHER);
    let [first, second] = [(); 2].map(|()| {
        let guard = mutex.try_lock().expect("a lock that was given back");
        (guard.token(), guard.abandoned().map(|dead| (dead.token, dead.pid)))
    });
    assert_eq!(first.1, Some((first.0 - 1, dead)), "told of the death");
    assert_eq!(second, (first.0 + 1, None), "told twice");

    let rwlock = case.space().rwlock(READ).expect("one");
    let guard = rwlock.try_write().expect("a dead reader keeps no writer out");
    assert!(guard.abandoned().is_none(), "told of a reader");
    drop(guard);

    let semaphore = case.space().semaphore(PERMIT, 2).expect("one");
    for expected in [vec![dead], vec![]] {
        let both = [(); 2].map(|()| semaphore.try_acquire().expect("a permit that was given back"));
        let told: Vec<_> = both.iter().filter_map(|permit| permit.abandoned()).map(|dead| dead.pid).collect();
        assert_eq!(told, expected, "of a permit's owner one is told, once");
    }
    case.settle();
}

/// Of each four one after the other.
type Next = fn(&Case) -> Option<Walker>;

const TAKE_OVER: Next = |case| comer(case, case.controls.victim, mutex::PLAIN);
const CLEAN_UP: Next = |case| recoverer(case, case.controls.victim);

fn play_mutex(what: &str, each: [Next; 4]) {
    play(&Deep {
        what,
        begin: &after_a_death,
        next: &|case, number| each[number](case),
        holds: &mutex::holds,
        afterwards: &judge_all,
    });
}

#[test]
fn killed_while_cleaning_up_again_and_again_it_leaves_the_rest_to_others() {
    play_mutex("clean-up, three times over", [CLEAN_UP; 4]);
}

#[test]
fn killed_while_taking_over_again_and_again_it_leaves_the_rest_to_others() {
    play_mutex("take-over, three times over", [TAKE_OVER; 4]);
}

#[test]
fn killed_while_taking_over_what_was_half_cleaned_up_it_leaves_the_rest_to_others() {
    play_mutex("clean-up, take-over, clean-up", [CLEAN_UP, TAKE_OVER, CLEAN_UP, TAKE_OVER]);
}

#[test]
fn killed_while_following_a_dead_writer_again_and_again_it_is_told_of() {
    let begin = |case: &mut Case| {
        case.enter();
        let rwlock = modes::rwlock(case);
        case.token = rwlock.write().expect("a free lock").token();
        case.die_with(false, || std::mem::forget(rwlock.write_owned().expect("a free lock")));
    };
    play(&Deep {
        what: "write after a writer's death, three times over",
        begin: &begin,
        next: &|case, _| modes::visitor(case, case.controls.victim, modes::WRITE),
        holds: &holds_writing,
        afterwards: &judge_rwlock,
    });
}

#[test]
fn killed_while_following_who_died_with_a_permit_again_and_again_it_is_told_of() {
    let begin = |case: &mut Case| {
        case.enter();
        let (semaphore, dying) = (modes::semaphore(case, 2), case.controls.other);
        case.token = semaphore.acquire().expect("a free permit").token();
        case.die_with(false, || {
            let permit = semaphore.acquire().expect("a free permit");
            dying.token.store(permit.token(), SeqCst);
            std::mem::forget(permit);
        });
    };
    play(&Deep {
        what: "both permits after a death with one, three times over",
        begin: &begin,
        next: &|case, _| modes::taker(case, case.controls.victim, 2, 2),
        holds: &|case, pid| holds_permits(case, 2, pid),
        afterwards: &|case, story| judge_permits(case, 2, story),
    });
}
