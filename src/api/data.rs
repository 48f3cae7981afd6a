//! Data behind a lock: values that live beside it, for all processes of the space.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::guard::{Hold, now};
use super::mutex::Mutex;
use super::rwlock::{Read, RwLock};
use crate::backend::either::{Lock, ReadWrite};
use crate::backend::release::{AsExclusive, AsReadWrite, LockAt, ReadAt};
use crate::os::clock::Deadline;
use crate::{Abandoned, Result};

/// What only a segment can have.
const DATA: &str = "lock with data";

/// What a plain [`Mutex`] or [`RwLock`] guards: nothing that it knows of.
#[derive(Debug)]
pub enum NoData {}

/// Values that can lie in memory that processes share: of a fixed size, without pointers and padding, and any bytes are one. Derive bytemuck's
/// `Pod` and `Zeroable` (or `AnyBitPattern` and `NoUninit`) for it; `hostlock::bytemuck` is the version that fits. All programs that use a
/// name have to agree on the type: its name, size and alignment are compared, so put it in a crate that they share.
///
/// ```
/// use hostlock::bytemuck::{Pod, Zeroable};
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[bytemuck(crate = "hostlock::bytemuck")]
/// #[repr(C)]
/// struct Counters {
///     done: u64,
///     failed: u64,
/// }
/// # fn is_plain<T: hostlock::Plain>() {}
/// # is_plain::<Counters>();
/// ```
pub trait Plain: bytemuck::AnyBitPattern + bytemuck::NoUninit {}

impl<T: bytemuck::AnyBitPattern + bytemuck::NoUninit> Plain for T {}

/// A lock on data that was acquired: in good order, or after a death. Both have to be handled.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use hostlock::Acquired;
///
/// let total = space.mutex_with::<u64>("total", 0)?;
/// let mut guard = match total.lock()? {
///     Acquired::Clean(guard) => guard,
///     Acquired::Abandoned(guard) => {
///         println!("{}: looking after {}", guard.abandoned(), *guard);
///         guard.repaired()
///     }
/// };
/// *guard += 1;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the lock is released as soon as its guard is dropped"]
pub enum Acquired<G> {
    /// Whoever had it before released it.
    Clean(G),
    /// Whoever had it before died with it: the data may be half changed.
    Abandoned(AbandonedGuard<G>),
}

impl<G> Acquired<G> {
    /// The guard, or the abandoned one.
    pub fn into_clean(self) -> std::result::Result<G, AbandonedGuard<G>> {
        match self {
            Self::Clean(guard) => Ok(guard),
            Self::Abandoned(guard) => Err(guard),
        }
    }
}

impl<G: WritesData> Acquired<G> {
    /// The guard, after `repair` has made good what a death may have left.
    pub fn or_repair(self, repair: impl FnOnce(&mut G::Target, &Abandoned)) -> G {
        match self {
            Self::Clean(guard) => guard,
            Self::Abandoned(mut guard) => {
                let dead = guard.abandoned().clone();
                repair(&mut guard, &dead);
                guard.repaired()
            }
        }
    }
}

impl<G: fmt::Debug> fmt::Debug for Acquired<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean(guard) => f.debug_tuple("Clean").field(guard).finish(),
            Self::Abandoned(guard) => f.debug_tuple("Abandoned").field(&guard.guard).finish(),
        }
    }
}

/// A guard of data whose last owner died with it. The data can be looked at, and changed by who may; the mark stays until somebody says that it is as it
/// should be ([`repaired`](Self::repaired)). Dropped before, what was changed is kept, and the next one is told again.
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct AbandonedGuard<G> {
    guard: G,
    dead: Abandoned,
}

impl<G> AbandonedGuard<G> {
    /// Who died.
    pub fn abandoned(&self) -> &Abandoned {
        &self.dead
    }
}

impl<G: WritesData> AbandonedGuard<G> {
    /// Says that the data is as it should be: from now on it is a guard like any other.
    pub fn repaired(mut self) -> G {
        self.guard.forget_the_dead();
        self.guard
    }
}

impl<G: Deref> Deref for AbandonedGuard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for AbandonedGuard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Guards by which data can be changed, and said to be repaired.
pub trait WritesData: DerefMut + sealed::Sealed {
    #[doc(hidden)]
    fn forget_the_dead(&mut self);
}

