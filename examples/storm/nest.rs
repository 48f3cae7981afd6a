//! Where the workers come from: forked, not executed, since that is what allows for thousands of deaths a second. It kills, stops and buries
//! them, and keeps what they logged.
//!
//! Each worker is the leader of a process group, in which its child is, too; and whoever loses its parent gets this process as one. So a group is
//! over exactly when there is nobody left of it to be waited for.

use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use hostlock::Space;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid, setpgid};

use super::chance::{Random, now};
use super::judge::Entry;
use super::log::{DEEDS, Logs};
use super::set;
use super::worker::{BOUND, Me, Start, finish};

/// What the kills and stops were, and whom they hit.
#[derive(Debug, Default)]
pub struct Tally {
    pub started: u64,
    pub killed_alone: u64,
    pub killed_with_child: u64,
    pub killed_stopped: u64,
    pub hit_holders: u64,
    pub hit_waiters: u64,
    pub stops: u64,
    pub ended_themselves: u64,
    pub deeds: [u64; DEEDS.len()],
}

impl Tally {
    pub fn kills(&self) -> u64 {
        self.killed_alone + self.killed_with_child + self.killed_stopped
    }
}

enum State {
    Empty,
    Runs {
        pid: Pid,
        stopped: Option<Instant>,
    },
    /// It was killed, when it lived until then at least.
    Killed {
        pid: Pid,
        lived: u64,
    },
    /// The worker is dead, and its child goes on for a while.
    Orphaned {
        group: Pid,
        until: Instant,
        lived: u64,
    },
}

struct Place {
    state: State,
    number: u64,
}

pub struct Nest {
    pub root: PathBuf,
    pub logs: Logs,
    pub random: Random,
    pub seed: u64,
    /// This process is in the space, too; a worker takes it from its copy of this.
    pub observer: Option<Space>,
    pub tally: Tally,
    pub history: Vec<Entry>,
    pub violations: Vec<String>,
    places: Vec<Place>,
    incarnations: u64,
}

