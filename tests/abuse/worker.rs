//! A process that does everything that can be done in a space, while somebody does what he likes with its file.
//!
//! No call may take longer than its deadline, or than a lock that looks held: each of them is made under a token that is cancelled when it
//! takes long, and a call that does not come back even then ends the process, with the name of the call. So does a panic in any thread.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hostlock::{
    Acquired, Backend, CancelToken, Lease, LeaseGuard, MutexGuard, Result, Space, SpaceBuilder, Wanted,
    try_lock_all_for,
};
use nix::errno::Errno;

use crate::support::chance::Random;
use crate::support::{PATIENCE, filter, hear, say};

/// Long enough to sleep once.
const SHORT: Duration = Duration::from_millis(3);
/// After so long a call that has no deadline is cancelled.
const CANCELLED_AFTER: Duration = Duration::from_millis(500);
/// A call that was cancelled, or whose deadline has passed, and is not back by then hangs. Who changes names is waited for up to 10 s.
const HANGS_AFTER: Duration = Duration::from_secs(30);

const PERMITS: u32 = 3;

pub fn builder(root: &Path, backend: Backend) -> SpaceBuilder {
    let builder = Space::builder("test").root(root).locks(24).backend(backend);
    match backend {
        Backend::Files => builder,
        _ => builder.participants(8).extents(64 << 10),
    }
}

pub fn backend_of(name: &str) -> Backend {
    if name == "segment" { Backend::Segment } else { Backend::Files }
}

/// What is being done, since when, and what ends it.
type Doing = Option<(&'static str, Instant, CancelToken)>;

/// Makes calls, and keeps count of what came of them.
#[derive(Default)]
struct Caller {
    doing: Arc<Mutex<Doing>>,
    outcomes: BTreeMap<String, u64>,
    longest: Duration,
}

impl Caller {
    /// Whoever watches that calls come back.
    fn watch(&self) {
        let doing = Arc::clone(&self.doing);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(20));
                let doing = doing.lock().unwrap().clone();
                let Some((what, since, token)) = doing else { continue };
                match since.elapsed() {
                    long if long > HANGS_AFTER => fail(&format!("{what} did not come back in {long:?}")),
                    long if long > CANCELLED_AFTER => token.cancel(),
                    _ => {}
                }
            }
        });
    }

    fn call<T>(&mut self, what: &'static str, act: impl FnOnce() -> Result<T>) -> Option<T> {
        let (token, begin) = (CancelToken::new(), Instant::now());
        *self.doing.lock().unwrap() = Some((what, begin, token.clone()));
        let outcome = token.run(act);
        *self.doing.lock().unwrap() = None;
        self.longest = self.longest.max(begin.elapsed());
        let (name, value) = match outcome {
            Ok(value) => ("Ok".to_owned(), Some(value)),
            Err(error) => {
                // A sentence is made of whatever lies there.
                assert!(!error.to_string().is_empty());
                (format!("{error:?}").split([' ', '{', '(']).next().unwrap_or_default().to_owned(), None)
            }
        };
        *self.outcomes.entry(name).or_default() += 1;
        value
    }
}

/// Ends this process, with the reason in its last line.
fn fail(why: &str) -> ! {
    say(format!("failed: {}", why.replace('\n', " ")));
    std::process::exit(9)
}

