//! The only file that says whose atomics the algorithms run on.
//!
//! In production these are core's, laid over the mapped segment. Under
//! `all(test, hostlock_loom)` they are a wrapper around loom's, so that the same text is model-checked.
//!
//! loom 0.7.3 misses executions: a thread's own load hides other threads' earlier loads of that word
//! (its issues 166 and 392). So the wrapper has two modes. In the *plain* mode every operation is what it
//! says, which checks orderings; in the *RMW* mode every load is a `fetch_add(0)` and every store a
//! `swap`, which explores all interleavings. Models run in both.
//!
//! Death is a step in the models: a thread may have a *fuse*, the number of accesses it has left. Where that is used up, the thread
//! unwinds to `with_fuse`, before the access that it was about to make.
//!
//! What loom cannot check: it knows `SeqCst` only as a fence ([`total_order`]), and a fence orders more than the operations
//! around it. Whether the *operations* are `SeqCst` where they must be is for reviewers.

#[cfg(not(all(test, hostlock_loom)))]
mod imp {
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};

    /// Nothing in production: the operations around a call of this are `SeqCst`, which is the order that
    /// is wanted. loom treats `SeqCst` operations as `AcqRel`, so under loom this is a `SeqCst` fence.
    #[inline(always)]
    pub(crate) fn total_order() {}

    /// The light half of a fence whose heavy half is `Host::heavy_fence` (see `os::fence`): the compiler keeps what is before it before what is after.
    /// loom knows no halves, so there both are whole.
    #[inline(always)]
    pub(crate) fn light_fence() {
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// Puts what was done before, of whatever order, into the one order of all that is `SeqCst`.
    pub(crate) fn full_fence() {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(all(test, hostlock_loom))]
mod imp {
    use core::cell::Cell;
    use core::sync::atomic::Ordering;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::time::Instant;

    loom::thread_local! {
        /// How many more steps the running thread of the model can make.
        static FUSE: Cell<usize> = Cell::new(ENDLESS);
    }

    const ENDLESS: usize = usize::MAX;

    std::thread_local! {
        /// How many threads of models died since this was last asked.
        static BURNED: Cell<usize> = const { Cell::new(0) };
    }

    /// How many threads of models died since this was last asked.
    pub(crate) fn burned() -> usize {
        BURNED.replace(0)
    }

    /// What a thread unwinds with that has no step left.
    struct Burned;

    /// One step of the running thread: called before every access, and by the model before a system call.
    pub(crate) fn step() {
        let left = FUSE.with(Cell::get);
        match left {
            ENDLESS => {}
            // Without the panic hook: nothing is printed. Nothing of loom's is dropped on the way up, so no other thread
            // runs while this one unwinds.
            0 => resume_unwind(Box::new(Burned)),
            _ => FUSE.with(|fuse| fuse.set(left - 1)),
        }
    }

    /// Runs `body`, which dies before step number `steps`, counted from 0; whether it got to its end.
    pub(crate) fn with_fuse(steps: usize, body: impl FnOnce()) -> bool {
        FUSE.with(|fuse| fuse.set(steps));
        let ended = catch_unwind(AssertUnwindSafe(body));
        FUSE.with(|fuse| fuse.set(ENDLESS));
        match ended {
            Ok(()) => true,
            Err(payload) if payload.is::<Burned>() => {
                BURNED.set(BURNED.get() + 1);
                false
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Runs `body` as one step: nobody dies inside of it.
    pub(crate) fn as_one_step<T>(body: impl FnOnce() -> T) -> T {
        step();
        let left = FUSE.with(|fuse| fuse.replace(ENDLESS));
        let value = body();
        FUSE.with(|fuse| fuse.set(left));
        value
    }

    std::thread_local! {
        /// Whether loads and stores are made read-modify-writes. Set before a model starts. Of the thread, because tests run
        /// side by side; loom runs all threads of a model as coroutines on the one that started it.
        static RMW: Cell<bool> = const { Cell::new(false) };
    }

    /// Sets the mode of all models that this thread runs from now on.
    pub(crate) fn set_rmw(rmw: bool) {
        RMW.set(rmw);
    }

    pub(crate) fn is_rmw() -> bool {
        RMW.get()
    }

    /// Seconds since it was made, for the reports of models: the protocol itself has no clock.
    pub(crate) fn stopwatch() -> impl Fn() -> f64 {
        let started = Instant::now();
        move || started.elapsed().as_secs_f64()
    }

    macro_rules! wrapped {
        ($name:ident, $int:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            impl $name {
                pub(crate) fn new(value: $int) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $int {
                    step();
                    if is_rmw() {
                        let order = match order {
                            Ordering::Relaxed => Ordering::Relaxed,
                            Ordering::Acquire => Ordering::Acquire,
                            _ => Ordering::AcqRel,
                        };
                        self.0.fetch_add(0, order)
                    } else {
                        self.0.load(order)
                    }
                }

                pub(crate) fn store(&self, value: $int, order: Ordering) {
                    step();
                    if is_rmw() {
                        let order = match order {
                            Ordering::Relaxed => Ordering::Relaxed,
                            Ordering::Release => Ordering::Release,
                            _ => Ordering::AcqRel,
                        };
                        self.0.swap(value, order);
                    } else {
                        self.0.store(value, order);
                    }
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $int,
                    new: $int,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$int, $int> {
                    step();
                    self.0.compare_exchange(current, new, success, failure)
                }

                #[allow(dead_code)]
                pub(crate) fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                    step();
                    self.0.fetch_and(value, order)
                }

                #[allow(dead_code)]
                pub(crate) fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                    step();
                    self.0.fetch_or(value, order)
                }

                #[allow(dead_code)]
                pub(crate) fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                    step();
                    self.0.fetch_add(value, order)
                }
            }
        };
    }

    wrapped!(AtomicU32, u32);
    wrapped!(AtomicU64, u64);

    pub(crate) fn total_order() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn light_fence() {
        total_order();
    }

    pub(crate) fn full_fence() {
        total_order();
    }
}

pub(crate) use imp::*;
