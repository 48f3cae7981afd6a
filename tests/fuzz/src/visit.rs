//! Somebody who comes into a space that may be damaged, does what the program says, and leaves.

use hostlock::{Inspection, Space};

use crate::arena::Arena;
use crate::damage::EDITS;
use crate::deeds::{act, refusal, sound};
use crate::input::Input;
use crate::patience::within_patience;

/// Operations from here on are deeds in the space. Below are, from [`EDITS`] on, coming and going.
const DEEDS: u8 = 20;
/// A program that goes on after that is another program's copy.
const MOST: usize = 40;

/// Each is a way in: as it is; a flipped bit; another file; other capacities; an entry and a record overwritten; damage in use;
/// everything there is; the last token there can be.
pub const SEEDS: &[&[u8]] = &[
    &[12, 15, 20, 0, 1, 1, 20, 2, 2, 1, 20, 3, 3, 1, 20, 0, 0, 1, 20, 16, 0, 1, 14],
    &[1, 0, 64, 3, 12, 15, 20, 0, 10, 1, 20, 14, 1, 0],
    &[11, 200, 0, b'h', b'o', b's', b't', b'l', b'o', b'c', b'k', 3, 0, 0, 0, 4, 3, 2, 1, 8, 12, 15],
    &[9, 3, 6, 1, 13, 15, 20, 0, 1, 1, 20, 3, 9, 1],
    &[9, 39, 255, 7, 13, 20, 2, 2, 1, 20, 5, 5, 0],
    &[7, 4, 1, 4, 2, 3, 10, 1, 12, 20, 0, 0, 1, 20, 14, 1, 0, 20, 0, 12, 33],
    &[7, 1, 1, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 12, 20, 16, 0, 1, 20, 0, 1, 1],
    &[12, 20, 0, 10, 33, 20, 3, 3, 34, 7, 4, 10, 0, 3, 2, 9, 6, 0, 16, 5, 1, 20, 0, 10, 1, 16, 14],
    &[12, 20, 4, 4, 0, 20, 5, 5, 2, 20, 6, 6, 3, 20, 7, 7, 1, 20, 8, 8, 0, 20, 9, 9, 0, 20, 10, 11, 2, 20, 11, 12, 0],
    &[12, 20, 12, 10, 2, 20, 13, 10, 1, 20, 15, 10, 0, 20, 0, 10, 4, 20, 0, 11, 5, 14, 12, 5, 0, 64, 0, 16, 170, 15],
    &[7, 0, 1, 2, 5, 0, 12, 20, 0, 1, 1, 20, 0, 1, 1],
];

/// Runs the program, and puts back what it did.
pub fn run(arena: &Arena, program: &[u8]) {
    within_patience(|| play(arena, program));
    arena.restore();
}

fn play(arena: &Arena, program: &[u8]) {
    let mut input = Input(program);
    let mut inside: Option<Space> = None;
    let mut kept = Vec::new();
    for _ in 0..MOST {
        let Some(operation) = input.operation() else { break };
        match operation % 32 {
            edit @ 0..EDITS => match inside {
                Some(_) => arena.damage_in_use(edit, &mut input),
                None => arena.damage(edit, &mut input),
            },
            way @ (12 | 13) => {
                let builder = if way == 12 { arena.builder() } else { arena.any_builder() };
                match builder.open() {
                    Ok(space) => inside = Some(space),
                    Err(error) => refusal(&error, &arena.space()),
                }
            }
            14 => {
                kept.drain(..).for_each(|let_go: Box<dyn FnOnce()>| let_go());
                inside = None;
            }
            15 => match arena.any_builder().inspect() {
                Ok(found) => look_at(&found),
                Err(error) => refusal(&error, &arena.space()),
            },
            16..DEEDS => {
                if !kept.is_empty() {
                    kept.remove(0)();
                }
            }
            _ => {
                if let Some(space) = &inside {
                    act(space, &mut input, &mut kept);
                }
            }
        }
    }
    kept.into_iter().for_each(|let_go| let_go());
}

/// All that can be shown of it.
fn look_at(found: &Inspection) {
    let usage = found.usage;
    assert!(usage.locks <= usage.locks_capacity && found.locks.len() <= usage.locks_capacity, "{usage:?}");
    for lock in &found.locks {
        lock.holders.iter().for_each(sound);
        lock.abandoned.iter().for_each(sound);
        lock.damage.iter().for_each(sound);
    }
    let _ = format!("{found:?}");
}
