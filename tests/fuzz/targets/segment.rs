//! A segment that is damaged, before it is opened and while it is used: whatever was done to it, each call comes back, with what it was asked
//! for or with an error; there is no panic, no signal and no undefined behaviour.
#![no_main]

use std::sync::OnceLock;

use hostlock_fuzz::arena::Arena;
use hostlock_fuzz::damage::Shape;
use hostlock_fuzz::seeds::sow;
use hostlock_fuzz::visit::{self, SEEDS};

static ARENA: OnceLock<Arena> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let _ = ARENA.set(Arena::new(Shape::Segment));
        sow(SEEDS);
    },
    |program: &[u8]| visit::run(ARENA.get().expect("made at the beginning"), program)
);
