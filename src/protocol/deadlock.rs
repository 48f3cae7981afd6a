//! Finding those who wait for each other: a cycle in who waits for whom, read from shared memory while all of it changes.
//!
//! * States: *waits* (a thread is recorded as waiting for something) and *obstacles* (who has to let go of that). A wait is for all of its obstacles to go, or for
//!   any one of them. An obstacle is a thread, or a process of which nobody knows which thread it is: then it is all of them.
//! * A wait is *stuck* if no end of it is possible unless one of the stuck ends: of what has to go altogether one is stuck, of that of which one is enough all are.
//!   What is not known to be stuck is not. That is the greatest set for which this holds, so it is found by starting with all, and taking away.
//! * Invariants:
//!   1. All is read twice. If both are the same, all of it was so at once, at the moment between them: a wait is one wait for ever (it says when it began), an
//!      owner word one acquisition, and a reader cannot have gone and come back whose process is stuck. (By one clock once would do: those who wait for
//!      longer than the victim did nothing since it began. But time namespaces have clocks of their own.)
//!   2. Of those who can reach each other the youngest wait is the victim. All who look find the same one, and only the victim acts; so of one cycle one ends.
//!      It is the one that closed the cycle, give or take what is read at the same time; and it looks again as long as it waits.
//!   3. Whoever is dead, or may be, waits for nobody: what it holds is taken over.
//! * Orderings: records are published with `Release` and read with `Acquire`, owner words the same. That the second reading is not before the first is the fence's.
//! * If we die: we read only.
//! * Not here: which words those are, who lives, how old a wait is.
//!
//! "All or any one" and taking away follow Holt, Some Deadlock Properties of Computer Systems (1972).

use super::slot::Slot;
use crate::sync::full_fence;

/// More than so many who hold each other up are not found: a set of them is one word. (Threads of models have little stack.)
pub(crate) const MOST: usize = if cfg!(hostlock_loom) { 4 } else { 64 };
/// So many obstacles of a wait that is for all of them to go are looked at.
const MASKS: usize = 8;

/// Who has to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) slot: Slot,
    pub(crate) incarnation: u32,
    /// 0: it is not known which.
    pub(crate) thread: u32,
}

/// How many of its obstacles a wait needs to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    All,
    Any,
    /// It may end at any moment, or nobody knows.
    Nothing,
}

/// Who waits for whom.
pub(crate) trait Graph {
    /// A wait, as it is recorded. The same value is the same wait. Of two, the smaller is the older.
    type Wait: Copy + PartialEq + PartialOrd;

    /// Called before each reading: what is read afterwards is as it was then, or later.
    fn begin(&self);

    /// Calls `each` with every wait of that thread, or of all threads of the process; whether these are all threads that could let go.
    fn waits_of(&self, party: Party, each: impl FnMut(Self::Wait)) -> bool;

    /// Calls `each` with every obstacle of a wait, and a word that is another one when the obstacle is.
    fn obstacles(&self, wait: Self::Wait, each: impl FnMut(Party, u64)) -> Needs;

    /// Whether nothing is known of that one's death.
    fn is_alive(&self, wait: Self::Wait) -> bool;
}

#[derive(Clone, Copy, PartialEq)]
struct Node<W> {
    wait: W,
    needs: Needs,
    /// For each obstacle whose waits are known, which they are.
    masks: [u64; MASKS],
    count: usize,
    /// Of what one is enough, something is not known to wait.
    is_open: bool,
    /// Of all that was read of it.
    digest: u64,
}

/// Those that can be reached from one wait.
#[derive(Clone, Copy)]
struct Snapshot<W> {
    nodes: [Option<Node<W>>; MOST],
    count: usize,
}

/// Those who wait for each other, beginning with the victim, each for the next one, and the last one for the first.
#[derive(Debug)]
pub(crate) struct Cycle<W> {
    waits: [Option<W>; MOST],
}

impl<W: Copy> Cycle<W> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = W> {
        self.waits.iter().map_while(|wait| *wait)
    }
}

