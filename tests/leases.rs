//! Leases between real processes: who is stopped loses, knows it, and cannot harm whoever came after; who asked for none loses nothing.

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hostlock::{Error, Fence, Lease, LeaseGuard, Space};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use support::clock::{Clock, Of};
use support::filter::{self, filtered};
use support::{
    Actor, PATIENCE, act, behind, command, hear, root, rounds, say, space, start, start_command, wait_until,
};

#[test]
fn role() {
    act(&[
        ("holder", holder),
        ("writer", writer),
        ("keeper_refused", keeper_refused),
        ("forker", forker),
        ("beginners", beginners),
        ("endless", endless),
    ]);
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap())
}

/// What the words say: `kept`, `told`, and how many milliseconds of delay.
fn lease(length: &str, words: &[String]) -> Lease {
    words.iter().fold(Lease::new(millis(length)), |lease, word| match word.as_str() {
        "kept" => lease.kept(),
        "told" => lease.on_lost(|name, token| say(format!("lost {name} {token}"))),
        delay => lease.lock_delay(millis(delay)),
    })
}

fn acquire(space: &Space, what: &str, lease: Lease) -> hostlock::Result<LeaseGuard> {
    match what {
        "write" => space.rwlock(what)?.write_with_lease(lease),
        "permit" => space.semaphore(what, 1)?.acquire_with_lease(lease),
        "permits" => space.semaphore(what, 3)?.acquire_many_with_lease(3, lease),
        name => space.mutex(name)?.lock_with_lease(lease),
    }
}

/// Acquires with a lease, says its token, and does what it is told.
fn holder(arguments: &[String]) {
    let space = space(&arguments[0]);
    let guard = acquire(&space, &arguments[1], lease(&arguments[2], &arguments[3..])).unwrap();
    say(guard.token());
    let mut guard = Some(guard);
    loop {
        match (hear().as_str(), guard.as_ref()) {
            ("held?", Some(guard)) => say(guard.is_held()),
            ("renew", Some(guard)) => say(guard.renew().is_ok()),
            ("unlock", Some(_)) => say(guard.take().unwrap().unlock().is_ok()),
            ("again", None) => {
                guard = Some(acquire(&space, &arguments[1], lease(&arguments[2], &arguments[3..])).unwrap());
                say(guard.as_ref().unwrap().token());
            }
            (other, guard) => panic!("{other:?} with {guard:?}"),
        }
    }
}

/// Acquires with a lease, again and again, and writes when it is told to: says whether it could.
fn writer(arguments: &[String]) {
    let space = space(&arguments[0]);
    let (mutex, fence) = (space.mutex(&arguments[1]).unwrap(), space.fence(&arguments[2]).unwrap());
    loop {
        let guard = mutex.lock_with_lease(millis(&arguments[3])).unwrap();
        say(guard.token());
        hear();
        let admitted = match fence.enter(guard.token()) {
            Ok(inside) => inside.write(|| "wrote".to_owned()),
            Err(Error::Fenced { newest, .. }) => format!("refused {newest}"),
            Err(error) => panic!("{error}"),
        };
        let (held, renewed) = (guard.is_held(), guard.renew().is_ok());
        say(format!("{admitted} {held} {renewed} {}", guard.unlock().is_ok()));
    }
}

fn token(actor: &Actor) -> u64 {
    actor.hear().parse().unwrap()
}

