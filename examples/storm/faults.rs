//! What a process does to itself while it holds something.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, alarm, fork, getppid};

use super::chance::{Random, now, work};
use super::log::{Deed, Fate, Kind, Of};
use super::set::{self, MUTEX, Set};
use super::worker::{Me, finish};

impl Me {
    /// What is done with the lock in hand, mostly short, sometimes long enough that many sleep. `true`: this is a child now.
    pub fn inside(&mut self, span: Option<Duration>) -> bool {
        if !self.start.calm {
            match self.below(1_000) {
                0..8 => return self.fork(),
                8..10 => self.execute(),
                10 => {
                    self.note(Deed::ExitedHolding);
                    self.start.log.ending().store(now(), SeqCst);
                    finish(0)
                }
                11 => {
                    self.note(Deed::KilledItself);
                    self.start.log.ending().store(now(), SeqCst);
                    let _ = kill(Pid::this(), Signal::SIGKILL);
                }
                12 => self.close_all(),
                _ => {}
            }
        }
        match span {
            // For longer than it said.
            Some(span) if self.one_in(8) => std::thread::sleep(span + Duration::from_micros(self.below(2_000))),
            _ if self.one_in(64) => std::thread::sleep(Duration::from_micros(self.below(500))),
            _ if self.one_in(32) => work(self.below(50_000)),
            _ => work(self.below(1_000)),
        }
        false
    }

    fn fork(&mut self) -> bool {
        if !std::mem::replace(&mut self.may_fork, false) {
            return false;
        }
        self.note(Deed::Forked);
        let parent = Pid::this();
        // Some go on when their parent is dead, for a while.
        let is_heir = self.one_in(2);
        let seed = self.start.random.draw();
        // SAFETY: other threads of this process are the keeper of its leases, and what the library holds across a fork it takes care of itself.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let child = self.start.child;
                self.start.log = child;
                self.start.number |= 1 << 32;
                self.start.random = Random(seed);
                self.items = 0;
                std::panic::set_hook(Box::new(move |panic| child.complain(&panic.to_string())));
                if is_heir {
                    // Whatever happens, it does not stay.
                    alarm::set(60);
                } else {
                    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                    if getppid() != parent {
                        finish(0);
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// A child does a few things of its own, and ends.
    pub fn grow_up(&mut self) -> ! {
        let acts = self.below(200);
        self.storm(acts);
        self.start.log.ending().store(now(), SeqCst);
        finish(0)
    }

    /// Another program in this process: to the others it is dead.
    fn execute(&mut self) -> ! {
        self.note(Deed::Executed);
        let time = format!("0.0{:02}", self.below(30));
        self.start.log.ending().store(now(), SeqCst);
        let error = Command::new("sleep").arg(time).exec();
        self.fail(&format!("cannot execute sleep: {error}"))
    }

    fn close_all(&mut self) {
        self.note(Deed::ClosedAll);
        self.closed = true;
        // SAFETY: closing descriptors is what it does; whatever is used afterwards is opened afterwards.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    }

    /// It holds something for good, and must not wait for anybody meanwhile.
    pub fn die_soon(&mut self) -> ! {
        std::thread::sleep(Duration::from_micros(self.below(3_000)));
        self.start.log.ending().store(now(), SeqCst);
        if self.one_in(2) {
            finish(0);
        }
        let _ = kill(Pid::this(), Signal::SIGKILL);
        finish(0)
    }

    /// A thread that ends while it holds something: it unwinds, forgets its guard, or leaves it to another thread.
    pub fn thread(&mut self) {
        let (how, log, space) = (self.below(4), self.start.log, self.set().space.clone());
        let called = now();
        let thread = std::thread::spawn(move || {
            let mutex = space.mutex("mutex")?;
            let guard = mutex.try_lock_owned_for(super::worker::BOUND)?;
            let of = Of {
                kind: Kind::Alone,
                name: MUTEX,
                count: 1,
                token: guard.token(),
                called,
                told: guard.abandoned(),
                span: None,
            };
            let open = log.begin(of);
            Ok::<_, hostlock::Error>(match how {
                0 => {
                    std::mem::forget(guard);
                    None
                }
                1 => {
                    open.end();
                    // Without a word of the panic's hook.
                    std::panic::resume_unwind(Box::new(open));
                }
                _ => Some((guard, open)),
            })
        });
        self.note(Deed::ThreadLeft);
        match thread.join() {
            Ok(Ok(None)) => self.die_soon(),
            Ok(Ok(Some((guard, open)))) => {
                open.end();
                match guard.unlock() {
                    Ok(()) => open.ended(Fate::Released),
                    Err(error) => self.fail(&format!("a guard of a thread that ended: {error}")),
                }
            }
            Ok(Err(error)) => self.fail(&format!("in a thread: {error}")),
            Err(unwound) => match unwound.downcast::<super::log::Open>() {
                Ok(open) => open.ended(Fate::Released),
                Err(_) => finish(1),
            },
        }
    }

    /// Leaves the space in good order, and comes back.
    pub fn leave_and_join(&mut self) {
        if self.closed {
            return;
        }
        self.note(Deed::Left);
        self.set = None;
        let interval = Duration::from_millis(1 + self.below(20));
        match set::open(&self.start.root, self.start.processes, interval).and_then(Set::new) {
            Ok(set) => self.set = Some(Rc::new(set)),
            Err(error) => self.fail(&format!("cannot join again: {error}")),
        }
    }
}
