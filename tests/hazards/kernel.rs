//! What the kernel is asked for, and what it does not do as it should.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hostlock::{Backend, Space};
use nix::errno::Errno;

use crate::support::raw::Raw;
use crate::support::{self, PATIENCE, filter, hear, root, say, start, wait_until};
use crate::{name_of, or_skip, skip, space};

// ---------------------------------------------------------------------------------------------------------------------
// The list of robust mutexes.

/// What the kernel knows of the robust mutexes of a thread.
#[repr(C)]
struct RobustList {
    next: *const RobustList,
    offset: libc::c_long,
    pending: *const RobustList,
}

/// What is on the list of a thread of this process, and whether something is about to come on it or to leave it.
fn robust_mutexes(thread: i32) -> (Vec<usize>, bool) {
    let (mut head, mut length) = (std::ptr::null::<RobustList>(), 0usize);
    let mut nodes = Vec::new();
    // SAFETY: two pointers to what lives in this frame. What it gives is the list of a thread of this process that lives, and which stands still or is
    // ours: it is made of words that are read once, and each leads to the next one.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_get_robust_list, thread, &raw mut head, &raw mut length)).unwrap();
        if head.is_null() {
            return (nodes, false);
        }
        assert_eq!(length, size_of::<RobustList>());
        let list = head.read_volatile();
        let mut next = list.next;
        while next != head && nodes.len() < 100 {
            nodes.push(next.addr());
            next = next.cast::<*const RobustList>().read_volatile();
        }
        (nodes, !list.pending.is_null())
    }
}

/// Whether what is there is of a file, and so others may write to it.
fn is_shared(address: usize) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &&str| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let parse = |text| usize::from_str_radix(text, 16).unwrap();
        (parse(start)..parse(end)).contains(&address)
    };
    let line = maps.lines().find(holds).unwrap_or_else(|| panic!("nothing is mapped at {address:#x}"));
    line.split_whitespace().nth(1).unwrap().ends_with('s')
}

/// H27: whoever is on that list has memory written to after its death, which may be somebody else's by then. A segment has one word for that for each process, at the end of
/// a page that has nothing else, and no lock. What leads there is the process's own, and stays for as long as it leads there.
#[test]
fn no_lock_of_a_space_is_on_the_kernels_list_of_robust_mutexes() {
    let root = root();
    let run = || {
        let before = robust_mutexes(0);
        assert!(!before.1);
        let space = support::space(root.path());
        let (mutex, lock) = (space.mutex("a").unwrap(), space.rwlock("b").unwrap());
        let joined = robust_mutexes(0);
        assert!(joined.0.len() <= before.0.len() + 1, "{joined:?}");
        assert!(joined.0.iter().all(|node| !is_shared(*node)), "others can lead the kernel astray: {joined:x?}");
        let sleeper_id = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let held = (mutex.lock().unwrap(), lock.read().unwrap(), space.event("c").unwrap().announce().unwrap());
            let sleeper = scope.spawn(|| {
                let _other = lock.read().unwrap();
                sleeper_id.store(nix::unistd::gettid().as_raw() as u32, SeqCst);
                drop(mutex.lock().unwrap());
            });
            wait_until("it sleeps", || space.usage().waiting == 1);
            assert_eq!(robust_mutexes(0), joined, "with locks");
            assert_eq!(robust_mutexes(sleeper_id.load(SeqCst) as i32), (vec![], false), "asleep");
            drop(held);
            sleeper.join().unwrap();
        });
        drop((mutex, lock, space));
        assert_eq!(robust_mutexes(0), before, "it left");
    };
    // In a thread without other tests' spaces.
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    // That look finds something where there is something.
    let before = robust_mutexes(0);
    assert_ne!(c_librarys_robust_mutex(|| robust_mutexes(0)), before);
}

