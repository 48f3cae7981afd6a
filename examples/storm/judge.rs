//! The judge of a history: whether what all processes logged can have happened if every promise was kept.
//!
//! Nothing has to be searched for. What is held alone is in the order of its tokens; all else is gone through in the order of time. What was
//! acquired began at the latest when the call returned, and went on at least until its release was called, its process was killed, or its
//! lease ran out, whichever was first: so what overlaps here did overlap.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::log::{Fate, Kind, Record};
use super::set::{self, MEMBERS, NAMES, PERMITS};

/// A clock of milliseconds may be so late.
const TICK: u64 = 2_000_000;

/// Something in the history, and whose it was.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub record: Record,
    /// For messages.
    #[allow(dead_code)]
    pub worker: u64,
    /// Its process lived at least until then, and no longer than until then.
    pub lived: u64,
    pub reaped: u64,
}

impl Entry {
    /// Until when it was held for sure.
    fn until(&self) -> u64 {
        let Record { begin, end, span, renewed, .. } = self.record;
        let held = if end == 0 { self.lived } else { end };
        // One with a lease, unless its release said that it was held; perhaps it was over before its process knew that it had begun.
        match span > 0 && self.record.fate != Fate::Released {
            true => held.min((renewed + span).saturating_sub(TICK)),
            false => held.max(begin),
        }
    }

    /// Its process died before it would let go.
    fn died_with_it(&self) -> bool {
        self.record.end == 0
    }
}

/// What was found, of all rounds.
#[derive(Debug, Default)]
pub struct Findings {
    pub acquired: BTreeMap<&'static str, u64>,
    /// Told of a death, told of a lost lease, and leases whose release said that they were lost.
    pub takeovers: u64,
    pub leases_taken: u64,
    pub leases_lost: u64,
    /// From the end of a process to when the next one had what it held, and the longest wait of all, in nanoseconds.
    pub longest_recovery: u64,
    pub longest_wait: u64,
    pub most_readers: u64,
    pub most_permits: u64,
    pub phases: (u64, u64),
    pub items: u64,
    pub violations: Vec<String>,
    last: HashMap<u16, u64>,
}

impl Findings {
    fn violation(&mut self, name: u16, what: &str, entries: &[&Entry]) {
        let entries: Vec<_> = entries.iter().map(|entry| format!("\n    {entry:?}")).collect();
        self.violations.push(format!("{}: {what}{}", set::name(name), entries.concat()));
    }

    /// Judges all that happened in a round, after which nobody had anything.
    pub fn judge(&mut self, history: &[Entry]) {
        let mut names: BTreeMap<u16, Vec<&Entry>> = BTreeMap::new();
        for entry in history {
            names.entry(entry.record.name).or_default().push(entry);
            let Record { kind, name, begin, called, told, told_lost, fate, span, .. } = entry.record;
            if matches!(kind, Kind::Alone | Kind::Write | Kind::Read | Kind::Permits | Kind::Behind) {
                *self.acquired.entry(NAMES.get(usize::from(name)).unwrap_or(&"names that come and go")).or_default() +=
                    1;
                self.longest_wait = self.longest_wait.max(begin.saturating_sub(called));
                self.takeovers += u64::from(told != 0 && !told_lost);
                self.leases_taken += u64::from(told_lost);
                self.leases_lost += u64::from(span > 0 && fate == Fate::Lost);
            }
        }
        for (name, entries) in names {
            let of = |kinds: &[Kind]| -> Vec<&Entry> {
                entries.iter().copied().filter(|entry| kinds.contains(&entry.record.kind)).collect()
            };
            self.alone(name, of(&[Kind::Alone]));
            self.readers_and_writers(name, &of(&[Kind::Read, Kind::Write]));
            self.alone(name, of(&[Kind::Write]));
            self.permits(name, &of(&[Kind::Permits]));
            self.behind(name, of(&[Kind::Behind]));
            self.phases(name, &of(&[Kind::Passed, Kind::Broken]));
            let count = |kind| of(&[kind]).len();
            if count(Kind::Taken) > count(Kind::Set) {
                let what = format!("set {} times, and taken {} times", count(Kind::Set), count(Kind::Taken));
                self.violation(name, &what, &[]);
            }
            if name != set::LATCH && count(Kind::Done) > count(Kind::Removed) + 1 {
                let what = format!("done {} times, and taken away {} times", count(Kind::Done), count(Kind::Removed));
                self.violation(name, &what, &[]);
            }
            self.latch(name, &of(&[Kind::Counted]), &of(&[Kind::Opened]), &of(&[Kind::Removed]));
            self.queue(name, &of(&[Kind::Pushed]), &of(&[Kind::Popped]), &of(&[Kind::Noted]));
        }
    }

