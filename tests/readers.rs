//! Readers by lines: a thread that reads much, with nobody writing in between, does so by a store. What others see of it is as of every reader.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hostlock::{Error, RwLock, RwLockReadGuard, Space};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use support::raw::Raw;
use support::{Actor, act, filter, hear, root, say, space, start, wait_until};

/// More than are needed for a line.
const MUCH: usize = 5000;

#[test]
fn role() {
    act(&[("reader", reader), ("writer", writer), ("changer", changer), ("forker", forker), ("fenceless", fenceless)]);
}

fn read_much(lock: &RwLock) {
    (0..MUCH).for_each(|_| drop(lock.read().unwrap()));
}

/// Reads much, and then once more for as long as it is let, over and over.
fn reader(arguments: &[String]) {
    let lock = space(&arguments[0]).rwlock("a").unwrap();
    let mut guard: Option<RwLockReadGuard<'_>> = None;
    loop {
        match hear().as_str() {
            "read" => {
                drop(guard.take());
                read_much(&lock);
                guard = Some(lock.read().unwrap());
                say("reads");
            }
            "release" => {
                guard.take().unwrap().unlock().unwrap();
                say("released");
            }
            "upgrade" => {
                let writing = guard.take().unwrap().upgrade().map_err(|refused| refused.error);
                say(writing.map_or_else(|error| error.to_string(), |writing| format!("writes {}", writing.token())));
            }
            other => panic!("{other}?"),
        }
    }
}

fn writer(arguments: &[String]) {
    let lock = space(&arguments[0]).rwlock("a").unwrap();
    loop {
        match hear().as_str() {
            "write" => {
                let guard = lock.write().unwrap();
                say(guard.token());
            }
            "try" => say(match lock.try_write() {
                Ok(_) => "free".into(),
                Err(Error::WouldBlock { holder, .. }) => format!("read by {}", holder.map_or(0, |holder| holder.pid)),
                Err(error) => error.to_string(),
            }),
            other => panic!("{other}?"),
        }
    }
}

fn actor(root: &Path, role: &str) -> Actor {
    start(role, &[root.to_str().unwrap()])
}

fn ask(actor: &mut Actor, what: &str) -> String {
    actor.tell(what);
    actor.hear()
}

fn pid(actor: &Actor) -> u32 {
    actor.pid().as_raw() as u32
}

/// How many lines are lent by the cells of the space's only read-write lock.
fn lent(root: &Path) -> u32 {
    Raw::open(root.join("test")).lines_lent()
}

#[test]
fn a_reader_by_a_line_is_seen_by_all_who_ask_and_kept_by_all_who_write() {
    let root = root();
    let mut reader = actor(root.path(), "reader");
    assert_eq!(ask(&mut reader, "read"), "reads");
    assert_eq!(lent(root.path()), 1, "it reads by a line");
    let lock = space(root.path()).rwlock("a").unwrap();
    let holders = lock.holders().unwrap();
    assert_eq!((holders.len(), holders[0].pid, holders[0].readers), (1, pid(&reader), 1));
    let mut writer = actor(root.path(), "writer");
    assert_eq!(ask(&mut writer, "try"), format!("read by {}", pid(&reader)));
    assert!(lock.try_read().is_ok());
    writer.tell("write");
    wait_until("a writer at the gate", || lock.try_read().is_err());
    assert_eq!(ask(&mut reader, "release"), "released");
    writer.hear();
    // Its line was shut; it has to read much again for another one.
    assert_eq!(ask(&mut writer, "try"), "free");
    assert_eq!(ask(&mut reader, "read"), "reads");
    assert_eq!(ask(&mut writer, "try"), format!("read by {}", pid(&reader)));
}

#[test]
fn a_reader_by_a_line_that_dies_holds_up_nobody_and_is_told_of_to_nobody() {
    let root = root();
    let mut reader = actor(root.path(), "reader");
    assert_eq!(ask(&mut reader, "read"), "reads");
    let mut writer = actor(root.path(), "writer");
    writer.tell("write");
    reader.signal(Signal::SIGKILL);
    writer.hear();
    let mut idle = actor(root.path(), "reader");
    assert_eq!((ask(&mut idle, "read"), ask(&mut idle, "release")), ("reads".into(), "released".into()));
    idle.signal(Signal::SIGKILL);
    assert!(idle.process.wait().is_ok() && lent(root.path()) == 1);
    let space = space(root.path());
    assert_eq!(space.recover_dead().unwrap(), 1);
    assert_eq!(lent(root.path()), 0, "what the dead lent is lent no more");
    assert!(space.rwlock("a").unwrap().write().unwrap().abandoned().is_none());
}