/// H22, and what the issue of leases is: 1,000 times.
#[test]
fn a_holder_that_was_stopped_finds_its_writes_refused() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = space(path);
    let refused = AtomicU32::new(0);
    let each = rounds(1000) / 4;
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (space, refused) = (&space, &refused);
            scope.spawn(move || {
                let (lock, fence) = (format!("lock-{number}"), format!("fence-{number}"));
                let mut writer = start("writer", &[path, &lock, &fence, "3"]);
                let (lock, fence) = (space.mutex(&lock).unwrap(), space.fence(&fence).unwrap());
                for round in 0..each {
                    let late = token(&writer);
                    writer.signal(Signal::SIGSTOP);
                    let guard = lock.lock().unwrap();
                    assert!(guard.token() > late);
                    assert!(guard.abandoned().is_some_and(|loser| loser.lease_lost && loser.token == late));
                    let mut inside = Some(fence.enter(guard.token()).unwrap());
                    // It goes on while we are behind the fence, or after.
                    if round % 2 == 0 {
                        inside = None;
                    }
                    writer.signal(Signal::SIGCONT);
                    writer.tell("write");
                    if inside.is_some() {
                        assert_eq!(writer.hear_within(Duration::from_millis(1)), None, "it got in beside us");
                    }
                    drop(inside);
                    let said = writer.hear();
                    assert!(guard.is_held(), "the old owner harmed the new one");
                    drop(guard);
                    match said.strip_prefix("refused ") {
                        Some(_) if said.ends_with(" false false false") => refused.fetch_add(1, Relaxed),
                        _ => panic!("round {round}: {said:?}"),
                    };
                }
            });
        }
    });
    println!("{} of {} refused", refused.load(Relaxed), each * 4);
    assert_eq!(refused.load(Relaxed), each * 4);
}

/// H21: time alone takes nothing from who asked for no lease.
#[test]
fn a_stopped_owner_without_a_lease_keeps_its_lock() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = space(path);
    let mutex = space.mutex("a").unwrap();
    let mut holder = start("holder", &[path, "a", "60000"]);
    token(&holder);
    holder.tell("unlock");
    holder.expect("true");
    // One with no end is none, as far as time goes.
    let mut endless = start("holder", &[path, "a", "1000000000000000"]);
    let mine = token(&endless);
    endless.signal(Signal::SIGSTOP);
    for _ in 0..20 {
        assert!(matches!(mutex.try_lock_for(Duration::from_millis(30)), Err(Error::TimedOut { .. })));
    }
    endless.signal(Signal::SIGCONT);
    endless.tell("unlock");
    endless.expect("true");
    let plain = mutex.lock_owned().unwrap();
    assert!(plain.token() > mine);
    assert!(matches!(
        mutex.try_lock_with_lease_for(Duration::from_secs(1), Duration::from_millis(300)),
        Err(Error::TimedOut { .. })
    ));
    assert!(plain.is_held());
}

#[test]
fn every_kind_is_taken_over_from_the_stopped_and_told_of() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = space(path);
    for what in ["mutex", "write", "permit", "permits"] {
        let mut holder = start("holder", &[path, what, "40"]);
        let late = token(&holder);
        holder.tell("renew");
        holder.expect("true");
        holder.signal(Signal::SIGSTOP);
        let started = Instant::now();
        let next = acquire(&space, what, Lease::new(Duration::from_secs(60))).unwrap();
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        assert!(next.token() > late, "{what}");
        let told = next.abandoned().unwrap_or_else(|| panic!("{what}: not told"));
        assert!(told.lease_lost && told.pid == Some(holder.process.id()), "{what}: {told:?}");
        assert!(told.to_string().contains("lost its lease"), "{told}");
        holder.signal(Signal::SIGCONT);
        holder.tell("held?");
        holder.expect("false");
        holder.tell("renew");
        holder.expect("false");
        holder.tell("unlock");
        holder.expect("false");
        assert!(next.is_held(), "{what}");
        next.unlock().unwrap();
        // Whoever comes now is told nothing, and neither are those who come after readers.
        holder.tell("again");
        assert!(token(&holder) > late, "{what}");
        holder.tell("unlock");
        holder.expect("true");
    }
    // Readers get in past a writer whose lease ran out, too.
    let holder = start("holder", &[path, "write", "30"]);
    token(&holder);
    holder.signal(Signal::SIGSTOP);
    let reading = space.rwlock("write").unwrap();
    assert!(reading.read().unwrap().abandoned().is_some_and(|loser| loser.lease_lost));
}

