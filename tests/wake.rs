//! A death wakes at once who waits for what the dead one held, whatever that was; and without the means for it they find out by looking.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use hostlock::Space;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use support::filter::{self, filtered};
use support::{act, command, hear, root, say, start, start_command};

#[test]
fn role() {
    act(&[
        ("holder", holder),
        ("waiter", waiter),
        ("mortal", mortal),
        ("survivor", survivor),
        ("reader", reader),
        ("writer", |arguments| wait_alone(arguments, |space| space.rwlock("shared")?.write().map(drop))),
        ("locker", |arguments| wait_alone(arguments, |space| space.mutex("mutex")?.lock().map(drop))),
    ]);
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

/// All that `waiter` waits for it has soon after the holder's end.
fn are_woken(path: &str, end: &str, waiter: Command) {
    let mut holder = start("holder", &[path]);
    holder.expect("ready");
    let look = space(path);
    assert!(are_noticed_at_once(path), "{end}");
    let waiter = start_command(waiter);
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
}

#[test]
fn whoever_waits_for_the_dead_is_woken() {
    or_skip!(can_be_told());
    std::thread::scope(|scope| {
        for end in ["kill", "exec", "exit"] {
            scope.spawn(move || {
                let root = root();
                let path = root.path().to_str().unwrap();
                are_woken(path, end, command("waiter", &[path]));
            });
        }
    });
}

/// Woken by the end of a thread, they cannot sleep until that of the process, which they do where others want the processor.
#[test]
fn whoever_cannot_wait_for_a_process_is_woken_by_its_end_nevertheless() {
    or_skip!(can_be_told());
    or_skip!(filter::is_possible());
    std::thread::scope(|scope| {
        for call in [libc::SYS_pidfd_open, libc::SYS_ppoll] {
            scope.spawn(move || {
                let root = root();
                let path = root.path().to_str().unwrap();
                are_woken(path, "kill", filtered(command("waiter", &[path]), call, Errno::ENOSYS));
            });
        }
    });
}

/// Reads beside others, and has a mutex if it is told to.
fn reader(arguments: &[String]) {
    let space = space(&arguments[0]);
    let _reading = space.rwlock("shared").unwrap().read_owned().unwrap();
    let _locked = (arguments[1] == "and locks").then(|| space.mutex("mutex").unwrap().lock_owned().unwrap());
    say("ready");
    hear();
}

fn wait_alone(arguments: &[String], wait: Wait) {
    wait(&space(&arguments[0])).unwrap();
    say("has it");
    hear();
}

/// The kernel wakes one of those who wait for somebody. If that one has to go on waiting, for another, it wakes the others nevertheless.
#[test]
fn who_is_woken_by_a_death_and_waits_on_has_woken_the_others() {
    or_skip!(can_be_told());
    let root = root();
    let path = root.path().to_str().unwrap();
    let dies = start("reader", &[path, "and locks"]);
    dies.expect("ready");
    let mut lives = start("reader", &[path, "only"]);
    lives.expect("ready");
    let look = space(path);
    // In this order: it is the one that the kernel wakes.
    let writer = start("writer", &[path]);
    support::wait_until("it waits", || look.usage().waiting == 1);
    std::thread::sleep(Duration::from_millis(100));
    let locker = start("locker", &[path]);
    support::wait_until("both wait", || look.usage().waiting == 2);
    std::thread::sleep(UNTIL_LONG_SLEEPS);
    let ended = Instant::now();
    dies.kill_without_reaping();
    locker.expect("has it");
    assert!(ended.elapsed() < Duration::from_secs(3), "{:?}", ended.elapsed());
    assert_eq!(writer.hear_within(Duration::from_millis(1)), None, "beside a reader");
    lives.kill();
    writer.expect("has it");
}

/// Whether this machine can do it, asked of itself: what a process of the library says of that is tested here.
fn can_be_told() -> Result<(), String> {
    let (mut head, mut length) = (std::ptr::null_mut::<libc::c_void>(), 0usize);
    // SAFETY: 0 is the calling thread; both pointers are to locals that the kernel writes a pointer and a length to.
    let list = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) };
    let is_glibc = cfg!(all(target_env = "gnu", target_pointer_width = "64"));
    // SAFETY: of no words, so that the pointers are not followed, and it is refused.
    let wait = unsafe { libc::syscall(libc::SYS_futex_waitv, 0, 0, 0, 0, 0) };
    match is_glibc && list == 0 && !head.is_null() && Errno::result(wait) == Err(Errno::EINVAL) {
        true => Ok(()),
        false => Err("there is no robust list, or no futex_waitv".into()),
    }
}

