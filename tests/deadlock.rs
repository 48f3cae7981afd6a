//! Those who wait for each other: of each cycle one is told, soon, and who only waits for long is never told so.

mod support;

use std::time::{Duration, Instant};

use hostlock::{Error, Space};
use support::chance::Random;
use support::{Actor, act, hear, root, say, space, start, wait_until};

#[test]
fn role() {
    act(&[("member", member), ("member_alone", member_alone), ("orderly", orderly)]);
}

/// What can be acquired, and is let go of when it is dropped.
fn acquire<'a>(space: &'a Space, what: &str) -> hostlock::Result<Box<dyn std::any::Any + 'a>> {
    let (kind, name) = what.split_once(':').unwrap();
    // Leaked: a handle for each of a few names.
    macro_rules! handle {
        ($made:expr) => {
            &*Box::leak(Box::new($made?))
        };
    }
    Ok(match kind {
        "mutex" => Box::new(handle!(space.mutex(name)).lock()?),
        "owned" => Box::new(space.mutex(name)?.lock_owned()?),
        "read" => Box::new(handle!(space.rwlock(name)).read()?),
        "write" => Box::new(handle!(space.rwlock(name)).write()?),
        "one" => Box::new(handle!(space.semaphore(name, 2)).acquire()?),
        "both" => Box::new(handle!(space.semaphore(name, 2)).acquire_many(2)?),
        "lease" => Box::new(space.mutex(name)?.lock_with_lease(Duration::from_millis(400))?),
        "timed" => Box::new(handle!(space.mutex(name)).try_lock_for(Duration::from_secs(30))?),
        _ => panic!("{what:?}"),
    })
}

/// As [`member`], in a process that has one thread, which test runners do not.
fn member_alone(arguments: &[String]) {
    // SAFETY: the other thread waits for this one, and holds nothing that the child needs.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
            member(arguments);
            // SAFETY: nothing is to run at this exit.
            unsafe { libc::_exit(0) };
        }
        nix::unistd::ForkResult::Parent { child } => drop(nix::sys::wait::waitpid(child, None)),
    }
}

/// Acquires the first, and when it is told to the second; says how that went and for how many milliseconds it waited.
fn member(arguments: &[String]) {
    let space: &'static Space = Box::leak(Box::new(space(&arguments[0])));
    let first = acquire(space, &arguments[1]).unwrap();
    say("ready");
    hear();
    let started = Instant::now();
    let second = acquire(space, &arguments[2]);
    let waited = started.elapsed().as_millis();
    match &second {
        Ok(_) => say(format!("got {waited}")),
        Err(Error::Deadlock { cycle, .. }) => {
            say(format!("victim {waited} {} {}", cycle.len(), second.as_ref().err().unwrap()))
        }
        Err(error) => panic!("{error}"),
    }
    drop((first, second));
    hear();
}

fn ring(role: &str, path: &str, members: &[(&str, &str)]) -> Vec<Actor> {
    let start = |(first, second): &(&str, &str)| start(role, &[path, first, second]);
    let mut actors: Vec<_> = members.iter().map(start).collect();
    for actor in &actors {
        actor.expect("ready");
    }
    actors.iter_mut().for_each(|actor| actor.tell("go"));
    actors
}

/// What the only victim said, and how long it had waited. All others got what they waited for.
#[track_caller]
fn one_victim(actors: &[Actor]) -> (String, u64) {
    let said: Vec<_> = actors.iter().map(Actor::hear).collect();
    let victims: Vec<_> = said.iter().filter(|said| said.starts_with("victim")).collect();
    assert_eq!(victims.len(), 1, "{said:#?}");
    (victims[0].clone(), victims[0].split(' ').nth(1).unwrap().parse().unwrap())
}

/// H71. Rings of 2 to 20 processes: one victim each, which is told of all of them.
#[test]
fn of_a_ring_of_processes_one_is_told() {
    let mut slowest = 0;
    for size in [2, 3, 4, 5, 7, 10, 14, 20] {
        let root = root();
        let path = root.path().to_str().unwrap();
        let names: Vec<_> = (0..size).map(|number| format!("mutex:{number}")).collect();
        let members: Vec<_> = (0..size).map(|at| (&*names[at], &*names[(at + 1) % size])).collect();
        let actors = ring("member", path, &members);
        let (said, waited) = one_victim(&actors);
        assert_eq!(said.split(' ').nth(2), Some(&*size.to_string()), "{said}");
        // It names every process, its thread, and what it waits for.
        for (at, actor) in actors.iter().enumerate() {
            let part = format!("pid {} (", actor.process.id());
            assert!(said.contains(&part), "{part:?} in {said}");
            assert!(said.contains(&format!("waits for \"{}\"", (at + 1) % size)), "{said}");
        }
        println!("a ring of {size}: found after {waited} ms");
        slowest = slowest.max(waited);
    }
    println!("slowest: {slowest} ms");
    // On a machine that does nothing else it is 10 to 30.
    assert!(slowest < 5_000, "{slowest} ms");
}