#[test]
fn a_reader_by_a_line_goes_on_as_a_writer() {
    let root = root();
    let mut one = actor(root.path(), "reader");
    assert_eq!(ask(&mut one, "read"), "reads");
    let said = ask(&mut one, "upgrade");
    assert!(said.starts_with("writes "), "{said}");
    let mut two = actor(root.path(), "reader");
    assert_eq!((ask(&mut one, "read"), ask(&mut two, "read")), ("reads".into(), "reads".into()));
    one.tell("upgrade");
    let lock = space(root.path()).rwlock("a").unwrap();
    wait_until("one at the gate", || lock.try_read().is_err());
    let said = ask(&mut two, "upgrade");
    assert!(said.contains('a') && !said.starts_with("writes"), "{said}");
    assert!(one.hear().starts_with("writes "));
}

#[test]
fn guards_of_one_thread_are_all_counted_in_whatever_order_they_go() {
    let root = root();
    let space = space(root.path());
    let lock = space.rwlock("a").unwrap();
    read_much(&lock);
    let other = space.rwlock("a").unwrap();
    let owned = lock.read_owned().unwrap();
    let (one, two, three) = (lock.read().unwrap(), lock.read().unwrap(), lock.read().unwrap());
    assert_eq!(other.holders().unwrap()[0].readers, 4);
    assert!(one.is_held() && two.is_held() && three.is_held() && owned.is_held());
    one.stamp();
    drop(owned);
    drop(two);
    assert_eq!(other.holders().unwrap()[0].readers, 2);
    one.unlock().unwrap();
    assert_eq!(other.holders().unwrap()[0].readers, 1);
    assert!(other.try_write().is_err());
    drop(three);
    assert!(other.holders().unwrap().is_empty());
    assert!(other.try_write().is_ok());
}

#[test]
fn only_the_thread_that_read_much_has_the_line() {
    let root = root();
    let lock = space(root.path()).rwlock("a").unwrap();
    read_much(&lock);
    let here = lock.read().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let there = lock.read().unwrap();
            assert_eq!(lock.holders().unwrap()[0].readers, 2);
            drop(there);
        });
    });
    assert_eq!(lock.holders().unwrap()[0].readers, 1);
    drop(here);
    assert!(lock.try_write().is_ok());
}

#[test]
fn a_line_goes_with_its_handle_and_there_are_as_many_as_there_are() {
    let root = root();
    let space = space(root.path());
    let handles: Vec<_> = (0..20).map(|_| space.rwlock("a").unwrap()).collect();
    handles.iter().for_each(read_much);
    assert_eq!(lent(root.path()), 16, "the others are counted");
    let guards: Vec<_> = handles.iter().map(|lock| lock.read().unwrap()).collect();
    assert_eq!(handles[0].holders().unwrap()[0].readers, 20);
    drop(guards);
    assert!(handles[0].try_write().is_ok());
    drop(handles);
    assert_eq!(lent(root.path()), 0);
    // One that is never let go of is read by for good, and so is its line.
    let lock = space.rwlock("a").unwrap();
    read_much(&lock);
    std::mem::forget(lock.read().unwrap());
    drop(lock);
    assert!(space.rwlock("a").unwrap().try_write().is_err());
}

#[test]
fn a_name_that_is_read_by_lines_can_be_given_up() {
    let root = root();
    let space = space(root.path());
    let lock = space.rwlock("a").unwrap();
    read_much(&lock);
    let guard = lock.read().unwrap();
    assert!(space.remove("a").is_err(), "it is read");
    drop(guard);
    space.remove("a").unwrap();
    // The name begins anew, and the handle with it.
    read_much(&lock);
    let guard = lock.read().unwrap();
    assert_eq!(space.rwlock("a").unwrap().holders().unwrap()[0].readers, 1);
    assert!(space.rwlock("a").unwrap().try_write().is_err());
    drop(guard);
    assert!(space.rwlock("a").unwrap().try_write().is_ok());
}

/// Reads by a line, forks, and the child does what is its.
fn forker(arguments: &[String]) {
    let space = space(&arguments[0]);
    let lock = space.rwlock("a").unwrap();
    read_much(&lock);
    let guard = lock.read().unwrap();
    // SAFETY: the test has one thread here, and the child calls nothing but what is under test and ends.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let mine = lock.read().unwrap();
            let is_apart = !guard.is_held() && mine.is_held();
            drop(guard);
            drop(mine);
            read_much(&lock);
            say(if is_apart { "apart" } else { "as if it were its parent" });
            std::process::exit(0);
        }
        nix::unistd::ForkResult::Parent { child } => {
            nix::sys::wait::waitpid(child, None).unwrap();
            say(if guard.is_held() { "still reads" } else { "reads no more" });
            hear();
        }
    }
}

#[test]
fn a_forked_child_ends_no_reader_of_its_parents() {
    let root = root();
    let forker = actor(root.path(), "forker");
    assert_eq!((forker.hear(), forker.hear()), ("apart".into(), "still reads".into()));
    assert!(space(root.path()).rwlock("a").unwrap().try_write().is_err());
}

