//! The table of names, against a model: names of every kind that come, are used, are taken away and give room to others. While nothing is
//! damaged the space does exactly what the model says; after that only what holds of any damaged segment.
#![no_main]

use std::sync::OnceLock;

use hostlock_fuzz::arena::Arena;
use hostlock_fuzz::patience::within_patience;
use hostlock_fuzz::seeds::sow;
use hostlock_fuzz::table::{SEEDS, play};

static ARENA: OnceLock<Arena> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let _ = ARENA.set(Arena::empty());
        sow(SEEDS);
    },
    |program: &[u8]| {
        let arena = ARENA.get().expect("made at the beginning");
        within_patience(|| play(arena, program));
        arena.restore();
    }
);
