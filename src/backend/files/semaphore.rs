//! A semaphore of lock files: one for each permit, and one that is the name's own, held by whoever collects several.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::FileSpace;
use super::index::{Named, Place};
use super::inspect::Looking;
use super::lock::{Locked, Pauses};
use super::record::Record;
use super::table::{Idle, Opened, idle_of, keep_held, with_held};
use crate::backend::cancel;
use crate::backend::lock::Spec;
use crate::backend::semaphore::{More, Permit};
use crate::os::clock::Deadline;
use crate::os::lock_file::Mode;
use crate::segment::format::Kind;
use crate::segment::names;
use crate::{Abandoned, Error, Holder, Result};

#[derive(Debug)]
pub(crate) struct FileSemaphore {
    space: Arc<FileSpace>,
    spec: Arc<Spec>,
    named: Named,
    idle: Idle,
    /// Which permit to look for first.
    hint: AtomicU32,
}

impl Clone for FileSemaphore {
    fn clone(&self) -> Self {
        let hint = AtomicU32::new(self.hint.load(Relaxed));
        Self {
            space: self.space.clone(),
            spec: self.spec.clone(),
            named: self.named.clone(),
            idle: self.idle.clone(),
            hint,
        }
    }
}

impl FileSemaphore {
    /// Each is a file, and whoever acquires one looks at them in turn.
    pub(crate) const MOST: u32 = 1024;

    pub(crate) fn new(space: &Arc<FileSpace>, name: &str, count: u32) -> Result<Self> {
        names::check(name)?;
        if count > Self::MOST {
            return Err(Error::InvalidOption {
                option: "permits",
                value: count.to_string(),
                reason: format!("a semaphore of lock files has 1 to {}", Self::MOST),
            });
        }
        let spec = Spec { count, ..Spec::of(name, Kind::Semaphore) };
        let named = space.look_up(&spec)?;
        let hint = AtomicU32::new(std::process::id() % count);
        Ok(Self {
            space: space.clone(),
            spec: Arc::new(spec),
            idle: idle_of(space.index.id, named.place.entry),
            named,
            hint,
        })
    }