/// Works until it is told to stop.
pub fn worker(arguments: &[String]) {
    std::panic::set_hook(Box::new(|panic| fail(&format!("a panic: {panic}"))));
    let (root, backend) = (Path::new(&arguments[0]), backend_of(&arguments[1]));
    let mut random = Random(arguments[2].parse().unwrap());
    if arguments.get(3).is_some_and(|how| how == "without mappings") {
        filter::refuse_shared_mappings(Errno::EPERM).unwrap();
    }
    let mut caller = Caller::default();
    caller.watch();
    let mut space = Some(builder(root, backend).open().unwrap());
    turn(space.as_ref().unwrap(), &mut random, &mut caller);
    say("here");
    let (stop, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        hear();
        let _ = stop.send(());
    });
    let begin = Instant::now();
    while stopped.try_recv().is_err() && begin.elapsed() < PATIENCE * 60 {
        match &space {
            // Now and then it leaves, and comes in again, if it can.
            Some(_) if random.draw().is_multiple_of(300) => {
                caller.call("leaving", || {
                    drop(space.take());
                    Ok(())
                });
            }
            Some(space) => turn(space, &mut random, &mut caller),
            None => {
                let opened = caller.call("open", || builder(root, backend).open());
                if opened.is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                space = opened;
            }
        }
    }
    caller.call("leaving", || {
        drop(space.take());
        Ok(())
    });
    let mut line = format!("longest={} ", caller.longest.as_millis());
    for (what, times) in &caller.outcomes {
        write!(line, "{what}={times} ").unwrap();
    }
    say(line);
    hear();
}

/// One thing, or a few that belong together.
fn turn(space: &Space, random: &mut Random, caller: &mut Caller) {
    let number = random.draw() / 64 % 40;
    // Some of the names are new ones, and take others' places.
    let name = if number < 4 { format!("one of several {number}") } else { "mutex".into() };
    let call = caller;
    match random.draw() % 25 {
        0..3 => {
            let Some(mutex) = call.call("mutex", || space.mutex(&name)) else { return };
            if let Some(guard) = call.call("try_lock_for", || mutex.try_lock_for(SHORT)) {
                look_at(&guard, random);
                match random.draw() % 3 {
                    0 => call.call("unlock_fair", || guard.unlock_fair()),
                    1 => call.call("abandon", || guard.abandon()),
                    _ => call.call("unlock", || guard.unlock()),
                };
            }
            call.call("holder", || mutex.holder());
            if let Some(guard) = call.call("lock", || mutex.lock()) {
                call.call("lock twice", || mutex.try_lock_for(SHORT).map(drop));
                call.call("drop", || {
                    drop(guard);
                    Ok(())
                });
            }
        }
        3..6 => readers(space, random, call),
        6..9 => permits(space, random, call),
        9..11 => leases(space, random, call),
        11..14 => data(space, random, call),
        14..17 => signals(space, random, call),
        17 | 18 => meeting(space, random, call),
        19 | 20 => {
            let (Some(mutex), Some(condvar)) = (
                call.call("mutex", || space.mutex("of the condvar")),
                call.call("condvar", || space.condvar("condvar")),
            ) else {
                return;
            };
            if let Some(guard) = call.call("try_lock_for", || mutex.try_lock_for(SHORT)) {
                call.call("Condvar::wait_for", || condvar.wait_for(guard, SHORT).map(drop));
            }
            call.call("notify_one", || condvar.notify_one());
            call.call("notify_all", || condvar.notify_all());
        }
        21 => {
            let Some(mutex) = call.call("reentrant", || space.reentrant_mutex("reentrant")) else { return };
            if let Some(guard) = call.call("ReentrantMutex::try_lock_for", || mutex.try_lock_for(SHORT)) {
                call.call("again", || mutex.try_lock().map(drop));
                call.call("ReentrantMutex::unlock", || guard.unlock());
            }
        }
        22 => {
            let Some(one) = call.call("mutex", || space.mutex("mutex")) else { return };
            let Some(two) = call.call("rwlock", || space.rwlock("rwlock")) else { return };
            call.call("try_lock_all_for", || {
                try_lock_all_for([Wanted::Write(&two), Wanted::Lock(&one)], SHORT).map(drop)
            });
        }
        23 => {
            const GIVEN_UP: [&str; 8] =
                ["once", "latch", "queue", "data", "event", "barrier", "semaphore", "one of several 1"];
            let name = GIVEN_UP[(random.draw() % GIVEN_UP.len() as u64) as usize];
            call.call("remove", || space.remove(name));
        }
        _ => {
            call.call("recover_dead", || space.recover_dead());
            let usage = space.usage();
            assert!(usage.locks <= usage.locks_capacity);
            let path = space.path().to_owned();
            let inspected = call.call("inspect", || Space::builder("test").root(path.parent().unwrap()).inspect());
            if let Some(inspection) = inspected {
                assert!(!format!("{inspection:?}").is_empty());
            }
            call.call("look_up", || space.look_up("queue"));
        }
    }
}

