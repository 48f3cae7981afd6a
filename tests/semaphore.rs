//! The semaphore between real processes: so many at a time, all or nothing, deaths, deadlines, fork, names that move.

mod support;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use hostlock::{Error, Space};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use support::raw::Raw;
use support::{Actor, act, filter, hear, root, say, space, start, wait_until};

#[test]
fn role() {
    act(&[
        ("holder", holder),
        ("acquirer", acquirer),
        ("worker", worker),
        ("unfenced", unfenced),
        ("mover", mover),
        ("mortal", mortal),
        ("forker", forker),
        ("forked_waiter", forked_waiter),
    ]);
}

/// Acquires so many of so many, says their tokens, and lets go when it is told to.
fn holder(arguments: &[String]) {
    let [path, name, of, permits] = arguments else { panic!("{arguments:?}") };
    let semaphore = space(path).semaphore(name, of.parse().unwrap()).unwrap();
    let permit = semaphore.acquire_many(permits.parse().unwrap()).unwrap();
    say(permit.tokens().map(|token| token.to_string()).collect::<Vec<_>>().join(" "));
    hear();
    permit.unlock().unwrap();
    say("released");
    hear();
}

/// Says that it tries, acquires so many of so many, and says who died.
fn acquirer(arguments: &[String]) {
    let [path, name, of, permits] = arguments else { panic!("{arguments:?}") };
    let semaphore = space(path).semaphore(name, of.parse().unwrap()).unwrap();
    say("trying");
    let permit = semaphore.acquire_many(permits.parse().unwrap()).unwrap();
    say(format!("{} {:?}", permit.token(), permit.abandoned().map(|dead| dead.pid.unwrap())));
    hear();
    permit.unlock().unwrap();
    say("released");
    hear();
}

fn holders(root: &Path, of: u32, each: &[u32]) -> Vec<Actor> {
    let (path, of) = (root.to_str().unwrap(), of.to_string());
    each.iter().map(|permits| start("holder", &[path, "a", &of, &permits.to_string()])).collect()
}

fn waiter(root: &Path, of: u32, permits: u32) -> Actor {
    let waiter = start("acquirer", &[root.to_str().unwrap(), "a", &of.to_string(), &permits.to_string()]);
    waiter.expect("trying");
    waiter
}

/// Takes turns, one or several permits each; whoever has some leaves a file for each of them as long as it has them.
fn worker(arguments: &[String]) {
    let [path, of, turns, seed] = arguments else { panic!("{arguments:?}") };
    let of: u32 = of.parse().unwrap();
    let semaphore = space(path).semaphore("a", of).unwrap();
    let out = Path::new(path).join("out");
    let mut dice: u64 = seed.parse().unwrap();
    let mut last = 0;
    for turn in 0..turns.parse::<u32>().unwrap() {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let permits = if (dice >> 33).is_multiple_of(4) { 1 + (dice >> 40) as u32 % of } else { 1 };
        let permit = semaphore.acquire_many(permits).unwrap();
        assert!(permit.tokens().next().unwrap() > last, "tokens grow");
        assert!(permit.tokens().is_sorted());
        last = permit.token();
        let files: Vec<_> = (0..permits).map(|one| out.join(format!("{}-{turn}-{one}", std::process::id()))).collect();
        files.iter().for_each(|file| std::fs::write(file, "").unwrap());
        let seen = std::fs::read_dir(&out).unwrap().count();
        if seen > of as usize {
            say(format!("{seen} out of {of}"));
        }
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        permit.unlock().unwrap();
    }
    say("done");
    hear();
}

/// A worker that `membarrier` is refused to.
fn unfenced(arguments: &[String]) {
    filter::refuse(libc::SYS_membarrier, Errno::EPERM).unwrap();
    worker(arguments);
}

/// Whoever cannot have a fence put into others looks often enough by itself, and releases so that it needs none put into it.
#[test]
fn whoever_has_no_membarrier_takes_turns_with_those_who_have() {
    if let Err(why) = filter::is_possible() {
        println!("SKIPPED: {why}");
        return;
    }
    for of in [1, 3] {
        let root = root();
        let path = root.path().to_str().unwrap();
        std::fs::create_dir(root.path().join("out")).unwrap();
        let roles = ["worker", "unfenced", "worker", "unfenced"];
        let workers = roles
            .iter()
            .zip(1..)
            .map(|(role, seed): (_, u32)| start(role, &[path, &of.to_string(), "500", &seed.to_string()]));
        let workers: Vec<_> = workers.collect();
        workers.iter().for_each(|worker| worker.expect("done"));
        assert_eq!(space(&root).semaphore("a", of).unwrap().available().unwrap(), of);
    }
}

