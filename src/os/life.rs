//! A word of shared memory that the kernel marks when the thread that registered it ends, however it ends, and on which it then wakes one sleeper.
//!
//! The kernel does that for all that stands on a thread's *robust list*, which glibc registers for its robust mutexes. A node of ours is put into that list,
//! as glibc puts in a mutex: the word lies 32 bytes before the node, the way back 8 bytes before it. A thread that has no such list (another C library)
//! registers nothing.
//!
//! The word has to be shared, and pointers that the kernel and the C library follow must not be: whoever writes to the segment could lead them anywhere. So the word is at
//! the end of a page of the file, and the node in a private page that is mapped behind that.
//!
//! What the mark says is that a *thread* ended. Whether its process did is for others to find out.
//!
//! * Invariants:
//!   1. Only the thread whose list it is changes the list, and it is a list at each moment: it may be killed at any.
//!   2. What a node lies in stays mapped for as long as it is on a list. Whoever ends a registration of another thread takes the file's page away from under the node, and
//!      leaves the rest to that thread, unless that has gone.
//!   3. A forked child has none of it: the C library empties its list, and the pages are not inherited.

use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, compiler_fence};
use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::lock_file::process;

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// As in glibc's mutexes on 64-bit machines.
const WORD_TO_NODE: usize = 32;
const NODE_TO_PREVIOUS: usize = 8;

// What the kernel makes of the word.
const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;
const TID: u32 = OWNER_DIED - 1;

/// How many words a page has room for.
pub(crate) const WORDS: u64 = 3;
const FIRST_WORD: u64 = PAGE.get() as u64 - 8 * WORDS;

/// Where in its page the word with that number is.
pub(crate) const fn word_at(number: u64) -> u64 {
    FIRST_WORD + 8 * number
}

// The way back, too, is in the second page.
const _: () = assert!(FIRST_WORD as usize + WORD_TO_NODE - NODE_TO_PREVIOUS >= PAGE.get());

/// What a word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Nothing: no thread is registered.
    None,
    /// The thread is there, as long as the word has this value.
    Thread(u32),
    /// The thread has ended.
    Ended,
}

impl Sign {
    pub(crate) fn of(word: &AtomicU32) -> Self {
        // Relaxed: it is a hint.
        match word.load(Relaxed) {
            value if value & OWNER_DIED != 0 => Self::Ended,
            value if value & TID == 0 => Self::None,
            value => Self::Thread(value),
        }
    }
}

/// The head of a robust list, as the kernel knows it.
#[repr(C)]
struct Head {
    next: usize,
    word_from_node: libc::c_long,
    pending: usize,
}

/// The calling thread's list, if ours can be put into it.
fn list() -> Option<NonNull<Head>> {
    if cfg!(not(all(target_env = "gnu", target_pointer_width = "64"))) {
        return None;
    }
    let (mut head, mut length) = (ptr::null_mut::<Head>(), 0usize);
    // SAFETY: 0 is the calling thread; both pointers are to locals that the kernel writes a pointer and a length to.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) };
    let head = NonNull::new(head).filter(|_| result == 0 && length == size_of::<Head>())?;
    // SAFETY: the C library registered it for as long as the thread runs, with this length; only this thread changes it.
    let distance = unsafe { head.as_ref().word_from_node };
    (distance == -(WORD_TO_NODE as libc::c_long)).then_some(head)
}

/// Whether a thread that ends here can be noticed in this way at all.
pub(crate) fn is_possible() -> bool {
    list().is_some()
}

/// Two pages: of a file, and behind it a private one.
#[derive(Debug)]
struct Placed {
    pages: NonNull<c_void>,
    /// Where in the first page the word is.
    at: usize,
    /// Of the list of the thread that registered.
    head: NonNull<Head>,
    /// [`process`]: a forked child may have the PID of its parent, in a namespace of its own.
    process: u64,
    /// [`Mine::thread`].
    thread: u64,
    /// Its id, which is used again.
    kernel_thread: i32,
    state: Mutex<State>,
}