fn look_at(guard: &MutexGuard<'_>, random: &mut Random) {
    let _ = (guard.token(), guard.is_held(), guard.abandoned().map(ToString::to_string));
    crate::support::chance::work(random.draw() % 50_000);
}

fn readers(space: &Space, random: &mut Random, call: &mut Caller) {
    let Some(lock) = call.call("rwlock", || space.rwlock("rwlock")) else { return };
    if let Some(guard) = call.call("try_read_for", || lock.try_read_for(SHORT)) {
        crate::support::chance::work(random.draw() % 50_000);
        let _ = (guard.token(), guard.is_held(), guard.abandoned().map(ToString::to_string));
        match random.draw() % 3 {
            0 => {
                let upgraded =
                    call.call("try_upgrade_for", || guard.try_upgrade_for(SHORT).map_err(|refused| refused.error));
                drop(upgraded);
            }
            _ => {
                call.call("RwLockReadGuard::unlock", || guard.unlock());
            }
        }
    }
    call.call("holders", || lock.holders());
    if let Some(guard) = call.call("try_write_for", || lock.try_write_for(SHORT)) {
        let _ = (guard.token(), guard.is_held(), guard.abandoned().map(ToString::to_string));
        match random.draw() % 3 {
            0 => {
                call.call("downgrade", || guard.downgrade().map(drop).map_err(|refused| refused.error));
            }
            _ => {
                call.call("RwLockWriteGuard::unlock", || guard.unlock());
            }
        }
    }
    call.call("read", || lock.read().map(drop));
    call.call("write", || lock.write().map(drop));
}

fn permits(space: &Space, random: &mut Random, call: &mut Caller) {
    let Some(semaphore) = call.call("semaphore", || space.semaphore("semaphore", PERMITS)) else { return };
    let wanted = 1 + (random.draw() % u64::from(PERMITS)) as u32;
    if let Some(permit) = call.call("try_acquire_many_for", || semaphore.try_acquire_many_for(wanted, SHORT)) {
        let _ = (permit.tokens().count(), permit.is_held(), permit.abandoned().map(ToString::to_string));
        crate::support::chance::work(random.draw() % 50_000);
        call.call("SemaphorePermit::unlock", || permit.unlock());
    }
    call.call("try_acquire_for", || semaphore.try_acquire_for(SHORT).map(drop));
    call.call("available", || semaphore.available());
    call.call("Semaphore::holders", || semaphore.holders());
    call.call("acquire", || semaphore.acquire().map(drop));
}

fn leases(space: &Space, random: &mut Random, call: &mut Caller) {
    let kept =
        Lease::new(Duration::from_millis(20)).kept().on_lost(|name, token| assert!(!name.is_empty() || token > 0));
    let short = Lease::new(Duration::from_millis(1)).lock_delay(Duration::from_millis(1));
    let lease = if random.draw().is_multiple_of(2) { kept } else { short };
    let guard: Option<LeaseGuard> = match random.draw() % 3 {
        0 => call
            .call("mutex", || space.mutex("mutex"))
            .and_then(|mutex| call.call("try_lock_with_lease_for", || mutex.try_lock_with_lease_for(lease, SHORT))),
        1 => call
            .call("rwlock", || space.rwlock("rwlock"))
            .and_then(|lock| call.call("try_write_with_lease_for", || lock.try_write_with_lease_for(lease, SHORT))),
        _ => call.call("semaphore", || space.semaphore("semaphore", PERMITS)).and_then(|semaphore| {
            call.call("acquire_many_with_lease", || semaphore.try_acquire_many_with_lease_for(2, lease, SHORT))
        }),
    };
    if let Some(guard) = guard {
        let token = guard.token();
        call.call("renew", || guard.renew());
        let _ = (guard.is_held(), guard.remaining());
        if let Some(fence) = call.call("fence", || space.fence("fence")) {
            call.call("enter_for", || fence.enter_for(token, SHORT).map(|guard| guard.write(|| ())));
            call.call("newest", || fence.newest());
        }
        call.call("LeaseGuard::unlock", || guard.unlock());
    }
    if let Some(election) = call.call("election", || space.election("election", Duration::from_millis(30))) {
        if let Some(leadership) = call.call("campaign_for", || election.campaign_for(SHORT)) {
            let _ = leadership.is_leader();
            call.call("resign", || leadership.resign());
        }
        call.call("leader", || election.leader());
    }
}

