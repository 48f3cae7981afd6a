//! The only file that says whose atomics the algorithms run on.
//!
//! In production these are core's, laid over the mapped segment. Under
//! `all(test, hostlock_loom)` they are a wrapper around loom's, so that the same text is model-checked.
//!
//! loom 0.7.3 misses executions: a thread's own load hides other threads' earlier loads of that word
//! (its issues 166 and 392). So the wrapper has two modes. In the *plain* mode every operation is what it
//! says, which checks orderings; in the *RMW* mode every load is a `fetch_add(0)` and every store a
//! `swap`, which explores all interleavings. Models run in both.

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
    use core::sync::atomic::Ordering;
    use std::sync::atomic::AtomicBool as Flag;

    /// Whether loads and stores are made read-modify-writes. Set before a model starts.
    pub(crate) static RMW: Flag = Flag::new(false);

    fn rmw() -> bool {
        RMW.load(Ordering::Relaxed)
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