/// The cycle that `me`, a wait that is recorded, is to end, if there is one.
pub(crate) fn find<G: Graph>(graph: &G, me: G::Wait) -> Option<Cycle<G::Wait>> {
    let first = Snapshot::read(graph, me)?;
    let stuck = first.stuck();
    let reach = first.reach(stuck);
    // Who can reach me, of those that I can reach.
    let knot = (0..first.count).filter(|&node| reach[0] & bit(node) != 0 && reach[node] & 1 != 0);
    let knot = knot.fold(0, |knot, node| knot | bit(node));
    if stuck & knot & 1 == 0 {
        return None;
    }
    let is_younger = |node: usize| knot & bit(node) != 0 && first.wait(node).is_some_and(|wait| wait > me);
    if (1..first.count).any(is_younger) {
        return None;
    }
    if !(0..first.count).filter_map(|node| first.wait(node)).all(|wait| graph.is_alive(wait)) {
        return None;
    }
    // Invariant 1: pairs with the releases of those who change it.
    full_fence();
    (Snapshot::read(graph, me)? == first).then(|| first.cycle(knot))
}

fn bit(node: usize) -> u64 {
    1 << node
}

impl<W: PartialEq> PartialEq for Snapshot<W> {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.nodes == other.nodes
    }
}

impl<W: Copy + PartialEq> Snapshot<W> {
    /// `None`: they are too many, or nobody is in the way.
    fn read<G: Graph<Wait = W>>(graph: &G, me: W) -> Option<Self> {
        let mut read = Self { nodes: [None; MOST], count: 0 };
        graph.begin();
        read.add(me)?;
        let mut next = 0;
        while next < read.count {
            let wait = read.wait(next)?;
            let node = read.look_at(graph, wait)?;
            // The first one that is not stuck for sure is enough to know that I am not.
            if next == 0
                && (node.needs == Needs::Nothing || node.is_open && node.needs == Needs::Any || node.count == 0)
            {
                return None;
            }
            read.nodes[next] = Some(node);
            next += 1;
        }
        Some(read)
    }

    fn wait(&self, node: usize) -> Option<W> {
        self.nodes[node].map(|node| node.wait)
    }

    /// Which one it is.
    fn add(&mut self, wait: W) -> Option<usize> {
        if let Some(known) = (0..self.count).find(|&node| self.wait(node) == Some(wait)) {
            return Some(known);
        }
        let empty = Node { wait, needs: Needs::Nothing, masks: [0; MASKS], count: 0, is_open: false, digest: 0 };
        *self.nodes.get_mut(self.count)? = Some(empty);
        self.count += 1;
        Some(self.count - 1)
    }

    fn look_at<G: Graph<Wait = W>>(&mut self, graph: &G, wait: W) -> Option<Node<W>> {
        let mut node = Node { wait, needs: Needs::Nothing, masks: [0; MASKS], count: 0, is_open: false, digest: 0 };
        let mut is_full = false;
        let needs = graph.obstacles(wait, |party, word| {
            // FNV's prime: it only has to differ.
            let of = (party.slot.code() as u64) << 48 ^ (party.incarnation as u64) << 32 ^ party.thread as u64;
            node.digest = (node.digest ^ word).wrapping_mul(0x100_0000_01B3).wrapping_add(of);
            let mut mask = 0;
            let all = graph.waits_of(party, |wait| match self.add(wait) {
                Some(known) => mask |= bit(known),
                None => is_full = true,
            });
            if !all || mask == 0 {
                node.is_open = true;
            } else if !node.masks[..node.count].contains(&mask) {
                match node.masks.get_mut(node.count) {
                    Some(place) => (*place, node.count) = (mask, node.count + 1),
                    None => node.is_open = true,
                }
            }
        });
        node.needs = needs;
        (!is_full).then_some(node)
    }

