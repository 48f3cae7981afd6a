//! `hostlock status`: who holds what, who waits, what died.

use std::time::{Duration, SystemTime};

use hostlock::{Abandoned, Held, Holder, Inspection, LockReport, Process, WaiterReport};
use serde::Serialize;

use crate::args::StatusArgs;
use crate::exit::{Code, Failure};
use crate::output;

/// Never renamed, never in another order; new ones come at the end.
#[rustfmt::skip]
const COLUMNS: [&str; 13] = [
    "NAME", "KIND", "STATE", "PID", "COMMAND", "FOR", "TOKEN", "SINCE", "WAITERS", "DEAD", "CONTENDED", "RECOVERED", "LEASE",
];

/// The same of `--waits`.
const WAITS: [&str; 8] = ["PID", "COMMAND", "THREAD", "NAME", "KIND", "SECONDS", "HOLDERS", "FOR"];

pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let mut found = args.space.builder()?.inspect()?;
    if let Some(name) = &args.name {
        found.locks.retain(|lock| lock.name == *name);
        if found.locks.is_empty() {
            let path = found.path.display();
            return Err(Failure::new(
                Code::Unavailable,
                format_args!("there is no lock \"{name}\" in the space {path}"),
            ));
        }
    }
    output::print(&match args {
        StatusArgs { json: true, .. } => json(&found)?,
        StatusArgs { waits: true, .. } => table(WAITS, &waits(&found)),
        _ => table(COLUMNS, &found.locks.iter().map(row).collect::<Vec<_>>()),
    })
}

fn state(lock: &LockReport) -> &'static str {
    match lock {
        LockReport { damage: Some(_), .. } => "damaged",
        LockReport { holder: Some(_), .. } => "held",
        LockReport { abandoned: Some(_), .. } => "abandoned",
        _ => "free",
    }
}

/// When an acquisition began, and whether it may have been earlier.
fn since(held: Held) -> Option<(SystemTime, bool)> {
    let (span, exact) = match held {
        Held::For(span) => (span, true),
        Held::AtLeast(span) => (span, false),
        _ => return None,
    };
    let time = SystemTime::now().checked_sub(span)?;
    // On a clock that was never set it may seem to be before all time.
    time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some((time, exact))
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A cell: never empty, and without what separates cells.
fn cell(text: &str) -> String {
    if text.is_empty() {
        return "-".into();
    }
    // Also what has no width, or turns the line's direction.
    let unseen = |c| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let awkward = |c: char| c.is_whitespace() || c.is_control() || c == '\\' || unseen(c);
    text.chars().map(|c| if awkward(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

fn process(process: &Process) -> String {
    cell(&format!("{}({})", process.pid, process.command))
}

fn row(lock: &LockReport) -> [String; COLUMNS.len()] {
    // One cell for all, in the same order in each column; "-" only where there is nothing for any of them.
    let of_holders = |show: &dyn Fn(&Holder) -> Option<String>| {
        let shown: Vec<_> = lock.holders.iter().map(show).collect();
        match shown.iter().any(Option::is_some) {
            true => shown.into_iter().map(|one| one.unwrap_or("-".into())).collect::<Vec<_>>().join(","),
            false => "-".into(),
        }
    };
    [
        cell(&lock.name),
        lock.kind.to_string(),
        state(lock).into(),
        of_holders(&|holder| Some(holder.pid.to_string())),
        of_holders(&|holder| Some(cell(&holder.command))),
        of_holders(&|holder| holder.on_behalf_of.as_ref().map(process)),
        lock.token.to_string(),
        of_holders(&|holder| {
            since(holder.held).map(|(time, exact)| format!("{}{}", if exact { "" } else { "<" }, timestamp(time)))
        }),
        cell(&lock.waiters.iter().map(|waiter| process(&waiter.process)).collect::<Vec<_>>().join(",")),
        lock.abandoned.as_ref().map_or("-".into(), |dead| {
            cell(&format!("{}({})", dead.pid.map_or("?".into(), |pid| pid.to_string()), dead.command))
        }),
        lock.contended.to_string(),
        lock.recovered.to_string(),
        of_holders(&|holder| holder.lease.map(lease)),
    ]
}

/// How long it still runs, to the second, and less than that never as nothing.
fn lease(left: Duration) -> String {
    if left.is_zero() { "lost".into() } else { format!("{}s", left.as_millis().div_ceil(1000)) }
}

/// Who waits for whom, the longest waits first.
fn waits(found: &Inspection) -> Vec<[String; WAITS.len()]> {
    let of = |lock| move |waiter| (lock, waiter);
    let mut waits: Vec<(&LockReport, &WaiterReport)> =
        found.locks.iter().flat_map(|lock| lock.waiters.iter().map(of(lock))).collect();
    waits.sort_by_key(|(_, waiter)| std::cmp::Reverse(waiter.waiting));
    let row = |(lock, waiter): (&LockReport, &WaiterReport)| {
        let holders = lock.holders.iter().map(|holder| format!("{}({})", holder.pid, holder.command));
        let behalf = lock.holders.iter().map(|holder| match &holder.on_behalf_of {
            Some(process) => format!("{}({})", process.pid, process.command),
            None => "-".into(),
        });
        [
            waiter.process.pid.to_string(),
            cell(&waiter.process.command),
            waiter.thread.map_or("-".into(), |thread| thread.to_string()),
            cell(&lock.name),
            lock.kind.to_string(),
            format!("{:.3}", waiter.waiting.as_secs_f64()),
            cell(&holders.collect::<Vec<_>>().join(",")),
            cell(&behalf.collect::<Vec<_>>().join(",")),
        ]
    };
    waits.into_iter().map(row).collect()
}

fn table<const N: usize>(columns: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(columns[column].len())
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let head = line(columns.to_vec());
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(head).chain(body).collect()
}

#[derive(Serialize)]
struct SpaceJson<'a> {
    space: String,
    created: String,
    participants: usize,
    participants_capacity: usize,
    dead_participants: usize,
    locks_capacity: usize,
    locks: Vec<LockJson<'a>>,
    backend: String,
    wakes_at_once: usize,
    takes_fences: usize,
}

#[derive(Serialize)]
struct LockJson<'a> {
    name: &'a str,
    kind: String,
    state: &'static str,
    /// As text: it does not fit what many readers make of a number.
    token: String,
    holder: Option<HolderJson<'a>>,
    abandoned: Option<DeadJson<'a>>,
    waiters: Vec<WaiterJson<'a>>,
    contended: u64,
    recovered: u64,
    damage: Option<&'a str>,
    /// All of them, where there can be several.
    holders: Vec<HolderJson<'a>>,
    permits: Option<PermitsJson>,
}

#[derive(Serialize)]
struct PermitsJson {
    used: u32,
    total: u32,
}

#[derive(Serialize)]
struct HolderJson<'a> {
    #[serde(flatten)]
    process: ProcessJson<'a>,
    thread: Option<u32>,
    elsewhere: bool,
    #[serde(rename = "for")]
    on_behalf_of: Option<ProcessJson<'a>>,
    since: Option<String>,
    since_exact: bool,
    held_seconds: Option<f64>,
    token: String,
    readers: u32,
    lease_seconds: Option<f64>,
}

#[derive(Serialize)]
struct ProcessJson<'a> {
    pid: u32,
    command: &'a str,
}

