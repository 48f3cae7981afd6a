//! Two victims of one lock, led in turns: the first one does a part of what it does, then the second one a part of its own; then the first one goes
//! on as far as it can, and the second one after it, or one of them or both are killed. That is two switches, each where others can
//! tell that a victim got so far.

use std::path::Path;
use std::time::Instant;

use super::story::Story;
use super::support::root;
use super::sweep::{Case, Controls, is_long};
use super::trace::KNOWN_PROCESSOR;
use super::walker::{Walker, finish, finish_after_a_death, run};

/// At so many places the first one stops, and at each of them so many ways are gone in which nobody is killed, and in which somebody is.
const QUICK: [usize; 3] = [8, 10, 2];
/// In the long form. Whoever looks again and again for a place in a table has thousands.
const LONG: [usize; 3] = [60, 100, 150];

/// Who is killed at the second switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    Nobody,
    First,
    Second,
    Both,
}

const DEATHS: [Killed; 3] = [Killed::First, Killed::Second, Killed::Both];

/// Two operations.
pub struct Pair<'a> {
    pub what: &'a str,
    /// The two, and whoever else takes part: that one only goes on when it is woken.
    pub begin: &'a dyn Fn(&mut Case) -> Option<Vec<Walker>>,
    /// The first one stands where it is stopped, and the second one is about to begin.
    pub between: &'a dyn Fn(&Case),
    /// Both stand where they are stopped.
    pub meanwhile: &'a dyn Fn(&mut Case, &[Walker]),
    /// The tokens of acquisitions that the process with that PID has at this moment, and that its death would have to be told of.
    pub holds: &'a dyn Fn(&Case, u32) -> Vec<u64>,
    /// Whoever was not killed came to its end.
    pub afterwards: &'a dyn Fn(&mut Case, Story),
}

/// At most so many of the numbers below `of`, at equal distances, others in every turn.
pub fn chosen(of: usize, most: usize, turn: usize) -> impl Iterator<Item = usize> {
    let stride = of.div_ceil(most).max(1);
    (turn % stride..of).step_by(stride)
}

struct Play<'a> {
    pair: &'a Pair<'a>,
    root: &'a Path,
    controls: Controls,
    schedules: u32,
    /// Sleeps that had to end by themselves, as somebody was killed.
    sleeps: usize,
}

/// Goes all ways, or in the quick form some.
pub fn play(pair: &Pair) {
    play_some(pair, QUICK, false);
}

/// The same, in the quick form all ways in which nobody is killed.
pub fn play_alive(pair: &Pair) {
    play_some(pair, [usize::MAX, usize::MAX, 1], true);
}

fn play_some(pair: &Pair, quick: [usize; 3], everywhere: bool) {
    if !KNOWN_PROCESSOR {
        crate::skip!("{}: nobody taught this test the system calls of this processor", pair.what);
    }
    let (watch, temp) = (Instant::now(), root());
    let mut play = Play { pair, root: temp.path(), controls: Controls::new(), schedules: 0, sleeps: 0 };
    let Some(firsts) = play.schedule(usize::MAX, 0, Killed::Nobody) else {
        crate::skip!("{}: this process may not trace its children", pair.what);
    };
    let (is_long, mut ways) = (is_long(), 0);
    let most = if is_long { LONG } else { quick };
    // To be killed right before something is the same as right after the thing before, as far as others can tell. If nobody is killed it is not: what
    // was read before the switch is old then. In the quick form that is where they stop.
    let is_before = |at: usize, last: usize| at == last || at % 2 == 1;
    let places =
        |last: usize| (0..last + 1).filter(move |at| is_long || everywhere || is_before(*at, last)).collect::<Vec<_>>();
    let firsts = places(firsts[0]);
    let last = *firsts.last().expect("its end");
    for (turn, index) in chosen(firsts.len(), most[0], 0).enumerate() {
        let first = firsts[index];
        // As far as both can go; that is a schedule as well.
        let [_, end] = play.schedule(first, usize::MAX, Killed::Nobody).expect("as before");
        let seconds = places(end);
        let with_deaths = seconds.iter().flat_map(|second| DEATHS.map(|death| (*second, death)));
        let with_deaths = with_deaths.filter(|(second, death)| match death {
            Killed::First => is_before(first, last),
            Killed::Second => is_before(*second, end),
            _ => is_before(first, last) && is_before(*second, end),
        });
        let without = seconds.iter().map(|second| (*second, Killed::Nobody));
        for (all, most) in [(without.collect::<Vec<_>>(), most[1]), (with_deaths.collect(), most[2])] {
            ways += all.len();
            for index in chosen(all.len(), most, turn * 5) {
                let (second, killed) = all[index];
                play.schedule(first, second, killed).expect("as before");
            }
        }
    }
    println!(
        "crash: {}: {} schedules of {ways}; the first stops at {} of {} places; {} sleeps ended by themselves; \
         0 stuck, 0 held twice, in {:.1} s",
        pair.what,
        play.schedules,
        chosen(firsts.len(), most[0], 0).count(),
        firsts.len(),
        play.sleeps,
        watch.elapsed().as_secs_f64()
    );
    assert!(firsts.len() >= 2 && ways > firsts.len() * 2, "operations that do nothing");
}

impl Play<'_> {
    /// One schedule: the first one goes so far, then the second one; how far they got. `None` where tracing is refused.
    fn schedule(&mut self, first: usize, second: usize, killed: Killed) -> Option<[usize; 2]> {
        let _context = Context { what: self.pair.what, first, second, killed };
        self.schedules += 1;
        let mut case = Case::new(self.root, self.schedules, self.controls);
        let mut walkers = (self.pair.begin)(&mut case)?;
        let mut story = Story {
            before: case.token,
            all_lived: killed == Killed::Nobody && case.dead.is_empty(),
            ..Story::default()
        };
        let holds = |case: &Case, pid| (self.pair.holds)(case, pid);
        story.deaths = case.dead.iter().flat_map(|pid| holds(&case, *pid)).collect();
        story.hear_of_death(case.controls.other);

        let first = walkers[0].advance_by(first);
        (self.pair.between)(&case);
        let second = walkers[1].advance_by(second);
        (self.pair.meanwhile)(&mut case, &walkers);
        case.note_strays();
        let victims: &[usize] = match killed {
            Killed::Nobody => &[],
            Killed::First => &[0],
            Killed::Second => &[1],
            Killed::Both => &[0, 1],
        };
        for of in victims {
            let pid = walkers[*of].pid();
            story.deaths.extend(holds(&case, pid));
            case.dead.push(pid);
            walkers[*of].kill();
        }
        let mut all: Vec<_> = walkers.iter_mut().collect();
        run(&mut all[..1]);
        // What is left for the dead is left to others when their sleeps end.
        match story.all_lived {
            true => finish(&mut all),
            false => self.sleeps += finish_after_a_death(&mut all),
        }
        for walker in &mut walkers {
            story.hear(walker.control());
            walker.kill();
        }
        (self.pair.afterwards)(&mut case, story);
        case.end();
        Some([first, second])
    }
}

/// Says in which schedule it was when a judge fails.
struct Context<'a> {
    what: &'a str,
    first: usize,
    second: usize,
    killed: Killed,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { what, first, second, killed } = self;
            eprintln!(
                "crash: {what}: the first was led {first} times, then the second {second} times, then were killed: {killed:?}"
            );
        }
    }
}