/// H20: of many who wait for the same lease to end, one gets each acquisition.
#[test]
fn of_many_who_wait_for_a_lease_to_end_one_wins() {
    let root = root();
    let space = space(root.path());
    let (tokens, won) = (Mutex::new(HashSet::new()), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mutex = space.mutex("a").unwrap();
                for _ in 0..rounds(40) {
                    let guard = mutex.lock_with_lease(Duration::from_millis(1)).unwrap();
                    assert!(tokens.lock().unwrap().insert(guard.token()), "a token twice");
                    won.fetch_add(1, Relaxed);
                    // Lost, more often than not; and whoever is next takes it from us.
                    std::thread::sleep(Duration::from_millis(2));
                    assert!(!guard.is_held() && guard.remaining().is_zero());
                    std::mem::forget(guard);
                }
            });
        }
    });
    assert_eq!(won.load(Relaxed) as usize, tokens.lock().unwrap().len());
}

#[test]
fn the_keeper_renews_until_the_guard_is_gone_and_never_after() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = space(path);
    let mutex = space.mutex("a").unwrap();
    let mut holder = start("holder", &[path, "a", "60", "kept"]);
    let first = token(&holder);
    let error = mutex.try_lock_for(Duration::from_millis(600)).unwrap_err();
    let Error::TimedOut { holder: Some(who), .. } = error else { panic!("{error}") };
    assert_eq!(who.token, first);
    assert!(who.lease.is_some_and(|left| !left.is_zero() && left <= Duration::from_millis(61)), "{who}");
    holder.tell("held?");
    holder.expect("true");
    holder.tell("unlock");
    holder.expect("true");
    // H24: its keeper still runs, and touches nothing that came after.
    let mine = mutex.lock_with_lease(Duration::from_millis(80)).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!mine.is_held(), "somebody renewed what was not its own");
    assert!(mutex.try_lock().unwrap().abandoned().is_some_and(|loser| loser.lease_lost));
}

#[test]
fn a_kept_lease_is_lost_by_who_is_stopped_and_the_program_is_told() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mutex = space(path).mutex("a").unwrap();
    let mut holder = start("holder", &[path, "a", "60", "kept", "told"]);
    let lost = token(&holder);
    holder.signal(Signal::SIGSTOP);
    let guard = mutex.lock().unwrap();
    holder.signal(Signal::SIGCONT);
    holder.expect(&format!("lost a {lost}"));
    assert_eq!(holder.hear_within(Duration::from_millis(100)), None, "told twice");
    holder.tell("unlock");
    holder.expect("false");
    assert!(guard.is_held());
}

#[test]
fn the_program_is_told_of_a_lease_that_nobody_keeps() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut holder = start("holder", &[path, "a", "30", "told"]);
    let lost = token(&holder);
    holder.expect(&format!("lost a {lost}"));
    // Nobody waited: and yet it was lost.
    holder.tell("unlock");
    holder.expect("false");
    let mutex = space(path).mutex("a").unwrap();
    let next = mutex.try_lock().unwrap();
    assert!(next.abandoned().is_some_and(|loser| loser.lease_lost && loser.token == lost), "{next:?}");
}

/// Whatever was on its way has this time to arrive.
#[test]
fn nobody_gets_a_lost_lock_before_the_delay_is_over() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mutex = space(path).mutex("a").unwrap();
    let mut holder = start("holder", &[path, "a", "20", "400"]);
    token(&holder);
    wait_until("it is lost", || {
        holder.tell("held?");
        holder.hear() == "false"
    });
    // Whoever lost it cannot cut the time short, by letting go of what it does not have any more.
    holder.tell("unlock");
    holder.expect("false");
    assert!(matches!(mutex.try_lock(), Err(Error::WouldBlock { .. })));
    assert!(mutex.lock().unwrap().abandoned().is_some_and(|loser| loser.lease_lost));
    // It is for who loses, not for who dies or releases.
    let mut another = start("holder", &[path, "a", "20000", "20000"]);
    token(&another);
    another.tell("unlock");
    another.expect("true");
    another.tell("again");
    token(&another);
    another.kill();
    assert!(mutex.try_lock_for(Duration::from_secs(10)).is_ok());
}

