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
//! What loom cannot check: it knows `SeqCst` only as a fence ([`total_order`]), and a fence orders more than the operations
//! around it. Whether the *operations* are `SeqCst` where they must be is for reviewers.

#[cfg(not(all(test, hostlock_loom)))]
mod imp {
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};

    /// Nothing in production: the operations around a call of this are `SeqCst`, which is the order that
    /// is wanted. loom treats `SeqCst` operations as `AcqRel`, so under loom this is a `SeqCst` fence.
    #[inline(always)]
    pub(crate) fn total_order() {}
}

#[cfg(all(test, hostlock_loom))]
mod imp {
    use core::cell::Cell;
    use core::sync::atomic::Ordering;
    use std::time::Instant;

    std::thread_local! {
        /// Whether loads and stores are made read-modify-writes. Set before a model starts. Of the thread, because tests run
        /// side by side; loom runs all threads of a model as coroutines on the one that started it.
        static RMW: Cell<bool> = const { Cell::new(false) };
    }

    /// Sets the mode of all models that this thread runs from now on.
    pub(crate) fn set_rmw(rmw: bool) {
        RMW.set(rmw);
    }

    fn rmw() -> bool {
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
                    if rmw() {
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
                    if rmw() {
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
                    self.0.compare_exchange(current, new, success, failure)
                }

                #[allow(dead_code)]
                pub(crate) fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                    self.0.fetch_and(value, order)
                }

                #[allow(dead_code)]
                pub(crate) fn fetch_add(&self, value: $int, order: Ordering) -> $int {
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
}

pub(crate) use imp::*;
