//! Waiting at the bell of a name's entry.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::lock::SharedLock;
use super::wait::{Obituary, Refusal, Wait, Waiting};
use crate::holder::Abandoned;
use crate::os::clock::{Deadline, Monotonic};
use crate::protocol::mutex::Failure;
use crate::protocol::word::OwnerWord;
use crate::segment::format::{Entry, Place};
use crate::segment::waiters::Target;
use crate::{Error, Result};

impl SharedLock {
    /// Waits until `look` has an answer, wherever the name is. What `look` says is only believed if the entry still was the name's then.
    pub(super) fn wait_until<T>(
        &self,
        thread: u32,
        deadline: Deadline,
        look: impl Fn(&Wait<'_>, &Entry) -> Option<Result<T>>,
    ) -> Result<T> {
        let started = Monotonic::now();
        loop {
            let place = self.find()?;
            let entry = self.entry(place.entry);
            let wait = self.wait_at(place, thread, started, deadline)?;
            let outcome = entry.bell.wait_until(&wait, || {
                let found = look(&wait, entry);
                match self.is_still(place) {
                    true => found.map(Some),
                    false => Some(None),
                }
            });
            if let Some(dead) = wait.dead() {
                // If it fails, whoever needs the slot tries again.
                let _ = self.space.recover_dead(Some(dead));
            }
            match outcome {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(refusal) => return Err(self.refused(&wait, refusal)),
            }
        }
    }

    /// A wait at the bell of the entry there.
    pub(super) fn wait_at(
        &self,
        place: Place,
        thread: u32,
        started: Monotonic,
        deadline: Deadline,
    ) -> Result<Wait<'_>> {
        let (slot, incarnation) = self.space.member()?;
        let waiting = Waiting { slot, incarnation, thread, started, deadline, own: 0 };
        Ok(Wait::new(&self.space, Target::Bell(place), waiting))
    }

    /// Why such a wait ended. Nobody holds what it was for.
    pub(super) fn refused(&self, wait: &Wait<'_>, refusal: Refusal) -> Error {
        match refusal {
            Refusal::TimedOut => Error::TimedOut {
                name: self.spec.name.clone(),
                holder: None,
                waited: Monotonic::now().since(wait.waiting.started),
            },
            refusal => wait.explain(Failure::Refused(refusal), &self.spec.name),
        }
    }

    /// Who died with that word, by what is known of it now.
    pub(super) fn who_died(&self, entry: &Entry, word: OwnerWord, obituary: Option<Obituary>) -> Abandoned {
        let token = self.space.token_of(word);
        let known = match obituary {
            Some(dead) => Some((dead.pid, dead.command)),
            None => entry.death_of(word.epoch()),
        };
        match known {
            Some((pid, command)) => Abandoned::noted(token, pid, command),
            None => Abandoned::noted(token, 0, String::new()),
        }
    }

    pub(super) fn damaged_word(&self, word: OwnerWord) -> Error {
        let what = format!("\"{}\" is {word:?}, whom nobody knows", self.spec.name);
        Error::damaged(&self.space.segment.path, what)
    }

    /// What the kind keeps in its entry, of the name's own.
    pub(super) fn state(&self) -> Result<&AtomicU64> {
        Ok(&self.entry(self.find()?.entry).state)
    }

    /// As `state`, for a look that asks whether it is the name's still.
    pub(super) fn peek(&self) -> Option<u64> {
        let place = Place::unpack(self.place.load(Relaxed));
        let state = self.entry(place.entry).state.load(core::sync::atomic::Ordering::SeqCst);
        self.is_still(place).then_some(state)
    }
}