    /// Those that are stuck.
    fn stuck(&self) -> u64 {
        let mut stuck = (0..self.count).fold(0, |all, node| all | bit(node));
        loop {
            let left = (0..self.count).filter(|&node| self.is_stuck(node, stuck));
            let left = left.fold(0, |left, node| left | bit(node)) & stuck;
            if left == stuck {
                return stuck;
            }
            stuck = left;
        }
    }

    /// Whether one is, if those of `stuck` are.
    fn is_stuck(&self, node: usize, stuck: u64) -> bool {
        let Some(node) = &self.nodes[node] else { return false };
        let mut masks = node.masks[..node.count].iter();
        match node.needs {
            Needs::All => masks.any(|mask| mask & !stuck == 0),
            Needs::Any => !node.is_open && node.count > 0 && masks.all(|mask| mask & !stuck == 0),
            Needs::Nothing => false,
        }
    }

    /// Whom each waits for, of those that are stuck.
    fn edges(&self, node: usize, stuck: u64) -> u64 {
        if stuck & bit(node) == 0 {
            return 0;
        }
        let masks = self.nodes[node].iter().flat_map(|node| &node.masks[..node.count]);
        masks.filter(|mask| **mask & !stuck == 0).fold(0, |all, mask| all | mask)
    }

    /// Whom each can reach.
    fn reach(&self, stuck: u64) -> [u64; MOST] {
        let mut reach: [u64; MOST] = core::array::from_fn(|node| self.edges(node, stuck));
        // Warshall.
        for middle in 0..self.count {
            for from in 0..self.count {
                if reach[from] & bit(middle) != 0 {
                    reach[from] |= reach[middle];
                }
            }
        }
        reach
    }

    /// A shortest way from the first back to itself, among those of `knot`.
    fn cycle(&self, knot: u64) -> Cycle<W> {
        let mut before = [usize::MAX; MOST];
        let (mut seen, mut queue, mut count) = (0u64, [0; MOST], 1);
        let mut last = 0;
        'search: for at in 0..MOST {
            if at >= count {
                break;
            }
            let from = queue[at];
            let edges = self.edges(from, knot | self.stuck()) & knot;
            for to in (0..self.count).filter(|&to| edges & bit(to) != 0) {
                if to == 0 {
                    last = from;
                    break 'search;
                }
                if seen & bit(to) == 0 {
                    seen |= bit(to);
                    before[to] = from;
                    queue[count] = to;
                    count += 1;
                }
            }
        }
        let mut backwards = [0; MOST];
        let mut length = 0;
        let mut node = last;
        while node != 0 && length < MOST {
            backwards[length] = node;
            length += 1;
            node = before[node];
        }
        let mut waits = [None; MOST];
        waits[0] = self.wait(0);
        for (place, node) in waits[1..].iter_mut().zip(backwards[..length].iter().rev()) {
            *place = self.wait(*node);
        }
        Cycle { waits }
    }
}

#[cfg(all(test, not(hostlock_loom)))]
mod tests {
    use super::*;

