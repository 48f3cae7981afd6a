//! An operation of which each call is to fail, and what is to be expected of it.

use hostlock::Result;

use super::scene::Scene;

/// Whoever else is in the space.
#[derive(Clone, Copy)]
pub enum Other {
    Nobody,
    Alive(fn(&Scene) -> Result<()>),
    /// Killed when it is ready, before the operation begins.
    Dead(fn(&Scene) -> Result<()>),
}

/// An operation, and what is to be expected of it.
#[derive(Clone, Copy)]
pub struct Operation {
    pub what: &'static str,
    pub body: fn(&Scene) -> Result<()>,
    pub other: Other,
    /// There is a space, with its names.
    pub has_space: bool,
    pub locks: u32,
    /// What it comes to when nothing fails.
    pub comes_to: &'static str,
    /// What else it may come to than to that, or to `Error::System`.
    pub may: &'static [&'static str],
    /// A call that fails makes no difference to the caller.
    pub always: bool,
    /// It may make lock files of the space, if it is refused what a segment takes.
    pub may_choose: bool,
    /// The name that the process holds while it has what it got.
    pub holds: Option<&'static str>,
}

/// An operation of that name.
pub const fn operation(what: &'static str, body: fn(&Scene) -> Result<()>) -> Operation {
    Operation {
        what,
        body,
        other: Other::Nobody,
        has_space: true,
        locks: 12,
        comes_to: "ok",
        may: &[],
        always: false,
        may_choose: false,
        holds: None,
    }
}

impl Operation {
    pub const fn beside(self, other: fn(&Scene) -> Result<()>) -> Self {
        Self { other: Other::Alive(other), ..self }
    }

    pub const fn after_the_death_of(self, other: fn(&Scene) -> Result<()>) -> Self {
        Self { other: Other::Dead(other), ..self }
    }

    pub const fn without_a_space(self) -> Self {
        Self { has_space: false, ..self }
    }

    pub const fn with_room_for(self, locks: u32) -> Self {
        Self { locks, ..self }
    }

    pub const fn comes_to(self, comes_to: &'static str) -> Self {
        Self { comes_to, ..self }
    }

    pub const fn may(self, may: &'static [&'static str]) -> Self {
        Self { may, ..self }
    }

    pub const fn always(self) -> Self {
        Self { always: true, ..self }
    }

    pub const fn may_choose(self) -> Self {
        Self { may_choose: true, ..self }
    }

    pub const fn holds(self, name: &'static str) -> Self {
        Self { holds: Some(name), ..self }
    }
}
