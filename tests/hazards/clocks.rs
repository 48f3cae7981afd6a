//! Clocks that are set while somebody waits.

use std::time::{Duration, Instant};

use hostlock::{Backend, Error, Space};

use crate::support::clock::{Clock, Of};
use crate::support::{self, command, hear, root, say, start_command};
use crate::{by_name, name_of, or_skip, skip, space};

/// How long each wait is to take.
const WAIT: Duration = Duration::from_millis(500);

/// Waits for what does not come, in several ways at once, and says how each wait ended.
pub fn patient(arguments: &[String]) {
    let backend = by_name(&arguments[1]);
    let space = space(&arguments[0], backend);
    say("waiting");
    let ends: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = waits(backend)
            .iter()
            .map(|(what, wait)| {
                let space = &space;
                scope.spawn(move || {
                    let begin = Instant::now();
                    let outcome = wait(space);
                    let took = begin.elapsed();
                    match outcome {
                        Err(Error::TimedOut { .. }) if took >= WAIT && took < support::PATIENCE / 2 => None,
                        outcome => Some(format!("{what}: {outcome:?} after {took:?}")),
                    }
                })
            })
            .collect();
        all.into_iter().filter_map(|wait| wait.join().unwrap()).collect()
    });
    say(if ends.is_empty() { "as they should".into() } else { ends.join("; ") });
    hear();
}

type Wait = (&'static str, fn(&Space) -> Result<(), Error>);

fn waits(backend: Backend) -> &'static [Wait] {
    const LOCKS: &[Wait] = &[
        ("mutex", |space| space.mutex("a")?.try_lock_for(WAIT).map(drop)),
        ("mutex until", |space| space.mutex("a")?.try_lock_until(Instant::now() + WAIT).map(drop)),
        ("write", |space| space.rwlock("b")?.try_write_for(WAIT).map(drop)),
        ("read", |space| space.rwlock("c")?.try_read_for(WAIT).map(drop)),
        ("permit", |space| space.semaphore("d", 1)?.try_acquire_for(WAIT).map(drop)),
    ];
    const ALL: &[Wait] = &[
        LOCKS[0],
        LOCKS[1],
        LOCKS[2],
        LOCKS[3],
        LOCKS[4],
        ("event", |space| space.event("e")?.wait_for(WAIT)),
        ("lease", |space| space.mutex("a")?.try_lock_with_lease_for(Duration::from_secs(60), WAIT).map(drop)),
    ];
    if backend == Backend::Files { LOCKS } else { ALL }
}

/// H62, H63: the wall clock and that of suspended machines jump by an hour, either way, amid a wait; it takes as long as it was to.
#[test]
fn a_clock_that_is_set_moves_no_deadline() {
    let clock = or_skip!(Clock::new());
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let space = space(root.path(), backend);
        let _held = (
            space.mutex("a").unwrap().lock_owned().unwrap(),
            space.rwlock("b").unwrap().read_owned().unwrap(),
            space.rwlock("c").unwrap().write_owned().unwrap(),
            space.semaphore("d", 1).unwrap().acquire_owned().unwrap(),
        );
        for (of, forward) in [(Of::Wall, 3600), (Of::Wall, -3600), (Of::Boot, 3600)] {
            let arguments = [root.path().to_str().unwrap(), name_of(backend)];
            let patient = start_command(clock.give_to(command("patient", &arguments)));
            patient.expect("waiting");
            std::thread::sleep(WAIT / 4);
            clock.set(of, forward);
            assert_eq!(patient.hear(), "as they should", "{backend}: {of:?} by {forward} s");
            clock.set(of, 0);
        }
    }
}