#[test]
fn readers_writers_and_permits_count_too() {
    let cases: &[&[(&str, &str)]] = &[
        // A reader of one and a writer of it.
        &[("read:r", "mutex:m"), ("mutex:m", "write:r")],
        // Two readers that both want to write the other's.
        &[("read:a", "write:b"), ("read:b", "write:a")],
        &[("read:a", "write:b"), ("read:a", "mutex:m"), ("mutex:m", "write:a")],
        // Both permits are held by those who wait for who wants one.
        &[("one:s", "mutex:m"), ("one:s", "mutex:m"), ("mutex:m", "one:s")],
        &[("both:s", "mutex:m"), ("mutex:m", "both:s")],
        &[("both:s", "write:w"), ("write:w", "one:s")],
        &[("mutex:m", "owned:n"), ("owned:n", "mutex:m")],
        &[("mutex:m", "timed:n"), ("mutex:n", "timed:m")],
        // All by itself.
        &[("read:r", "write:r")],
        &[("both:s", "one:s")],
        &[("owned:m", "mutex:m")],
    ];
    for case in cases {
        let root = root();
        let path = root.path().to_str().unwrap();
        let actors = ring("member_alone", path, case);
        // Of those that wait behind a cycle all go on in the end; of two cycles with one lock there may be two victims.
        let said: Vec<_> = actors.iter().map(Actor::hear).collect();
        let victims = said.iter().filter(|said| said.starts_with("victim")).count();
        assert!(victims == 1 || victims == 2 && case.len() == 3, "{case:?}: {said:#?}");
    }
}

/// What may end by itself, or by a thread that waits for nothing, is not a deadlock.
#[test]
fn who_may_be_let_go_is_not_told_that_it_waits_for_ever() {
    let root = root();
    let path = root.path().to_str().unwrap();
    // A lease runs out.
    let actors = ring("member_alone", path, &[("lease:a", "mutex:b"), ("mutex:b", "mutex:a")]);
    for actor in &actors {
        assert!(actor.hear().starts_with("got "));
    }
    // Another thread of the reader's process could end the reading, for all that is known.
    let mut actors = ring("member", path, &[("read:r", "mutex:m"), ("mutex:m", "write:r")]);
    for actor in &actors {
        assert_eq!(actor.hear_within(Duration::from_millis(300)), None);
    }
    // Until it dies.
    actors[0].kill();
    assert!(actors[1].hear().starts_with("got "));
}

/// A member that was killed leaves no deadlock: what it held is taken over.
#[test]
fn a_ring_with_a_dead_member_is_none() {
    for _ in 0..5 {
        let root = root();
        let path = root.path().to_str().unwrap();
        let mut first = start("member", &[path, "mutex:a", "mutex:b"]);
        let mut second = start("member", &[path, "mutex:b", "mutex:a"]);
        for actor in [&mut first, &mut second] {
            actor.expect("ready");
        }
        first.tell("go");
        let space = space(path);
        wait_until("it waits", || space.usage().waiting == 1);
        first.kill_without_reaping();
        second.tell("go");
        assert!(second.hear().starts_with("got "));
    }
}

/// A thread of this process, and what it waits for with an owned guard, which belongs to no thread.
#[test]
fn threads_of_one_process_are_told_apart() {
    let root = root();
    let space = space(root.path());
    let [a, b] = ["a", "b"].map(|name| space.mutex(name).unwrap());
    let barrier = std::sync::Barrier::new(2);
    let run = |mine: &hostlock::Mutex, other: &hostlock::Mutex| {
        let held = mine.lock().unwrap();
        barrier.wait();
        let told = match other.lock() {
            Ok(_) => 0,
            Err(Error::Deadlock { cycle, .. }) => {
                assert_eq!(cycle.len(), 2);
                assert_ne!(cycle[0].thread, cycle[1].thread);
                1
            }
            Err(error) => panic!("{error}"),
        };
        drop(held);
        told
    };
    let victims = std::thread::scope(|scope| {
        let one = scope.spawn(|| run(&a, &b));
        run(&b, &a) + one.join().unwrap()
    });
    assert_eq!(victims, 1);
}

/// Takes locks in their order, for so many milliseconds, and holds them for a while, now and then for long; says how many times.
fn orderly(arguments: &[String]) {
    let space: &'static Space = Box::leak(Box::new(space(&arguments[0])));
    let mut random = Random(arguments[1].parse().unwrap());
    let until = Instant::now() + Duration::from_millis(arguments[2].parse().unwrap());
    let mutexes: Vec<_> = (0..4).map(|number| space.mutex(&number.to_string()).unwrap()).collect();
    let (lock, permits) = (space.rwlock("r").unwrap(), space.semaphore("s", 2).unwrap());
    let mut turns = 0;
    while Instant::now() < until {
        let wanted = random.draw();
        let held: Vec<_> = mutexes
            .iter()
            .enumerate()
            .filter(|(at, _)| wanted >> at & 1 != 0)
            .map(|(_, it)| it.lock().unwrap())
            .collect();
        let permit = (wanted >> 4 & 1 != 0).then(|| permits.acquire().unwrap());
        let (reading, writing) = match wanted >> 5 & 3 {
            0 => (Some(lock.read().unwrap()), None),
            1 => (None, Some(lock.write().unwrap())),
            _ => (None, None),
        };
        // Long enough that others look whether they wait for ever.
        if wanted >> 8 & 15 == 0 {
            std::thread::sleep(Duration::from_millis(wanted >> 16 & 31));
        }
        drop((held, permit, reading, writing));
        turns += 1;
    }
    say(turns);
}

/// No false alarm, whatever changes while it is read.
#[test]
fn who_takes_locks_in_order_is_never_told_of_a_deadlock() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let seconds: u64 = std::env::var("HOSTLOCK_SECONDS").map_or(4, |seconds| seconds.parse().unwrap());
    let millis = (seconds * 1000).to_string();
    let actors: Vec<_> = (0..8).map(|seed| start("orderly", &[path, &seed.to_string(), &millis])).collect();
    let mut turns = 0;
    for actor in &actors {
        let end = Duration::from_secs(seconds + 60);
        // One that was told of a deadlock panicked.
        turns += actor.hear_within(end).expect("no false alarm").parse::<u64>().unwrap();
    }
    println!("{turns} turns of 8 processes in {seconds} s, no false alarm");
}
