//! What the measured locks lie on: shared memory, a directory with files and spaces, semaphores of the system.

use std::mem::MaybeUninit;
use std::path::Path;

use hostlock::{Backend, Space};

use super::Plan;
use super::arena::Arena;
use super::catalogue::{OURS, find};
use super::death::Meeting;
use super::keeper::Kept;
use super::measure::{Contest, Measurement};
use super::peers::{
    Bare, BareCas, FdLock, Flock, Hostlock, HostlockFair, HostlockPermits, HostlockRw, Kind, Lock, Named,
    OpenFileDescription, Opened, ParkingLot, ParkingLotRw, Pthread, PthreadRw, ReadWrite, Semaphore, Shared, SharedRw,
    Std, StdRw,
};
use super::turns::Guarded;

/// Permits of the semaphores that have several.
pub(crate) const PERMITS: u32 = 4;

/// What lies in memory that all processes of a measurement share.
#[repr(C)]
pub(crate) struct Board {
    pub(crate) guarded: Guarded,
    pub(crate) meeting: Meeting,
    plain: MaybeUninit<Pthread>,
    robust: MaybeUninit<Pthread>,
    inheriting: MaybeUninit<Pthread>,
    readers_first: MaybeUninit<PthreadRw>,
    writers_first: MaybeUninit<PthreadRw>,
    one: MaybeUninit<Semaphore>,
    several: MaybeUninit<Semaphore>,
}

/// What is made of a lock, or of what several processes lock.
pub(crate) trait Measure {
    fn of<'a, S: Shared + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a>;

    /// Of one that only threads can use. `excludes`: it is a lock.
    fn local<'a, L: Lock + Sync + 'a>(&self, ground: &'a Ground<'_>, lock: L, excludes: bool) -> Measurement<'a>;
}

/// The same of read-write locks.
pub(crate) trait MeasureRw {
    fn of<'a, S: SharedRw + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a>;
    fn local<'a, L: ReadWrite + Sync + 'a>(&self, ground: &'a Ground<'_>, lock: L) -> Measurement<'a>;
}

pub(crate) struct Ground<'k> {
    pub(crate) kept: &'k Kept,
    pub(crate) space: Space,
    files: Result<Space, String>,
    pub(crate) arena: Arena<Board>,
}

/// What a peer is, or why it is not there.
type Made<'a> = Result<Measurement<'a>, String>;

impl<'k> Ground<'k> {
    pub(crate) fn new(kept: &'k Kept) -> Result<Self, hostlock::Error> {
        let space = Space::builder("bench").root(kept.directory()).open()?;
        let files = Space::builder("bench-files").root(kept.directory()).backend(Backend::Files).open();
        // SAFETY: what is not zero is initialised here, and may be shared.
        let arena = unsafe {
            Arena::new(|board: *mut Board| {
                Pthread::init((&raw mut (*board).plain).cast(), Kind::Plain);
                Pthread::init((&raw mut (*board).robust).cast(), Kind::Robust);
                Pthread::init((&raw mut (*board).inheriting).cast(), Kind::Inheriting);
                PthreadRw::init((&raw mut (*board).readers_first).cast(), false);
                PthreadRw::init((&raw mut (*board).writers_first).cast(), true);
                Semaphore::init((&raw mut (*board).one).cast(), 1);
                Semaphore::init((&raw mut (*board).several).cast(), PERMITS);
            })
        };
        Ok(Self { kept, space, files: files.map_err(|error| error.to_string()), arena })
    }

    pub(crate) fn board(&self) -> &Board {
        self.arena.board()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.kept.directory()
    }

    /// Those of `names` that are wanted, made by `make`.
    pub(crate) fn contest<'a>(
        &'a self,
        plan: &Plan,
        names: &[&'static str],
        make: impl Fn(&'static str) -> Made<'a>,
    ) -> Contest<'a> {
        let mut contest = Contest::default();
        for peer in names.iter().map(|name| find(name).expect("a peer that exists")).filter(|peer| plan.wants(peer)) {
            match make(peer.name) {
                Ok(measurement) => contest.entries.push((peer, measurement)),
                Err(why) => contest.absent.push((peer, why)),
            }
        }
        contest
    }