#[derive(Serialize)]
struct DeadJson<'a> {
    pid: Option<u32>,
    command: &'a str,
    token: String,
    lease_lost: bool,
}

#[derive(Serialize)]
struct WaiterJson<'a> {
    #[serde(flatten)]
    process: ProcessJson<'a>,
    thread: Option<u32>,
    elsewhere: bool,
    waiting_seconds: f64,
}

fn process_json(process: &Process) -> ProcessJson<'_> {
    ProcessJson { pid: process.pid, command: &process.command }
}

/// To the millisecond.
fn seconds(span: Duration) -> f64 {
    span.as_millis() as f64 / 1000.0
}

fn holder_json(holder: &Holder) -> HolderJson<'_> {
    let since = since(holder.held);
    HolderJson {
        process: ProcessJson { pid: holder.pid, command: &holder.command },
        thread: holder.thread,
        elsewhere: holder.elsewhere,
        on_behalf_of: holder.on_behalf_of.as_ref().map(process_json),
        since: since.map(|(time, _)| timestamp(time)),
        since_exact: since.is_some_and(|(_, exact)| exact),
        held_seconds: match holder.held {
            Held::For(span) | Held::AtLeast(span) => Some(seconds(span)),
            _ => None,
        },
        token: holder.token.to_string(),
        readers: holder.readers,
        lease_seconds: holder.lease.map(seconds),
    }
}

fn dead_json(dead: &Abandoned) -> DeadJson<'_> {
    DeadJson { pid: dead.pid, command: &dead.command, token: dead.token.to_string(), lease_lost: dead.lease_lost }
}

fn lock_json(lock: &LockReport) -> LockJson<'_> {
    let waiters = lock.waiters.iter().map(|waiter| WaiterJson {
        process: process_json(&waiter.process),
        thread: waiter.thread,
        elsewhere: waiter.elsewhere,
        waiting_seconds: seconds(waiter.waiting),
    });
    LockJson {
        name: &lock.name,
        kind: lock.kind.to_string(),
        state: state(lock),
        token: lock.token.to_string(),
        holder: lock.holder.as_ref().map(holder_json),
        abandoned: lock.abandoned.as_ref().map(dead_json),
        waiters: waiters.collect(),
        contended: lock.contended,
        recovered: lock.recovered,
        damage: lock.damage.as_deref(),
        holders: lock.holders.iter().map(holder_json).collect(),
        permits: lock.permits.map(|permits| PermitsJson { used: permits.used, total: permits.total }),
    }
}

fn json(found: &Inspection) -> Result<String, Failure> {
    let space = SpaceJson {
        space: found.path.display().to_string(),
        created: timestamp(found.created),
        participants: found.usage.participants,
        participants_capacity: found.usage.participants_capacity,
        dead_participants: found.participants.iter().filter(|participant| participant.dead).count(),
        locks_capacity: found.usage.locks_capacity,
        locks: found.locks.iter().map(lock_json).collect(),
        backend: found.backend.to_string(),
        wakes_at_once: found.participants.iter().filter(|participant| participant.wakes_at_once).count(),
        takes_fences: found.participants.iter().filter(|participant| participant.takes_fences).count(),
    };
    let text = serde_json::to_string_pretty(&space)
        .map_err(|e| Failure::new(Code::Output, format_args!("cannot write JSON: {e}")))?;
    Ok(text + "\n")
}
