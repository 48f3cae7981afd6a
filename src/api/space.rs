//! Spaces: where the locks of processes that belong together live.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::{Barrier, Condvar, Event, Latch, Mutex, Once, Plain, Queue, RwLock, Semaphore};
use crate::backend::barrier::SharedBarrier;
use crate::backend::condvar::SharedCondvar;
use crate::backend::data;
use crate::backend::either::{AnySpace, Lock, Permits, ReadWrite};
use crate::backend::event::SharedEvent;
use crate::backend::inspect;
use crate::backend::latch::SharedLatch;
use crate::backend::lock::Spec;
use crate::backend::moving;
use crate::backend::once::SharedOnce;
use crate::backend::queue::SharedQueue;
use crate::backend::release::AsExclusive;
use crate::backend::shared::CHECK_INTERVAL;
use crate::segment::format::Kind;
use crate::segment::open::Options;
use crate::{Backend, Error, Inspection, LockKind, Result, Usage};

/// A named place for locks. All processes that open the same space see the same locks.
///
/// A space is a directory with one file in it, which every process in the space maps. By default it lies in memory, in a
/// directory of the user's own (`/dev/shm/hostlock-UID`, mode 0700); [`SpaceBuilder::root`] puts it elsewhere, for instance
/// on a volume that containers share. It stays when all processes have left, and so do its tokens; after a reboot, or once
/// somebody removed it, the next opener creates a new one, whose tokens are larger still.
///
/// Opening a space makes the process a participant: once, however often and from however many threads it opens it. The process
/// leaves when the last `Space`, handle and guard is dropped, or when it ends, however it ends.
///
/// A forked child is not in the space until it first uses a handle; then it joins as a participant of its own.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("myapp").root(root.path()).open()?;
/// # #[cfg(any())]
/// let space = hostlock::Space::open("myapp")?;
/// let migrate = space.mutex("db-migrate")?;
/// let guard = migrate.lock()?;
/// println!("mine, with token {}", guard.token());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Space {
    name: Arc<str>,
    backend: AnySpace,
}

/// How a space is opened, and created if it does not exist. Made by [`Space::builder`].
///
/// What is stated here must agree with the space if it exists; what is not stated is as it is, or the default.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `open`"]
pub struct SpaceBuilder {
    options: Options,
    check_interval: Duration,
}

impl Space {
    /// Opens the space `name` of this user, with all defaults; creates it if it does not exist.
    ///
    /// # Errors
    /// As [`SpaceBuilder::open`].
    pub fn open(name: &str) -> Result<Self> {
        Self::builder(name).open()
    }