// SAFETY: the pages are touched by atomics, and by the thread whose list the node is on; both under `state`.
unsafe impl Send for Placed {}
// SAFETY: as above.
unsafe impl Sync for Placed {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    OnList,
    /// On the list, with nothing of the file behind it.
    LeftBehind,
    Gone,
}

/// What this thread registered.
struct Mine {
    /// By which the thread is known: no other has it, nor ever had.
    thread: u64,
    placed: RefCell<Vec<Arc<Placed>>>,
}

impl Default for Mine {
    fn default() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self { thread: LAST.fetch_add(1, Relaxed) + 1, placed: RefCell::default() }
    }
}

thread_local! {
    static MINE: Mine = Mine::default();
}

impl Drop for Mine {
    fn drop(&mut self) {
        // What is not left to it the kernel is to tell of: this may be the end of the process.
        self.placed.get_mut().retain(|placed| !placed.is_left_behind());
    }
}

/// The calling thread, registered in a word.
#[derive(Debug)]
pub(crate) struct Registered(Arc<Placed>);

impl Registered {
    /// Registers the calling thread in the word at `offset` of `file`, the place of a word in its page (see [`word_at`]). The page must be there; nobody else may write to
    /// the word. `None`: this thread has no list for it.
    pub(crate) fn register(file: BorrowedFd<'_>, offset: u64) -> io::Result<Option<Self>> {
        let Some(head) = list() else { return Ok(None) };
        let begin = |mine: &Mine| {
            mine.placed.borrow_mut().retain(|placed| !placed.is_left_behind());
            mine.thread
        };
        // A thread whose locals are gone would not take it off again.
        let Ok(thread) = MINE.try_with(begin) else { return Ok(None) };
        let at = (offset % PAGE.get() as u64) as usize;
        assert!(at as u64 >= FIRST_WORD && at.is_multiple_of(8), "a word's place in its page");
        // First: from the mapping on, nothing may fail.
        let process = process()?;
        let placed = Placed {
            pages: Placed::map(file, offset - at as u64)?,
            at,
            head,
            process,
            thread,
            kernel_thread: nix::unistd::gettid().as_raw(),
            state: Mutex::new(State::OnList),
        };
        placed.put_on();
        // Relaxed: a hint. With the bit that has the kernel wake somebody.
        placed.word().store(placed.kernel_thread as u32 | WAITERS, Relaxed);
        let placed = Arc::new(placed);
        let _ = MINE.try_with(|mine| mine.placed.borrow_mut().push(placed.clone()));
        Ok(Some(Self(placed)))
    }

    /// In a forked child, where there is nothing of it.
    pub(crate) fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for Registered {
    /// The word is somebody else's from now on.
    fn drop(&mut self) {
        let placed = &self.0;
        if !placed.is_ours() {
            return;
        }
        if MINE.try_with(|mine| mine.thread).is_ok_and(|thread| thread == placed.thread) {
            placed.take_off();
            let _ = MINE.try_with(|mine| mine.placed.borrow_mut().retain(|other| !Arc::ptr_eq(other, placed)));
        } else {
            placed.leave_behind();
        }
    }
}

impl Placed {
    fn map(file: BorrowedFd<'_>, offset: u64) -> io::Result<NonNull<c_void>> {
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let length = NonZeroUsize::MIN.saturating_add(2 * PAGE.get() - 1);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let pages = unsafe { mmap_anonymous(None, length, rights, MapFlags::MAP_PRIVATE)? };
        let put = || {
            let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
            // SAFETY: it takes the place of the first of the two pages just mapped, which nothing refers to.
            unsafe { mmap(Some(pages.addr()), PAGE, rights, flags, file, offset as libc::off_t)? };
            // SAFETY: both pages are ours, and only atomics and raw pointers lead to them.
            unsafe { madvise(pages, length.get(), MmapAdvise::MADV_DONTFORK) }
        };
        put().inspect_err(|_| {
            // SAFETY: mapped above with this length; nothing refers to it.
            let _ = unsafe { munmap(pages, length.get()) };
        })?;
        Ok(pages)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: inside the first page, aligned, and mapped until the state is `Gone`, after which nobody asks.
        unsafe { self.pages.byte_add(self.at).cast().as_ref() }
    }

