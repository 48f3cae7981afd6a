//! Nothing grows, however long it goes on: a process that acquires and releases, makes and takes away names, opens and closes spaces, and has
//! others join and die around it, has as much after all of it as after the first tenth.
//!
//! `HOSTLOCK_SOAK=10000000` says how many acquisitions.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hostlock::{Acquired, Backend, Lease, Space};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use support::footprint::{Footprint, files};
use support::{act, root, say, start};

/// The system's allocator, and how much it has given away.
struct Counting;

static GIVEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's, as it was asked for.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        GIVEN.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller answers for the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        GIVEN.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller answers for both, and what it has is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BOUND: Duration = Duration::from_secs(20);
/// Fewer than the names that come and go in a turn.
const LOCKS: u32 = 64;
/// What the allocator may keep more of than it has given away, in kilobytes.
const SLACK: u64 = 512;

#[test]
fn role() {
    act(&[("soak", soak)]);
}

struct Soak {
    root: PathBuf,
    space: Space,
    files: Space,
    acquired: u64,
    names: u64,
    processes: u64,
    turns: u64,
}

/// All that must not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    of: Footprint,
    /// Bytes that were allocated and not freed.
    given: usize,
    participants: usize,
    waiting: usize,
    names: usize,
    names_of_files: usize,
    files: usize,
}

fn soak(arguments: &[String]) {
    let (root, wanted): (PathBuf, u64) = (arguments[0].clone().into(), arguments[1].parse().unwrap());
    let space = Space::builder("soak").root(&root).locks(LOCKS).participants(4).extents(512 << 10);
    let space = space.check_interval(Duration::from_millis(5)).open().unwrap();
    let files = Space::builder("files").root(&root).backend(Backend::Files).open().unwrap();
    let mut soak = Soak { root, space, files, acquired: 0, names: 0, processes: 0, turns: 0 };
    let started = Instant::now();
    let mut first = None;
    // Whatever there is of it at all is there then, as many descriptions of lock files as are kept for later included.
    (0..3).for_each(|_| soak.turn());
    (0..20).for_each(|_| soak.lock_files());
    for tenth in 1..=10 {
        while soak.acquired < wanted * tenth / 10 {
            soak.turn();
        }
        let look = soak.look();
        say(format!("{} acquisitions, {} names, {} processes: {look:?}", soak.acquired, soak.names, soak.processes));
        let then: Look = *first.get_or_insert(look);
        let more = look.of.anonymous.saturating_sub(then.of.anonymous);
        let of = Footprint { anonymous: then.of.anonymous, ..look.of };
        if (Look { of, ..look }) != then || more > SLACK {
            say(format!("it grew: {then:?}"));
            return;
        }
    }
    say(format!("flat, in {:.1} s", started.elapsed().as_secs_f64()));
}

impl Soak {
    /// Some ten thousand acquisitions, and all that comes and goes beside them.
    fn turn(&mut self) {
        self.turns += 1;
        self.plain();
        self.leases();
        self.names();
        self.spaces();
        self.lock_files();
        self.killed_while_it_holds();
        self.killed_while_it_waits();
        self.in_and_out();
    }

    fn look(&mut self) -> Look {
        self.space.recover_dead().unwrap();
        // How many of them are there is a matter of when their room was needed; that they can go is not.
        for lock in Space::builder("soak").root(&self.root).inspect().unwrap().locks {
            if lock.name.contains('-') {
                self.space.remove(&lock.name).unwrap();
            }
        }
        let usage = self.space.usage();
        Look {
            of: Footprint::of(&self.space),
            given: GIVEN.load(Relaxed),
            participants: usage.participants,
            waiting: usage.waiting,
            names: usage.locks,
            names_of_files: self.files.usage().locks,
            files: files(&self.root),
        }
    }

