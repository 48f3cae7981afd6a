//! Something that happens, and that processes wait for.

use std::fmt;
use std::time::{Duration, Instant};

use crate::backend::event::SharedEvent;
use crate::backend::lock::Acquisition;
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Error, Holder, Result};

/// A handle for an event: it is set or not, and processes wait until it is. Made by [`Space::event`](crate::Space::event), which stays set until it is
/// reset and lets everybody pass, and by [`Space::auto_event`](crate::Space::auto_event), of which one waiter takes each setting away.
///
/// # When somebody dies
/// Whoever is to set it can say so before ([`announce`](Self::announce)). If it dies without, everybody who waits gets [`Error::SignalLost`], which says who it
/// was, and so does everybody who comes later, until somebody announces anew, sets or resets it. Without an announcement nobody knows that
/// there was anybody to set it, and a wait ends by its deadline only. A waiter that dies after it took the setting of an event that resets itself has
/// taken it along.
///
/// # Fairness, cost
/// Waiters are woken in the order in which they went to sleep, but of an event that resets itself one who does not sleep may be faster. Setting is an atomic
/// store when nobody waits, and a system call when somebody does.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use std::time::Duration;
///
/// let ready = space.event("database-ready")?;
/// let setter = ready.announce()?; // in the process that starts the database
/// assert!(ready.wait_for(Duration::from_millis(1)).is_err());
/// setter.set()?;
/// ready.wait()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Event(SharedEvent);

impl Event {
    pub(crate) fn new(event: SharedEvent) -> Self {
        Self(event)
    }

    /// The event's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Sets it. Whether it was set before makes no difference.
    ///
    /// # Errors
    /// [`Error::Removed`], [`Error::System`] if the name has to be looked up anew and cannot be.
    pub fn set(&self) -> Result<()> {
        self.0.set()
    }

    /// Makes it as if it had never been set.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn reset(&self) -> Result<()> {
        self.0.reset()
    }

    /// Whether it is set. Of an event that resets itself this may have changed by the time it is looked at.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn is_set(&self) -> Result<bool> {
        self.0.is_set()
    }

    /// Says that this process will set it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if somebody alive said so before, naming who; otherwise as [`set`](Self::set).
    pub fn announce(&self) -> Result<EventSetter> {
        Ok(EventSetter { announced: self.0.announce()?, event: self.0.clone() })
    }

    /// Who announced to set it, and lives.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn holder(&self) -> Result<Option<Holder>> {
        self.0.holder()
    }

    /// Waits until it is set.
    ///
    /// # Errors
    /// [`Error::SignalLost`] if whoever had announced to set it died, or gave up; [`Error::Removed`] if the space's file is gone;
    /// [`Error::Damaged`].
    pub fn wait(&self) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::Never)
    }

    /// Waits until it is set, for at most `timeout`. Zero looks once.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`wait`](Self::wait).
    pub fn wait_for(&self, timeout: Duration) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::after(timeout))
    }

    /// Waits until it is set, until `deadline` at most.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_until(&self, deadline: Instant) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::at(deadline))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// An announcement that this process will set an event. Dropped without, it is as if the process had died. Made by [`Event::announce`].
#[must_use = "dropped, it says that the event will not be set"]
pub struct EventSetter {
    event: SharedEvent,
    announced: Acquisition,
}

impl EventSetter {
    /// A token that is larger than that of every announcement before.
    pub fn token(&self) -> u64 {
        self.event.token(self.announced)
    }

    /// Sets the event.
    ///
    /// # Errors
    /// [`Error::Lost`] in a forked child, which announced nothing.
    pub fn set(mut self) -> Result<()> {
        let announced = std::mem::replace(&mut self.announced, Acquisition::ENDED);
        match self.event.keep(announced) {
            true => Ok(()),
            false => Err(Error::Lost { name: self.event.name().into(), token: self.event.token(announced) }),
        }
    }
}

impl Drop for EventSetter {
    fn drop(&mut self) {
        self.event.break_off(self.announced);
    }
}

impl fmt::Debug for EventSetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSetter").field("name", &self.event.name()).finish_non_exhaustive()
    }
}