    fn node(&self) -> *mut usize {
        // Inside the second page: see the assertion above.
        self.pages.as_ptr().wrapping_byte_add(self.at + WORD_TO_NODE).cast()
    }

    /// Puts the node in as the first of the calling thread's list. In this order: the kernel goes by `next` only, and may do so at any moment.
    fn put_on(&self) {
        let (head, node) = (self.head.as_ptr(), self.node());
        // SAFETY: the node and its way back are in our page, not used yet. The head is the thread's own, and `next` in it the head itself or a node that the C library, or we, keep
        // mapped while it is on the list; its lowest bit is a mark of the C library's. All are changed by this thread only.
        unsafe {
            let next = (*head).next;
            node.write_volatile(next);
            node.wrapping_byte_sub(NODE_TO_PREVIOUS).write_volatile(head.addr());
            compiler_fence(core::sync::atomic::Ordering::SeqCst);
            previous_of(head, next).write_volatile(node.addr());
            (&raw mut (*head).next).write_volatile(node.addr());
        }
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// Takes it off the list of the calling thread, which put it on, and gives the pages back.
    fn take_off(&self) {
        let mut state = self.state();
        if *state == State::Gone {
            return;
        }
        if *state == State::OnList {
            self.word().store(0, Relaxed);
        }
        let (head, node) = (self.head.as_ptr(), self.node());
        // SAFETY: as in `put_on`: both neighbours are the head or nodes on the list.
        unsafe {
            let (next, previous) = (node.read_volatile(), node.wrapping_byte_sub(NODE_TO_PREVIOUS).read_volatile());
            previous_of(head, next).write_volatile(previous);
            at(head, previous & !1).write_volatile(next);
        }
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        self.unmap();
        *state = State::Gone;
    }

    /// Whether the thread is not there any more, and so neither its list: it has told of its end.
    fn has_thread_gone(&self) -> bool {
        let is_there = || {
            // SAFETY: no pointers; signal 0 is none.
            let asked = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), self.kernel_thread, 0) };
            Errno::result(asked) != Err(Errno::ESRCH)
        };
        // It takes it microseconds from there. (If another has its id by now, these pages stay.)
        for _ in 0..1000 {
            if !is_there() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    fn unmap(&self) {
        // SAFETY: mapped in `map` with this length. Nothing leads there any more: invariant 2; the state says so from now on.
        let _ = unsafe { munmap(self.pages, 2 * PAGE.get()) };
    }

    /// Whether this process is the one that registered. In a forked child nothing of it is to be touched, nor is its lock free for sure.
    fn is_ours(&self) -> bool {
        process().is_ok_and(|process| process == self.process)
    }

    /// Whether it was left to this thread, or is a parent's; then it is off the list now.
    fn is_left_behind(&self) -> bool {
        if !self.is_ours() {
            return true;
        }
        let is_left = *self.state() == State::LeftBehind;
        if is_left {
            self.take_off();
        }
        is_left
    }

    /// Lets go of the file, and leaves the node to the thread on whose list it is.
    fn leave_behind(&self) {
        let mut state = self.state();
        if *state != State::OnList {
            return;
        }
        let is_ending = Sign::of(self.word()) == Sign::Ended;
        self.word().store(0, Relaxed);
        if is_ending && self.has_thread_gone() {
            self.unmap();
            *state = State::Gone;
            return;
        }
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
        // SAFETY: it takes the place of the file's page, in one step, with zeros: a word that is nobody's to whoever walks the list. Nothing else refers to it.
        let _ = unsafe { mmap_anonymous(Some(self.pages.addr()), PAGE, rights, flags) };
        *state = State::LeftBehind;
    }
}

/// The list element at that address, with what the list's own pointers may be used for: the head is one of them.
fn at(head: *mut Head, address: usize) -> *mut usize {
    if address == head.addr() { head.cast() } else { ptr::with_exposed_provenance_mut(address) }
}

/// Where the element at `next` (with the C library's mark) has its way back.
fn previous_of(head: *mut Head, next: usize) -> *mut usize {
    at(head, next & !1).wrapping_byte_sub(NODE_TO_PREVIOUS)
}

#[cfg(test)]
mod tests;