    fn plain(&mut self) {
        let mutex = self.space.mutex("mutex").unwrap();
        let row = self.space.mutex_with("row", [0u64; 8]).unwrap();
        let rwlock = self.space.rwlock("rwlock").unwrap();
        let permits = self.space.semaphore("permits", 3).unwrap();
        let queue = self.space.queue::<u64>("queue", 8).unwrap();
        let again = self.space.reentrant_mutex("again").unwrap();
        for _ in 0..500 {
            for _ in 0..10 {
                mutex.lock().unwrap().unlock().unwrap();
            }
            drop(mutex.lock_owned().unwrap());
            let Acquired::Clean(mut guard) = row.lock().unwrap() else { panic!("nobody died with it") };
            guard[0] += 1;
            drop(guard);
            rwlock.read().unwrap().unlock().unwrap();
            rwlock.write().unwrap().downgrade().unwrap().unlock().unwrap();
            permits.acquire().unwrap().unlock().unwrap();
            permits.acquire_many(2).unwrap().unlock().unwrap();
            queue.push(1).unwrap();
            assert_eq!(queue.pop().unwrap(), 1);
            let (_one, _two) = (again.lock().unwrap(), again.lock().unwrap());
        }
        self.acquired += 500 * 20;
    }

    fn leases(&mut self) {
        let mutex = self.space.mutex("leased").unwrap();
        for _ in 0..50 {
            let guard = mutex.lock_with_lease(Duration::from_secs(60)).unwrap();
            guard.renew().unwrap();
            guard.unlock().unwrap();
            mutex.lock_with_lease(Lease::new(Duration::from_secs(60)).kept()).unwrap().unlock().unwrap();
        }
        // One that is lost, while its owner lives.
        let lost = mutex.lock_with_lease(Duration::from_millis(1)).unwrap();
        let next = mutex.try_lock_for(BOUND).unwrap();
        assert!(next.abandoned().is_some_and(|dead| dead.lease_lost) && lost.unlock().is_err());
        self.acquired += 102;
    }

    /// More than the space has room for, in all: some go by themselves, some have to be taken away.
    fn names(&mut self) {
        let space = &self.space;
        for _ in 0..25 {
            self.names += 1;
            let name = |kind| format!("{kind}-{}", self.names);
            drop(space.mutex(&name("mutex")).unwrap().lock().unwrap());
            drop(space.rwlock(&name("rwlock")).unwrap().read_owned().unwrap());
            drop(space.semaphore(&name("permits"), 40).unwrap().acquire_owned().unwrap());
            drop(space.mutex_with(&name("row"), [7u64; 100]).unwrap().lock_owned().unwrap());
            space.remove(&name("row")).unwrap();
            space.queue::<u64>(&name("queue"), 100).unwrap().push(1).unwrap();
            space.remove(&name("queue")).unwrap();
            space.once(&name("once")).unwrap().call_once(|_| ()).unwrap();
            space.remove(&name("once")).unwrap();
            space.latch(&name("latch"), 1).unwrap().count_down().unwrap();
            space.remove(&name("latch")).unwrap();
            drop(space.barrier(&name("barrier"), 2).unwrap().join().unwrap());
            space.remove(&name("barrier")).unwrap();
            drop(space.event(&name("event")).unwrap().announce().unwrap());
            space.remove(&name("event")).unwrap();
            self.acquired += 10;
        }
    }

    /// Other spaces, which this process enters and leaves.
    fn spaces(&mut self) {
        let name = format!("side-{}", self.turns % 3);
        let side = Space::builder(&name).root(&self.root).locks(16).participants(8).open().unwrap();
        drop(side.mutex("mutex").unwrap().lock().unwrap());
        self.acquired += 1;
    }