/// The gate's word moves on without a token being drawn; whoever takes permits again and again gets the same one from nowhere.
#[test]
fn tokens_grow_wherever_the_gate_stands() {
    let root = root();
    let space = space(&root);
    let handles = [(); 2].map(|()| space.semaphore("a", 4).unwrap());
    let mut last = 0;
    for round in 0..400 {
        // Nobody can take it away now, but the gate was taken.
        let kept = handles[0].acquire_owned().unwrap();
        assert!(kept.token() > last);
        last = kept.token();
        assert!(matches!(space.remove("a"), Err(Error::InUse { .. })));
        for turn in 0..round % 80 {
            let handle = &handles[usize::from(turn % 5 == 0)];
            let token = handle.acquire().unwrap().token();
            assert!(token > last, "round {round}, turn {turn}: {token} after {last}");
            last = token;
        }
    }
}

#[test]
fn never_more_than_there_are_and_everybody_gets_their_turn() {
    for of in [1, 2, 5] {
        let root = root();
        let path = root.path().to_str().unwrap();
        std::fs::create_dir(root.path().join("out")).unwrap();
        let workers: Vec<_> =
            (1..=6).map(|seed| start("worker", &[path, &of.to_string(), "300", &seed.to_string()])).collect();
        workers.iter().for_each(|worker| worker.expect("done"));
        let space = space(&root);
        assert_eq!(space.semaphore("a", of).unwrap().available().unwrap(), of);
        assert_eq!(space.usage().waiting, 0);
    }
}

#[test]
fn many_are_all_or_nothing_and_are_not_starved_by_single_ones() {
    let root = root();
    let space = space(&root);
    let semaphore = space.semaphore("a", 3).unwrap();
    let one = semaphore.acquire().unwrap();
    let many = waiter(root.path(), 3, 3);
    wait_until("it waits", || space.usage().waiting == 1);
    assert_eq!(many.hear_within(Duration::from_millis(100)), None);
    // Two are free, but somebody waits for them.
    assert!(matches!(semaphore.try_acquire().unwrap_err(), Error::WouldBlock { holder: Some(_), .. }));
    let single = waiter(root.path(), 3, 1);
    wait_until("both wait", || space.usage().waiting == 2);
    drop(one);
    let mut many = many;
    assert!(many.hear().ends_with(" None"));
    assert_eq!(single.hear_within(Duration::from_millis(100)), None, "a fourth of three");
    assert_eq!(semaphore.available().unwrap(), 0);
    many.tell("release");
    many.expect("released");
    single.hear();
}

#[test]
fn two_who_want_all_take_turns() {
    let root = root();
    let space = space(&root);
    let semaphore = space.semaphore("a", 4).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| semaphore.acquire_many(3).unwrap().unlock().unwrap()));
        }
    });
    assert_eq!(semaphore.available().unwrap(), 4);
}

#[test]
fn a_timeout_names_a_holder_and_leaves_nothing() {
    let root = root();
    let mut first = holders(root.path(), 2, &[1]).remove(0);
    let token: u64 = first.hear().parse().unwrap();
    let space = space(&root);
    let semaphore = space.semaphore("a", 2).unwrap();
    let begin = Instant::now();
    let error = semaphore.try_acquire_many_for(2, Duration::from_millis(250)).unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(250));
    let Error::TimedOut { holder: Some(holder), waited, .. } = &error else { panic!("{error:?}") };
    assert_eq!((holder.pid, holder.token), (first.process.id(), token));
    assert!(*waited >= Duration::from_millis(250));
    assert!(error.to_string().contains(" for "), "{error}");
    assert_eq!((space.usage().waiting, semaphore.available().unwrap()), (0, 1));
    drop(semaphore.try_acquire().unwrap());
    first.tell("release");
    first.expect("released");
    let both = semaphore.try_acquire_many(2).unwrap();
    assert_eq!(
        semaphore.holders().unwrap().iter().map(|h| h.token).collect::<Vec<_>>(),
        both.tokens().collect::<Vec<_>>()
    );
}