    /// One at a time, in the order of tokens; and each death is told, once, to the next one.
    fn alone(&mut self, name: u16, mut entries: Vec<&Entry>) {
        entries.sort_by_key(|entry| entry.record.token);
        let Some(first) = entries.first() else { return };
        let last = self.last.get(&name).copied().unwrap_or(0);
        if first.record.token <= last {
            self.violation(name, &format!("a token that is not larger than {last}"), &[first]);
        }
        self.last.insert(name, entries[entries.len() - 1].record.token);
        let mut longest = *first;
        for pair in entries.windows(2) {
            let (one, next) = (pair[0], pair[1]);
            if one.until() > longest.until() {
                longest = one;
            }
            if one.record.token == next.record.token {
                self.violation(name, "two acquisitions with one token", &[one, next]);
            }
            if longest.until() > next.record.begin {
                self.violation(name, "two held it at once", &[longest, next]);
            }
            let ended_badly = one.died_with_it() || one.record.fate == Fate::Abandoned;
            if ended_badly && next.record.token == one.record.token + 1 && next.record.told != one.record.token {
                self.violation(name, "the next one was not told of a death", &[one, next]);
            }
            if one.died_with_it() && next.record.told == one.record.token {
                let waited_since = one.reaped.max(next.record.called);
                self.longest_recovery = self.longest_recovery.max(next.record.begin.saturating_sub(waited_since));
            }
        }
        let by_token: HashMap<u64, &Entry> = entries.iter().map(|entry| (entry.record.token, *entry)).collect();
        let mut told = HashSet::new();
        for entry in entries.iter().filter(|entry| entry.record.told != 0) {
            if entry.record.told >= entry.record.token || !told.insert(entry.record.told) {
                self.violation(name, "told twice of one death, or of one that is to come", &[entry]);
            }
            let Some(dead) = by_token.get(&entry.record.told) else { continue };
            if dead.record.fate == Fate::Released {
                self.violation(name, "told of a death, and it had been released", &[dead, entry]);
            }
            let runs_until = (dead.record.renewed + dead.record.span).saturating_sub(TICK);
            if entry.record.told_lost && (dead.record.span == 0 || entry.record.begin < runs_until) {
                self.violation(name, "told of a lost lease that there was not, or that was running", &[dead, entry]);
            }
        }
    }

    /// Nobody beside a writer, and readers see the last write.
    fn readers_and_writers(&mut self, name: u16, entries: &[&Entry]) {
        let (mut readers, mut writer, mut last_write): (Vec<&Entry>, Option<&Entry>, u64) = (Vec::new(), None, 0);
        for (is_begin, entry) in in_time(entries) {
            let (token, is_reader) = (entry.record.token, entry.record.kind == Kind::Read);
            if !is_begin {
                readers.retain(|reader| !std::ptr::eq(*reader, entry));
                writer = writer.filter(|writer| !std::ptr::eq(*writer, entry));
                continue;
            }
            if let Some(writer) = writer {
                self.violation(name, "somebody beside a writer", &[writer, entry]);
            }
            if is_reader {
                if token < last_write {
                    self.violation(name, &format!("a reader that missed the write {last_write}"), &[entry]);
                }
                readers.push(entry);
                self.most_readers = self.most_readers.max(readers.len() as u64);
            } else {
                if let Some(reader) = readers.first() {
                    self.violation(name, "a writer beside a reader", &[reader, entry]);
                }
                (writer, last_write) = (Some(entry), token);
            }
        }
    }

    /// Never more than there are, tokens of their own, and larger ones than those that were there when they were asked for.
    fn permits(&mut self, name: u16, entries: &[&Entry]) {
        let most = if name == set::SEMAPHORE { PERMITS.into() } else { 2 };
        let (mut out, mut tokens) = (Vec::<&Entry>::new(), HashSet::new());
        for (is_begin, entry) in in_time(entries) {
            if !is_begin {
                out.retain(|other| !std::ptr::eq(*other, entry));
                continue;
            }
            out.push(entry);
            let count: u64 = out.iter().map(|entry| entry.record.count).sum();
            self.most_permits = self.most_permits.max(if name == set::SEMAPHORE { count } else { 0 });
            if count > most {
                self.violation(name, &format!("{count} permits of {most} are out"), &out);
            }
            if !tokens.insert(entry.record.token) {
                self.violation(name, "two with one token", &[entry]);
            }
        }
        let mut moments: Vec<_> = entries
            .iter()
            .flat_map(|entry| [(entry.record.called, true, entry), (entry.record.begin, false, entry)])
            .collect();
        moments.sort_by_key(|(when, is_call, _)| (*when, !*is_call));
        let (mut acquired, mut floor) = (self.last.get(&name).copied().unwrap_or(0), HashMap::new());
        for (_, is_call, entry) in moments {
            if is_call {
                floor.insert(std::ptr::from_ref(*entry), acquired);
                continue;
            }
            if floor.get(&std::ptr::from_ref(*entry)).is_some_and(|floor| entry.record.token <= *floor) {
                self.violation(name, "asked for after a larger token had been acquired", &[entry]);
            }
            acquired = acquired.max(entry.record.token);
        }
        if !entries.is_empty() {
            self.last.insert(name, acquired);
        }
    }

