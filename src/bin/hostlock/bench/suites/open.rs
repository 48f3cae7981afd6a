//! Coming and going: a space is opened, and left; a handle is made.

use std::cell::RefCell;
use std::fs::File;
use std::time::{Duration, Instant};

use super::Suite;
use super::crowd::{FEW, HereAndThere, MANY, PARTICIPANTS, join, name_of, named, roomy, text};
use crate::bench::Bench;
use crate::bench::goals::Goal;
use crate::bench::ground::Ground;
use crate::bench::measure::{Case, Measurement, Quantity, Sample, in_turn, nanos_each};
use crate::exit::Failure;

const PEERS: &[&str] = &["hostlock", "file"];

const MICROS: &[Quantity] = &[
    Quantity::less("opened, with 1 in it", "µs", ["µs, with", "1 in it"]),
    Quantity::less("opened, with 1,000 in it", "µs", ["µs, with", "1,000 in it"]),
    Quantity::less("left, with 1 in it", "µs", ["µs, left,", "1 in it"]),
    Quantity::less("left, with 1,000 in it", "µs", ["µs, left,", "1,000 in it"]),
];
const NANOS: &[Quantity] = &[
    Quantity::less("of 10 names", "ns", ["ns, of", "10 names"]),
    Quantity::less("of 100,000 names", "ns", ["ns, of", "100,000 names"]),
];

const ALONE: usize = 0;
const CROWDED: usize = 1;

pub(super) const SUITE: Suite = Suite {
    name: "open",
    about: "a space is opened and joined, and left, that 1 process, or 1,000, are in; a handle is made and dropped for one of 10 names, or of 100,000",
    peers: PEERS,
    run,
    goals,
};

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan) = (&bench.ground, &bench.plan);
    bench.progress.show("processes join");
    let opened = ground.contest(plan, PEERS, |name| match name {
        "file" => Ok(opened_file(ground, plan.time)),
        _ => opened_spaces(ground, plan.time),
    });
    let name = "a space opened and joined; left".to_string();
    let spaces = in_turn(bench, (name.clone(), name, 1), MICROS, opened)?;
    bench.progress.show("names are made");
    let found = ground.contest(plan, &["hostlock"], |_| found_names(ground, plan.time));
    let name = "a handle made and dropped".to_string();
    Ok(vec![spaces, in_turn(bench, (name.clone(), name, 1), NANOS, found)?])
}

fn goals(cases: &[Case]) -> Vec<Goal> {
    let [spaces, ..] = cases else { return Vec::new() };
    let goals = [
        Goal::own("a space with 1 in it, opened and joined", spaces, ALONE, 150.0),
        Goal::beside_itself("the same with 1,000 in it", spaces, CROWDED, ALONE, 3.0),
    ];
    goals.into_iter().flatten().collect()
}

fn opened_spaces<'a>(ground: &'a Ground<'_>, time: Duration) -> Result<Measurement<'a>, String> {
    let crowd = |count: usize| {
        let name = format!("open-{count}");
        join(ground, &name, count, |_| ()).map(|crowd| (name, count, crowd))
    };
    let [alone, crowded] = PARTICIPANTS.map(crowd);
    let spaces = [alone?, crowded?];
    Ok(Box::new(move || {
        let each =
            |(name, count, _): &(String, usize, _)| opened_and_left(time, || roomy(ground, name, *count).map_err(text));
        in_order(each(&spaces[ALONE])?, each(&spaces[CROWDED])?)
    }))
}

/// What any memory takes that is shared by a file, whoever else has it.
fn opened_file<'a>(ground: &'a Ground<'_>, time: Duration) -> Measurement<'a> {
    let path = ground.directory().join("file");
    Box::new(move || {
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        open().and_then(|file| file.set_len(4096)).map_err(text)?;
        let mapped = || {
            let file = open().map_err(text)?;
            let map = memmap2::MmapRaw::map_raw(&file).map_err(text)?;
            // SAFETY: a page of the file, which stays as long as it is.
            std::hint::black_box(unsafe { map.as_ptr().read_volatile() });
            Ok((file, map))
        };
        in_order(opened_and_left(time, mapped)?, opened_and_left(time, mapped)?)
    })
}

fn in_order([alone, left]: [f64; 2], [crowded, crowd_left]: [f64; 2]) -> Result<Sample, String> {
    Ok(Sample { values: vec![alone, crowded, left, crowd_left], ..Sample::default() })
}

/// Microseconds that it takes to open something, and to drop it, of as many as there is time for.
fn opened_and_left<T>(time: Duration, mut open: impl FnMut() -> Result<T, String>) -> Result<[f64; 2], String> {
    let (begin, mut turns, mut sums) = (Instant::now(), 0.0, [Duration::ZERO; 2]);
    while turns == 0.0 || begin.elapsed() < time {
        let start = Instant::now();
        let opened = open()?;
        let between = Instant::now();
        drop(opened);
        sums[0] += between - start;
        sums[1] += between.elapsed();
        turns += 1.0;
    }
    Ok(sums.map(|sum| sum.as_nanos() as f64 / 1e3 / turns))
}

fn found_names<'a>(ground: &'a Ground<'_>, time: Duration) -> Result<Measurement<'a>, String> {
    let space = |count: usize| {
        let (space, _) = named(ground, &format!("names-{count}"), count)?;
        Ok::<_, String>((space, (0..count).map(name_of).collect::<Vec<String>>()))
    };
    let (spaces, place) = ([space(FEW)?, space(MANY)?], RefCell::new(HereAndThere::new()));
    Ok(Box::new(move || {
        let mut place = place.borrow_mut();
        let mut values = Vec::new();
        for (space, names) in &spaces {
            let mut failed = None;
            values.push(nanos_each(time, 1000, || {
                if let Err(error) = space.mutex(&names[place.below(names.len())]) {
                    failed = Some(text(error));
                }
            }));
            // Else they were not found but made.
            let known = space.usage().locks;
            if known != names.len() {
                failed = Some(format!("the space has {known} names, not {}", names.len()));
            }
            if let Some(why) = failed {
                return Err(why);
            }
        }
        Ok(Sample { values, ..Sample::default() })
    }))
}
