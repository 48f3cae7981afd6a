//! What grows with what: locks of a space that has many names, and of one that many are in.

use std::hint::black_box;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{Mutex, Space};

use super::Suite;
use super::crowd::{FEW, HereAndThere, MANY, PARTICIPANTS, join, name_of, named, roomy, text};
use crate::bench::Bench;
use crate::bench::children::Children;
use crate::bench::death::now;
use crate::bench::goals::Goal;
use crate::bench::ground::{Ground, PERMITS};
use crate::bench::measure::{Case, Measurement, Quantity, Sample, in_turn, nanos_each};
use crate::bench::peers::{Kind, Lock, Pthreads};
use crate::exit::Failure;

/// Of the names; of the processes hostlock knows alone.
const PEERS: &[&str] = &["hostlock", "pthread"];

const BY_PROCESSES: &[Quantity] = &[
    Quantity::less("with 1,000 in the space", "ns", ["ns, with", "1,000 in it"]),
    Quantity::less("with 1 in the space", "ns", ["ns, with", "1 in it"]),
];
const BY_NAMES: &[Quantity] =
    &[Quantity::less("of 100,000", "ns", ["ns,", "of 100,000"]), Quantity::less("of 10", "ns", ["ns,", "of 10"])];
const AT_FIRST: &[Quantity] = &[Quantity::less("each", "ns", ["ns", ""])];

/// What is of interest comes first.
const MORE: usize = 0;
const FEWER: usize = 1;

/// Enough for the clock not to count.
const BATCH: u32 = 1000;

pub(super) const SUITE: Suite = Suite {
    name: "many",
    about: "one process takes a lock that nobody else wants: of 10 names or 100,000, by handles that it has, one again and again or another each time, or each of them looked up and taken for the first time; in a space that 1 other process, or 1,000, are in",
    peers: PEERS,
    run,
    goals,
};

/// What is done in a space with many in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Mutex,
    Reading,
    /// After all of them have read once.
    Writing,
    Permit,
}

const ACTS: [(Act, &str); 4] = [
    (Act::Mutex, "a mutex, others in its space"),
    (Act::Reading, "reading, others in its space"),
    (Act::Writing, "writing what all of them have read"),
    (Act::Permit, "a permit of 4, others in its space"),
];

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan) = (&bench.ground, &bench.plan);
    let of = |name: &str| (name.to_string(), name.to_string(), 1);
    let mut cases = Vec::new();
    bench.progress.show("names are made");
    let ours = [named(ground, "many", MANY), named(ground, "few", FEW)];
    let theirs = (Pthreads::new(Kind::Plain), Pthreads::new(Kind::Plain));
    for (is_another, name) in [(false, "one mutex again and again"), (true, "another mutex each time")] {
        let contest = ground.contest(plan, PEERS, |peer| among_names(&ours, &theirs, peer, is_another, plan.time));
        cases.push(in_turn(bench, of(name), BY_NAMES, contest)?);
    }
    let contest = ground.contest(plan, PEERS, |peer| at_first(ground, &ours[MORE], &theirs.0, peer));
    cases.push(in_turn(
        bench,
        of("each of 100,000 mutexes, looked up and taken for the first time"),
        AT_FIRST,
        contest,
    )?);
    // Each process that is made would have all of them.
    drop((ours, theirs));
    bench.progress.show("processes join");
    let [one, thousand] = PARTICIPANTS;
    let spaces = [thousand, one].map(|count| Crowded::new(ground, count));
    for (act, name) in ACTS {
        let contest = ground.contest(plan, &["hostlock"], |_| among_processes(&spaces, act, plan.time));
        cases.push(in_turn(bench, of(name), BY_PROCESSES, contest)?);
    }
    Ok(cases)
}

/// Neither writing, which looks at what everybody who reads has of the lock, nor names of which each takes memory of its own.
fn goals(cases: &[Case]) -> Vec<Goal> {
    let [again, _, _, mutex, reading, _, permit] = cases else { return Vec::new() };
    let goals = [
        ("a mutex, of 100,000 names beside 10", again),
        ("a mutex, 1,000 beside 1 in its space", mutex),
        ("reading, 1,000 beside 1 in its space", reading),
        ("a permit, 1,000 beside 1 in its space", permit),
    ];
    goals.into_iter().filter_map(|(what, case)| Goal::beside_itself(what, case, MORE, FEWER, 1.2)).collect()
}

/// A space with others in it that do nothing.
struct Crowded {
    space: Space,
    _others: Children,
}

