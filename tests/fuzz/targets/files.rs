//! The same as with a segment, with the file in which a space of lock files keeps its names, tokens and claims.
#![no_main]

use std::sync::OnceLock;

use hostlock_fuzz::arena::Arena;
use hostlock_fuzz::damage::Shape;
use hostlock_fuzz::seeds::sow;
use hostlock_fuzz::visit::{self, SEEDS};

static ARENA: OnceLock<Arena> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let _ = ARENA.set(Arena::new(Shape::Files));
        sow(SEEDS);
    },
    |program: &[u8]| visit::run(ARENA.get().expect("made at the beginning"), program)
);