/// What `act` says while this thread has a robust mutex of the C library.
fn c_librarys_robust_mutex<T>(act: impl FnOnce() -> T) -> T {
    let mut words = std::mem::MaybeUninit::<(libc::pthread_mutexattr_t, libc::pthread_mutex_t)>::zeroed();
    // SAFETY: both are initialised before they are used, stay where they are until they are destroyed, and are known to this thread only.
    unsafe {
        let (attributes, mutex) = (&raw mut (*words.as_mut_ptr()).0, &raw mut (*words.as_mut_ptr()).1);
        assert_eq!(libc::pthread_mutexattr_init(attributes), 0);
        assert_eq!(libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST), 0);
        assert_eq!(libc::pthread_mutex_init(mutex, attributes), 0);
        assert_eq!(libc::pthread_mutex_lock(mutex), 0);
        let said = act();
        assert_eq!(libc::pthread_mutex_unlock(mutex), 0);
        assert_eq!(libc::pthread_mutex_destroy(mutex), 0);
        said
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Wakes that do not arrive.

/// What is waited for, and done so that somebody who waits can go on.
#[derive(Clone, Copy)]
enum Turn {
    Mutex,
    Write,
    Read,
    Permit,
    Event,
    Condvar,
}

const TURNS: [Turn; 6] = [Turn::Mutex, Turn::Write, Turn::Read, Turn::Permit, Turn::Event, Turn::Condvar];

/// Wakes nobody, whatever it releases: it begins to have something, and ends that when it is told to.
pub fn deaf(arguments: &[String]) {
    filter::lose_wakes().unwrap();
    // It is as it should be: a thread that sleeps on a word that all may map is not woken.
    let word = Box::leak(Box::new(AtomicU32::new(0)));
    let address = &raw const *word;
    let sleeper = std::thread::spawn(move || {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        // SAFETY: a word and a time that live as long as the call.
        let woken = unsafe { libc::syscall(libc::SYS_futex, &raw const *word, libc::FUTEX_WAIT, 0, &raw const time) };
        Errno::result(woken)
    });
    while !sleeper.is_finished() {
        // SAFETY: a word that is never given back.
        assert_eq!(unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, 1) }, 0);
    }
    assert_eq!(sleeper.join().unwrap(), Err(Errno::ETIMEDOUT));

    let space = support::space(&arguments[0]);
    let (mutex, lock, permits) =
        (space.mutex("a").unwrap(), space.rwlock("b").unwrap(), space.semaphore("c", 1).unwrap());
    let (event, changed) = (space.event("d").unwrap(), space.condvar("e").unwrap());
    for turn in TURNS {
        let (mut held, mut read, mut written, mut permit) = (None, None, None, None);
        match turn {
            Turn::Mutex => held = Some(mutex.lock().unwrap()),
            Turn::Write => read = Some(lock.read().unwrap()),
            Turn::Read => written = Some(lock.write().unwrap()),
            Turn::Permit => permit = Some(permits.acquire().unwrap()),
            Turn::Event | Turn::Condvar => {}
        }
        say("now");
        hear();
        match turn {
            Turn::Event => event.set().unwrap(),
            Turn::Condvar => {
                // What is waited for: that somebody else had the mutex.
                drop(mutex.lock().unwrap());
                changed.notify_all().unwrap();
            }
            _ => drop((held, read, written, permit)),
        }
    }
    hear();
}

/// H67: a wake that is lost costs the sleeper time until it looks by itself, and nothing else.
#[test]
fn a_wake_that_is_lost_costs_time_and_nothing_else() {
    or_skip!(filter::is_possible());
    let root = root();
    let space = support::space(root.path());
    let (mutex, lock, permits) =
        (space.mutex("a").unwrap(), space.rwlock("b").unwrap(), space.semaphore("c", 1).unwrap());
    let (event, changed) = (space.event("d").unwrap(), space.condvar("e").unwrap());
    let mut deaf = start("deaf", &[root.path().to_str().unwrap()]);
    let mut slowest = Duration::ZERO;
    for turn in TURNS {
        deaf.expect("now");
        let (mutex, lock, permits) = (mutex.clone(), lock.clone(), permits.clone());
        let (event, changed) = (event.clone(), changed.clone());
        let (sender, woken) = channel();
        // Nobody waits for it to end, should it not.
        std::thread::spawn(move || {
            let outcome = match turn {
                Turn::Mutex => mutex.try_lock_for(PATIENCE).map(drop),
                Turn::Write => lock.try_write_for(PATIENCE).map(drop),
                Turn::Read => lock.try_read_for(PATIENCE).map(drop),
                Turn::Permit => permits.try_acquire_for(PATIENCE).map(drop),
                Turn::Event => event.wait_for(PATIENCE),
                Turn::Condvar => {
                    changed.wait_for(mutex.lock().unwrap(), PATIENCE).map(|(_, outcome)| assert!(!outcome.timed_out()))
                }
            };
            sender.send(outcome.map(|()| Instant::now())).unwrap();
        });
        wait_until("it sleeps", || space.usage().waiting == 1);
        deaf.tell("go on");
        let released = Instant::now();
        let woken = woken.recv_timeout(PATIENCE).expect("it sleeps on").unwrap();
        slowest = slowest.max(woken.saturating_duration_since(released));
    }
    println!("the slowest came by itself after {slowest:?}");
    assert!(slowest < PATIENCE / 2, "{slowest:?}");
}