    /// What the mutex `name` comes to.
    pub(crate) fn mutex<'a>(&'a self, name: &'static str, measure: &impl Measure) -> Made<'a> {
        // SAFETY: initialised by `new`, in memory that outlives them.
        let (plain, robust, inheriting, one) = unsafe {
            let board = self.board();
            (
                board.plain.assume_init_ref(),
                board.robust.assume_init_ref(),
                board.inheriting.assume_init_ref(),
                board.one.assume_init_ref(),
            )
        };
        let ours = |name: &str| self.space.mutex(name).map_err(|error| error.to_string());
        let file = |name: &str| self.directory().join(name);
        Ok(match name {
            OURS => measure.of(self, Hostlock(ours("mutex")?)),
            "hostlock-fair" => measure.of(self, HostlockFair(ours("fair")?)),
            "hostlock-files" => {
                let space = self.files.as_ref().map_err(String::clone)?;
                measure.of(self, Hostlock(space.mutex("mutex").map_err(|error| error.to_string())?))
            }
            "floor" => measure.local(self, BareCas::default(), false),
            "std" => measure.local(self, Std::default(), true),
            "parking_lot" => measure.local(self, ParkingLot::default(), true),
            "pthread" => measure.of(self, plain),
            "pthread-robust" => measure.of(self, robust),
            "pthread-pi" => measure.of(self, inheriting),
            "sem_t" => measure.of(self, one),
            "sysv" => measure.of(self, self.kept.one.as_ref().map_err(String::clone)?),
            "flock" => measure.of(self, Opened::new(file("flock"), Bare)),
            "ofd" => measure.of(self, Opened::new(file("ofd"), OpenFileDescription)),
            "fs2" => measure.of(self, Opened::new(file("fs2"), Flock)),
            "fd-lock" => measure.of(self, Opened::new(file("fd-lock"), FdLock::new)),
            "named-lock" => measure.of(self, Named(file("named-lock"))),
            _ => unreachable!("{name} is no mutex"),
        })
    }

    /// What a permit of the semaphore `name` comes to.
    pub(crate) fn permit<'a>(&'a self, name: &'static str, measure: &impl Measure) -> Made<'a> {
        Ok(match name {
            OURS => {
                let semaphore = self.space.semaphore("permits", PERMITS).map_err(|error| error.to_string())?;
                measure.of(self, HostlockPermits(semaphore))
            }
            // SAFETY: initialised by `new`, in memory that outlives it.
            "sem_t" => measure.of(self, unsafe { self.board().several.assume_init_ref() }),
            "sysv" => measure.of(self, self.kept.several.as_ref().map_err(String::clone)?),
            _ => unreachable!("{name} is no semaphore"),
        })
    }

    /// What the read-write lock `name` comes to.
    pub(crate) fn read_write<'a>(&'a self, name: &'static str, measure: &impl MeasureRw) -> Made<'a> {
        // SAFETY: initialised by `new`, in memory that outlives them.
        let (readers_first, writers_first) =
            unsafe { (self.board().readers_first.assume_init_ref(), self.board().writers_first.assume_init_ref()) };
        let file = |name: &str| self.directory().join(name);
        Ok(match name {
            OURS => measure.of(self, HostlockRw(self.space.rwlock("rw").map_err(|error| error.to_string())?)),
            "std" => measure.local(self, StdRw::default()),
            "parking_lot" => measure.local(self, ParkingLotRw::default()),
            "pthread" => measure.of(self, readers_first),
            "pthread-writers" => measure.of(self, writers_first),
            "flock" => measure.of(self, Opened::new(file("flock-rw"), Bare)),
            "ofd" => measure.of(self, Opened::new(file("ofd-rw"), OpenFileDescription)),
            _ => unreachable!("{name} is no read-write lock"),
        })
    }
}