#[test]
fn tokens_grow_across_all_permits_and_handles() {
    let root = root();
    let space = space(&root);
    let (one, two) = (space.semaphore("a", 5).unwrap(), space.semaphore("a", 5).unwrap());
    let mut last = 0;
    let mut kept = Vec::new();
    for round in 0..60 {
        let handle = if round % 2 == 0 { &one } else { &two };
        let permit = if round % 7 == 0 { handle.acquire_many(2).unwrap() } else { handle.acquire().unwrap() };
        assert_eq!(permit.tokens().count(), permit.count() as usize);
        for token in permit.tokens() {
            assert!(token > last);
            last = token;
        }
        kept.push(permit);
        if kept.iter().map(|permit| permit.count()).sum::<u32>() > 3 {
            drop(kept.remove(round % 2));
        }
    }
}

#[test]
fn numbers_that_cannot_be_are_errors() {
    let root = root();
    let space = space(&root);
    for count in [0, 65_537, u32::MAX] {
        assert!(matches!(space.semaphore("a", count).unwrap_err(), Error::InvalidOption { .. }), "{count}");
    }
    let semaphore = space.semaphore("a", 3).unwrap();
    let error = space.semaphore("a", 4).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"a\" is a semaphore for 3, not for 4; all who use it have to state the same number"
    );
    assert!(matches!(space.mutex("a").unwrap_err(), Error::WrongKind { .. }));
    for count in [0, 4, u32::MAX] {
        let error = semaphore.acquire_many(count).unwrap_err();
        let text = format!("permits cannot be {count}: semaphore \"a\" has 3, and one at least is acquired");
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(semaphore.available().unwrap(), 3);
}

#[test]
fn there_can_be_65536_permits_and_a_space_too_small_says_so() {
    let small = root();
    let open = |root: &Path, bytes: u64| Space::builder("test").root(root).extents(bytes).open().unwrap();
    let error = open(small.path(), 16_384).semaphore("a", 65_536).unwrap_err();
    let Error::NoExtents { needed, capacity, .. } = error else { panic!("{error:?}") };
    assert_eq!((needed, capacity), (65_536 * 16, 16_384));
    let enough = capacity + needed;
    assert!(error.to_string().contains(&format!("extents({enough})")), "{error}");

    let root = root();
    let space = open(root.path(), enough);
    let semaphore = space.semaphore("a", 65_536).unwrap();
    let all = semaphore.acquire_many(65_536).unwrap();
    assert!(matches!(semaphore.try_acquire().unwrap_err(), Error::WouldBlock { .. }));
    assert_eq!(all.tokens().count(), 65_536);
    assert!(all.tokens().is_sorted());
    drop(all);
    let ones: Vec<_> = (0..65_536).map(|_| semaphore.try_acquire().unwrap()).collect();
    assert!(semaphore.try_acquire().is_err());
    assert_eq!(semaphore.holders().unwrap().len(), 65_536);
    drop(ones);
    assert_eq!(semaphore.available().unwrap(), 65_536);
}

#[test]
fn the_death_of_a_holder_gives_back_its_permits_and_each_is_told_once() {
    let root = root();
    let mut actors = holders(root.path(), 4, &[1, 2]);
    let alive: u64 = actors[0].hear().parse().unwrap();
    let dead: Vec<u64> = actors[1].hear().split(' ').map(|token| token.parse().unwrap()).collect();
    let pid = actors[1].process.id();
    let space = space(&root);
    let semaphore = space.semaphore("a", 4).unwrap();
    let last = semaphore.acquire().unwrap();
    assert!(last.abandoned().is_none());
    actors[1].kill();
    assert_eq!(semaphore.available().unwrap(), 2);
    let one = semaphore.acquire().unwrap();
    let told = one.abandoned().unwrap();
    assert!(told.pid == Some(pid) && dead.contains(&told.token), "{told:?} of {dead:?}");
    let other = semaphore.acquire().unwrap();
    let also = other.abandoned().unwrap();
    assert!(also.pid == Some(pid) && dead.contains(&also.token) && also.token != told.token, "{also:?} of {dead:?}");
    let holders: Vec<_> = semaphore.holders().unwrap().iter().map(|holder| holder.token).collect();
    assert_eq!(holders, [alive, last.token(), one.token(), other.token()]);
    drop((last, one, other));
    for _ in 0..3 {
        std::mem::forget(semaphore.acquire().map(|permit| assert!(permit.abandoned().is_none())));
    }
}