/// Nothing can be started here; acquires with a lease that is to be kept.
fn keeper_refused(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex("a").unwrap();
    for call in [libc::SYS_clone, libc::SYS_clone3] {
        filter::refuse(call, Errno::EAGAIN).unwrap();
    }
    let error = mutex.lock_with_lease(Lease::new(Duration::from_secs(9)).kept()).unwrap_err();
    say(error);
    say(mutex.holder().unwrap().is_none());
    say(mutex.try_lock_with_lease(Duration::from_secs(9)).is_ok());
    hear();
}

/// H23: a lease that cannot be kept is not given.
#[test]
fn who_cannot_keep_a_lease_does_not_get_the_lock() {
    or_skip!(filter::is_possible());
    let root = root();
    let actor = start("keeper_refused", &[root.path().to_str().unwrap()]);
    let error = actor.hear();
    assert!(error.contains("leases") && error.contains("os error 11"), "{error}");
    actor.expect("true");
    actor.expect("true");
}

/// Forks with leases that are kept: the child has none, and its keeper is its own.
fn forker(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock_with_lease(Lease::new(Duration::from_millis(90)).kept()).unwrap();
    // SAFETY: the child uses what a forked child of a program with threads may use, as the tests of forks do.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            assert!(!guard.is_held() && guard.renew().is_err() && guard.remaining().is_zero());
            let own = space.mutex("b").unwrap().lock_with_lease(Lease::new(Duration::from_millis(90)).kept()).unwrap();
            drop(guard);
            std::thread::sleep(Duration::from_millis(300));
            let content = own.is_held() && mutex.try_lock().is_err();
            // SAFETY: nothing is to run at this exit.
            unsafe { libc::_exit(i32::from(!content)) };
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            say(format!("{status:?} {} {}", guard.is_held(), guard.unlock().is_ok()));
        }
    }
    hear();
}

#[test]
fn a_forked_child_has_no_lease_and_harms_none() {
    let root = root();
    let actor = start("forker", &[root.path().to_str().unwrap()]);
    let said = actor.hear();
    assert!(said.ends_with(", 0) true true"), "{said}");
}

/// H62, H63, H64: only the clock that goes on while the machine is suspended counts, and who was suspended is told.
#[test]
fn a_clock_that_jumps_ends_no_lease_and_a_suspended_machine_does() {
    let clock = or_skip!(Clock::new());
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut holder = start_command(clock.give_to(command("holder", &[path, "a", "20000", "kept", "told"])));
    let held = token(&holder);
    let waiter = start_command(clock.give_to(command("holder", &[path, "a", "20000"])));
    for (of, forward) in [(Of::Wall, 3600), (Of::Wall, -3600)] {
        clock.set(of, forward);
        std::thread::sleep(Duration::from_millis(150));
        holder.tell("held?");
        holder.expect("true");
        assert_eq!(waiter.hear_within(Duration::from_millis(50)), None, "{of:?}");
    }
    // Now it was suspended for an hour. Both see it at once; whichever is first, the holder has lost.
    clock.set(Of::Boot, 3600);
    holder.expect(&format!("lost a {held}"));
    assert!(token(&waiter) > held);
    holder.tell("unlock");
    holder.expect("false");
}

