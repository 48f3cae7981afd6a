//! Killed at every instruction: what all these tests need. Each has its own operations, and its own survivors.
#![allow(dead_code)]

pub mod control;
pub mod scene;
pub mod sweep;
pub mod trace;
pub mod words;

use super::support;
