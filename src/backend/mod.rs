//! What the handles stand on.
//!
//! There are two backends; [`either`] is what handles have in hand. [`files`] are lock files. In the other one a mapped segment *is* the locks: [`shared`] is the space, [`lock`] a named lock in it,
//! [`rwlock`] one with readers, [`semaphore`] one with permits, [`once`], [`event`], [`latch`], [`barrier`] and [`condvar`] what is waited for otherwise
//! ([`bell`]; [`seats`]: taken one by one), [`data`] what a lock guards, [`queue`] items, [`wait`] a thread that waits for one, [`hurry`] how closely it looks at who may be dying, [`deadlock`] those that wait for each other, [`cancel`] ending a wait from outside, [`reentrant`] who has a mutex how often, [`lease`] an acquisition that ends by
//! itself and [`keeper`] the thread that sees to it, [`fence`] the tokens that a resource has seen, [`release`] what a guard ends its acquisition with, [`inspect`] what is seen of all that
//! from outside. A space is created with a backend, which is recorded where every opener looks first; nobody falls back to another
//! one silently.

pub(crate) mod barrier;
mod bell;
mod by_line;
pub(crate) mod cancel;
pub(crate) mod condvar;
pub(crate) mod data;
mod deadlock;
pub(crate) mod either;
pub(crate) mod event;
pub(crate) mod fence;
pub(crate) mod files;
mod hurry;
pub(crate) mod inspect;
mod keeper;
pub(crate) mod latch;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod moving;
pub(crate) mod once;
pub(crate) mod queue;
pub(crate) mod reentrant;
pub(crate) mod release;
pub(crate) mod rwlock;
pub(crate) mod seats;
pub(crate) mod semaphore;
pub(crate) mod shared;
pub(crate) mod wait;