/// The clocks of time namespaces differ: there nobody can tell, and who cannot be told to be dead lives.
#[test]
fn a_lease_of_another_time_namespace_does_not_run_out() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let elsewhere = ["unshare", "--time", "--boottime", "1000000", "--fork", "--kill-child"];
    let ready = behind(&elsewhere, &std::process::Command::new("true")).output();
    if !ready.as_ref().is_ok_and(|ready| ready.status.success()) {
        skip!("no time namespace can be made: {ready:?}");
    }
    let mutex = space(path).mutex("a").unwrap();
    let mut holder = start_command(behind(&elsewhere, &command("holder", &[path, "a", "10"])));
    let held = token(&holder);
    assert!(matches!(mutex.try_lock_for(Duration::from_millis(300)), Err(Error::TimedOut { .. })));
    // And the other way round: ours ended long ago, by its clock.
    holder.tell("unlock");
    assert_eq!(holder.hear(), "false");
    let mine = mutex.lock_with_lease(Duration::from_secs(60)).unwrap();
    assert!(mine.token() > held);
    holder.tell("again");
    assert_eq!(holder.hear_within(Duration::from_millis(300)), None);
    assert!(mine.is_held());
}

#[test]
fn a_filter_that_refuses_threads_is_the_only_reason_to_fail() {
    or_skip!(filter::is_possible());
    let root = root();
    let path = root.path().to_str().unwrap();
    // What leases do not need may be refused.
    for call in [libc::SYS_membarrier, libc::SYS_pidfd_open] {
        let holder = start_command(filtered(command("holder", &[path, "a", "20000", "kept"]), call, Errno::EPERM));
        token(&holder);
    }
}

/// Several threads have the first leases of a process at once: of a child, which has done nothing in the space yet.
fn beginners(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutexes: Vec<_> = (0..4).map(|number| space.mutex(&format!("first-{number}")).unwrap()).collect();
    for _ in 0..rounds(200) {
        // SAFETY: this process has no other thread that holds anything but the test runner, which the child does not come back to.
        let child = match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let content =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| begin_at_once(&mutexes))).is_ok();
                // SAFETY: nothing is to run at this exit.
                unsafe { libc::_exit(i32::from(!content)) }
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        let status = nix::sys::wait::waitpid(child, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
    }
    say("done");
}

fn begin_at_once(mutexes: &[hostlock::Mutex]) {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
    let ready = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for mutex in mutexes {
            let ready = &ready;
            scope.spawn(move || {
                ready.fetch_add(1, Relaxed);
                // Not asleep: all of them go on in the same moment.
                while ready.load(Relaxed) as usize != mutexes.len() {
                    std::thread::yield_now();
                }
                let guard = mutex.lock_with_lease(Duration::from_secs(60)).unwrap();
                assert!(guard.is_held(), "lost as soon as it was acquired");
                guard.unlock().unwrap();
                assert!(mutex.try_lock().is_ok());
            });
        }
    });
}

#[test]
fn threads_that_have_their_first_leases_at_once_have_them() {
    let root = root();
    start("beginners", &[root.path().to_str().unwrap()]).expect("done");
}

/// The end of one acquisition is not that of another thread's next one, whose word differs in one bit only.
#[test]
fn a_lease_ends_once() {
    let root = root();
    let space = space(root.path());
    let (lost, done) = (AtomicU32::new(0), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mutex = space.mutex("a").unwrap();
                let mut last = 0;
                while !done.load(Relaxed) {
                    let Ok(guard) = mutex.try_lock() else { continue };
                    lost.fetch_add(u32::from(guard.token() <= last), Relaxed);
                    last = guard.token();
                    lost.fetch_add(u32::from(guard.unlock().is_err()), Relaxed);
                }
            });
        }
        let mutex = space.mutex("a").unwrap();
        let until = Instant::now() + Duration::from_secs(u64::from(rounds(3)));
        while Instant::now() < until {
            let lease = Lease::new(Duration::from_secs(60)).fair();
            // No panic: the others would go on for ever.
            let ended = mutex.try_lock_with_lease_for(lease, PATIENCE).and_then(LeaseGuard::unlock);
            lost.fetch_add(u32::from(ended.is_err()), Relaxed);
        }
        done.store(true, Relaxed);
    });
    assert_eq!(lost.load(Relaxed), 0, "locks were lost under their holders");
}