#[test]
fn permits_given_back_by_recovery_are_told_of_too() {
    let root = root();
    let mut dead = holders(root.path(), 3, &[2]).remove(0);
    let tokens = dead.hear();
    let pid = dead.process.id();
    let space = space(&root);
    let semaphore = space.semaphore("a", 3).unwrap();
    dead.kill();
    assert_eq!(space.recover_dead().unwrap(), 1);
    assert_eq!(semaphore.available().unwrap(), 3);
    let mut told = Vec::new();
    let all: Vec<_> = (0..3).map(|_| semaphore.acquire().unwrap()).collect();
    for dead in all.iter().filter_map(|permit| permit.abandoned()) {
        assert_eq!(dead.pid, Some(pid));
        assert!(!dead.command.is_empty());
        told.push(dead.token.to_string());
    }
    told.sort();
    assert_eq!(told.join(" "), tokens);
    drop(all);
    assert!(semaphore.acquire_many(3).unwrap().abandoned().is_none());
}

#[test]
fn a_death_wakes_whoever_waits_for_the_permit() {
    let root = root();
    let mut first = holders(root.path(), 1, &[1]).remove(0);
    first.hear();
    let pid = first.process.id();
    let second = waiter(root.path(), 1, 1);
    std::thread::sleep(Duration::from_millis(100));
    first.kill();
    assert!(second.hear().ends_with(&format!(" Some({pid})")));
}

#[test]
fn whoever_dies_waiting_for_many_keeps_nothing() {
    let root = root();
    let space = space(&root);
    let semaphore = space.semaphore("a", 3).unwrap();
    let one = semaphore.acquire().unwrap();
    // It has two of them in hand.
    let mut many = waiter(root.path(), 3, 3);
    wait_until("it waits", || space.usage().waiting == 1);
    let behind = waiter(root.path(), 3, 1);
    wait_until("both wait", || space.usage().waiting == 2);
    assert_eq!(behind.hear_within(Duration::from_millis(50)), None);
    many.kill();
    behind.hear();
    let rest = semaphore.acquire().unwrap();
    assert!(semaphore.try_acquire().is_err());
    drop((one, rest));
    drop(behind);
    assert_eq!(semaphore.available().unwrap(), 3);
    // All of them, also those whose owner died; and nobody is counted as asleep any more.
    drop(semaphore.acquire_many(3).unwrap());
    space.recover_dead().unwrap();
    assert_eq!(space.usage().waiting, 0);
    let entry = Raw::open(space.path()).entry("a").unwrap();
    let bell = Raw::open(space.path()).u32_at(entry.at + 52);
    assert_eq!((entry.sleepers, bell), (0, 0));
}

#[test]
fn a_release_wakes_whoever_waits_and_does_not_leave_it_to_its_next_look() {
    let root = root();
    let space = Space::builder("test").root(root.path()).check_interval(Duration::from_secs(3600)).open().unwrap();
    let semaphore = space.semaphore("a", 2).unwrap();
    let both = semaphore.acquire_many(2).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            drop(semaphore.acquire_many(2).unwrap());
            Instant::now()
        });
        // Each sleep is twice as long as the one before: now it sleeps for more than two seconds.
        std::thread::sleep(Duration::from_millis(2700));
        let released = Instant::now();
        drop(both);
        let late = waiter.join().unwrap().duration_since(released);
        assert!(late < Duration::from_millis(1200), "it was not woken: {late:?}");
    });
}