/// A copy of the data, and the acquisition under which it is written back.
struct Writing<L: AsExclusive, T: Plain> {
    hold: Hold<L>,
    value: T,
    /// The copy was lent for changing since it was last written back.
    changed: bool,
    /// A death is not made good yet.
    marked: bool,
    /// The copy was lent for changing at all.
    lent: bool,
    /// The thread that acquired it was panicking already.
    panicking: bool,
}

impl<L: AsExclusive, T: Plain> Writing<L, T> {
    fn new(mut hold: Hold<L>) -> Result<(Self, Option<Abandoned>)> {
        let dead = hold.abandoned().cloned();
        match hold.lock.exclusive().segment(DATA).and_then(|lock| lock.load(hold.acquisition.entry())) {
            Ok(value) => {
                let (marked, panicking) = (dead.is_some(), std::thread::panicking());
                Ok((Self { hold, value, changed: false, marked, lent: false, panicking }, dead))
            }
            Err(error) => {
                // It was not looked at, so it was not made good.
                hold.give_up();
                Err(error)
            }
        }
    }

    fn save(&mut self) -> Result<()> {
        if std::mem::take(&mut self.changed) {
            if !self.hold.is_held() {
                let name = self.hold.lock.exclusive().name().into();
                return Err(crate::Error::Lost { name, token: self.hold.token() });
            }
            self.hold.lock.exclusive().segment(DATA)?.store(self.hold.acquisition.entry(), &self.value)?;
        }
        Ok(())
    }

    fn unlock(mut self) -> Result<()> {
        let saved = self.save();
        match self.marked {
            true => self.hold.give_up(),
            false => self.hold.finish()?,
        }
        saved
    }
}

impl<L: AsExclusive, T: Plain> Drop for Writing<L, T> {
    fn drop(&mut self) {
        // As std's locks are poisoned: a panic that began meanwhile may have come between two changes.
        if self.lent && !self.panicking && std::thread::panicking() {
            self.hold.abandon_now();
            return;
        }
        // If it is not ours any more, nothing of it is written.
        let _ = self.save();
        if self.marked {
            self.hold.give_up();
        }
    }
}

/// A copy of the data, and the reader under which it stays true.
struct Viewing<L: AsReadWrite, T: Plain> {
    read: Read<L>,
    value: T,
}

impl<L: AsReadWrite, T: Plain> Viewing<L, T> {
    fn new(read: Read<L>) -> Result<(Self, Option<Abandoned>)> {
        let dead = read.told.as_deref().cloned();
        let value = read.lock.read_write().segment(DATA)?.lock().load(read.reading.entry())?;
        Ok((Self { read, value }, dead))
    }
}

fn acquired<G>((guard, dead): (G, Option<Abandoned>)) -> Acquired<G> {
    match dead {
        None => Acquired::Clean(guard),
        Some(dead) => Acquired::Abandoned(AbandonedGuard { guard, dead }),
    }
}