    /// Opens the space `name` with other than the defaults.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use hostlock::Space;
    ///
    /// let space = Space::builder("build-farm").root(dir.path()).participants(64).locks(10_000).open()?;
    /// assert_eq!(space.usage().locks_capacity, 10_000);
    ///
    /// // Whoever states another value is told so.
    /// let error = Space::builder("build-farm").root(dir.path()).locks(20_000).open().unwrap_err();
    /// assert!(matches!(error, hostlock::Error::OptionDiffers { option: "locks", .. }));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(name: &str) -> SpaceBuilder {
        SpaceBuilder {
            options: Options {
                name: name.into(),
                root: None,
                participants: None,
                names: None,
                extents: None,
                mode: None,
                backend: Backend::Auto,
                any_file_system: false,
                token_floor: 0,
            },
            check_interval: CHECK_INTERVAL,
        }
    }

    pub(super) fn backend_space(&self) -> &AnySpace {
        &self.backend
    }

    /// A handle for the mutex `name` of this space, which is created if nobody named it before. No lock is acquired.
    ///
    /// # Errors
    /// [`Error::InvalidName`] if the name is empty, longer than 64 bytes or holds NUL; [`Error::WrongKind`] if it is the name of
    /// something else; [`Error::Full`] if there are more names than the space has room for and all are in use.
    pub fn mutex(&self, name: &str) -> Result<Mutex> {
        Ok(Mutex::new(Lock::new(&self.backend, Spec::of(name, Kind::Mutex))?))
    }

    /// A handle for the semaphore `name` of this space, which is created with so many permits if nobody named it before. No permit
    /// is acquired.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if `permits` is not 1 to 65,536, or 1 to 1,024 in a space of lock files; [`Error::WrongCount`] if the semaphore was made with another number;
    /// [`Error::NoExtents`] if the space has no room for it, which says how large a space has to be; otherwise as
    /// [`mutex`](Self::mutex).
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// let uploads = space.semaphore("uploads", 3)?;
    /// assert_eq!((uploads.permits(), uploads.available()?), (3, 3));
    /// let error = space.semaphore("uploads", 4).unwrap_err();
    /// assert!(matches!(error, hostlock::Error::WrongCount { is: 3, wanted: 4, .. }));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn semaphore(&self, name: &str, permits: u32) -> Result<Semaphore> {
        if !(1..=Semaphore::MAX_PERMITS).contains(&permits) {
            return Err(Error::InvalidOption {
                option: "permits",
                value: permits.to_string(),
                reason: format!("a semaphore has 1 to {}", Semaphore::MAX_PERMITS),
            });
        }
        Permits::new(&self.backend, name, permits).map(Semaphore::new)
    }

    /// A handle for the read-write lock `name` of this space, which is created if nobody named it before. No lock is acquired.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::NoExtents`] if the space has no room to count readers (512 bytes for each such lock).
    pub fn rwlock(&self, name: &str) -> Result<RwLock> {
        Ok(RwLock::new(ReadWrite::new(&self.backend, Spec::of(name, Kind::RwLock))?))
    }

    /// What `name` is at this moment, and how many permits it has if it is a semaphore; `None` if nobody named it, or it was given up.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// use hostlock::LockKind;
    ///
    /// assert_eq!(space.look_up("uploads")?, None);
    /// let uploads = space.semaphore("uploads", 3)?;
    /// assert_eq!(space.look_up("uploads")?, Some((LockKind::Semaphore, 3)));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn look_up(&self, name: &str) -> Result<Option<(LockKind, u32)>> {
        match &self.backend {
            AnySpace::Segment(space) => inspect::look_up(space.segment(), name),
            AnySpace::Files(space) => space.kind_of(name),
        }
    }

    /// A handle for the mutex `name` and the value that it guards, which is `initial` if nobody named it before. The value lives beside the lock, for all
    /// processes, for as long as the name does.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::WrongType`] if the name holds another type; [`Error::NoExtents`] if the space has no room for
    /// it; [`Error::Unsupported`] if it is made of lock files.
    pub fn mutex_with<T: Plain>(&self, name: &str, initial: T) -> Result<Mutex<T>> {
        let lock = Lock::new(&self.backend, with_data(name, Kind::MutexData, &initial))?;
        lock.exclusive().segment("mutex with data")?.check_type::<T>()?;
        Ok(Mutex::new(lock))
    }

    /// A handle for the read-write lock `name` and the value that it guards, as [`mutex_with`](Self::mutex_with).
    ///
    /// # Errors
    /// As [`mutex_with`](Self::mutex_with).
    pub fn rwlock_with<T: Plain>(&self, name: &str, initial: T) -> Result<RwLock<T>> {
        let lock = ReadWrite::new(&self.backend, with_data(name, Kind::RwLockData, &initial))?;
        lock.segment("read-write lock with data")?.lock().check_type::<T>()?;
        Ok(RwLock::new(lock))
    }

    /// A handle for the queue `name`, which has room for so many items, 1 to 2²⁴.
    ///
    /// # Errors
    /// As [`mutex_with`](Self::mutex_with); [`Error::WrongCount`] if it was made for another number of items.
    pub fn queue<T: Plain>(&self, name: &str, capacity: u32) -> Result<Queue<T>> {
        if !(1..=1 << 24).contains(&capacity) {
            return Err(Error::InvalidOption {
                option: "capacity",
                value: capacity.to_string(),
                reason: "it goes from 1 to 16777216".into(),
            });
        }
        Ok(Queue::new(SharedQueue::new(self.backend.segment("queue")?, name, capacity)?))
    }

    /// A handle for something that is done once in this space, under this name.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::Unsupported`] if the space is made of lock files.
    pub fn once(&self, name: &str) -> Result<Once> {
        Ok(Once::new(SharedOnce::new(self.backend.segment("once")?, name)?))
    }

    /// A handle for the event `name`, which stays set until it is reset.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::Unsupported`] if the space is made of lock files.
    pub fn event(&self, name: &str) -> Result<Event> {
        Ok(Event::new(SharedEvent::new(self.backend.segment("event")?, name, Kind::Event)?))
    }

    /// A handle for the event `name`, of which one waiter takes each setting away.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::Unsupported`] if the space is made of lock files.
    pub fn auto_event(&self, name: &str) -> Result<Event> {
        Ok(Event::new(SharedEvent::new(self.backend.segment("event")?, name, Kind::AutoEvent)?))
    }

    /// A handle for the latch `name`, which is open when it was counted down `count` times, 1 to 65,536.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::WrongCount`] if it was made for another count; [`Error::NoExtents`] if the space has no room for it
    /// (16 bytes for each count); [`Error::Unsupported`] if it is made of lock files.
    pub fn latch(&self, name: &str, count: u32) -> Result<Latch> {
        check_count("count", count)?;
        Ok(Latch::new(SharedLatch::new(self.backend.segment("latch")?, name, count)?))
    }

    /// A handle for the barrier `name`, which takes so many members, 1 to 65,536.
    ///
    /// # Errors
    /// As [`latch`](Self::latch).
    pub fn barrier(&self, name: &str, members: u32) -> Result<Barrier> {
        check_count("members", members)?;
        Ok(Barrier::new(SharedBarrier::new(self.backend.segment("barrier")?, name, members)?))
    }

    /// A handle for the condition variable `name`.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::Unsupported`] if the space is made of lock files.
    pub fn condvar(&self, name: &str) -> Result<Condvar> {
        Ok(Condvar::new(SharedCondvar::new(self.backend.segment("condition variable")?, name)?))
    }

    /// Takes a name away that nobody alive uses, with its state, its data, its room in the extents, and what was to be told of the dead. Whoever uses a
    /// handle of it later makes it anew, as it is at first. What has no state need not be taken away: it goes by itself when the room is needed.
    ///
    /// # Errors
    /// [`Error::NoSuchName`]; [`Error::InUse`] if somebody alive has a part of it or waits for it; otherwise as [`mutex`](Self::mutex).
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// let migrated = space.once("migrate-v7")?;
    /// migrated.call_once(|_| println!("migrating"))?;
    /// space.remove("migrate-v7")?;
    /// assert!(!migrated.is_done());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove(&self, name: &str) -> Result<()> {
        match &self.backend {
            AnySpace::Segment(space) => space.remove(name),
            AnySpace::Files(space) => space.remove(name),
        }
    }

    /// What the space is made of: never [`Backend::Auto`].
    pub fn backend(&self) -> Backend {
        match self.backend {
            AnySpace::Segment(_) => Backend::Segment,
            AnySpace::Files(_) => Backend::Files,
        }
    }

    /// The space's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The space's directory.
    pub fn path(&self) -> &Path {
        match &self.backend {
            AnySpace::Segment(space) => space.segment().space(),
            AnySpace::Files(space) => space.directory(),
        }
    }

    /// How much of the space is in use at this moment. Goes through all its tables, and changes nothing.
    pub fn usage(&self) -> Usage {
        match &self.backend {
            AnySpace::Segment(space) => space.usage(),
            AnySpace::Files(space) => space.usage(),
        }
    }

    /// Gives back everything that dead processes left in the space; how many of them there were.
    ///
    /// There is no need to call this: whoever wants a lock of the dead takes it over, and whoever needs their place clears it.
    /// It is for those who want to see, or to measure, a clean table. Locks given back are marked: the next owner is told
    /// ([`MutexGuard::abandoned`](crate::MutexGuard::abandoned)).
    ///
    /// # Errors
    /// [`Error::Removed`] if the space's file is gone, [`Error::System`] if the system does not let us look.
    pub fn recover_dead(&self) -> Result<usize> {
        match &self.backend {
            AnySpace::Segment(space) => space.recover_dead(None),
            AnySpace::Files(_) => Ok(0),
        }
    }

    /// Lets the process that `command` starts, and every process that it starts in turn, carry on for this one: should this
    /// process die, it counts as alive, and keeps its locks, for as long as any of them runs. `hostlock run` does so: its command's
    /// children do not go on without the lock when `hostlock` is killed.
    ///
    /// When this process leaves the space in good order (its last `Space`, handle and guard are dropped), that ends for all of
    /// them: what they leave behind keeps nothing.
    ///
    /// It works by descriptors that are inherited. So a process that closes those it does not know is not counted (`sudo`
    /// does that, and programs that become daemons), and a child that is forked from here without `exec` is, until it uses the space itself.
    ///
    /// # Errors
    /// [`Error::Removed`], [`Error::System`].
    ///
    /// ```no_run
    /// # let space = hostlock::Space::open("myapp")?;
    /// let guard = space.mutex("backup")?.lock_owned()?;
    /// let mut rsync = std::process::Command::new("rsync");
    /// space.pass_lifeline(rsync.args(["-a", "/home", "/backup"]))?;
    /// rsync.status()?; // if we are killed here, "backup" is held until rsync has ended
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn pass_lifeline(&self, command: &mut Command) -> Result<()> {
        match &self.backend {
            AnySpace::Segment(space) => space.pass_lifeline(command),
            AnySpace::Files(space) => space.pass_lifeline(command),
        }
    }

    /// Notes that this process holds its locks on behalf of another, for people who ask who holds them
    /// ([`Holder::on_behalf_of`](crate::Holder::on_behalf_of)). `command` is cut to 32 bytes. Nothing else follows from it.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Removed`] and [`Error::System`] in a forked child, which has to join first.
    pub fn act_on_behalf_of(&self, pid: u32, command: &str) -> Result<()> {
        match &self.backend {
            AnySpace::Segment(space) => space.set_behalf(pid, command),
            AnySpace::Files(space) => {
                space.set_behalf(pid, command);
                Ok(())
            }
        }
    }
}