    /// A wait of a process and a thread, with what it needs, and who is in the way: a process and a thread, 0 for any.
    type Arrow<'a> = (u32, u32, Needs, &'a [(u32, u32)]);

    struct Drawn<'a> {
        waits: &'a [Arrow<'a>],
        /// How many threads each process has.
        threads: &'a [usize],
    }

    impl Graph for Drawn<'_> {
        type Wait = usize;

        fn begin(&self) {}

        fn waits_of(&self, party: Party, mut each: impl FnMut(usize)) -> bool {
            let process = party.slot.index();
            let mine = |wait: &usize| self.waits[*wait].0 == process;
            let of_thread = |wait: &usize| party.thread == 0 || self.waits[*wait].1 == party.thread;
            let found: Vec<_> = (0..self.waits.len()).filter(mine).filter(of_thread).collect();
            found.iter().copied().for_each(&mut each);
            party.thread != 0 || found.len() == self.threads[process as usize]
        }

        fn obstacles(&self, wait: usize, mut each: impl FnMut(Party, u64)) -> Needs {
            for (process, thread) in self.waits[wait].3 {
                each(Party { slot: Slot::new(*process).unwrap(), incarnation: 1, thread: *thread }, 0);
            }
            self.waits[wait].2
        }

        fn is_alive(&self, wait: usize) -> bool {
            self.waits[wait].0 != 13
        }
    }

    fn victims(waits: &[Arrow<'_>], threads: &[usize]) -> Vec<Vec<usize>> {
        let drawn = Drawn { waits, threads };
        (0..drawn.waits.len()).filter_map(|me| find(&drawn, me)).map(|cycle| cycle.iter().collect()).collect()
    }

    #[test]
    fn of_a_ring_the_youngest_is_the_victim() {
        use Needs::*;
        for size in [2, 3, 20, MOST] {
            let obstacles: Vec<_> = (0..size).map(|at| [((at + 1) % size) as u32]).collect();
            let obstacles: Vec<_> = obstacles.iter().map(|of| [(of[0] + 20, 7)]).collect();
            let waits: Vec<_> = (0..size).map(|at| (at as u32 + 20, 7, All, &obstacles[at][..])).collect();
            let found = victims(&waits, &[]);
            assert_eq!(found.len(), 1, "{size}");
            let expected: Vec<_> = std::iter::once(size - 1).chain(0..size - 1).collect();
            assert_eq!(found[0], expected);
        }
    }

    #[test]
    fn who_only_waits_behind_a_ring_is_no_victim() {
        use Needs::*;
        let found = victims(&[(0, 1, All, &[(1, 1)]), (1, 1, All, &[(0, 1)]), (2, 1, All, &[(0, 1)])], &[]);
        assert_eq!(found, [[1, 0]]);
        assert!(victims(&[(0, 1, All, &[(1, 1)]), (1, 1, All, &[(2, 1)])], &[]).is_empty(), "a line");
    }

    #[test]
    fn one_that_can_let_go_is_enough_where_one_is_enough() {
        use Needs::*;
        let waits = |needs| -> Vec<Arrow<'static>> { vec![(0, 1, needs, &[(1, 1), (2, 1)]), (1, 1, All, &[(0, 1)])] };
        assert!(victims(&waits(Any), &[]).is_empty(), "the third one goes on");
        assert_eq!(victims(&waits(All), &[]), [[1, 0]]);
        let both = [(0, 1, Any, &[(1, 1), (2, 1)][..]), (1, 1, All, &[(0, 1)]), (2, 1, All, &[(0, 1)])];
        assert_eq!(victims(&both, &[]), [[2, 0]]);
        let unknown = [(0, 1, Nothing, &[(1, 1)][..]), (1, 1, All, &[(0, 1)])];
        assert!(victims(&unknown, &[]).is_empty());
    }

    #[test]
    fn a_process_is_stuck_when_all_its_threads_are() {
        use Needs::*;
        let waits = [(0, 1, All, &[(1, 0)][..]), (1, 1, All, &[(0, 1)]), (1, 2, All, &[(0, 1)])];
        assert_eq!(victims(&waits, &[1, 2]), [[2, 0]]);
        assert!(victims(&waits, &[1, 3]).is_empty(), "a third thread may let go");
        let alone = [(0, 1, All, &[(0, 0)][..])];
        assert_eq!(victims(&alone, &[1]), [[0]], "it reads, and wants to write");
    }

    #[test]
    fn the_dead_wait_for_nobody() {
        use Needs::*;
        assert!(victims(&[(0, 1, All, &[(13, 1)]), (13, 1, All, &[(0, 1)])], &[]).is_empty());
    }

    #[test]
    fn too_many_are_not_looked_at() {
        use Needs::*;
        let size = MOST + 1;
        let obstacles: Vec<_> = (0..size).map(|at| [(((at + 1) % size) as u32 + 20, 7)]).collect();
        let waits: Vec<_> = (0..size).map(|at| (at as u32 + 20, 7, All, &obstacles[at][..])).collect();
        assert!(victims(&waits, &[]).is_empty());
    }
}
