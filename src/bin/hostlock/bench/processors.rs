//! Where processes run, for what depends on it more than on what is measured.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const THIS: Pid = Pid::from_raw(0);

/// Those that this process may run on.
fn allowed() -> nix::Result<(CpuSet, Vec<usize>)> {
    let set = sched_getaffinity(THIS)?;
    let numbers = (0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap_or(false)).collect();
    Ok((set, numbers))
}

/// How many there are.
pub(crate) fn count() -> usize {
    allowed().map_or(1, |(_, numbers)| numbers.len())
}

/// This process runs on one of them only, until this is dropped.
pub(crate) struct Pinned(CpuSet);

impl Pinned {
    pub(crate) fn to(index: usize) -> Result<Self, String> {
        let pin = || {
            let (before, numbers) = allowed()?;
            let mut one = CpuSet::new();
            one.set(numbers[index])?;
            sched_setaffinity(THIS, &one).map(|()| Self(before))
        };
        pin().map_err(|errno: nix::errno::Errno| format!("a process cannot be kept on a processor: {}", errno.desc()))
    }

    /// For good.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Those it was allowed before.
        let _ = sched_setaffinity(THIS, &self.0);
    }
}