/// Two numbers that writers change together, in a file that all map.
fn changer(arguments: &[String]) {
    let space = space(&arguments[0]);
    let lock = space.rwlock("a").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&arguments[1]).unwrap();
    let map = memmap2::MmapRaw::map_raw(&file).unwrap();
    // SAFETY: aligned, long enough, and all access is atomic.
    let [one, two] = unsafe { &*map.as_ptr().cast::<[AtomicU64; 2]>() };
    let writes: bool = arguments[2] == "writes";
    let end = Instant::now() + Duration::from_millis(arguments[3].parse().unwrap());
    let mut turns = 0u64;
    let read = || {
        let _guard = lock.read().unwrap();
        let seen = one.load(Relaxed);
        std::hint::black_box((0..5).sum::<u32>());
        assert_eq!(seen, two.load(Relaxed), "a writer was beside a reader");
    };
    let much = || {
        while Instant::now() < end {
            (0..7000).for_each(|_| read());
        }
    };
    while writes && Instant::now() < end {
        let guard = lock.write().unwrap();
        let next = one.load(Relaxed) + 1;
        one.store(next, Relaxed);
        std::hint::black_box((0..50).sum::<u32>());
        two.store(next, Relaxed);
        drop(guard);
        turns += 1;
        std::thread::sleep(Duration::from_micros(turns * 37 % 400));
    }
    if !writes {
        // By one handle: one of them has the line.
        std::thread::scope(|scope| {
            scope.spawn(much);
            much();
        });
    }
    say(turns);
}

#[test]
fn nobody_writes_beside_readers_whose_lines_are_opened_and_shut_all_the_time() {
    let root = root();
    let file = root.path().join("numbers");
    std::fs::write(&file, [0; 16]).unwrap();
    drop(space(root.path()));
    let actor = |what: &str| start("changer", &[root.path().to_str().unwrap(), file.to_str().unwrap(), what, "2000"]);
    let mut actors = [actor("reads"), actor("reads"), actor("writes"), actor("writes")];
    let turns: Vec<u64> = actors.iter_mut().map(|actor| actor.hear().parse().unwrap()).collect();
    assert!(turns[2].min(turns[3]) > 10, "{turns:?}");
}

/// A process to which `membarrier` is refused.
fn fenceless(arguments: &[String]) {
    filter::refuse(libc::SYS_membarrier, Errno::EPERM).unwrap();
    let space = space(&arguments[0]);
    drop(space.mutex("m").unwrap().lock().unwrap());
    drop(space.semaphore("s", 2).unwrap().acquire().unwrap());
    match space.rwlock("a") {
        Err(error) => say(error),
        Ok(lock) => {
            read_much(&lock);
            let guard = lock.read().unwrap();
            say("reads");
            hear();
            drop(guard);
            say("released");
        }
    }
    hear();
}

#[test]
fn whoever_can_make_no_fence_has_no_part_in_locks_that_may_be_read_by_lines() {
    or_skip!(filter::is_possible());
    let root = root();
    let space = space(root.path());
    let lock = space.rwlock("a").unwrap();
    read_much(&lock);
    assert_eq!(lent(root.path()), 1);
    let mut fenceless = actor(root.path(), "fenceless");
    let said = fenceless.hear();
    assert!(said.contains("membarrier") && said.contains("not allowed"), "{said}");
    let found = Space::builder("test").root(root.path()).inspect().unwrap();
    let takes: Vec<_> = found.participants.iter().map(|them| (them.process.pid, them.takes_fences)).collect();
    assert!(takes.contains(&(std::process::id(), true)) && takes.contains(&(pid(&fenceless), false)), "{takes:?}");
    fenceless.tell("end");
}

#[test]
fn a_space_that_is_made_where_there_is_no_fence_lends_no_lines() {
    or_skip!(filter::is_possible());
    let root = root();
    let mut fenceless = actor(root.path(), "fenceless");
    assert_eq!(fenceless.hear(), "reads");
    let space = space(root.path());
    let lock = space.rwlock("a").unwrap();
    assert!(lock.try_write().is_err(), "a reader is counted");
    fenceless.tell("release");
    assert_eq!(fenceless.hear(), "released");
    read_much(&lock);
    let guard = lock.read().unwrap();
    assert_eq!((lent(root.path()), lock.holders().unwrap()[0].readers), (0, 1));
    drop(guard);
    assert!(lock.try_write().is_ok());
}

#[test]
fn a_writer_that_comes_all_the_time_leaves_no_line_open() {
    let root = root();
    let space = space(root.path());
    let lock = space.rwlock("a").unwrap();
    for _ in 0..MUCH {
        drop(lock.read().unwrap());
        drop(lock.write().unwrap());
    }
    assert_eq!(lent(root.path()), 0, "no line is lent for reads between which somebody writes");
    drop::<Space>(space);
}