#[test]
fn whoever_is_stopped_keeps_its_permit() {
    let root = root();
    let first = holders(root.path(), 1, &[1]).remove(0);
    first.hear();
    first.signal(Signal::SIGSTOP);
    let space = space(&root);
    let semaphore = space.semaphore("a", 1).unwrap();
    let error = semaphore.try_acquire_for(Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    first.signal(Signal::SIGCONT);
}

#[test]
fn a_permit_can_be_abandoned_by_the_living() {
    let root = root();
    let space = space(&root);
    let semaphore = space.semaphore("a", 2).unwrap();
    let both = semaphore.acquire_many(2).unwrap();
    let tokens: Vec<_> = both.tokens().collect();
    both.abandon().unwrap();
    let next: Vec<_> = (0..2).map(|_| semaphore.acquire_owned().unwrap()).collect();
    let mut told: Vec<_> = next.iter().map(|permit| permit.abandoned().unwrap().token).collect();
    told.sort();
    for permit in next {
        std::thread::spawn(move || permit.unlock()).join().unwrap().unwrap();
    }
    assert_eq!(told, tokens);
    assert!(semaphore.acquire().unwrap().abandoned().is_none());
}

/// Takes turns until it is killed or told to stop by a file; leaves a file for each permit as long as it has it, and a log.
fn mortal(arguments: &[String]) {
    let [path, of, seed] = arguments else { panic!("{arguments:?}") };
    let of: u32 = of.parse().unwrap();
    let path = Path::new(path);
    let semaphore = space(path).semaphore("a", of).unwrap();
    let mut log = std::fs::File::options().append(true).open(path.join("log")).unwrap();
    let mut dice: u64 = seed.parse().unwrap();
    let me = std::process::id();
    while !path.join("stop").exists() {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let permits = if (dice >> 33).is_multiple_of(3) { 1 + (dice >> 40) as u32 % of } else { 1 };
        let permit = match (dice >> 50) % 4 {
            0 => semaphore.try_acquire_many_for(permits, Duration::from_micros((dice >> 45) % 3000)),
            _ => semaphore.acquire_many(permits),
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(Error::TimedOut { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        if let Some(dead) = permit.abandoned() {
            log.write_all(format!("told {}\n", dead.token).as_bytes()).unwrap();
        }
        let files: Vec<_> = permit.tokens().map(|token| path.join("out").join(format!("{me}-{token}"))).collect();
        files.iter().for_each(|file| std::fs::write(file, "").unwrap());
        let names = std::fs::read_dir(path.join("out")).unwrap().map(|file| file.unwrap().file_name());
        let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        // Nobody takes over from the living, so whoever left a file and is overtaken is a zombie at least.
        let lives = |name: &&String| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", name.split('-').next().unwrap()));
            stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
        };
        let living: Vec<_> = names.iter().filter(lives).collect();
        if living.len() > of as usize {
            log.write_all(format!("OVERLAP {living:?} of {of}\n").as_bytes()).unwrap();
        }
        let tokens: Vec<String> = permit.tokens().map(|token| token.to_string()).collect();
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        if permit.unlock().is_err() {
            log.write_all(format!("LOST {tokens:?}\n").as_bytes()).unwrap();
        }
        log.write_all(tokens.iter().map(|token| format!("released {token}\n")).collect::<String>().as_bytes()).unwrap();
    }
}

#[test]
fn sixty_kills_amid_turns_lose_no_permit_and_tell_no_death_twice() {
    let root = root();
    let path = root.path().to_str().unwrap();
    std::fs::create_dir(root.path().join("out")).unwrap();
    std::fs::File::create(root.path().join("log")).unwrap();
    let of = 3;
    let start = |seed: u32| start("mortal", &[path, &of.to_string(), &seed.to_string()]);
    let mut workers: Vec<_> = (1..=6).map(start).collect();
    for kill in 0..60u32 {
        std::thread::sleep(Duration::from_millis(10 + u64::from(kill * 7 % 13)));
        let victim = kill as usize % workers.len();
        workers[victim].kill();
        workers[victim] = start(100 + kill);
    }
    std::fs::File::create(root.path().join("stop")).unwrap();
    assert!(workers.iter_mut().all(Actor::finish), "a worker was not content");

    let log = std::fs::read_to_string(root.path().join("log")).unwrap();
    let said = |what: &str| -> Vec<String> {
        log.lines().filter_map(|line| line.strip_prefix(what)).map(|token| token.trim().to_owned()).collect()
    };
    assert_eq!((said("OVERLAP"), said("LOST")), (vec![], vec![]));
    let (mut told, released) = (said("told "), said("released "));
    let (count, turns) = (told.len(), released.len());
    told.sort();
    told.dedup();
    assert_eq!(told.len(), count, "a death was told twice");
    let released: std::collections::HashSet<_> = released.into_iter().collect();
    assert_eq!(released.len(), turns, "a token was given twice");
    assert!(told.iter().all(|token| !released.contains(token)), "told of a death that was not");
    assert!(count > 0 && turns > 100, "{count} deaths told, {turns} turns");
    println!("{turns} permits given back, {count} deaths told");

    let space = space(&root);
    let semaphore = space.semaphore("a", of).unwrap();
    drop(semaphore.acquire_many(of).unwrap());
    space.recover_dead().unwrap();
    assert_eq!((semaphore.available().unwrap(), space.usage().waiting), (of, 0));
    assert!(semaphore.acquire_many(of).unwrap().abandoned().is_none());
}

/// A child of this process, made by `fork`, plays its part; how it ended.
fn in_child(part: impl FnOnce()) {
    // SAFETY: the thread that forks holds none of the allocator's locks, and the child leaves by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            part();
            // SAFETY: it does not return.
            unsafe { libc::_exit(0) }
        }
        child => {
            // Here it does not play, and drops nothing.
            std::mem::forget(part);
            let mut status = 0;
            // SAFETY: `status` is ours.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child was not content");
        }
    }
}

/// Forks with permits in hand; the child has no part in them.
fn forker(arguments: &[String]) {
    let space = space(&arguments[0]);
    let semaphore = space.semaphore("a", 3).unwrap();
    let (one, many) = (semaphore.acquire().unwrap(), semaphore.acquire_many_owned(2).unwrap());
    let shared = &space;
    in_child(move || {
        assert!(!one.is_held() && !many.is_held());
        drop(one);
        assert!(matches!(many.unlock().unwrap_err(), Error::Lost { .. }));
        // Also once it takes part by itself.
        let semaphore = shared.semaphore("a", 3).unwrap();
        assert!(semaphore.try_acquire().is_err());
        assert_eq!(semaphore.holders().unwrap().len(), 3);
    });
    // The guards are in the child that is gone; here they never were dropped.
    assert_eq!(semaphore.available().unwrap(), 0, "the child gave back what is ours");
    say("kept");
}

/// Forks while another thread waits at the gate.
fn forked_waiter(arguments: &[String]) {
    let space = space(&arguments[0]);
    let semaphore = space.semaphore("a", 1).unwrap();
    let permit = semaphore.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire().map(|permit| permit.token()));
        wait_until("it sleeps", || space.usage().waiting == 1);
        in_child(|| assert!(semaphore.try_acquire_for(Duration::from_millis(50)).is_err()));
        drop(permit);
        waiter.join().unwrap().unwrap();
    });
    in_child(|| semaphore.acquire().unwrap().unlock().unwrap());
    say("both");
}