/// Has a lease that is kept and never ends, and says how much time of the processor it took to keep it.
fn endless(arguments: &[String]) {
    let guard = space(&arguments[0]).mutex("a").unwrap().lock_with_lease(Lease::new(Duration::MAX).kept()).unwrap();
    let used = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    let before = used();
    std::thread::sleep(Duration::from_millis(500));
    let used = Duration::from(used()).saturating_sub(before.into());
    say(guard.is_held() && used < Duration::from_millis(100));
}

#[test]
fn a_lease_that_never_ends_costs_nothing_to_keep() {
    let root = root();
    start("endless", &[root.path().to_str().unwrap()]).expect("true");
}

#[test]
fn odd_leases_are_refused_or_have_no_end() {
    let root = root();
    let space = space(root.path());
    let mutex = space.mutex("a").unwrap();
    for none in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(999)] {
        let error = mutex.lock_with_lease(none).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { option: "lease", .. }), "{error}");
    }
    for short in [1, 9] {
        let error = mutex.lock_with_lease(Lease::new(Duration::from_millis(short)).kept()).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { option: "lease", .. }), "nobody could keep it: {error}");
    }
    for endless in [Duration::MAX, Duration::from_secs(u64::MAX / 1000), Duration::from_secs(1 << 40)] {
        let guard = mutex.lock_with_lease(Lease::new(endless).kept().lock_delay(Duration::MAX)).unwrap();
        assert!(guard.is_held() && mutex.try_lock().is_err());
        guard.renew().unwrap();
        guard.unlock().unwrap();
    }
}

/// A fence in a file stands when its first writer dies amid it, and when the file is not a fence it says so.
#[test]
fn a_fence_in_a_file_keeps_what_it_saw() {
    let root = root();
    let path = root.path().join("fence");
    let fence = Fence::open(&path).unwrap();
    assert_eq!(fence.newest().unwrap(), 0);
    for token in [1, 2, 2, 9] {
        fence.admit(token).unwrap();
    }
    let Err(Error::Fenced { token: 8, newest: 9, .. }) = fence.admit(8) else { panic!("a late token was let in") };
    // The record that is written next, torn at any byte: the one before counts.
    let sound = std::fs::read(&path).unwrap();
    for record in [0, 32] {
        for at in record..record + 24 {
            let mut torn = sound.clone();
            torn[at] ^= 0xFF;
            std::fs::write(&path, torn).unwrap();
            assert!([2, 9].contains(&fence.newest().unwrap()), "{at}");
        }
    }
    for wrong in [vec![7; 64], vec![0; 65], vec![0; 64], sound[..40].to_vec(), vec![], b"precious".to_vec()] {
        std::fs::write(&path, &wrong).unwrap();
        for error in [fence.newest().err(), fence.admit(10).err(), Fence::open(&path).err()] {
            assert!(matches!(error, Some(Error::InvalidOption { option: "fence", .. })), "{error:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), wrong, "it is not ours to write to");
    }
    for other in [root.path(), std::path::Path::new("/dev/null"), std::path::Path::new("/proc/version")] {
        assert!(Fence::open(other).is_err(), "{other:?}");
    }
    // Who is behind it keeps others out, threads too.
    std::fs::write(&path, &sound).unwrap();
    let inside = fence.enter(9).unwrap();
    let again = fence.enter(10).unwrap_err();
    assert!(matches!(again, Error::Deadlock { token: 9, .. }), "this thread would wait for itself: {again}");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let another = Fence::open(&path).unwrap();
            assert_eq!(another.newest().unwrap(), 9, "asking needs no turn");
            assert!(matches!(another.enter_for(10, Duration::from_millis(20)), Err(Error::TimedOut { .. })));
        });
    });
    drop(inside);
    fence.admit(10).unwrap();
    // Another file in its place is another fence, to be locked anew.
    std::fs::rename(&path, root.path().join("moved")).unwrap();
    assert!(fence.newest().is_err());
}