fn with_data<T: Plain>(name: &str, kind: Kind, initial: &T) -> Spec {
    let data: Box<[u64]> = data::header::<T>().into_iter().chain(data::to_words(initial)).collect();
    let room = data.len() as u64;
    Spec { data, room, ..Spec::of(name, kind) }
}

fn check_count(option: &'static str, count: u32) -> Result<()> {
    match count {
        1..=Permits::MOST => Ok(()),
        _ => Err(Error::InvalidOption {
            option,
            value: count.to_string(),
            reason: format!("it goes from 1 to {}", Permits::MOST),
        }),
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("name", &self.name).field("path", &self.path()).finish_non_exhaustive()
    }
}

impl SpaceBuilder {
    /// Keeps the space under `root`, an existing directory of this user's or root's, instead of in the default place. Everybody
    /// who is to see the same locks has to name the same one. It must be on a local file system; one in memory is fastest.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.options.root = Some(root.into());
        self
    }

    /// Room for so many processes, 1 to 8,191. Default: 1,024.
    pub fn participants(mut self, count: u32) -> Self {
        self.options.participants = Some(count);
        self
    }

    /// Room for so many names at a time, 1 to 2²⁴. Default: 4,096. When all are taken, those that nobody uses are given up.
    pub fn locks(mut self, count: u32) -> Self {
        self.options.names = Some(count);
        self
    }

    /// Room for what does not fit a name's entry, in bytes, up to 64 GiB: the readers of read-write locks (512 bytes each, more when many
    /// processes read), permits and members (16 bytes each), data. Default: 512 bytes for each of [`locks`](Self::locks), 2 MiB at most. It is allocated when the space is created.
    pub fn extents(mut self, bytes: u64) -> Self {
        self.options.extents = Some(bytes);
        self
    }

    /// The permissions of the space's file: `0o600` (the default) for one user, `0o660` for the group that the root belongs to. The second
    /// means to trust that group: whoever can write to a space can break every lock in it.
    pub fn mode(mut self, mode: u32) -> Self {
        self.options.mode = Some(mode);
        self
    }

    /// How long this process sleeps at most before it looks for itself whether the owner still lives and the space is still there.
    /// 1 ms to an hour, default: 100 ms. It does not delay an ordinary hand-over, which wakes the sleeper.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check_interval = interval;
        self
    }

    /// What the space is to be made of, if this creates it. Of one that exists, anything but [`Backend::Auto`] (the default) has to be what it is made of.
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// use hostlock::{Backend, Space};
    ///
    /// let space = Space::builder("docs").root(root.path()).backend(Backend::Files).open()?;
    /// let lock = space.mutex("db")?;
    /// let guard = lock.lock()?;
    /// assert_eq!(space.backend(), Backend::Files);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn backend(mut self, backend: Backend) -> Self {
        self.options.backend = backend;
        self
    }

    /// Allows lock files on the file system of a network, or of a machine's guests, together with [`Backend::Files`]. They may exclude nobody on
    /// another machine: find out first (`hostlock doctor`). A segment is never allowed there.
    pub fn any_file_system(mut self) -> Self {
        self.options.any_file_system = true;
        self
    }

    #[cfg(feature = "diagnosis")]
    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Looks at the space from outside: creates nothing, joins nothing, writes nothing, waits for nobody. Whoever may read the
    /// space's file may look, whoever it belongs to.
    ///
    /// # Errors
    /// [`Error::NoSuchSpace`]; otherwise as [`open`](Self::open), as far as they are about reading.
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// let builder = hostlock::Space::builder("myapp").root(root.path());
    /// assert!(matches!(builder.clone().inspect(), Err(hostlock::Error::NoSuchSpace { .. })));
    ///
    /// let space = builder.clone().open()?;
    /// let guard = space.mutex("db-migrate")?.lock_owned()?;
    /// for lock in builder.inspect()?.locks {
    ///     println!("{} is held by {:?}", lock.name, lock.holder);
    ///     # assert_eq!(lock.holder.unwrap().token, guard.token());
    /// }
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn inspect(self) -> Result<Inspection> {
        inspect::look(&self.options)
    }

    /// Makes another thing of a space that exists, while nobody is in it; `false` if it is that already. Names, capacity and mode stay, and tokens
    /// go on growing.
    ///
    /// # Errors
    /// [`Error::CannotMove`] if a process is in the space, or something would be lost: the news of a death that nobody was told yet, or what
    /// lock files have no place for. [`Error::NoSuchSpace`]. [`Error::InvalidOption`] for [`Backend::Auto`].
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// use hostlock::{Backend, Space};
    ///
    /// let builder = Space::builder("docs").root(root.path());
    /// let token = builder.clone().open()?.mutex("db")?.lock()?.token();
    /// assert!(builder.clone().move_to(Backend::Files)?);
    /// assert!(builder.open()?.mutex("db")?.lock()?.token() > token);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn move_to(self, backend: Backend) -> Result<bool> {
        if backend == Backend::Auto {
            return Err(Error::InvalidOption {
                option: "backend",
                value: backend.to_string(),
                reason: "say which one".into(),
            });
        }
        moving::move_to(&self.options, backend)
    }

    /// Opens the space, creating it if it does not exist, and joins it.
    ///
    /// # Errors
    /// * [`Error::InvalidName`], [`Error::InvalidOption`]: what was asked for cannot be.
    /// * [`Error::OptionDiffers`]: the space exists, with another value of an option stated here.
    /// * [`Error::UnusableRoot`]: the root is missing, not a directory, not ours, read-only, or on a network.
    /// * [`Error::NoRoom`]: there is not enough room for a new space.
    /// * [`Error::UnusableSegment`]: what lies there is not a segment that this version can use.
    /// * [`Error::Full`]: all places for participants are taken by living processes.
    /// * [`Error::Removed`]: the space's file was removed while processes are in it.
    /// * [`Error::System`]: anything else the system refused.
    pub fn open(self) -> Result<Space> {
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.check_interval) {
            return Err(Error::InvalidOption {
                option: "check_interval",
                value: format!("{:?}", self.check_interval),
                reason: "it goes from 1 ms to an hour".into(),
            });
        }
        let backend = AnySpace::open(&self.options, self.check_interval)?;
        Ok(Space { name: self.options.name.into(), backend })
    }
}