    pub(crate) fn space(&self) -> &FileSpace {
        &self.space
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn permits(&self) -> u32 {
        self.spec.count
    }

    fn find(&self) -> Result<Named> {
        match self.space.index.is_still(self.named.place)? {
            true => Ok(self.named.clone()),
            false => self.space.look_up(&self.spec),
        }
    }

    /// Takes a permit that is free, with its token.
    fn try_one(&self, named: &Named, from: u32) -> Result<Option<(Permit, Option<Abandoned>)>> {
        let count = self.permits();
        for step in 0..count {
            let part = (from + step) % count;
            let place = self.space.index.part(named, part)?;
            let Some(Locked { opened, dead }) = self.space.try_lock(place, Mode::Exclusive, &self.idle)? else {
                continue;
            };
            let noted = self
                .draw(named.place)
                .and_then(|token| self.space.hold(&opened, 0, token, dead.as_ref()).map(|()| token));
            let token = match noted {
                Ok(token) => token,
                Err(error) => {
                    self.space.unlock(opened, &self.idle);
                    return Err(error);
                }
            };
            if dead.is_some() {
                let _ = self.space.index.note_recovery(named.place.entry);
            }
            self.hint.store(part, Relaxed);
            return Ok(Some((Permit::of_file(token, keep_held(opened)), dead)));
        }
        Ok(None)
    }

    /// Draws a token of the name's. Where words are not mapped, nobody else may at the same time: and not under the name's own lock, for who
    /// collects several has that for as long as it waits for us.
    fn draw(&self, place: Place) -> Result<u64> {
        let draw = || self.space.index.draw(place.entry);
        if self.space.is_mapped() { draw() } else { self.space.index.alone(draw) }
    }

    /// Acquires so many permits, all or none, waiting until `deadline`.
    #[cold]
    #[inline(never)]
    pub(crate) fn acquire(&self, count: u32, deadline: Deadline) -> Result<(Permit, Option<Box<More>>)> {
        if !(1..=self.permits()).contains(&count) {
            return Err(Error::InvalidOption {
                option: "permits",
                value: count.to_string(),
                reason: format!("semaphore \"{}\" has {}, and one at least is acquired", self.name(), self.permits()),
            });
        }
        let mut pauses = Pauses::new(deadline);
        let (mut taken, mut told): (Vec<Permit>, Option<Abandoned>) = (Vec::new(), None);
        let mut gate: Option<Box<Opened>> = None;
        let outcome = loop {
            let named = match self.find() {
                Ok(named) => named,
                Err(error) => break Err(error),
            };
            // One at a time collects several.
            if count > 1 && gate.is_none() {
                gate = match self.space.try_lock(named.place, Mode::Exclusive, &self.idle) {
                    Ok(locked) => locked.map(|locked| locked.opened),
                    Err(Error::LockFileGone { .. }) => None,
                    Err(error) => break Err(error),
                };
            }
            let mut gone = None;
            if count == 1 || gate.is_some() {
                match self.try_one(&named, self.hint.load(Relaxed)) {
                    Ok(Some((permit, dead))) => {
                        taken.push(permit);
                        told = told.or(dead);
                        if taken.len() == count as usize {
                            break Ok(());
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(error @ Error::LockFileGone { .. }) => gone = Some(error),
                    Err(error) => break Err(error),
                }
            }
            let (goes_on, look) = pauses.pause();
            if !goes_on {
                break Err(gone.unwrap_or_else(|| self.timed_out(&pauses)));
            }
            if look && self.space.index.is_removed() {
                break Err(Error::Removed { path: self.space.directory().into() });
            }
        };
        if let Err(error) = outcome {
            for permit in taken {
                // Whoever had to be told of a death still has to be.
                self.end(permit, told.as_ref());
            }
            gate.map(|gate| self.space.unlock(gate, &self.idle));
            return Err(error);
        }
        gate.map(|gate| self.space.unlock(gate, &self.idle));
        let permit = taken.pop().unwrap_or(Permit::ENDED);
        Ok((permit, More::of_files(taken, told)))
    }

    fn timed_out(&self, pauses: &Pauses) -> Error {
        if cancel::is_due() {
            return Error::Cancelled { name: self.spec.name.clone() };
        }
        let holder = self.holders().ok().and_then(|holders| holders.into_iter().next());
        Error::TimedOut { name: self.spec.name.clone(), holder: holder.map(Box::new), waited: pauses.waited() }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn token(&self, permit: Permit) -> u64 {
        permit.token_of_file()
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn is_held(&self, permit: Permit) -> bool {
        let is_held = |held: &Opened| held.file.is_ours() && self.space.is_held(held, permit.token_of_file());
        with_held(permit.number(), is_held).unwrap_or(false)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn release(&self, permit: Permit) -> bool {
        self.end(permit, None)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn abandon(&self, permit: Permit) -> bool {
        self.end(permit, Some(&Record::as_dead(&self.space.me(), permit.token_of_file())))
    }

    fn end(&self, permit: Permit, dead: Option<&Abandoned>) -> bool {
        self.space.end(permit.number(), permit.token_of_file(), dead, &self.idle)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn stamp(&self, permit: Permit) {
        with_held(permit.number(), |held| self.space.index.record(held.place.entry).stamp().is_ok());
    }

    /// Who holds permits, one for each.
    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        let named = self.find()?;
        let mut holders = Vec::new();
        let looking = Looking::of_space(&self.space);
        for part in 0..self.permits() {
            let place = self.space.index.part(&named, part)?;
            holders.extend(looking.look(&self.space.index, place.entry, Kind::Semaphore)?.holders);
        }
        holders.sort_by_key(|holder| holder.token);
        Ok(holders)
    }
}
