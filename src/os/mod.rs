//! The operating system: every system call and nearly all `unsafe`. Knows nothing of locks.
//!
//! * [`clock`]: the monotonic clock. [`futex`]: sleeping and waking on a shared word.
//! * [`fence`]: a fence in two halves.
//! * [`fork`]: a word that a fork wipes, and the handlers around it.
//! * [`identity`]: what tells a process from every other. [`liveness`]: whether the one recorded still lives.
//! * [`life`]: being told when a thread ends.
//! * [`byte_lock`]: open-file-description locks.
//! * `probe` (feature `diagnosis`): whether all that works here.
//! * [`lock_file`]: files locked by `flock`. [`words`]: words of a file, mapped or not.
//! * [`file`]: files and directories opened without being fooled. [`map`]: the sole door into shared memory.

#[allow(unsafe_code)]
pub(crate) mod byte_lock;
pub(crate) mod clock;
#[allow(unsafe_code)]
pub(crate) mod fence;
#[allow(unsafe_code)]
pub(crate) mod file;
#[allow(unsafe_code)]
pub(crate) mod fork;
#[allow(unsafe_code)]
pub(crate) mod futex;
#[allow(unsafe_code)]
pub(crate) mod identity;
#[allow(unsafe_code)]
pub(crate) mod life;
pub(crate) mod liveness;
#[allow(unsafe_code)]
pub(crate) mod lock_file;
#[allow(unsafe_code)]
pub(crate) mod map;
#[cfg(feature = "diagnosis")]
#[allow(unsafe_code)]
pub(crate) mod probe;
pub(crate) mod words;
