//! Two that are led in turns, and whoever cleans up killed at that three times over: what `tests/crash.rs` does to one victim.
//!
//! Each of the two stops before and after every system call and every change of the segment (`crash/walker.rs`). From wherever the first one
//! stops, the second one is led to wherever it stops, and then the first one goes on, or one of them or both are killed.
//!
//! The quick form takes some of these ways, the same every time. `HOSTLOCK_CRASH=all` takes all:
//!
//! ```text
//! HOSTLOCK_CRASH=all cargo test --release --test crash_two -- --nocapture
//! ```

#[allow(dead_code)]
#[path = "crash/control.rs"]
mod control;
#[path = "crash_two/deep.rs"]
mod deep;
#[path = "crash_two/modes.rs"]
mod modes;
#[path = "crash_two/mutex.rs"]
mod mutex;
#[path = "crash_two/pairs.rs"]
mod pairs;
#[path = "crash_two/scene.rs"]
mod scene;
#[path = "crash_two/story.rs"]
mod story;
mod support;
#[allow(dead_code)]
#[path = "crash/sweep.rs"]
mod sweep;
#[allow(dead_code)]
#[path = "crash/trace.rs"]
mod trace;
#[path = "crash_two/walker.rs"]
mod walker;
