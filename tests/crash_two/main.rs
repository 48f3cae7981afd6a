//! Two that are led in turns, and whoever cleans up killed at that three times over: what `tests/crash.rs` does to one victim.
//!
//! Each of the two stops before and after every system call and every change of the segment (`walker.rs`). From wherever the first one
//! stops, the second one is led to wherever it stops, and then the first one goes on, or one of them or both are killed.
//!
//! The quick form takes some of these ways, the same every time. `HOSTLOCK_CRASH=all` takes all:
//!
//! ```text
//! HOSTLOCK_CRASH=all cargo test --release --test crash_two -- --nocapture
//! ```

#[path = "../crash/mod.rs"]
mod crash;
#[path = "../support/mod.rs"]
mod support;

mod deep;
mod lines;
mod modes;
mod mutex;
mod pairs;
mod scene;
mod story;
mod walker;

use crash::{control, sweep, trace};