#[test]
fn a_fork_takes_no_permits_along() {
    let root = root();
    start("forker", &[root.path().to_str().unwrap()]).expect("kept");
}

#[test]
fn a_fork_beside_a_waiting_thread_leaves_its_wait_alone() {
    let root = root();
    start("forked_waiter", &[root.path().to_str().unwrap()]).expect("both");
}

/// A space with room for few names, so that each new one takes the place of another.
fn crowded(root: impl AsRef<Path>) -> Space {
    Space::builder("test").root(root.as_ref()).locks(3).extents(4096).open().unwrap()
}

/// Uses more semaphores than there is room for; whoever holds a permit leaves a file.
fn mover(arguments: &[String]) {
    let [path, seed] = arguments else { panic!("{arguments:?}") };
    let space = crowded(path);
    let mut dice: u64 = seed.parse().unwrap();
    let mut handles: Vec<_> = (0..6).map(|_| None).collect();
    let end = Instant::now() + Duration::from_millis(1500);
    let (mut turns, mut full) = (0u32, 0u32);
    while Instant::now() < end {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let which = (dice >> 33) as usize % handles.len();
        let of = 1 + which as u32 % 3;
        let name = format!("s{which}");
        if handles[which].is_none() {
            match space.semaphore(&name, of) {
                Ok(handle) => handles[which] = Some(handle),
                Err(Error::Full { .. } | Error::NoExtents { .. }) => {
                    full += 1;
                    continue;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let handle = handles[which].as_ref().unwrap();
        let permit = match handle.acquire() {
            Ok(permit) => permit,
            Err(Error::Full { .. } | Error::NoExtents { .. }) => {
                full += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let out = Path::new(path).join(&name);
        let file = out.join(format!("{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let seen = std::fs::read_dir(&out).unwrap().count();
        if seen > of as usize {
            say(format!("{seen} out of {of}"));
        }
        std::fs::remove_file(&file).unwrap();
        permit.unlock().unwrap();
        turns += 1;
    }
    say(format!("done {turns} {full}"));
    hear();
}

#[test]
fn names_that_move_between_places_keep_their_permits_apart() {
    let root = root();
    let path = root.path().to_str().unwrap();
    drop(crowded(&root));
    (0..6).for_each(|name| std::fs::create_dir(root.path().join(format!("s{name}"))).unwrap());
    let movers: Vec<_> = (1..=4).map(|seed| start("mover", &[path, &seed.to_string()])).collect();
    for mover in &movers {
        let words = mover.hear();
        let turns: u32 = words.strip_prefix("done ").expect(&words).split(' ').next().unwrap().parse().unwrap();
        assert!(turns > 0, "somebody had no turn");
    }
}

#[test]
fn a_handle_finds_its_name_again_and_one_in_use_stays() {
    let root = root();
    let space = crowded(&root);
    let (kept, moved) = (space.semaphore("kept", 2).unwrap(), space.semaphore("moved", 2).unwrap());
    let permit = kept.acquire().unwrap();
    let token = moved.acquire().unwrap().token();
    for other in 0..20 {
        drop(space.semaphore(&format!("other-{other}"), 2).unwrap().acquire().unwrap());
    }
    let names = Raw::open(space.path()).names();
    assert!(names.contains(&"kept".into()) && !names.contains(&"moved".into()), "{names:?}");
    assert_eq!(kept.available().unwrap(), 1);
    assert!(moved.acquire().unwrap().token() > token);
    assert_eq!(moved.available().unwrap(), 2);
    assert!(permit.is_held());
}

/// Where the seats of semaphore "a" are, and the words of its entry that say so: the extent's and the count's.
fn seats(raw: &Raw) -> (u64, [u64; 2]) {
    let entry = raw.entry("a").unwrap();
    let extent = raw.u64_at(entry.at + 192);
    let first = (extent & !(1 << 63)) >> 31;
    (raw.u64_at(80) + first * 512, [entry.at + 192, entry.at + 240])
}

#[test]
fn no_flipped_bit_of_a_seat_lets_a_second_owner_in_and_a_release_undoes_it() {
    let root = root();
    let space = space(&root);
    let semaphore = space.semaphore("a", 2).unwrap();
    let raw = Raw::open(space.path());
    let (at, _) = seats(&raw);
    let mut healed = 0;
    for seat in 0..2 {
        for bit in 0..64 {
            for held in [1, 2] {
                let permits = semaphore.acquire_many(held).unwrap();
                let place = at + seat * 16;
                raw.put(place, raw.u64_at(place) ^ 1 << bit);
                // As many as are left, or fewer.
                let others: Vec<_> = (0..2).map_while(|_| semaphore.try_acquire().ok()).collect();
                assert!(others.len() + held as usize <= 2, "seat {seat}, bit {bit}: {held} and {}", others.len());
                drop(others);
                let released = permits.unlock();
                healed += u32::from(released.is_err());
                if let Err(error) = released {
                    assert!(matches!(error, Error::Lost { .. }), "{error}");
                }
                let all = semaphore.try_acquire_many(2);
                // A bit of a free seat may have made it somebody's: an error says so, until it is flipped back.
                if let Err(error) = &all {
                    assert!(matches!(error, Error::Damaged { .. }), "seat {seat}, bit {bit}: {error}");
                    raw.put(place, raw.u64_at(place) ^ 1 << bit);
                } else {
                    drop(all);
                }
                drop(semaphore.try_acquire_many(2).unwrap());
            }
        }
    }
    assert!(healed > 64, "{healed}");
}

#[test]
fn a_flipped_bit_of_where_the_seats_are_is_an_error_or_nothing() {
    let root = root();
    let space = space(&root);
    let semaphore = space.semaphore("a", 2).unwrap();
    let raw = Raw::open(space.path());
    let (_, words) = seats(&raw);
    for word in words {
        for bit in 0..64 {
            let permit = semaphore.acquire().unwrap();
            raw.put(word, raw.u64_at(word) ^ 1 << bit);
            // A handle from before knows where they are, or asks and is told.
            for handle in [Ok(semaphore.clone()), space.semaphore("a", 2)] {
                match handle.and_then(|handle| handle.try_acquire_many(2).map(drop)) {
                    Err(Error::WouldBlock { .. } | Error::Damaged { .. }) => {}
                    other => panic!("word {word}, bit {bit}: {other:?}"),
                }
            }
            raw.put(word, raw.u64_at(word) ^ 1 << bit);
            permit.unlock().unwrap();
            drop(semaphore.try_acquire_many(2).unwrap());
        }
    }
}
