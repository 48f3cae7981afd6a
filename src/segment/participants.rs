//! Who is in the space: joining, leaving, judging, and cleaning up after the dead.
//!
//! A participant is one process. It lives for as long as byte *slot* of the file is locked by the description it joined with; the
//! kernel lets go of that however the process ends. The record says who it is, for people and for the witness that goes by the
//! process. It also lives for as long as its *lifeline* is held, a second byte, whose descriptor it may hand to processes that it
//! starts: they carry on for it when it dies.
//!
//! Invariants:
//!
//! 1. Only whoever has a slot's byte writes its record, and, but for what is shown to people, only while nobody is registered there.
//! 2. A slot is given up (PID 0) after no lock word and no waiter record names it any more. So a record with PID 0 can be moved
//!    into without further ado.
//! 3. Cleaning up is serialised by the slot's recovery byte and can be done again from the start. Nobody waits for it: a waiter
//!    takes its lock over by itself.
//!
//! If we die: while joining, the PID is still 0 and nothing happened. While leaving or cleaning up, the next one goes on.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::fence;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::Segment;
use super::format::{Kind, Meta, Record, load_printable, store_text};
use super::names::is_fresh;
use crate::digest::fnv1a;
use crate::os::clock::{self, wall_clock_nanos};
use crate::os::file::KeptFile;
use crate::os::identity::{self, Identity};
use crate::os::life::{Registered, Sign};
use crate::os::liveness::{self, Evidence, Life};
use crate::os::{byte_lock, byte_lock::Presence, fork, futex};
use crate::protocol::slot::Slot;
use crate::protocol::word::OwnerWord;
use crate::protocol::{recovery, semaphore};
use crate::{Error, Result};

/// How often to try for a place while there are dead ones in the way, which somebody else cleans up.
const JOIN_ATTEMPTS: u32 = 50;

/// The recovery byte of slot 0. Presence bytes are those below.
const RECOVERY_BYTES: u64 = 1 << 20;

/// The lifeline of slot 0: held by whoever carries on for a participant that died.
const LIFELINES: u64 = 1 << 21;

/// Who is registered in a slot.
#[derive(Clone, Debug)]
pub(crate) struct Participant {
    pub(crate) incarnation: u32,
    pub(crate) identity: Identity,
    digest: u64,
}

impl Participant {
    /// Whether the record is as its owner wrote it. One flipped bit of a PID or an inode is not the proof of a death.
    fn is_sound(&self) -> bool {
        self.digest == digest(self.incarnation, &self.identity)
    }
}

/// Of all that a participant is judged by.
fn digest(incarnation: u32, identity: &Identity) -> u64 {
    let Identity { pid, pid_inode, start_time, pid_namespace, time_namespace, boot } = *identity;
    let words = [state_of(incarnation, pid), pid_inode, start_time, pid_namespace, time_namespace, boot];
    fnv1a(bytemuck::bytes_of(&words))
}

/// This process, registered.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) slot: Slot,
    pub(crate) incarnation: u32,
    pub(crate) identity: Identity,
    presence: Presence,
    life: Option<Registered>,
}

impl Membership {
    /// In a forked child: what it says is the parent's, and the mappings behind it were not inherited.
    pub(crate) fn forget(self) {
        self.presence.forget();
        self.life.into_iter().for_each(Registered::forget);
    }
}

fn state_of(incarnation: u32, pid: u32) -> u64 {
    (incarnation as u64) << 32 | pid as u64
}

