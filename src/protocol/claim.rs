//! Who holds a lock file, where anybody may put another file in its place at any time.
//!
//! A lock by the kernel (`flock`) is one of a file, not of its name: whoever holds the file that was, and whoever locks the one that is, both have
//! one. Looking, after locking, whether the file still is the name's is not enough: it may be replaced after that.
//!
//! * Words, apart from the files: the *inode* that is the name's file, the *count* of files that there were, and the *claim* of whoever holds the
//!   lock alone: its PID, and the count of the file that it has locked.
//! * Invariants: 1. Whoever holds the lock alone has its file locked, and its claim set, by a compare-and-swap: of two, whatever files they have
//!   locked, one has it. 2. Whoever replaces the file takes the inode away, counts, and gives the new inode, in this order: nobody takes an old file for
//!   one of a new count. 3. A claim that was made by the same file is that of somebody who does not have it locked any more, as the caller has: it
//!   is replaced. One that was made by another file is replaced only if its owner is proven dead, and leaves nobody the lock. 4. Readers have no
//!   claim. Whoever claims looks at the count once more *then*; who reads by the new file looks at the claim *after* it saw the count: of a
//!   writer by the old file and a reader by the new one, one sees the other. (Readers by the old file are for the caller to find.)
//! * Orderings: all of it is `SeqCst`: invariant 4 is about two words in one order.
//! * If we die: before the claim nothing happened; after it, the kernel unlocks our file. Whoever locks the same one replaces the claim, whoever locks
//!   another one has to prove our death. A file that was counted and has no inode yet is nobody's: it is replaced once more.
//! * A claim whose check does not fit was made by nobody, and would be proven dead by nobody: it is replaced.
//! * Not here: the kernel's locks, the proof of a death, who is told of it, readers.

use crate::sync::total_order;

/// The words, which may be out of reach.
pub(crate) trait Entry {
    type Error;

    fn claim(&self) -> Result<u64, Self::Error>;
    /// Sets the claim to `new` if it is `expected`; whether it was.
    fn swap_claim(&self, expected: u64, new: u64) -> Result<bool, Self::Error>;
    fn count(&self) -> Result<u32, Self::Error>;
    fn set_count(&self, count: u32) -> Result<(), Self::Error>;
    /// 0: there is none.
    fn inode(&self) -> Result<u64, Self::Error>;
    fn set_inode(&self, inode: u64) -> Result<(), Self::Error>;
}

/// Bits of a PID: Linux gives none of more (`PID_MAX_LIMIT`).
const PID_BITS: u32 = 22;
const PID: u64 = (1 << PID_BITS) - 1;

/// A claim as it lies in its word: a PID, a check of ten bits, a count of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim(pub(crate) u64);

impl Claim {
    pub(super) fn new(count: u32, pid: u32) -> Self {
        let pid = u64::from(pid) & PID;
        Self(u64::from(count) << 32 | Self::check(count, pid) << PID_BITS | pid)
    }

    /// Of any two that differ in one bit it differs.
    fn check(count: u32, pid: u64) -> u64 {
        let all = u64::from(count) << PID_BITS | pid;
        (all ^ all >> 10 ^ all >> 20 ^ all >> 30 ^ all >> 40 ^ all >> 50) & 0x3FF
    }

    fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whose it is; 0: nobody's.
    pub(crate) fn pid(self) -> u32 {
        (self.0 & PID) as u32
    }

    /// Whether it may be that of somebody who has another file locked than the `count`-th.
    pub(super) fn is_by_another(self, count: u32) -> bool {
        self.0 != 0 && self.count() != count && self == Self::new(self.count(), self.pid())
    }
}

/// What came of claiming a lock.
#[derive(Debug)]
pub(crate) enum Claimed<Why> {
    /// It is the caller's.
    Yes(Claim),
    /// The file is not the name's any more.
    Replaced,
    /// Somebody may hold it by another file.
    Not(Why),
}

/// The how many-th file of the name the one with that inode is, if it is the present one: for whoever has it locked.
#[inline]
pub(crate) fn standing<E: Entry>(entry: &E, inode: u64) -> Result<Option<u32>, E::Error> {
    // In this order: see invariant 2.
    let count = entry.count()?;
    Ok((entry.inode()? == inode).then_some(count))
}

/// Claims the lock, for the process `pid`, which has the `count`-th file locked alone. `obstacle` says of a claim by another file why it cannot be
/// replaced.
#[inline]
pub(crate) fn claim<E: Entry, Why>(
    entry: &E,
    count: u32,
    pid: u32,
    mut obstacle: impl FnMut(Claim) -> Result<Option<Why>, E::Error>,
) -> Result<Claimed<Why>, E::Error> {
    let mine = Claim::new(count, pid);
    loop {
        let seen = Claim(entry.claim()?);
        if seen.is_by_another(count)
            && let Some(why) = obstacle(seen)?
        {
            return Ok(Claimed::Not(why));
        }
        if entry.swap_claim(seen.0, mine.0)? {
            break;
        }
    }
    total_order();
    if entry.count()? == count {
        return Ok(Claimed::Yes(mine));
    }
    unclaim(entry, mine)?;
    Ok(Claimed::Replaced)
}

/// Why somebody who has the `count`-th file locked among readers may not read, if so.
#[inline]
pub(crate) fn beside<E: Entry, Why>(
    entry: &E,
    count: u32,
    obstacle: impl FnOnce(Claim) -> Result<Option<Why>, E::Error>,
) -> Result<Option<Why>, E::Error> {
    total_order();
    let seen = Claim(entry.claim()?);
    if seen.is_by_another(count) { obstacle(seen) } else { Ok(None) }
}

/// Takes a claim back, before the file is unlocked.
#[inline]
pub(crate) fn unclaim<E: Entry>(entry: &E, claim: Claim) -> Result<(), E::Error> {
    entry.swap_claim(claim.0, 0).map(drop)
}

/// Makes the file with that inode the name's. Nobody else replaces it meanwhile.
pub(crate) fn replace<E: Entry>(entry: &E, inode: u64) -> Result<(), E::Error> {
    entry.set_inode(0)?;
    entry.set_count(entry.count()?.wrapping_add(1))?;
    entry.set_inode(inode)
}

#[cfg(all(test, not(hostlock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_claim_with_a_flipped_bit_is_nobodys() {
        for claim in [Claim(0), Claim::new(1, 1), Claim::new(7, 4_194_303), Claim::new(u32::MAX, 4242)] {
            let is_somebodys = |claim: Claim| (0..3).any(|count| claim.is_by_another(count));
            assert_eq!(is_somebodys(claim), claim.0 != 0);
            assert_eq!(Claim::new(claim.count(), claim.pid()), claim);
            for bit in 0..64 {
                assert!(!is_somebodys(Claim(claim.0 ^ 1 << bit)), "{claim:x?}, bit {bit}");
            }
        }
    }
}