// ---------------------------------------------------------------------------------------------------------------------
// The list of locks.

/// Whether the kernel says that a lock of this kind, which begins at `byte`, is held on the file.
fn is_listed(kind: &str, path: &Path, byte: Option<u64>) -> bool {
    let meta = fs::metadata(path).unwrap();
    let device = meta.dev();
    let number = format!("{:02x}:{:02x}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device), meta.ino());
    let is_it = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let start = byte.is_none_or(|byte| fields.get(6) == Some(&byte.to_string().as_str()));
        fields.get(1) == Some(&kind)
            && fields.get(3) == Some(&"WRITE")
            && fields.get(5) == Some(&number.as_str())
            && start
    };
    // A lock that is there may be skipped while others come and go.
    (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        fs::read_to_string("/proc/locks").unwrap().lines().any(is_it)
    })
}

/// H50: some file systems keep a lock under another number than the file's, and two then hold it. (Here there is none of those: what is compared is what
/// would differ there.)
#[test]
fn what_is_locked_is_on_the_kernels_list_under_its_files_number() {
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let space = space(root.path(), backend);
        let guard = space.mutex("a").unwrap().lock_owned().unwrap();
        match backend {
            Backend::Segment => {
                let (slot, ..) = Raw::open(space.path()).participants()[0];
                let path = space.path().join("segment");
                if File::open("/proc/locks").is_err() {
                    skip!("there is no list of locks");
                }
                assert!(is_listed("OFDLCK", &path, Some(slot.into())));
                drop((guard, space));
                assert!(!is_listed("OFDLCK", &path, Some(slot.into())), "it left");
            }
            _ => {
                let path = space.path().join("0.lock");
                assert!(is_listed("FLOCK", &path, None));
                drop(guard);
                assert!(!is_listed("FLOCK", &path, None), "it was released");
            }
        }
    }
}

/// In a mount of several layers: opens the space, and says what came of it.
pub fn first_reader(arguments: &[String]) {
    let opened = Space::builder("test").root(&arguments[0]).open();
    match opened.and_then(|space| space.mutex("a")?.try_lock_owned_for(Duration::from_millis(100))) {
        Ok(guard) => {
            say(format!("token {}", guard.token()));
            hear();
        }
        Err(error) => say(error),
    }
    hear();
}

/// H51: in a container whose image has a space in it, the first who writes gets a copy of its file.
#[test]
fn the_copy_of_a_space_that_an_overlay_makes_is_refused() {
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let at = |name: &str| root.path().join(name);
        ["lower", "upper", "work", "merged"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
        let layers = format!(
            "mount -t overlay -o lowerdir={},upperdir={},workdir={} none {} && exec \"$@\"",
            at("lower").display(),
            at("upper").display(),
            at("work").display(),
            at("merged").display()
        );
        let overlay = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &layers, "sh"];
        or_skip!(crate::can_run(&overlay));
        let start = || {
            let plain = support::command("first reader", &[at("merged").to_str().unwrap()]);
            support::start_command(support::behind(&overlay, &plain))
        };
        let space = space(at("lower"), backend);
        let guard = space.mutex("a").unwrap().lock_owned().unwrap();
        let said = start().hear();
        assert!(!said.starts_with("token "), "{}: two holders", name_of(backend));
        println!("{}: {said}", name_of(backend));
        assert!(guard.is_held());
        drop((guard, space));
    }
}