impl Crowded {
    fn new(ground: &Ground<'_>, count: usize) -> Result<Self, String> {
        let name = format!("many-{count}");
        let read = |space: &Space| drop(space.rwlock("written").expect("a lock").read().expect("nobody writes"));
        let _others = join(ground, &name, count, read)?;
        Ok(Self { space: roomy(ground, &name, count).map_err(text)?, _others })
    }

    fn nanos(&self, act: Act, time: Duration) -> hostlock::Result<f64> {
        let space = &self.space;
        Ok(match act {
            Act::Mutex => {
                let lock = space.mutex("mutex")?;
                nanos_each(time, BATCH, || drop(lock.lock().expect("the lock")))
            }
            Act::Reading => {
                let lock = space.rwlock("read")?;
                nanos_each(time, BATCH, || drop(lock.read().expect("the lock")))
            }
            Act::Writing => {
                let lock = space.rwlock("written")?;
                nanos_each(time, BATCH, || drop(lock.write().expect("the lock")))
            }
            Act::Permit => {
                let permits = space.semaphore("permits", PERMITS)?;
                nanos_each(time, BATCH, || drop(permits.acquire().expect("a permit")))
            }
        })
    }
}

fn among_processes<'a>(
    spaces: &'a [Result<Crowded, String>; 2],
    act: Act,
    time: Duration,
) -> Result<Measurement<'a>, String> {
    let [more, fewer] = spaces.each_ref().map(|space| space.as_ref().map_err(String::clone));
    let spaces = [more?, fewer?];
    Ok(Box::new(move || {
        let values = spaces.iter().map(|space| space.nanos(act, time)).collect::<Result<_, _>>().map_err(text)?;
        Ok(Sample { values, ..Sample::default() })
    }))
}

type Named = Result<(Space, Vec<Mutex>), String>;
type Bare = (Pthreads<MANY>, Pthreads<FEW>);

/// Nanoseconds for a lock out of so many.
fn each(count: usize, is_another: bool, time: Duration, with: impl Fn(usize)) -> f64 {
    let mut place = HereAndThere::new();
    let one = count / 2;
    match is_another {
        true => nanos_each(time, BATCH, || with(place.below(count))),
        false => nanos_each(time, BATCH, || with(black_box(one))),
    }
}

fn among_names<'a>(
    ours: &'a [Named; 2],
    (many, few): &'a Bare,
    peer: &str,
    is_another: bool,
    time: Duration,
) -> Result<Measurement<'a>, String> {
    let each = move |count, with: &dyn Fn(usize)| each(count, is_another, time, with);
    if peer == "pthread" {
        return Ok(Box::new(move || {
            let many = each(MANY, &|index| many.get(index).with(|| ()));
            let few = each(FEW, &|index| few.get(index).with(|| ()));
            Ok(Sample { values: vec![many, few], ..Sample::default() })
        }));
    }
    let [many, few] = ours.each_ref().map(|named| named.as_ref().map_err(String::clone));
    let handles = [&many?.1, &few?.1];
    Ok(Box::new(move || {
        let each = |handles: &&Vec<Mutex>| each(handles.len(), &|index| drop(handles[index].lock().expect("the lock")));
        Ok(Sample { values: handles.iter().map(each).collect(), ..Sample::default() })
    }))
}

/// In a process that touched none of them yet, and has no handles.
fn at_first<'a>(
    ground: &'a Ground<'_>,
    ours: &'a Named,
    theirs: &'a Pthreads<MANY>,
    peer: &str,
) -> Result<Measurement<'a>, String> {
    if peer == "pthread" {
        return Ok(Box::new(move || first_round(ground, |index| theirs.get(index).with(|| ()))));
    }
    let (space, _) = ours.as_ref().map_err(String::clone)?;
    let names: Vec<String> = (0..MANY).map(name_of).collect();
    Ok(Box::new(move || {
        first_round(ground, |index| {
            let lock = space.mutex(&names[index]).expect("a mutex");
            drop(lock.lock().expect("the lock"));
        })
    }))
}

fn first_round(ground: &Ground<'_>, with: impl Fn(usize)) -> Result<Sample, String> {
    let time = &ground.board().meeting.time;
    let mut children = Children::default();
    let child = children.start(|| {
        with(0);
        let begin = now();
        (1..MANY).for_each(&with);
        time.store(now() - begin, SeqCst);
    })?;
    children.finish_one(child)?;
    let nanos = time.load(SeqCst) as f64 / (MANY - 1) as f64;
    Ok(Sample { values: vec![nanos], ..Sample::default() })
}