    fn lock_files(&mut self) {
        let (mutex, rwlock) = (self.files.mutex("mutex").unwrap(), self.files.rwlock("rwlock").unwrap());
        let permits = self.files.semaphore("permits", 2).unwrap();
        for _ in 0..50 {
            mutex.lock().unwrap().unlock().unwrap();
            rwlock.read().unwrap().unlock().unwrap();
            rwlock.write().unwrap().unlock().unwrap();
            permits.acquire().unwrap().unlock().unwrap();
        }
        let name = format!("name-{}", self.names);
        drop(self.files.mutex(&name).unwrap().lock().unwrap());
        self.files.remove(&name).unwrap();
        self.acquired += 201;
    }

    /// A child that does `act`, says so, and stays until it is killed.
    fn hatch(&mut self, act: impl FnOnce(&Self)) -> (Pid, std::io::PipeReader) {
        self.processes += 1;
        let (said, mut say) = std::io::pipe().unwrap();
        // SAFETY: the other threads of this process wait, and the keeper of leases is the library's to take care of.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => (child, said),
            ForkResult::Child => {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                act(self);
                say.write_all(b"!").unwrap();
                loop {
                    nix::unistd::pause();
                }
            }
        }
    }

    fn killed_while_it_holds(&mut self) {
        let (child, mut said) = self.hatch(|soak| {
            std::mem::forget(soak.space.mutex("mutex").unwrap().lock_owned().unwrap());
            std::mem::forget(soak.space.rwlock("rwlock").unwrap().read_owned().unwrap());
            std::mem::forget(soak.space.semaphore("permits", 3).unwrap().acquire_many_owned(3).unwrap());
            std::mem::forget(soak.space.latch("latch", 1).unwrap().party().unwrap());
            std::mem::forget(soak.files.mutex("mutex").unwrap().lock_owned().unwrap());
        });
        said.read_exact(&mut [0]).unwrap();
        end(child);
        let guard = self.space.mutex("mutex").unwrap().lock_owned().unwrap();
        assert!(guard.abandoned().is_some());
        drop(self.space.rwlock("rwlock").unwrap().try_write_for(BOUND).unwrap());
        drop(self.space.semaphore("permits", 3).unwrap().try_acquire_many_for(3, BOUND).unwrap());
        drop(self.files.mutex("mutex").unwrap().try_lock_for(BOUND).unwrap());
        self.space.remove("latch").unwrap();
        self.acquired += 8;
    }

    fn killed_while_it_waits(&mut self) {
        let guard = self.space.mutex("mutex").unwrap().lock_owned().unwrap();
        let (child, _said) = self.hatch(|soak| drop(soak.space.mutex("mutex").unwrap().lock_owned().unwrap()));
        let end_of_patience = Instant::now() + BOUND;
        while self.space.usage().waiting == 0 {
            assert!(Instant::now() < end_of_patience, "it waits for a lock that is held");
            std::thread::sleep(Duration::from_micros(100));
        }
        end(child);
        guard.unlock().unwrap();
        self.acquired += 1;
    }

    /// One that opens the space anew, and leaves it in good order.
    fn in_and_out(&mut self) {
        let (child, mut said) = self.hatch(|soak| {
            let space = Space::builder("soak").root(&soak.root).open().unwrap();
            drop(space.mutex("mutex").unwrap().lock().unwrap());
        });
        said.read_exact(&mut [0]).unwrap();
        end(child);
        self.acquired += 1;
    }
}

fn end(child: Pid) {
    kill(child, Signal::SIGKILL).unwrap();
    waitpid(child, None).unwrap();
}

#[test]
fn nothing_is_more_at_the_end_than_after_the_first_tenth() {
    let root = root();
    let wanted = std::env::var("HOSTLOCK_SOAK").unwrap_or("200000".into());
    let actor = start("soak", &[root.path().to_str().unwrap(), &wanted]);
    let mut last = String::new();
    while let Some(line) = actor.hear_within(Duration::from_secs(1200)) {
        println!("{line}");
        last = line;
        if last.starts_with("flat") || last.starts_with("it grew") {
            break;
        }
    }
    assert!(last.starts_with("flat"), "{last}");
    drop(actor);
    assert!(Path::new(root.path()).exists());
}
