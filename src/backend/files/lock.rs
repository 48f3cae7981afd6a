//! A named lock in a lock file: alone, or among readers.

use std::sync::Arc;
use std::time::Duration;

use super::FileSpace;
use super::index::Place;
use super::inspect::Looking;
use super::ownership::{Standing, readers_left};
use super::record::Record;
use super::table::{Idle, Opened, idle_of, keep_held, take_held, with_held};
use crate::backend::cancel;
use crate::backend::lock::{Abandonment, Acquisition, Spec, Waited};
use crate::backend::rwlock::Reading;
use crate::os::clock::{self, Deadline, Monotonic};
use crate::os::lock_file::Mode;
use crate::protocol::claim::Claimed;
use crate::segment::format::Kind;
use crate::segment::names;
use crate::{Abandoned, Error, Holder, Result};

/// The first pause between two attempts, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(4));
/// How often whoever waits looks whether the space still is there.
const LOOK: Duration = Duration::from_millis(100);
/// A writer that was kept waiting so recently is let in before further readers,
const RECENT: Duration = Duration::from_millis(20);
/// unless they have waited for so long.
const FAIR: Duration = Duration::from_millis(100);

/// Pauses that grow up to a bound.
pub(in crate::backend) struct Pauses {
    next: Duration,
    deadline: Deadline,
    pub(super) started: Monotonic,
    looked: Monotonic,
}

impl Pauses {
    pub(in crate::backend) fn new(deadline: Deadline) -> Self {
        let started = Monotonic::now();
        Self { next: PAUSES.0, deadline, started, looked: started }
    }

    /// `false`: there is no time left, or it was cancelled. The second half: it is time to look at the space.
    pub(in crate::backend) fn pause(&mut self) -> (bool, bool) {
        let now = Monotonic::now();
        let left = match self.deadline {
            Deadline::Never => Duration::MAX,
            Deadline::At(at) => at.since(now),
        };
        if left.is_zero() || cancel::is_due() {
            return (false, false);
        }
        clock::sleep(self.next.min(left));
        self.next = (self.next * 2).min(PAUSES.1);
        let is_time = now.since(self.looked) >= LOOK;
        if is_time {
            self.looked = now;
        }
        (true, is_time)
    }

    pub(in crate::backend) fn waited(&self) -> Duration {
        Monotonic::now().since(self.started)
    }
}

/// A named lock in a lock file, as a handle keeps it.
#[derive(Clone, Debug)]
pub(crate) struct FileLock {
    pub(super) space: Arc<FileSpace>,
    spec: Arc<Spec>,
    place: Place,
    idle: Idle,
}

/// What is locked, and what its new owner is told.
pub(super) struct Locked {
    pub(super) opened: Box<Opened>,
    pub(super) dead: Option<Abandoned>,
}

impl FileSpace {
    /// Locks the file if it is free now, and the name's. Not if the name was just taken away.
    pub(super) fn try_lock(&self, place: Place, mode: Mode, idle: &Idle) -> Result<Option<Locked>> {
        let Some(mut opened) = self.open_lock(place, idle)? else { return Ok(None) };
        // Each time round another one was put in its place.
        for _ in 0..100 {
            let locked = opened.file.try_lock(mode);
            if !locked.map_err(|e| Error::system("lock", &self.index.lock_path(place.entry), e))? {
                idle.put(opened);
                return Ok(None);
            }
            let obstacle = match self.index.standing(place, opened.file.id())? {
                Standing::Current(files) => match self.enter(&mut opened, files, mode) {
                    Ok(Entered::Yes) => {
                        let dead = self.index.record(place.entry).dead();
                        let dead = dead.map_err(|e| Error::system("read", &self.index.path, e))?;
                        return Ok(Some(Locked { opened, dead }));
                    }
                    Ok(Entered::Replaced) => None,
                    Ok(Entered::Not(why)) => Some(Error::LockFileGone { path: self.index.lock_path(place.entry), why }),
                    Err(error) => Some(error),
                },
                Standing::Replaced => None,
                Standing::Gone => None,
            };
            self.unlock(opened, idle);
            if let Some(error) = obstacle {
                return Err(error);
            }
            // The present one is not among those that are kept.
            match self.open_anew(place)? {
                Some(another) => opened = another,
                None => return Ok(None),
            }
        }
        let why = "somebody replaces it all the time".into();
        Err(Error::LockFileGone { path: self.index.lock_path(place.entry), why })
    }

    /// Gets whoever has the current file locked past those who may hold the lock by one before.
    fn enter(&self, opened: &mut Opened, files: u32, mode: Mode) -> Result<Entered> {
        let place = opened.place;
        if mode == Mode::Shared {
            let obstacle = self.index.beside(place, files, opened.file.id(), &self.me())?;
            return Ok(obstacle.map_or(Entered::Yes, Entered::Not));
        }
        match self.index.claim(place, files, opened.file.id(), &self.me())? {
            Claimed::Yes(claim) => opened.claim = Some(claim),
            Claimed::Replaced => return Ok(Entered::Replaced),
            Claimed::Not(why) => return Ok(Entered::Not(why)),
        }
        match self.index.has_no_old_readers(place, files, opened.file.id())? {
            true => Ok(Entered::Yes),
            false => Ok(Entered::Not(readers_left())),
        }
    }