/// Whether all participants say that their death is noticed at once.
fn are_noticed_at_once(path: &str) -> bool {
    let found = Space::builder("test").root(path).inspect().unwrap();
    found.participants.iter().all(|participant| participant.wakes_at_once)
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
    let (path, is_rude) = (arguments[0].clone(), arguments[1] == "rudely");
    let (sender, receiver) = std::sync::mpsc::channel();
    let registers = std::thread::spawn(move || {
        let space = space(&path);
        let mutex = space.mutex("mutex").unwrap();
        sender.send((space, mutex)).unwrap();
        if is_rude {
            // SAFETY: the thread has nothing that anybody waits for, and ends here.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
    });
    let (space, mutex) = receiver.recv().unwrap();
    if is_rude {
        let _never_joined = registers;
        std::thread::sleep(Duration::from_millis(200));
    } else {
        registers.join().unwrap();
    }
    let held = mutex.lock_owned().unwrap();
    say("ready");
    hear();
    assert!(held.is_held());
    // Whoever names a lock registers anew.
    space.mutex("another").unwrap();
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
        assert!(!are_noticed_at_once(path), "{how}: the thread has ended");
        assert!(mutex.try_lock_for(Duration::from_millis(700)).is_err(), "{how}: taken from the living");
        mortal.tell("renew");
        mortal.expect("renewed");
        assert!(can_be_told().is_err() || are_noticed_at_once(path), "{how}: whoever names a lock registers anew");
        mortal.signal(Signal::SIGKILL);
        assert!(mutex.lock().unwrap().abandoned().is_some());
    }
}

/// The thread that registered ends while somebody waits for what the process holds; that lives, and lets go.
fn survivor(arguments: &[String]) {
    let path = arguments[0].clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let registers = std::thread::spawn(move || {
        let mutex = space(&path).mutex("mutex").unwrap();
        sender.send(mutex.lock_owned().unwrap()).unwrap();
        ends.recv().unwrap();
    });
    let held = receiver.recv().unwrap();
    say("ready");
    hear();
    end.send(()).unwrap();
    registers.join().unwrap();
    say("ended");
    hear();
    drop(held);
    hear();
}

#[test]
fn who_is_woken_by_the_end_of_a_thread_waits_on_for_its_process_to_let_go() {
    or_skip!(can_be_told());
    let lets_go_after = |pause: Duration| {
        let root = root();
        let path = root.path().to_str().unwrap();
        let mut survivor = start("survivor", &[path]);
        survivor.expect("ready");
        assert!(are_noticed_at_once(path));
        let look = space(path);
        let locker = start("locker", &[path]);
        support::wait_until("it waits", || look.usage().waiting == 1);
        std::thread::sleep(UNTIL_LONG_SLEEPS);
        survivor.tell("end");
        survivor.expect("ended");
        std::thread::sleep(pause);
        assert_eq!(locker.hear_within(Duration::from_millis(1)), None, "{pause:?}: taken from the living");
        let released = Instant::now();
        survivor.tell("release");
        locker.expect("has it");
        assert!(released.elapsed() < Duration::from_secs(3), "{pause:?}: {:?}", released.elapsed());
    };
    // While it waits for the process to be gone, while it looks now and then, and when it sleeps as before.
    std::thread::scope(|scope| {
        for pause in [0, 100, 1_000].map(Duration::from_millis) {
            scope.spawn(move || lets_go_after(pause));
        }
    });
}
