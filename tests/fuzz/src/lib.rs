//! What the fuzz targets have in common: spaces to be damaged, with others in them; the damage; and all that a process can do there.
//!
//! An input is a program: bytes that are read from the front, an operation and what it needs at a time. So a part of it can be cut out, put in or
//! changed, and the rest still means the same, which is what libFuzzer does all day.
//!
//! Nothing here looks at what only the library knows. What lies where is a number of its own, from `src/docs/format.md`.
#![forbid(unsafe_code)]

pub mod arena;
pub mod damage;
pub mod deeds;
pub mod input;
pub mod patience;
pub mod seeds;
pub mod table;
pub mod visit;

#[allow(dead_code)]
#[path = "../../support/raw.rs"]
mod raw;