    /// Undoes that.
    pub(super) fn unlock(&self, opened: Box<Opened>, idle: &Idle) -> bool {
        self.unlock_after(opened, idle, || ())
    }

    /// Ends an acquisition; `false` if it is another process's, or was lost. The record is taken back first, so it never says more than is so.
    pub(super) fn end(&self, number: u32, token: u64, dead: Option<&Abandoned>, idle: &Idle) -> bool {
        let Some(opened) = take_held(number) else { return false };
        let record = self.index.record(opened.place.entry);
        let was_held = self.is_held(&opened, token);
        let unlocked = self.unlock_after(opened, idle, || {
            if was_held {
                let noted = dead.map_or(Ok(()), |dead| record.note_death(dead));
                let _ = noted.and_then(|()| record.release(token, dead.is_some()));
            }
        });
        unlocked && was_held
    }

    /// Whether the lock is still held alone by that acquisition, if its file is still locked.
    pub(super) fn is_held(&self, opened: &Opened, token: u64) -> bool {
        let entry = opened.place.entry;
        self.index.claim_of(entry).is_ok_and(|claim| Some(claim) == opened.claim)
            && self.index.record(entry).is_held_as(token)
    }

    fn unlock_after(&self, mut opened: Box<Opened>, idle: &Idle, before: impl FnOnce()) -> bool {
        let claim = opened.claim.take();
        let unlocked = opened.file.unlock_after(|| {
            before();
            if let Some(claim) = claim {
                self.index.unclaim(opened.place.entry, claim);
            }
        });
        // A description that is not unlocked is closed, which ends it if anything does.
        if unlocked {
            idle.put(opened);
        }
        unlocked
    }
}

/// What came of going past those who may hold the lock by a file before.
enum Entered {
    Yes,
    Replaced,
    /// Why not.
    Not(String),
}

