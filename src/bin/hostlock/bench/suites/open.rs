//! Coming and going: a space is opened and left, a handle is made.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::Space;

use super::Suite;
use crate::bench::Bench;
use crate::bench::children::Children;
use crate::bench::goals::Goal;
use crate::bench::ground::Ground;
use crate::bench::measure::{Case, Contest, Measurement, Quantity, Sample, in_turn, nanos_each};
use crate::bench::number::grouped;
use crate::exit::Failure;

const PEERS: &[&str] = &["hostlock", "file"];

/// How many processes are in the space already.
const PARTICIPANTS: [usize; 2] = [1, 1000];

/// How many names it has.
const NAMES: [usize; 2] = [10, 100_000];

const MICROS: &[Quantity] = &[Quantity::less("open and leave", "µs", ["µs", ""])];
const NANOS: &[Quantity] = &[Quantity::less("a handle", "ns", ["ns", ""])];

pub(super) const SUITE: Suite = Suite {
    name: "open",
    about: "a space is opened, joined and left that 1 process, or 1,000, are in; a handle is made and dropped for one of 10 names, or of 100,000",
    peers: PEERS,
    run,
    goals,
};

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for count in PARTICIPANTS {
        let name = format!("a space with {} in it", grouped(count as i64));
        bench.progress.show(&name);
        // They are in it until this is over.
        let mut participants = Children::default();
        let contest = bench.ground.contest(&bench.plan, PEERS, |name| match name {
            "file" => Ok(opened_file(bench)),
            _ => Ok(opened_space(bench, count)),
        });
        let contest = with_participants(&bench.ground, count, &mut participants, contest);
        cases.push(in_turn(bench, (name.clone(), name, count), MICROS, contest)?);
    }
    for count in NAMES {
        let name = format!("one of {} names", grouped(count as i64));
        bench.progress.show(&name);
        let contest = bench.ground.contest(&bench.plan, &["hostlock"], |_| found_names(bench, count));
        cases.push(in_turn(bench, (name.clone(), name, 1), NANOS, contest)?);
    }
    Ok(cases)
}

fn goals(cases: &[Case]) -> Vec<Goal> {
    let of = |case: &Case| Goal::own(&format!("{} opened and left", case.name), case, 0, 150.0);
    cases.iter().filter(|case| case.name == "a space with 1 in it").filter_map(of).collect()
}

fn space(directory: &Path, count: usize) -> hostlock::Result<Space> {
    let room = (count as u32 + 10).next_power_of_two();
    Space::builder(&format!("open-{count}")).root(directory).participants(room).open()
}

/// Lets so many processes join; without them hostlock is not measured.
fn with_participants<'a>(
    ground: &Ground<'_>,
    count: usize,
    participants: &mut Children,
    mut contest: Contest<'a>,
) -> Contest<'a> {
    let board = ground.board();
    board.meeting.step.store(0, SeqCst);
    let mut join = || -> Result<(), String> {
        // Whoever comes first makes it.
        let made = space(ground.directory(), count).map_err(|error| error.to_string())?;
        for _ in 0..count {
            participants.start(|| {
                let _inside = space(ground.directory(), count).expect("room for one more");
                board.meeting.step.fetch_add(1, SeqCst);
                loop {
                    std::thread::sleep(Duration::from_secs(60));
                }
            })?;
        }
        participants.until(|| board.meeting.step.load(SeqCst) == count as u64)?;
        match made.usage().participants {
            // And this process.
            inside if inside == count + 1 => Ok(()),
            inside => Err(format!("{inside} are in the space, not {}", count + 1)),
        }
    };
    if let Err(why) = join() {
        let (absent, entries) = contest.entries.into_iter().partition(|(peer, _)| peer.name == "hostlock");
        contest.entries = entries;
        let absent: Vec<(_, Measurement<'_>)> = absent;
        contest.absent.extend(absent.into_iter().map(|(peer, _)| (peer, why.clone())));
    }
    contest
}

fn opened_space<'a>(bench: &'a Bench<'_>, count: usize) -> Measurement<'a> {
    let (time, directory) = (bench.plan.time, bench.ground.directory());
    Box::new(move || {
        let mut failed = None;
        let nanos = nanos_each(time, 20, || {
            if let Err(error) = space(directory, count) {
                failed = Some(error.to_string());
            }
        });
        failed.map_or(Ok(Sample { values: vec![nanos / 1e3], ..Sample::default() }), Err)
    })
}

/// What any memory takes that is shared by a file.
fn opened_file<'a>(bench: &'a Bench<'_>) -> Measurement<'a> {
    let (time, path) = (bench.plan.time, bench.ground.directory().join("file"));
    Box::new(move || {
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        open().and_then(|file| file.set_len(4096)).map_err(|e| e.to_string())?;
        let mut failed = None;
        let nanos = nanos_each(time, 20, || match open().and_then(|file| memmap2::MmapRaw::map_raw(&file)) {
            // SAFETY: a page of the file, which stays as long as it is.
            Ok(map) => drop(std::hint::black_box(unsafe { map.as_ptr().read_volatile() })),
            Err(e) => failed = Some(e.to_string()),
        });
        failed.map_or(Ok(Sample { values: vec![nanos / 1e3], ..Sample::default() }), Err)
    })
}

fn found_names<'a>(bench: &'a Bench<'_>, count: usize) -> Result<Measurement<'a>, String> {
    let text = |error: hostlock::Error| error.to_string();
    let space = Space::builder(&format!("names-{count}")).root(bench.ground.directory());
    let space = space.locks((count as u32 + 10).next_power_of_two()).open().map_err(text)?;
    let names: Vec<String> = (0..count).map(|index| format!("lock {index}")).collect();
    names.iter().try_for_each(|name| space.mutex(name).map(drop)).map_err(text)?;
    let time = bench.plan.time;
    Ok(Box::new(move || {
        let (mut seed, mut failed) = (1_usize, None);
        let nanos = nanos_each(time, 1000, || {
            // Here and there, as if by chance.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if let Err(error) = space.mutex(&names[(seed >> 33) % count]) {
                failed = Some(text(error));
            }
        });
        // Else they were not found but made.
        let known = space.usage().locks;
        if known != count {
            failed = Some(format!("the space has {known} names, not {count}"));
        }
        failed.map_or(Ok(Sample { values: vec![nanos], ..Sample::default() }), Err)
    }))
}