impl Nest {
    pub fn new(root: PathBuf, seed: u64, processes: usize) -> Result<Self, Box<dyn std::error::Error>> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let observer = Some(set::open(&root, processes, Duration::from_millis(5))?);
        let places = (0..processes).map(|_| Place { state: State::Empty, number: 0 }).collect();
        Ok(Self {
            root,
            logs: Logs::new(2 * processes)?,
            random: Random(seed),
            seed,
            observer,
            tally: Tally::default(),
            history: Vec::new(),
            violations: Vec::new(),
            places,
            incarnations: 0,
        })
    }

    pub fn space(&self) -> &Space {
        self.observer.as_ref().expect("the nest is in the space")
    }

    fn start(&self, place: usize, calm: bool) -> Start {
        let count = self.places.len();
        let number = self.incarnations;
        Start {
            root: self.root.clone(),
            processes: count,
            // Drawn once, or the numbers of one would be those of another, shifted.
            random: Random(Random(self.seed ^ number).draw()),
            number,
            place,
            log: self.logs.area(place),
            child: self.logs.area(count + place),
            board: self.logs.board(),
            calm,
        }
    }

    /// Puts a new worker into a place that is empty.
    pub fn hatch(&mut self, place: usize, calm: bool) {
        self.incarnations += 1;
        let start = self.start(place, calm);
        let nest = Pid::this();
        // SAFETY: whatever else there is in this process waits for it, and holds nothing.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                match self.observer.take() {
                    Some(inherited) if getppid() == nest => Me::live(start, inherited),
                    _ => finish(0),
                }
            }
            Ok(ForkResult::Parent { child }) => {
                let _ = setpgid(child, child);
                self.tally.started += 1;
                self.places[place].state = State::Runs { pid: child, stopped: None };
                self.places[place].number = self.incarnations;
            }
            Err(error) => {
                self.violations.push(format!("cannot fork: {error}"));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Sees to those who ended by themselves, to orphans, and to who was stopped for long enough.
    pub fn tend(&mut self, calm: bool) {
        for place in 0..self.places.len() {
            match self.places[place].state {
                State::Empty if !calm => self.hatch(place, false),
                State::Empty => {}
                State::Runs { pid, stopped } => {
                    if stopped.is_some_and(|until| until <= Instant::now()) {
                        let _ = kill(pid, Signal::SIGCONT);
                        self.places[place].state = State::Runs { pid, stopped: None };
                    }
                    if self.has_ended(pid, place) {
                        self.tally.ended_themselves += 1;
                        self.orphan(place, pid, 0);
                    }
                }
                State::Killed { pid, lived } => {
                    if self.has_ended(pid, place) {
                        let area = self.logs.area(place);
                        self.tally.hit_holders += u64::from(area.has().load(SeqCst) > 0);
                        self.tally.hit_waiters += u64::from(area.wants().load(SeqCst) > 0);
                        self.orphan(place, pid, lived);
                    }
                }
                State::Orphaned { group, until, lived } => {
                    if until <= Instant::now() {
                        let _ = kill(Pid::from_raw(-group.as_raw()), Signal::SIGKILL);
                    }
                    if self.is_over(group, place) {
                        self.bury(place, lived);
                    }
                }
            }
        }
    }

    /// Whether a worker is dead, which then is no zombie any more.
    fn has_ended(&mut self, pid: Pid, place: usize) -> bool {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(status) => self.look_at(status, place, pid),
            Err(error) => self.violations.push(format!("a worker cannot be waited for: {error}")),
        }
        true
    }

    /// It is dead, and lived until `lived` at least, if it did not say more (0: it does).
    fn orphan(&mut self, place: usize, group: Pid, lived: u64) {
        let until = Instant::now() + Duration::from_micros(self.random.draw() % 20_000);
        self.places[place].state = State::Orphaned { group, until, lived };
        if self.is_over(group, place) {
            self.bury(place, lived);
        }
    }

    /// Whether nobody is left of a group.
    fn is_over(&mut self, group: Pid, place: usize) -> bool {
        loop {
            match waitpid(Pid::from_raw(-group.as_raw()), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return false,
                Ok(status) => self.look_at(status, place, group),
                Err(Errno::ECHILD) => return true,
                Err(error) => self.violations.push(format!("a group cannot be waited for: {error}")),
            }
        }
    }

    /// However it ended, it should not have crashed.
    fn look_at(&mut self, status: WaitStatus, place: usize, group: Pid) {
        match status {
            WaitStatus::Exited(_, 0 | 1) | WaitStatus::Signaled(_, Signal::SIGKILL, _) => {}
            other => {
                let number = self.places[place].number;
                self.violations.push(format!("worker {number} (group {group}) ended so: {other:?}"));
            }
        }
    }

    /// Keeps what those of a place logged, who are all dead, and empties it.
    fn bury(&mut self, place: usize, lived: u64) {
        let (reaped, count) = (now(), self.places.len());
        let mut parent_ended = 0;
        for (index, generation) in [(place, 0), (count + place, 1 << 32)] {
            let area = self.logs.area(index);
            let worker = self.places[place].number | generation;
            if let Some(complaint) = area.complaint() {
                self.violations.push(format!("worker {worker:#x}: {complaint}"));
            }
            for (all, deed) in self.tally.deeds.iter_mut().zip(area.deeds()) {
                *all += deed.load(SeqCst);
            }
            let ending = area.ending().load(SeqCst);
            // A child may have died with a parent that ended itself, before that was killed as well.
            let ended = if ending == 0 { parent_ended } else { ending };
            parent_ended = ending;
            let lived = [ended, lived].into_iter().filter(|time| *time != 0).min().unwrap_or(0);
            let taken = area.take();
            self.history.extend(taken.into_iter().map(|record| Entry { record, worker, lived, reaped }));
        }
        self.places[place].state = State::Empty;
    }

    /// Kills or stops somebody, mostly somebody who has something.
    pub fn strike(&mut self) {
        let (count, logs) = (self.places.len(), self.logs);
        let start = self.random.draw() as usize % count;
        let first = |is_wanted: &dyn Fn(usize) -> bool| {
            (start..start + count).map(|place| place % count).find(|place| is_wanted(*place))
        };
        // Who has not come as far as to use anything is hit now and then.
        let begun = match self.random.draw() % 16 {
            0 => Some(start),
            1..9 => first(&|place| logs.area(place).has().load(SeqCst) > 0),
            _ => None,
        };
        let Some(place) = begun.or_else(|| first(&|place| logs.area(place).has_begun())) else { return };
        let State::Runs { pid, stopped } = self.places[place].state else { return };
        let how = self.random.draw() % 16;
        if how < 2 && stopped.is_none() {
            let _ = kill(pid, Signal::SIGSTOP);
            let until = Instant::now() + Duration::from_micros(100 + self.random.draw() % 30_000);
            self.places[place].state = State::Runs { pid, stopped: Some(until) };
            self.tally.stops += 1;
            return;
        }
        self.kill(place, pid, stopped.is_some(), how < 5);
    }

    fn kill(&mut self, place: usize, pid: Pid, was_stopped: bool, with_child: bool) {
        let lived = now();
        let _ = kill(if with_child { Pid::from_raw(-pid.as_raw()) } else { pid }, Signal::SIGKILL);
        *match (was_stopped, with_child) {
            (true, _) => &mut self.tally.killed_stopped,
            (_, true) => &mut self.tally.killed_with_child,
            _ => &mut self.tally.killed_alone,
        } += 1;
        self.places[place].state = State::Killed { pid, lived };
    }

    /// Ends all, one way or the other.
    pub fn clear(&mut self) {
        for place in 0..self.places.len() {
            if let State::Runs { pid, stopped } = self.places[place].state {
                self.kill(place, pid, stopped.is_some(), true);
            }
        }
        while self.places.iter().any(|place| !matches!(place.state, State::Empty)) {
            std::thread::sleep(Duration::from_micros(100));
            self.tend(true);
        }
    }

    /// Lets everybody acquire everything, without faults; who does not come to an end is stuck.
    pub fn calm(&mut self) {
        for place in 0..self.places.len() {
            self.hatch(place, true);
        }
        let before = (self.tally.ended_themselves, self.tally.kills());
        let end = Instant::now() + 2 * BOUND;
        while self.places.iter().any(|place| !matches!(place.state, State::Empty)) {
            if Instant::now() > end {
                for place in 0..self.places.len() {
                    if matches!(self.places[place].state, State::Runs { .. }) {
                        let wants = self.logs.area(place).wants().load(SeqCst);
                        let what = if wants > 0 { set::name(wants as u16 - 1) } else { "nothing".into() };
                        self.violations.push(format!("in the calm, a worker is stuck; it last waited for {what}"));
                    }
                }
                self.clear();
                return;
            }
            std::thread::sleep(Duration::from_micros(500));
            self.tend(true);
        }
        debug_assert_eq!(self.tally.kills(), before.1);
        self.tally.ended_themselves = before.0;
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        for place in &self.places {
            let group = match place.state {
                State::Empty => continue,
                State::Runs { pid, .. } | State::Killed { pid, .. } => pid,
                State::Orphaned { group, .. } => group,
            };
            let _ = kill(Pid::from_raw(-group.as_raw()), Signal::SIGKILL);
            while waitpid(Pid::from_raw(-group.as_raw()), None).is_ok() {}
        }
    }
}
