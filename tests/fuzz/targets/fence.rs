//! A fence's file, which is anything at first and is damaged in between: each call comes back, and while there is no damage the fence lets in
//! exactly what it has to.
#![no_main]

use std::path::PathBuf;
use std::process::Child;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use hostlock::{Error, Fence};
use hostlock_fuzz::arena::{caretaker, directory, play_if_asked};
use hostlock_fuzz::damage::{EDITS, Shape, edit};
use hostlock_fuzz::deeds::sound;
use hostlock_fuzz::input::Input;
use hostlock_fuzz::patience::within_patience;
use hostlock_fuzz::seeds::sow;

static FILE: OnceLock<(PathBuf, Mutex<Child>)> = OnceLock::new();

/// New and used; with one record, two, half of one; anything.
const SEEDS: &[&[u8]] = &[
    &[12, 14, 7, 14, 3, 14, 9, 15, 13],
    b"\x0b\x20\x00hlfence1\x05\0\0\0\0\0\0\0\xfa\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\x0c\x0e\x06\x0e\x04",
    &[12, 14, 7, 14, 9, 3, 40, 0, 12, 14, 8, 1, 3, 0, 2, 12, 14, 10, 15],
    &[4, 64, 0, 0xA5, 12, 14, 1],
    &[4, 65, 0, 0, 12, 13],
];

libfuzzer_sys::fuzz_target!(
    init: {
        play_if_asked();
        let root = directory();
        let _ = FILE.set((root.join("fence"), Mutex::new(caretaker(&root))));
        sow(SEEDS);
    },
    |program: &[u8]| within_patience(|| play(program))
);

fn play(program: &[u8]) {
    let path = &FILE.get().expect("made at the beginning").0;
    let _ = std::fs::remove_file(path);
    drop(Fence::open(path).expect("a new one"));
    let mut input = Input(program);
    let mut fence: Option<Fence> = None;
    // What it let in; unknown after damage.
    let mut newest = Some(0);
    while let Some(operation) = input.operation() {
        match operation % 16 {
            what @ 0..EDITS => {
                let mut bytes = std::fs::read(path).expect("it can be read");
                edit(what, &mut input, &mut bytes, Shape::Plain, 0);
                std::fs::write(path, bytes).expect("it can be written");
                newest = None;
            }
            12 => match Fence::open(path) {
                Ok(open) => fence = Some(open),
                Err(error) => refused(&error, newest),
            },
            13 => match fence.as_ref().map(Fence::newest) {
                Some(Ok(found)) => newest = Some(newest.map_or(found, |known| checked(known, found))),
                Some(Err(error)) => refused(&error, newest),
                None => {}
            },
            _ => {
                let token = if operation % 16 == 14 { u64::from(input.byte()) } else { input.word() };
                match fence.as_ref().map(|fence| fence.enter_for(token, Duration::from_millis(1)).map(drop)) {
                    Some(Ok(())) => {
                        assert!(newest.is_none_or(|newest| newest <= token), "{token} was let in after {newest:?}");
                        newest = Some(token);
                    }
                    Some(Err(error @ Error::Fenced { newest: found, .. })) => {
                        sound(&error);
                        assert!(found > token, "{error}");
                        newest = Some(newest.map_or(found, |known| checked(known, found)));
                    }
                    Some(Err(error)) => refused(&error, newest),
                    None => {}
                }
            }
        }
    }
}

fn checked(known: u64, found: u64) -> u64 {
    assert_eq!(found, known, "what it let in last");
    found
}

/// Only what was damaged is refused.
fn refused(error: &Error, newest: Option<u64>) {
    sound(error);
    assert!(newest.is_none(), "{error}");
}