impl Segment {
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.header.participants).filter_map(Slot::new)
    }

    fn record(&self, slot: Slot) -> Option<&Record> {
        self.records.get(slot.index() as usize)
    }

    /// Who is registered in `slot`: one participant, not parts of two.
    pub(crate) fn participant(&self, slot: Slot) -> Option<Participant> {
        let record = self.record(slot)?;
        // People move in and out in microseconds; a record that never comes to rest is being scribbled on.
        for _ in 0..10_000 {
            // Acquire: pairs with the Release store of the state in `try_move_in`.
            let state = record.state.load(Acquire);
            let pid = state as u32;
            if pid == 0 {
                return None;
            }
            let participant = Participant {
                incarnation: (state >> 32) as u32,
                identity: Identity {
                    pid,
                    pid_inode: record.pid_inode.load(Relaxed),
                    start_time: record.start_time.load(Relaxed),
                    pid_namespace: record.pid_namespace.load(Relaxed),
                    time_namespace: record.time_namespace.load(Relaxed),
                    boot: record.boot.load(Relaxed),
                },
                digest: record.digest.load(Relaxed),
            };
            // Acquire: if a field above is a newcomer's, the state below is no longer the one above. Pairs with the Release
            // fence in `try_move_in`.
            fence(Acquire);
            if record.state.load(Relaxed) == state {
                return Some(participant);
            }
        }
        None
    }

    /// The incarnation registered in `slot` now, without anything about it.
    pub(crate) fn incarnation(&self, slot: Slot) -> Option<u32> {
        let state = self.record(slot)?.state.load(Acquire);
        (state as u32 != 0).then_some((state >> 32) as u32)
    }

    /// The name of the program that runs, or ran, as the participant last registered in `slot`.
    pub(crate) fn command(&self, slot: Slot) -> String {
        self.record(slot).map(|record| load_printable(&record.command)).unwrap_or_default()
    }

    /// Whether the participant that was read from `slot` lives. Dead is proven by either witness: its process, or the byte it
    /// holds for as long as it lives; unless somebody it started carries on for it. Everything else is not dead.
    pub(crate) fn judge(&self, slot: Slot, participant: &Participant, me: &Identity) -> Life {
        // The byte first: to ask for it is cheaper.
        let life = match self.is_present(slot) {
            Some(false) => Life::Dead(Evidence::LetGo),
            present => {
                let by_process = match participant.is_sound() {
                    true => liveness::of_process(&participant.identity, me),
                    false => Life::Unknown("its record is damaged"),
                };
                match (by_process, present) {
                    (Life::Unknown(_), Some(true)) => Life::Alive,
                    _ => by_process,
                }
            }
        };
        // In this order: the dead hand their lifeline to nobody any more, so what is free now stays free.
        match life {
            Life::Dead(_) => match self.is_locked(LIFELINES + u64::from(slot.index())) {
                Some(false) => life,
                Some(true) => Life::Alive,
                None => Life::Unknown("the kernel did not say whether its lifeline is held"),
            },
            life => life,
        }
    }

    /// Whether the byte of whoever is in `slot` is held; `None` if that cannot be told. Free, it is proof of a death; held, it may be by somebody who has
    /// the memory of one that died, or the slot.
    pub(crate) fn is_present(&self, slot: Slot) -> Option<bool> {
        self.is_locked(u64::from(slot.index()))
    }

    /// Whether anybody holds `byte`; `None` if that cannot be told.
    fn is_locked(&self, byte: u64) -> Option<bool> {
        // The description that is kept never holds a lock, so it sees those of every participant, of a parent's, too.
        match self.file.get() {
            Some(file) => byte_lock::is_locked(file, byte).ok(),
            None => self.reopen().ok().and_then(|file| byte_lock::is_locked(file.as_fd(), byte).ok()),
        }
    }

    /// A descriptor that counts as the participant in `slot` for as long as any process has a copy of it. The caller is that
    /// participant.
    pub(crate) fn lifeline(&self, slot: Slot) -> Result<KeptFile> {
        let failed = |e: io::Error| Error::system("hold the lifeline in", &self.path, e);
        let file = self.reopen()?;
        if !byte_lock::try_lock(&file, LIFELINES + u64::from(slot.index())).map_err(failed)? {
            // Whoever moves in looks first, so this takes somebody who locks bytes that are not its own.
            return Err(failed(io::ErrorKind::WouldBlock.into()));
        }
        KeptFile::new(file).map_err(failed)
    }

    /// Ends the lifeline of `slot`, also for those who have copies of it.
    pub(crate) fn end_lifeline(&self, slot: Slot, lifeline: &KeptFile) {
        if let Some(file) = lifeline.get() {
            // If it fails, the copies keep the slot, and nothing else, until they are closed.
            let _ = byte_lock::unlock(file, LIFELINES + u64::from(slot.index()));
        }
    }

    /// When the participant in `slot` joined, in nanoseconds since 1970.
    pub(crate) fn joined(&self, slot: Slot) -> u64 {
        self.record(slot).map_or(0, |record| record.joined.load(Relaxed))
    }

    /// On whose behalf the participant in `slot` holds its locks, as it says itself.
    pub(crate) fn behalf(&self, slot: Slot) -> Option<(u32, String)> {
        let record = self.record(slot)?;
        // Acquire: pairs with the Release in `set_behalf`: the name.
        let pid = record.behalf.load(Acquire) as u32;
        (pid != 0).then(|| (pid, load_printable(&record.behalf_command)))
    }

    /// Notes on whose behalf the participant in `slot`, which the caller is, holds its locks from now on.
    pub(crate) fn set_behalf(&self, slot: Slot, pid: u32, command: &str) {
        if let Some(record) = self.record(slot) {
            record.behalf.store(0, Relaxed);
            store_text(&record.behalf_command, identity::cut(command).as_bytes());
            // Release: the name. Pairs with the Acquire in `behalf`. (Who reads while this is called a second time may see parts of
            // two names. It is for people.)
            record.behalf.store(pid.into(), Release);
        }
    }

    /// Registers this process. A full table is cleared of the dead first.
    pub(crate) fn join(&self, me: &Identity) -> Result<Membership> {
        for attempt in 0.. {
            for slot in self.slots() {
                if self.participant(slot).is_none()
                    && let Some(membership) = self.try_move_in(slot, me)?
                {
                    return Ok(membership);
                }
            }
            let recovered = self.recover_dead(me, None)?;
            // Others may be cleaning up, or be faster in moving in; it takes each of them microseconds.
            let dead_are_left = || {
                let is_dead = |slot| {
                    self.participant(slot).is_some_and(|them| matches!(self.judge(slot, &them, me), Life::Dead(_)))
                };
                self.slots().any(is_dead)
            };
            match attempt {
                JOIN_ATTEMPTS.. => break,
                _ if recovered > 0 => {}
                _ if dead_are_left() => clock::sleep(Duration::from_millis(2)),
                // Once more if somebody left meanwhile.
                0 => {}
                _ => break,
            }
        }
        Err(Error::Full { path: self.space().into(), what: "participants", capacity: self.header.participants })
    }

    fn try_move_in(&self, slot: Slot, me: &Identity) -> Result<Option<Membership>> {
        let Some(record) = self.record(slot) else { return Ok(None) };
        let failed = |e| Error::system("join", &self.path, e);
        let file = self.reopen()?;
        if !byte_lock::try_lock(&file, slot.index().into()).map_err(failed)? {
            return Ok(None);
        }
        let state = record.state.load(Acquire);
        // A free slot's lifeline is held only if a process left and could not end it.
        if state as u32 != 0 || self.is_locked(LIFELINES + u64::from(slot.index())) != Some(false) {
            return Ok(None);
        }
        let presence = Presence::keep(file).map_err(failed)?;
        let incarnation = ((state >> 32) as u32).wrapping_add(1);
        // Release: whoever sees a field of ours sees that the one before is gone. Pairs with the fence in `participant`.
        fence(Release);
        record.pid_inode.store(me.pid_inode, Relaxed);
        record.start_time.store(me.start_time, Relaxed);
        record.pid_namespace.store(me.pid_namespace, Relaxed);
        record.time_namespace.store(me.time_namespace, Relaxed);
        record.boot.store(me.boot, Relaxed);
        record.joined.store(wall_clock_nanos(), Relaxed);
        // Its life word may be the one of whoever was here before, until ours is begun.
        record.flags.store(0, Relaxed);
        record.digest.store(digest(incarnation, me), Relaxed);
        record.behalf.store(0, Relaxed);
        store_text(&record.command, &identity::command());
        // Release: the fields above. Pairs with the Acquire in `participant`.
        record.state.store(state_of(incarnation, me.pid), Release);
        // Acquiring a lock is no `Release`: without this, whoever reads our slot in a word could still find the one before us there,
        // dead. Pairs with the fence in `Host::judge`.
        fence(Release);
        Ok(Some(Membership { slot, incarnation, identity: *me, presence, life: self.begin_life(slot) }))
    }

    /// Whether a thread registered for this process in `slot`, and has ended since.
    pub(crate) fn is_life_over(&self, slot: Slot) -> bool {
        matches!(self.life_of(slot), Some((_, Sign::None | Sign::Ended)))
    }

    /// Has the calling thread register instead of one that has ended.
    pub(crate) fn renew_life(&self, membership: &mut Membership) {
        if self.is_life_over(membership.slot) {
            // First: the word is one of theirs until then.
            membership.life = None;
            membership.life = self.begin_life(membership.slot);
        }
    }

    /// Gives up this process's slot, and before that whatever it still holds: then somebody leaked a guard.
    pub(crate) fn leave(&self, membership: Membership) {
        self.give_back_all(membership.slot, membership.incarnation, membership.identity.pid);
        self.give_up_slot(membership.slot, membership.incarnation, membership.identity.pid);
    }

    /// Cleans up after everybody who is dead, or after `only`; how many they were. Leaves alone whom somebody else is cleaning up.
    pub(crate) fn recover_dead(&self, me: &Identity, only: Option<Slot>) -> Result<usize> {
        let mut recovered = 0;
        for slot in self.slots().filter(|slot| only.is_none_or(|only| only == *slot)) {
            let is_dead = || match self.participant(slot) {
                Some(them) if matches!(self.judge(slot, &them, me), Life::Dead(_)) => Some(them),
                _ => None,
            };
            if is_dead().is_none() {
                continue;
            }
            // A child that had a copy of the description would keep the byte for as long as it lives.
            let _not_now = fork::NOT_NOW.lock();
            let file = self.reopen()?;
            let byte = RECOVERY_BYTES + u64::from(slot.index());
            if !byte_lock::try_lock(&file, byte).map_err(|e| Error::system("clean up in", &self.path, e))? {
                continue;
            }
            // Again, now that nobody else can: it may have been cleaned up, and somebody may have moved in.
            let Some(them) = is_dead() else { continue };
            self.give_back_all(slot, them.incarnation, them.identity.pid);
            self.give_up_slot(slot, them.incarnation, them.identity.pid);
            recovered += 1;
        }
        Ok(recovered)
    }

    fn give_up_slot(&self, slot: Slot, incarnation: u32, pid: u32) {
        if let Some(record) = self.record(slot) {
            // Release: all that was given back. Pairs with the Acquire load in `try_move_in`. It fails only if a peer scribbles.
            let _ =
                record.state.compare_exchange(state_of(incarnation, pid), state_of(incarnation, 0), AcqRel, Relaxed);
        }
    }

    /// Frees every lock that `dead` stands in, marked as abandoned, and takes its sleepers off their counts.
    fn give_back_all(&self, dead: Slot, incarnation: u32, pid: u32) {
        let wake = |word: &_| futex::wake(word, 1) > 0;
        recovery::give_back(&self.globals().names, dead, |_| true, wake);
        let command = self.command(dead);
        // Entries beyond were never used: it grows before an entry is. If the next one was used, the number is damaged.
        let used = match self.globals().entries_used.load(Acquire) as usize {
            used if self.entries.get(used).is_some_and(is_fresh) => used,
            _ => self.entries.len(),
        };
        for entry in &self.entries[..used] {
            let note = |word: OwnerWord| entry.note_death(word.epoch(), pid, &command);
            let told = |word: OwnerWord| {
                let told = entry.is_told_of(word);
                if told {
                    note(word);
                }
                told
            };
            let held = recovery::give_back(&entry.lock, dead, told, wake).is_some();
            let kind = Kind::from_number(Meta(entry.meta.load(Relaxed)).kind());
            let parts = self.give_back_parts(entry, dead, incarnation, |seat, word| {
                note(word);
                // Beside the entry's note, which is of one death only. Of a barrier and a latch a seat's note says that it arrived, or counted: it did.
                if kind == Some(Kind::Semaphore) {
                    seat.note.store(semaphore::note_of_death(word, pid), Relaxed);
                }
            });
            if held || parts {
                entry.recovered.fetch_add(1, Relaxed);
                // Also for those who wait for whoever held it: they may see what that death means for them.
                entry.bell.ring(|rung| {
                    futex::wake(rung, i32::MAX);
                });
            }
        }
        self.clear_waiters_of(dead, incarnation);
    }
}
