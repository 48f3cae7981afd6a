//! A death wakes at once who waits for what the dead one held, whatever that was; and without the means for it they find out by looking.

mod support;

use std::time::{Duration, Instant};

use hostlock::Space;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use support::filter::{self, filtered};
use support::{act, command, hear, root, say, start, start_command};

#[test]
fn role() {
    act(&[("holder", holder), ("waiter", waiter), ("mortal", mortal)]);
}

/// Looks by itself when the test is long over.
fn space(path: &str) -> Space {
    Space::builder("test").root(path).check_interval(Duration::from_secs(600)).open().unwrap()
}

/// Holds one of each, and ends as it is told.
fn holder(arguments: &[String]) {
    let space = space(&arguments[0]);
    let data = space.mutex_with::<u64>("data", 0).unwrap();
    let held = (
        space.mutex("mutex").unwrap().lock_owned().unwrap(),
        space.rwlock("read").unwrap().read_owned().unwrap(),
        space.rwlock("write").unwrap().write_owned().unwrap(),
        space.semaphore("permits", 2).unwrap().acquire_many_owned(2).unwrap(),
        data.lock().unwrap(),
    );
    say("ready");
    match hear().as_str() {
        "exec" => {
            // In another thread than the one that joined: if that itself begins a program and is not the first one, the kernel gives it another id before it looks.
            let exec = || std::os::unix::process::CommandExt::exec(std::process::Command::new("sleep").arg("600"));
            panic!("{}", std::thread::spawn(exec).join().unwrap());
        }
        "exit" => {
            std::mem::forget(held);
            std::process::exit(0);
        }
        other => panic!("{other:?}"),
    }
}

type Wait = fn(&Space) -> hostlock::Result<()>;

/// Waits for what is held, in a thread each, and says when it has that.
fn waiter(arguments: &[String]) {
    let space = space(&arguments[0]);
    let waits: [(&str, Wait); 6] = [
        ("mutex", |space| space.mutex("mutex")?.lock().map(drop)),
        ("write a read one", |space| space.rwlock("read")?.write().map(drop)),
        ("read a written one", |space| space.rwlock("write")?.read().map(drop)),
        ("a permit", |space| space.semaphore("permits", 2)?.acquire().map(drop)),
        ("data", |space| space.mutex_with::<u64>("data", 0)?.lock().map(drop)),
        ("mutex, too", |space| space.mutex("mutex")?.lock().map(drop)),
    ];
    std::thread::scope(|scope| {
        for (what, wait) in waits {
            let space = &space;
            scope.spawn(move || {
                wait(space).unwrap_or_else(|error| panic!("{what}: {error}"));
                say(what);
            });
        }
    });
    say("all");
    hear();
}

/// Sleepers look by themselves after 10 ms, 20, 40 and so on: the last look before this is at 5.1 s, and the next one at 10.2.
const UNTIL_LONG_SLEEPS: Duration = Duration::from_millis(6_000);

#[test]
fn whoever_waits_for_the_dead_is_woken() {
    let ends = ["kill", "exec", "exit"];
    std::thread::scope(|scope| {
        for end in ends {
            scope.spawn(move || {
                let root = root();
                let path = root.path().to_str().unwrap();
                let mut holder = start("holder", &[path]);
                holder.expect("ready");
                let look = space(path);
                if let Err(why) = at_once(path) {
                    skip!("{why}");
                }
                let waiter = start("waiter", &[path]);
                support::wait_until("all wait", || look.usage().waiting == 6);
                std::thread::sleep(UNTIL_LONG_SLEEPS);
                let ended = Instant::now();
                match end {
                    "kill" => holder.kill_without_reaping(),
                    other => holder.tell(other),
                }
                let had: Vec<_> = (0..7).map(|_| waiter.hear()).collect();
                let waited = ended.elapsed();
                assert_eq!(had.last().map(String::as_str), Some("all"), "{had:?}");
                println!("{end}: all six had it {waited:?} later");
                // Their own looks would be seconds away still.
                assert!(waited < Duration::from_secs(3), "{end}: {waited:?}, {had:?}");
            });
        }
    });
}

/// Whether this machine can do it: of two processes in the space (we look), both say so.
fn at_once(path: &str) -> Result<(), String> {
    let found = Space::builder("test").root(path).inspect().unwrap();
    let can = found.participants.iter().all(|participant| participant.wakes_at_once);
    if can { Ok(()) } else { Err("there is no robust list, or no futex_waitv".into()) }
}

/// Without a list nobody is told; without `futex_waitv` nobody listens. Those who wait look.
#[test]
fn without_the_means_a_death_is_found_by_looking() {
    or_skip!(filter::is_possible());
    for (call, errno, of_holder) in [
        (libc::SYS_get_robust_list, Errno::EPERM, true),
        (libc::SYS_get_robust_list, Errno::ENOSYS, true),
        (libc::SYS_futex_waitv, Errno::ENOSYS, false),
        (libc::SYS_futex_waitv, Errno::EPERM, false),
    ] {
        let root = root();
        let path = root.path().to_str().unwrap();
        let plain = |role| command(role, &[path]);
        let masked = |role| filtered(command(role, &[path]), call, errno);
        let holder = start_command(if of_holder { masked("holder") } else { plain("holder") });
        holder.expect("ready");
        let found = Space::builder("test").root(path).inspect().unwrap();
        assert!(!of_holder || found.participants.iter().all(|participant| !participant.wakes_at_once));
        let waiter = start_command(if of_holder { plain("waiter") } else { masked("waiter") });
        let look = support::space(path);
        support::wait_until("all wait", || look.usage().waiting == 6);
        holder.kill_without_reaping();
        let had: Vec<_> = (0..7).map(|_| waiter.hear()).collect();
        assert_eq!(had.last().map(String::as_str), Some("all"), "{had:?}");
    }
}

/// The thread that registered ends, in good order or not; the process, which holds the lock, lives.
fn mortal(arguments: &[String]) {
    let space: &'static Space = Box::leak(Box::new(
        std::thread::spawn({
            let path = arguments[0].clone();
            move || space(&path)
        })
        .join()
        .unwrap(),
    ));
    if arguments[1] == "rudely" {
        let rude = std::thread::spawn(|| {
            // It registers, since the one that did has ended.
            space.mutex("another").unwrap();
            // SAFETY: the thread has nothing that anybody waits for, and ends here.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        let _never_joined = rude;
        std::thread::sleep(Duration::from_millis(200));
    }
    let held = space.mutex("mutex").unwrap().lock_owned().unwrap();
    say("ready");
    hear();
    assert!(held.is_held());
    // Whoever names a lock registers anew.
    space.mutex("a third").unwrap();
    say("renewed");
    hear();
}

#[test]
fn the_end_of_a_thread_is_not_that_of_its_process() {
    for how in ["in good order", "rudely"] {
        let root = root();
        let path = root.path().to_str().unwrap();
        let mut mortal = start("mortal", &[path, how]);
        mortal.expect("ready");
        let mutex = support::space(path).mutex("mutex").unwrap();
        assert!(mutex.try_lock_for(Duration::from_millis(700)).is_err(), "{how}: taken from the living");
        mortal.tell("renew");
        mortal.expect("renewed");
        if let Err(why) = at_once(path) {
            skip!("{why}");
        }
        mortal.signal(Signal::SIGKILL);
        assert!(mutex.lock().unwrap().abandoned().is_some());
    }
}
