//! What a space has much of: processes that are in it and do nothing, names.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{Mutex, Space};

use crate::bench::children::Children;
use crate::bench::ground::Ground;

/// How many processes are in a space beside this one.
pub(super) const PARTICIPANTS: [usize; 2] = [1, 1000];

/// How many names a space has.
pub(super) const FEW: usize = 10;
pub(super) const MANY: usize = 100_000;

pub(super) fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The space `name`, with room for so many.
pub(super) fn roomy(ground: &Ground<'_>, name: &str, count: usize) -> hostlock::Result<Space> {
    let room = (count as u32 + 10).next_power_of_two();
    Space::builder(name).root(ground.directory()).participants(room).open()
}

/// So many processes that join the space `name` and do `act` there once. They are in it until this is dropped; this process is not.
pub(super) fn join(ground: &Ground<'_>, name: &str, count: usize, act: impl Fn(&Space)) -> Result<Children, String> {
    let step = &ground.board().meeting.step;
    step.store(0, SeqCst);
    // Whoever comes first makes it.
    let made = roomy(ground, name, count).map_err(text)?;
    let mut crowd = Children::default();
    for _ in 0..count {
        crowd.start(|| {
            let inside = roomy(ground, name, count).expect("room for one more");
            act(&inside);
            step.fetch_add(1, SeqCst);
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        })?;
    }
    crowd.until(|| step.load(SeqCst) == count as u64)?;
    match made.usage().participants {
        // And this process.
        inside if inside == count + 1 => Ok(crowd),
        inside => Err(format!("{inside} are in the space, not {}", count + 1)),
    }
}

/// A space with so many names, and a handle for each of them.
pub(super) fn named(ground: &Ground<'_>, name: &str, count: usize) -> Result<(Space, Vec<Mutex>), String> {
    let space = Space::builder(name).root(ground.directory());
    let space = space.locks((count as u32 + 10).next_power_of_two()).open().map_err(text)?;
    let handles = (0..count).map(|index| space.mutex(&name_of(index)));
    let handles = handles.collect::<hostlock::Result<_>>().map_err(text)?;
    Ok((space, handles))
}

pub(super) fn name_of(index: usize) -> String {
    format!("lock {index}")
}

/// Numbers below a bound, here and there, as if by chance.
pub(super) struct HereAndThere(u64);

impl HereAndThere {
    pub(super) fn new() -> Self {
        Self(1)
    }

    #[inline]
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}