macro_rules! writing_guard {
    ($(#[$doc:meta])* $name:ident, $lock:ty $(, $life:lifetime, $stays:ty)?) => {
        $(#[$doc])*
        ///
        /// It is a copy: made when the lock was acquired, and written back when this is dropped, if it was borrowed mutably. So what a
        /// killed owner had changed only here is not seen by others. Large values cost as much as it takes to copy them.
        ///
        /// Dropped by a panic after it was borrowed mutably, it is not written back, and the next owner finds the lock
        /// [`Abandoned`](Acquired::Abandoned), as after a death.
        #[must_use = "the lock is released as soon as its guard is dropped"]
        pub struct $name<$($life,)? T: Plain> {
            writing: Writing<$lock, T>,
            $(_stays_in_its_thread: PhantomData<$stays>,)?
        }

        impl<$($life,)? T: Plain> $name<$($life,)? T> {
            fn new(hold: Hold<$lock>) -> Result<Acquired<Self>> {
                let (writing, dead) = Writing::new(hold)?;
                let guard = Self { writing, $(_stays_in_its_thread: PhantomData::<$stays>,)? };
                Ok(acquired((guard, dead)))
            }

            /// The fencing token of this acquisition, as that of a [`MutexGuard`](crate::MutexGuard).
            pub fn token(&self) -> u64 {
                self.writing.hold.token()
            }

            /// Whether this process still holds the lock with this token. `false` in a forked child.
            pub fn is_held(&self) -> bool {
                self.writing.hold.is_held()
            }

            /// Writes back what was changed so far.
            ///
            /// # Errors
            /// [`Error::Lost`](crate::Error::Lost) if the lock is not held any more: then nothing was written.
            pub fn save(&mut self) -> Result<()> {
                self.writing.save()
            }

            /// Writes back and releases, as dropping does, and says whether that went well.
            ///
            /// # Errors
            /// As [`save`](Self::save).
            pub fn unlock(self) -> Result<()> {
                self.writing.unlock()
            }
        }

        impl<$($life,)? T: Plain> Deref for $name<$($life,)? T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.writing.value
            }
        }

        impl<$($life,)? T: Plain> DerefMut for $name<$($life,)? T> {
            fn deref_mut(&mut self) -> &mut T {
                (self.writing.changed, self.writing.lent) = (true, true);
                &mut self.writing.value
            }
        }

        impl<$($life,)? T: Plain> sealed::Sealed for $name<$($life,)? T> {}

        impl<$($life,)? T: Plain> WritesData for $name<$($life,)? T> {
            fn forget_the_dead(&mut self) {
                self.writing.marked = false;
            }
        }

        impl<$($life,)? T: Plain + fmt::Debug> fmt::Debug for $name<$($life,)? T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.writing.value.fmt(f)
            }
        }
    };
}

writing_guard! {
    /// The value of a [`Mutex`] with data, until this is dropped. It stays in the thread that acquired it.
    MutexDataGuard, LockAt<'a>, 'a, std::sync::MutexGuard<'static, ()>
}
writing_guard! {
    /// The value of a [`Mutex`] with data, until this is dropped; it can be stored, and sent to another thread.
    OwnedMutexDataGuard, Lock
}
writing_guard! {
    /// The value of a [`RwLock`] with data, for changing it, until this is dropped. It stays in the thread that acquired it.
    RwLockWriteDataGuard, &'a ReadWrite, 'a, std::sync::RwLockWriteGuard<'static, ()>
}
writing_guard! {
    /// The value of a [`RwLock`] with data, for changing it, until this is dropped; it can be stored, and sent to another thread.
    OwnedRwLockWriteDataGuard, ReadWrite
}

macro_rules! viewing_guard {
    ($(#[$doc:meta])* $name:ident, $lock:ty $(, $life:lifetime, $stays:ty)?) => {
        $(#[$doc])*
        ///
        /// It is a copy, made when the lock was acquired; while this is held, nobody changes the value.
        #[must_use = "the lock is released as soon as its guard is dropped"]
        pub struct $name<$($life,)? T: Plain> {
            viewing: Viewing<$lock, T>,
            $(_stays_in_its_thread: PhantomData<$stays>,)?
        }

        impl<$($life,)? T: Plain> $name<$($life,)? T> {
            fn new(read: Read<$lock>) -> Result<Acquired<Self>> {
                let (viewing, dead) = Viewing::new(read)?;
                let guard = Self { viewing, $(_stays_in_its_thread: PhantomData::<$stays>,)? };
                Ok(acquired((guard, dead)))
            }

            /// The token of the write that this is.
            pub fn token(&self) -> u64 {
                let read = &self.viewing.read;
                let lock: &ReadWrite = read.lock.read_write();
                lock.token_of(read.reading)
            }

            /// Releases, as dropping does, and says whether it still was held.
            ///
            /// # Errors
            /// [`Error::Lost`](crate::Error::Lost) if it was not: this is a forked child, or the process was taken for dead.
            pub fn unlock(self) -> Result<()> {
                self.viewing.read.unlock()
            }
        }

        impl<$($life,)? T: Plain> Deref for $name<$($life,)? T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.viewing.value
            }
        }

        impl<$($life,)? T: Plain + fmt::Debug> fmt::Debug for $name<$($life,)? T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.viewing.value.fmt(f)
            }
        }
    };
}