impl FileLock {
    pub(crate) fn new(space: &Arc<FileSpace>, spec: Spec) -> Result<Self> {
        names::check(&spec.name)?;
        if !matches!(spec.kind, Kind::Mutex | Kind::RwLock) {
            return Err(super::unsupported(spec.kind.name(), space.directory()));
        }
        let place = space.look_up(&spec)?.place;
        Ok(Self { space: space.clone(), spec: Arc::new(spec), place, idle: idle_of(space.index.id, place.entry) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where the name is now: it may have been taken away, and given another entry.
    fn find(&self) -> Result<Place> {
        match self.space.index.is_still(self.place)? {
            true => Ok(self.place),
            false => Ok(self.space.look_up(&self.spec)?.place),
        }
    }

    fn wait(
        &self,
        mode: Mode,
        deadline: Deadline,
        mut may: impl FnMut(Option<&Pauses>) -> Result<bool>,
    ) -> Result<Locked> {
        let mut waiting = None;
        loop {
            let place = self.find()?;
            let mut gone = None;
            if may(waiting.as_ref())? {
                match self.space.try_lock(place, mode, &self.idle) {
                    Ok(Some(locked)) => return Ok(locked),
                    Ok(None) => {}
                    // Whoever holds the one that was deleted may let go of it.
                    Err(error @ Error::LockFileGone { .. }) => gone = Some(error),
                    Err(error) => return Err(error),
                }
            }
            let pauses = waiting.get_or_insert_with(|| Pauses::new(deadline));
            let (goes_on, look) = pauses.pause();
            if !goes_on {
                return Err(gone.unwrap_or_else(|| self.timed_out(pauses)));
            }
            // Whoever only tries holds nobody back.
            if mode == Mode::Exclusive && self.spec.kind == Kind::RwLock {
                self.space.index.note_writer(place.entry, Monotonic::now().0 / 1_000_000)?;
            }
            if look && self.space.index.is_removed() {
                return Err(Error::Removed { path: self.space.directory().into() });
            }
        }
    }

    fn timed_out(&self, pauses: &Pauses) -> Error {
        if cancel::is_due() {
            return Error::Cancelled { name: self.spec.name.clone() };
        }
        let holder = self.holders().ok().and_then(|holders| holders.into_iter().next());
        Error::TimedOut { name: self.spec.name.clone(), holder: holder.map(Box::new), waited: pauses.waited() }
    }

    /// Acquires the lock alone, waiting until `deadline`.
    #[cold]
    #[inline(never)]
    pub(crate) fn acquire(&self, thread: u32, deadline: Deadline) -> Result<Waited> {
        let mut ask = self.ask_for(thread);
        let may = |waiting: Option<&Pauses>| ask(waiting.is_some()).map(|()| true);
        let Locked { opened, dead } = self.wait(Mode::Exclusive, deadline, may)?;
        let token = match self.space.index.draw(opened.place.entry) {
            Ok(token) => token,
            Err(error) => {
                self.space.unlock(opened, &self.idle);
                return Err(error);
            }
        };
        if let Err(error) = self.space.hold(&opened, thread, token, dead.as_ref()) {
            self.space.unlock(opened, &self.idle);
            return Err(error);
        }
        if dead.is_some() {
            // It is for people.
            let _ = self.space.index.note_recovery(opened.place.entry);
        }
        let acquisition = Acquisition::of_file(token, keep_held(opened));
        let abandoned = dead.map(Abandonment::told_before);
        Ok(Waited::of_file(acquisition, abandoned))
    }

    /// Whether that thread would wait for itself: asked once, when it has to wait. 0 is no thread.
    fn ask_for(&self, thread: u32) -> impl FnMut(bool) -> Result<()> {
        let mut was_asked = thread == 0;
        move |waits| match waits && !std::mem::replace(&mut was_asked, waits) {
            true => self.held_by(thread).map_or(Ok(()), |token| {
                Err(Error::Deadlock { name: self.spec.name.clone(), token, cycle: Box::default() })
            }),
            false => Ok(()),
        }
    }

    /// With which token this thread holds the lock already.
    fn held_by(&self, thread: u32) -> Option<u64> {
        let process = std::process::id();
        let holder = self.holders().ok()?.into_iter().find(|holder| holder.pid == process && holder.readers == 0)?;
        (holder.thread == Some(crate::os::fork::kernel_thread(thread))).then_some(holder.token)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn token(&self, acquisition: Acquisition) -> u64 {
        acquisition.token_of_file()
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn is_held(&self, acquisition: Acquisition) -> bool {
        with_held(acquisition.entry(), |held| {
            held.file.is_ours() && self.space.is_held(held, acquisition.token_of_file())
        })
        .unwrap_or(false)
    }

    /// Ends an acquisition; `false` if it is another process's, or was lost.
    #[cold]
    #[inline(never)]
    pub(crate) fn release(&self, acquisition: Acquisition) -> bool {
        self.space.end(acquisition.entry(), acquisition.token_of_file(), None, &self.idle)
    }

    /// Ends an acquisition that nothing was done with; the next one is told of the same death.
    pub(crate) fn give_up(&self, acquisition: Acquisition, told: Option<&Abandoned>) {
        self.space.end(acquisition.entry(), acquisition.token_of_file(), told, &self.idle);
    }

    /// Ends an acquisition as our death would.
    #[cold]
    #[inline(never)]
    pub(crate) fn abandon(&self, acquisition: Acquisition) -> bool {
        let token = acquisition.token_of_file();
        let dead = Record::as_dead(&self.space.me(), token);
        self.space.end(acquisition.entry(), token, Some(&dead), &self.idle)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn stamp(&self, acquisition: Acquisition) {
        // Every acquisition notes the time; this one anew.
        with_held(acquisition.entry(), |held| self.space.index.record(held.place.entry).stamp().is_ok());
    }

    /// Acquires the lock among readers.
    #[cold]
    #[inline(never)]
    pub(crate) fn read(&self, thread: u32, deadline: Deadline) -> Result<(Reading, Option<Box<Abandoned>>)> {
        let mut ask = self.ask_for(thread);
        let may = |waiting: Option<&Pauses>| {
            ask(waiting.is_some())?;
            let writer = self.space.index.writer(self.place.entry)?;
            // What is yet to come was never noted.
            let ago = || (Monotonic::now().0 / 1_000_000).checked_sub(writer);
            let is_recent = || ago().is_some_and(|ago| ago <= RECENT.as_millis() as u64);
            Ok(writer == 0 || !is_recent() || waiting.is_some_and(|pauses| pauses.waited() > FAIR))
        };
        let Locked { opened, dead } = self.wait(Mode::Shared, deadline, may)?;
        Ok((Reading::of_file(keep_held(opened)), dead.map(Box::new)))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn release_read(&self, reading: Reading) -> bool {
        take_held(reading.number()).is_some_and(|opened| self.space.unlock(opened, &self.idle))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn is_reading(&self, reading: Reading) -> bool {
        with_held(reading.number(), |held| held.file.is_ours()).unwrap_or(false)
    }

    /// Of the last write.
    #[cold]
    #[inline(never)]
    pub(crate) fn token_of(&self, _: Reading) -> u64 {
        self.space.index.last_token(self.place.entry).unwrap_or(0)
    }

    /// Who holds it, as far as that can be told.
    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        let seen = Looking::of_space(&self.space).look(&self.space.index, self.find()?.entry, self.spec.kind)?;
        Ok(seen.holders)
    }

    pub(crate) fn space(&self) -> &FileSpace {
        &self.space
    }
}
