//! A bell: for whoever waits for something else than an owner word, which may be any number of words.
//!
//! * States: a number that grows with each ring, and the count of those who sleep on it.
//! * Invariants:
//!   1. Whoever changes what somebody may wait for changes it *first* and looks at the count *then*; a sleeper counts itself *first*
//!      and looks *then*. All four are `SeqCst`, so in their one total order either the ringer sees the sleeper, or
//!      the sleeper sees the change.
//!   2. A sleeper reads the number *before* it looks, and the kernel compares it once more. So a ring after its look ends its sleep.
//!   3. Nobody gives up after a wake without having looked once more.
//!   4. As in [`mutex`](super::mutex): nobody but the sleeper takes itself off the count, or whoever recovers it once it is dead.
//!   5. Where the change is a plain store, the ringer's half is a light fence between it and its look at the count, and the sleeper's a heavy one
//!      between counting itself and its look: either the sleeper sees the change, or the ringer looks after the heavy fence and sees the
//!      sleeper. Who has no heavy fence looks every millisecond instead.
//! * What is waited for stays as it is until somebody takes it: a ring that wakes one is not lost when that one dies, for
//!   the others look by themselves, and every sleep is bounded. Whoever gives up did look, and what it found, others find.
//! * Orderings: what `look` reads it has to read `SeqCst`, and what is changed before a ring has to be changed `SeqCst`.
//! * If we die: between counting ourselves and enlisting, the count keeps a stray one, which costs wake calls. Between a change and its ring,
//!   sleepers look again by themselves.
//! * Not here: what is waited for.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::Host;
use crate::sync::{AtomicU32, light_fence, total_order};

/// The words of a bell, as they lie in the segment.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) rung: AtomicU32,
    pub(crate) sleepers: AtomicU32,
}

impl Bell {
    #[cfg(all(test, hostlock_loom))]
    pub(crate) fn new() -> Self {
        Self { rung: AtomicU32::new(0), sleepers: AtomicU32::new(0) }
    }

    /// Waits until `look` has an answer, for as long as `host` lets us.
    #[cold]
    pub(crate) fn wait_until<H: Host, T>(&self, host: &H, look: impl FnMut() -> Option<T>) -> Result<T, H::Refusal> {
        self.wait_begun(host, || (), look)
    }

    /// The same for what may be changed by whoever rings [lightly](Self::ring_lightly): invariant 5.
    #[cold]
    pub(crate) fn wait_fenced<H: Host, T>(&self, host: &H, look: impl FnMut() -> Option<T>) -> Result<T, H::Refusal> {
        let fence = || {
            host.heavy_fence();
        };
        self.wait_begun(host, fence, look)
    }

    fn wait_begun<H: Host, T>(
        &self,
        host: &H,
        begin: impl FnOnce(),
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, H::Refusal> {
        let mut step = 0;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if !host.spin(step) {
                break;
            }
            step += 1;
        }
        // Whoever must not wait is not counted, so that attempts cost nobody a wake.
        host.may_sleep()?;
        self.wait_counted(host, |_| begin(), |_| look())
    }

    /// The same without spinning. `begin` runs once, after this thread is on the count, with the number of rings so far, which `look` is given
    /// anew each time: what is changed by somebody who waited for `begin` is not missed.
    pub(crate) fn wait_counted<H: Host, T>(
        &self,
        host: &H,
        begin: impl FnOnce(u32),
        mut look: impl FnMut(u32) -> Option<T>,
    ) -> Result<T, H::Refusal> {
        // SeqCst, as are the loads below: invariant 1, the sleeper's half.
        self.sleepers.fetch_add(1, SeqCst);
        host.enlist();
        total_order();
        begin(self.rung.load(SeqCst));
        let outcome = loop {
            total_order();
            let rung = self.rung.load(SeqCst);
            if let Some(found) = look(rung) {
                break Ok(found);
            }
            // Invariant 3: after every sleep there was a look before this.
            if let Err(refusal) = host.may_sleep() {
                break Err(refusal);
            }
            host.doze(&self.rung, rung);
        };
        if host.delist() {
            self.uncount();
        }
        outcome
    }

    /// Takes one sleeper off the count: the caller itself, or a dead one whose record the caller cleared.
    pub(crate) fn uncount(&self) {
        let mut sleepers = self.sleepers.load(Relaxed);
        // Not below zero: the count is a peer's to damage.
        while let Err(now) = self.sleepers.compare_exchange(sleepers, sleepers.saturating_sub(1), SeqCst, Relaxed) {
            sleepers = now;
        }
    }

    /// Tells sleepers to look again, after a change. `wake` wakes as many as the change is for.
    #[inline(always)]
    pub(crate) fn ring(&self, wake: impl FnOnce(&AtomicU32)) {
        total_order();
        // SeqCst: invariant 1, the ringer's half.
        if self.sleepers.load(SeqCst) != 0 {
            self.ring_loud(wake);
        }
    }

    /// The same after a change that was a plain store.
    #[inline(always)]
    pub(crate) fn ring_lightly(&self, wake: impl FnOnce(&AtomicU32)) {
        light_fence();
        // Relaxed: invariant 5.
        if self.sleepers.load(Relaxed) != 0 {
            self.ring_loud(wake);
        }
    }

    #[cold]
    #[inline(never)]
    fn ring_loud(&self, wake: impl FnOnce(&AtomicU32)) {
        self.rung.fetch_add(1, SeqCst);
        wake(&self.rung);
    }
}