    /// One at a time, and nobody with an older token than the one before.
    fn behind(&mut self, name: u16, mut entries: Vec<&Entry>) {
        entries.sort_by_key(|entry| entry.record.begin);
        for pair in entries.windows(2) {
            if pair[0].until() > pair[1].record.begin {
                self.violation(name, "two behind it at once", pair);
            }
            if pair[0].record.token > pair[1].record.token {
                self.violation(name, "a token of the past was let in", pair);
            }
        }
    }

    fn phases(&mut self, name: u16, entries: &[&Entry]) {
        let mut phases: HashMap<u64, (usize, usize)> = HashMap::new();
        for entry in entries {
            let (passed, broken) = phases.entry(entry.record.token).or_default();
            *(if entry.record.kind == Kind::Passed { passed } else { broken }) += 1;
        }
        for (phase, (passed, broken)) in phases {
            if passed > MEMBERS as usize || passed > 0 && broken > 0 {
                self.violation(name, &format!("phase {phase} was passed by {passed} and broken for {broken}"), &[]);
            }
            self.phases.0 += u64::from(passed > 0);
            self.phases.1 += u64::from(broken > 0);
        }
    }

    /// Whoever found it open: so many had begun to count by then, and had not ended before it was last taken away.
    fn latch(&mut self, name: u16, counted: &[&Entry], opened: &[&Entry], removed: &[&Entry]) {
        for open in opened {
            let before = removed.iter().filter(|removed| removed.record.begin < open.record.called);
            let since = before.map(|removed| removed.record.called).max().unwrap_or(0);
            let counts = counted.iter().filter(|count| {
                let ended = if count.record.end == 0 { count.reaped } else { count.record.end };
                count.record.fate != Fate::Lost && count.record.called < open.record.begin && ended >= since
            });
            // It may have been open since an earlier round.
            if since > 0 && counts.count() < set::COUNT as usize {
                self.violation(name, "open, and not counted down so often", &[open]);
            }
        }
    }

    /// Nothing comes out twice, out of order, or without having been put in; and nothing is lost but with whoever died over it.
    fn queue(&mut self, name: u16, pushed: &[&Entry], popped: &[&Entry], noted: &[&Entry]) {
        let mut out: HashMap<u64, &Entry> = HashMap::new();
        for pop in popped.iter().filter(|pop| pop.record.token != 0) {
            if let Some(other) = out.insert(pop.record.token, pop) {
                self.violation(name, "one item came out twice", &[other, pop]);
            }
        }
        let known: HashSet<u64> = pushed.iter().map(|push| push.record.token).collect();
        for (item, pop) in &out {
            if !known.contains(item) {
                self.violation(name, "an item came out that nobody put in", &[pop]);
            }
        }
        if let Some(note) = noted.iter().find(|note| !known.contains(&note.record.token)) {
            self.violation(name, "an item was seen that nobody put in", &[note]);
        }
        let missing =
            pushed.iter().filter(|push| push.record.fate == Fate::Released && !out.contains_key(&push.record.token));
        let died = popped.iter().filter(|pop| pop.record.token == 0 && pop.record.fate == Fate::Unknown).count();
        let missing: Vec<&Entry> = missing.copied().collect();
        if missing.len() > died {
            self.violation(name, &format!("{} items are gone, and {died} died over one", missing.len()), &missing);
        }
        // Of one that pushed several, the later ones last.
        let mut order: Vec<&&Entry> = pushed.iter().collect();
        order.sort_by_key(|push| push.record.token);
        let mut earliest: Option<(&Entry, &Entry)> = None;
        for push in order.into_iter().rev() {
            let Some(pop) = out.get(&push.record.token) else { continue };
            let of_the_same = earliest.filter(|(later, _)| later.record.token >> 16 == push.record.token >> 16);
            if let Some((_, first)) = of_the_same.filter(|(_, first)| first.record.end < pop.record.called) {
                self.violation(name, "items of one process came out of order", &[first, pop]);
            }
            let ends_first =
                of_the_same.is_none_or(|(_, first)| pop.record.end != 0 && pop.record.end < first.record.end);
            earliest = if ends_first && pop.record.end != 0 { Some((push, pop)) } else { of_the_same };
        }
        self.items += out.len() as u64;
    }
}

/// Each beginning (`true`) and each end, in the order of time; of those at the same time the ends first.
fn in_time<'a>(entries: &[&'a Entry]) -> Vec<(bool, &'a Entry)> {
    let moments = |entry: &'a Entry| {
        [(entry.record.begin, true, entry), (entry.until().max(entry.record.begin + 1), false, entry)]
    };
    let lasted = entries.iter().copied().filter(|entry| entry.until() >= entry.record.begin);
    let mut moments: Vec<_> = lasted.flat_map(moments).collect();
    moments.sort_by_key(|(when, is_begin, _)| (*when, *is_begin));
    moments.into_iter().map(|(_, is_begin, entry)| (is_begin, entry)).collect()
}
