//! Noticing a fork.
//!
//! A forked child shares its parent's mappings and believes it holds what the parent holds. The kernel tells it
//! apart: [`ForkWord`] lies in a page that `MADV_WIPEONFORK` zeroes in every child, also in one made by a raw
//! `clone`, and costs one load to read. [`guarded`] is the other half: what the process as a whole keeps behind one
//! lock is never forked in the middle of a change.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// A word that is zero in a forked child until the child sets it. Clones are the same word.
#[derive(Clone, Debug)]
pub(crate) struct ForkWord {
    word: NonNull<AtomicU64>,
    _page: Arc<Page>,
}

// SAFETY: it is a pointer to an atomic in a page that lives as long as the value; all access is atomic.
unsafe impl Send for ForkWord {}
// SAFETY: as above.
unsafe impl Sync for ForkWord {}

/// A page that is wiped in forked children.
#[derive(Debug)]
struct Page(NonNull<c_void>);

// SAFETY: an address, which means the same in every thread; the page is unmapped once, by the last owner.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Where in its page the word lies: apart, modulo 4 KiB, from what is written next to reading it. Processors take a load for
/// dependent on an earlier store when these low bits of their addresses agree, and wait.
const WORD_AT: usize = 4096 - 64;

impl ForkWord {
    pub(crate) fn new() -> io::Result<Self> {
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe { mmap_anonymous(None, PAGE, rights, MapFlags::MAP_PRIVATE)? };
        let page = Arc::new(Page(address));
        // SAFETY: the page was mapped above with this length; wiping it in children is what it is for.
        unsafe { madvise(address, PAGE.get(), MmapAdvise::MADV_WIPEONFORK)? };
        // SAFETY: inside the page, and aligned.
        let word = unsafe { address.byte_add(WORD_AT) }.cast();
        Ok(Self { word, _page: page })
    }

    #[inline(always)]
    fn word(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped and writable as long as `_page` is there, page-aligned, and zero or what `set` stored.
        unsafe { self.word.as_ref() }
    }

    // Relaxed in both: threads of one process learn of each other's `set` by the lock it is called under, and a zero that is
    // late in going away only leads there.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.word().load(Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.word().store(value, Relaxed);
    }

    /// Sets it if it is zero; what it is then. Of several threads that come at once one does.
    pub(crate) fn set_once(&self, value: u64) -> u64 {
        self.word().compare_exchange(0, value, Relaxed, Relaxed).map_or_else(|known| known, |_| value)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped in `ForkWord::new` with this length; nobody refers to it any more, as each `ForkWord` keeps this value.
        // It cannot fail for such a range, and there would be nothing to do.
        let _ = unsafe { munmap(self.0, PAGE.get()) };
    }
}

/// A lock around what the process as a whole keeps, that a fork in another thread cannot copy in the locked state.
///
/// std's mutex and not `parking_lot`'s: the latter parks threads in a table of the process, whose own locks a fork may copy
/// while another thread holds them. std's is one word with a futex, which the child's handler frees.
pub(crate) struct Guarded<T: 'static> {
    state: Mutex<T>,
    /// The guard that the forking thread holds from before the fork until after it, on both sides.
    across: UnsafeCell<Option<MutexGuard<'static, T>>>,
}

// SAFETY: `state` is a mutex over `T: Send`. `across` is only touched by the fork handlers of the thread that holds `state`,
// so never by two threads.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    pub(crate) const fn new(state: T) -> Self {
        Self { state: Mutex::new(state), across: UnsafeCell::new(None) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        // A panic under the lock leaves nothing half done that the next one could trip over.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before a fork, by the forking thread.
    pub(crate) fn before_fork(&'static self) {
        let guard = self.lock();
        // SAFETY: this thread holds the lock, and only the holder touches the cell.
        unsafe { *self.across.get() = Some(guard) };
    }

    /// What is behind the lock, between the two calls around a fork: for the child's handler.
    pub(crate) fn with_held<R>(&'static self, act: impl FnOnce(&mut T) -> R) -> Option<R> {
        // SAFETY: as in `after_fork`; the guard stays where it is.
        unsafe { (*self.across.get()).as_deref_mut() }.map(act)
    }

    /// To be called after a fork, in the parent and in the child, by the thread that forked.
    pub(crate) fn after_fork(&'static self) {
        // SAFETY: this thread took the lock in `before_fork` and still holds it; in the child it is the only thread. Taking
        // the guard out before dropping it keeps the cell untouched once the lock is free.
        let guard = unsafe { (*self.across.get()).take() };
        drop(guard);
    }
}

/// Held for moments in which a descriptor holds a lock that nobody else may come to have, as a forked child would.
pub(crate) static NOT_NOW: Guarded<()> = Guarded::new(());

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// An id of the calling thread, unlike that of every other living thread of this process, never 0: its kernel thread id in
/// the low 22 bits, and ten bits that make a reused thread id differ.
#[inline(always)]
pub(crate) fn thread() -> u32 {
    // A thread whose locals are gone (a destructor that runs late) is known by its kernel id alone.
    match THREAD.try_with(Cell::get) {
        Ok(0) | Err(_) => new_thread(),
        Ok(thread) => thread,
    }
}

/// The same if this thread was asked for it before; 0 if not.
#[inline(always)]
pub(crate) fn known_thread() -> u32 {
    THREAD.try_with(Cell::get).unwrap_or(0)
}

/// The kernel's thread id in an id made by [`thread`].
pub(crate) fn kernel_thread(thread: u32) -> u32 {
    thread & KERNEL_THREAD
}

/// Linux gives no ids of 2²² or more (`PID_MAX_LIMIT`).
const KERNEL_THREAD: u32 = (1 << 22) - 1;

#[cold]
fn new_thread() -> u32 {
    use core::sync::atomic::AtomicU32;
    static SALT: AtomicU32 = AtomicU32::new(0);
    let kernel = nix::unistd::gettid().as_raw() as u32 & KERNEL_THREAD;
    let salt = if THREAD.try_with(|_| ()).is_ok() { SALT.fetch_add(1, Relaxed) } else { 0 };
    let thread = salt << 22 | kernel;
    let _ = THREAD.try_with(|cell| cell.set(thread));
    thread
}

/// Makes the next [`thread`] ask the kernel again: in a child the forking thread has a new id.
pub(crate) fn forget_thread() {
    let _ = THREAD.try_with(|cell| cell.set(0));
}

/// Registers handlers around every `fork` of the C library, once per process.
///
/// `before` runs in the parent, `after` in the parent and in the child. What runs in the child must be
/// async-signal-safe: other threads are gone with whatever they held.
pub(crate) fn at_fork(before: extern "C" fn(), after: extern "C" fn(), child: extern "C" fn()) -> io::Result<()> {
    static REGISTERED: OnceLock<i32> = OnceLock::new();
    // SAFETY: the three functions live as long as the program.
    let result = *REGISTERED.get_or_init(|| unsafe { libc::pthread_atfork(Some(before), Some(after), Some(child)) });
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_ids_of_their_own_that_stay() {
        let mine = thread();
        assert_eq!(mine, thread());
        assert_eq!(kernel_thread(mine), nix::unistd::gettid().as_raw() as u32);
        assert_ne!(mine, std::thread::spawn(thread).join().unwrap());
    }
}
