//! All that the workers fight for: the names of one space, and handles for those that are always there.

use std::path::Path;
use std::time::Duration;

use hostlock::{
    Barrier, Condvar, Election, Event, Fence, Mutex, Queue, ReentrantMutex, Result, RwLock, Semaphore, Space,
};

pub const PERMITS: u32 = 3;
pub const MEMBERS: u32 = 3;
pub const COUNT: u32 = 3;
pub const ROOM: u32 = 8;
/// A value that shows if it is torn.
pub type Row = [u64; 8];

/// The names that are always there, by number.
pub const NAMES: [&str; 21] = [
    "mutex",
    "beside",
    "row",
    "rwlock",
    "table",
    "semaphore",
    "leased",
    "fence",
    "reentrant",
    "guarded",
    "changed",
    "event",
    "auto-event",
    "barrier",
    "queue",
    "election",
    "first",
    "second",
    "once-0",
    "once-1",
    "latch",
];
pub const MUTEX: u16 = 0;
pub const BESIDE: u16 = 1;
pub const ROW: u16 = 2;
pub const RWLOCK: u16 = 3;
pub const TABLE: u16 = 4;
pub const SEMAPHORE: u16 = 5;
pub const LEASED: u16 = 6;
pub const FENCE: u16 = 7;
pub const REENTRANT: u16 = 8;
pub const GUARDED: u16 = 9;
pub const AUTO_EVENT: u16 = 12;
pub const BARRIER: u16 = 13;
pub const QUEUE: u16 = 14;
pub const ELECTION: u16 = 15;
pub const FIRST: u16 = 16;
pub const SECOND: u16 = 17;
pub const ONCE: [u16; 2] = [18, 19];
pub const LATCH: u16 = 20;
/// The names that come and go have the numbers from here on: more than the space has room for.
pub const CHURN: u16 = 32;
pub const CHURNED: u16 = 400;
const LOCKS: u32 = 256;
pub const EXTENTS: u64 = 256 << 10;

pub fn name(number: u16) -> String {
    match NAMES.get(usize::from(number)) {
        Some(name) => (*name).into(),
        None => format!("churn-{}", number - CHURN),
    }
}

/// The space, as everybody opens it.
pub fn open(root: &Path, processes: usize, check_interval: Duration) -> Result<Space> {
    Space::builder("storm")
        .root(root)
        // As many as can be there at a time: whoever joins has to clean up after one of the dead.
        .participants(2 * processes as u32 + 2)
        .locks(LOCKS)
        .extents(EXTENTS)
        .check_interval(check_interval)
        .open()
}

pub struct Set {
    pub space: Space,
    pub mutex: Mutex,
    pub beside: Mutex,
    pub row: Mutex<Row>,
    pub rwlock: RwLock,
    pub table: RwLock<Row>,
    pub semaphore: Semaphore,
    pub leased: Mutex,
    pub fence: Fence,
    pub reentrant: ReentrantMutex,
    pub guarded: Mutex,
    pub changed: Condvar,
    pub event: Event,
    pub auto_event: Event,
    pub barrier: Barrier,
    pub queue: Queue<u64>,
    pub election: Election,
    pub first: Mutex,
    pub second: Mutex,
}

impl Set {
    pub fn new(space: Space) -> Result<Self> {
        Ok(Self {
            mutex: space.mutex("mutex")?,
            beside: space.mutex("beside")?,
            row: space.mutex_with("row", [0; 8])?,
            rwlock: space.rwlock("rwlock")?,
            table: space.rwlock_with("table", [0; 8])?,
            semaphore: space.semaphore("semaphore", PERMITS)?,
            leased: space.mutex("leased")?,
            fence: space.fence("fence")?,
            reentrant: space.reentrant_mutex("reentrant")?,
            guarded: space.mutex("guarded")?,
            changed: space.condvar("changed")?,
            event: space.event("event")?,
            auto_event: space.auto_event("auto-event")?,
            barrier: space.barrier("barrier", MEMBERS)?,
            queue: space.queue("queue", ROOM)?,
            election: space.election("election", Duration::from_millis(20))?,
            first: space.mutex("first")?,
            second: space.mutex("second")?,
            space,
        })
    }
}