fn data(space: &Space, random: &mut Random, call: &mut Caller) {
    match random.draw() % 3 {
        0 => {
            let Some(data) = call.call("mutex_with", || space.mutex_with::<[u64; 4]>("data", [0; 4])) else { return };
            if let Some(acquired) = call.call("Mutex<T>::try_lock_for", || data.try_lock_for(SHORT)) {
                let mut guard = match acquired {
                    Acquired::Clean(guard) => guard,
                    Acquired::Abandoned(guard) => guard.repaired(),
                };
                guard[0] = guard[0].wrapping_add(1);
                call.call("save", || guard.save());
                call.call("MutexDataGuard::unlock", || guard.unlock());
            }
        }
        1 => {
            let Some(data) = call.call("rwlock_with", || space.rwlock_with::<u64>("read data", 0)) else { return };
            call.call("RwLock<T>::try_read_for", || data.try_read_for(SHORT).map(drop));
            call.call("RwLock<T>::try_write_for", || data.try_write_for(SHORT).map(drop));
        }
        _ => {
            let Some(queue) = call.call("queue", || space.queue::<u64>("queue", 4)) else { return };
            call.call("push_for", || queue.push_for(random.draw(), SHORT));
            call.call("len", || queue.len());
            call.call("pop_for", || queue.pop_for(SHORT));
            call.call("try_pop_with", || queue.try_pop_with(|item| *item));
        }
    }
}

fn signals(space: &Space, random: &mut Random, call: &mut Caller) {
    match random.draw() % 4 {
        0 => {
            let Some(once) = call.call("once", || space.once("once")) else { return };
            call.call("call_once", || once.call_once(|state| drop(state.abandoned().map(ToString::to_string))));
            call.call("Once::wait_for", || once.wait_for(SHORT));
        }
        1 => {
            let Some(latch) = call.call("latch", || space.latch("latch", 4)) else { return };
            if let Some(party) = call.call("party", || latch.party()) {
                call.call("LatchParty::count_down", || party.count_down());
            }
            call.call("remaining", || latch.remaining());
            call.call("Latch::holders", || latch.holders());
            call.call("Latch::wait_for", || latch.wait_for(SHORT));
        }
        auto => {
            let made = call.call("event", || if auto == 2 { space.event("event") } else { space.auto_event("auto") });
            let Some(event) = made else { return };
            call.call("Event::wait_for", || event.wait_for(SHORT));
            match call.call("announce", || event.announce()) {
                Some(setter) => call.call("EventSetter::set", || setter.set()),
                None => call.call("Event::set", || event.set()),
            };
            call.call("reset", || event.reset());
            call.call("is_set", || event.is_set());
        }
    }
}

fn meeting(space: &Space, random: &mut Random, call: &mut Caller) {
    let Some(barrier) = call.call("barrier", || space.barrier("barrier", 2)) else { return };
    if let Some(mut member) = call.call("join", || barrier.join()) {
        for _ in 0..=random.draw() % 2 {
            match call.call("BarrierMember::wait_for", || member.wait_for(SHORT * 3)) {
                Some(_) => {}
                None => break,
            }
        }
        call.call("Barrier::holders", || barrier.holders());
        call.call("leave", || {
            drop(member);
            Ok(())
        });
    }
}

/// Whether an outcome is one that a sound space may give as well.
pub fn is_ordinary(outcome: &str) -> bool {
    !matches!(outcome, "Damaged" | "UnusableSegment" | "Lost" | "Cancelled")
}