viewing_guard! {
    /// The value of a [`RwLock`] with data, for reading, until this is dropped. It stays in the thread that acquired it.
    RwLockReadDataGuard, ReadAt<'a>, 'a, std::sync::RwLockReadGuard<'static, ()>
}
viewing_guard! {
    /// The value of a [`RwLock`] with data, for reading, until this is dropped; it can be stored, and sent to another thread.
    OwnedRwLockReadDataGuard, ReadWrite
}

/// What one kind of acquiring has in four forms.
macro_rules! forms {
    ($acquire:ident, $guard:ty, $of:ident.$make:expr;
     $now:literal $wait:ident, $try:ident, $try_for:ident, $try_until:ident) => {
        #[doc = concat!("As the method of this name without data, and ", $now, ".")]
        ///
        /// # Errors
        /// As that one; [`Error::WrongType`](crate::Error::WrongType) if the name was taken away and made anew with another type since this
        /// handle was made; [`Error::Damaged`](crate::Error::Damaged).
        pub fn $wait(&self) -> Result<Acquired<$guard>> {
            let $of = self.$acquire(Deadline::Never)?;
            $make
        }

        #[doc = concat!("As [`", stringify!($wait), "`](Self::", stringify!($wait), "), without waiting.")]
        ///
        /// # Errors
        /// [`Error::WouldBlock`](crate::Error::WouldBlock), naming a holder.
        pub fn $try(&self) -> Result<Acquired<$guard>> {
            let $of = self.$acquire(now()).map_err(|error| self.would_block(error))?;
            $make
        }

        #[doc = concat!("As [`", stringify!($wait), "`](Self::", stringify!($wait), "), waiting for at most `timeout`.")]
        ///
        /// # Errors
        /// [`Error::TimedOut`](crate::Error::TimedOut), naming a holder.
        pub fn $try_for(&self, timeout: Duration) -> Result<Acquired<$guard>> {
            let $of = self.$acquire(Deadline::after(timeout))?;
            $make
        }

        #[doc = concat!("As [`", stringify!($wait), "`](Self::", stringify!($wait), "), waiting until `deadline` at most.")]
        ///
        /// # Errors
        /// [`Error::TimedOut`](crate::Error::TimedOut), naming a holder.
        pub fn $try_until(&self, deadline: Instant) -> Result<Acquired<$guard>> {
            let $of = self.$acquire(Deadline::at(deadline))?;
            $make
        }
    };
}

/// With data.
impl<T: Plain> Mutex<T> {
    fn borrowed(&self, deadline: Deadline) -> Result<super::mutex::MutexGuard<'_>> {
        self.acquire(|| deadline)
    }

    forms!(borrowed, MutexDataGuard<'_, T>, guard.MutexDataGuard::new(guard.hold);
        "copies the value" lock, try_lock, try_lock_for, try_lock_until);
    forms!(acquire_owned, OwnedMutexDataGuard<T>, guard.OwnedMutexDataGuard::new(guard.hold);
        "copies the value" lock_owned, try_lock_owned, try_lock_owned_for, try_lock_owned_until);
}

/// With data.
impl<T: Plain> RwLock<T> {
    fn borrowed_read(&self, deadline: Deadline) -> Result<super::rwlock::RwLockReadGuard<'_>> {
        self.acquire_read(|| deadline)
    }

    fn borrowed_write(&self, deadline: Deadline) -> Result<super::rwlock::RwLockWriteGuard<'_>> {
        self.acquire_write(|| deadline)
    }

    forms!(borrowed_read, RwLockReadDataGuard<'_, T>, guard.RwLockReadDataGuard::new(guard.read);
        "copies the value" read, try_read, try_read_for, try_read_until);
    forms!(acquire_read_owned, OwnedRwLockReadDataGuard<T>, guard.OwnedRwLockReadDataGuard::new(guard.read);
        "copies the value" read_owned, try_read_owned, try_read_owned_for, try_read_owned_until);
    forms!(borrowed_write, RwLockWriteDataGuard<'_, T>, guard.RwLockWriteDataGuard::new(guard.hold);
        "copies the value" write, try_write, try_write_for, try_write_until);
    forms!(acquire_write_owned, OwnedRwLockWriteDataGuard<T>, guard.OwnedRwLockWriteDataGuard::new(guard.hold);
        "copies the value" write_owned, try_write_owned, try_write_owned_for, try_write_owned_until);
}
