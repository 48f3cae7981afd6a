//! `hostlock run`: a command under a lock.
//!
//! COMMAND is a child, killed when hostlock dies, and inherits the lifeline of hostlock's place in the space: so the lock is
//! held for as long as COMMAND or anything it started runs, whatever kills hostlock. When COMMAND has ended, hostlock releases
//! in so many words, and what COMMAND left behind keeps nothing.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hostlock::{Error, Holder, Lease, Space};
use nix::errno::Errno;

use crate::args::RunArgs;
use crate::exit::{Code, Failure};
use crate::lock::{self, Guard, Lock, Waited};
use crate::output;
use crate::signals::{End, Lost, Signals};

const NAME: &str = "HOSTLOCK_NAME";
const SPACE: &str = "HOSTLOCK_SPACE";
const TOKEN: &str = "HOSTLOCK_TOKEN";
const ABANDONED: &str = "HOSTLOCK_ABANDONED";

/// A wait longer than this says who holds the lock.
const SILENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(args: RunArgs) -> Result<u8, Failure> {
    let (args, space, lock) = prepare(args)?;
    let term = Term::new(args.lease.map(Lease::new))?;
    let guard = match acquire(&lock, &args, term.lease.as_ref()) {
        Ok(guard) => guard,
        Err(failure) => return conflict(&args, failure),
    };
    let Ended { how, held, signals, .. } = run_command(&args, &space, guard, &term, |_| ())?;
    // Both leave the space, and end what COMMAND's children keep.
    drop((lock, space));
    Ok(if held { exit(how, &signals) } else { Code::Lost as u8 })
}

/// `hostlock elect`: runs COMMAND while it leads, until COMMAND ends by itself.
pub(crate) fn elect(args: RunArgs) -> Result<u8, Failure> {
    let (args, space, lock) = prepare(args)?;
    if !matches!(lock, Lock::Alone(_)) {
        // Of which more than one could be had at a time. It says what it is.
        space.mutex(&args.name)?;
    }
    loop {
        // Who waits for the lead is before who just comes.
        let term = Term::new(args.lease.map(|length| Lease::new(length).fair()))?;
        let guard = match acquire(&lock, &args, term.lease.as_ref()) {
            Ok(guard) => guard,
            Err(failure) => return conflict(&args, failure),
        };
        let leading = |token| {
            if !args.quiet {
                output::complain(&format!("leading \"{}\" with token {token}", args.name));
            }
        };
        let Ended { how, held, by_itself, signals } = run_command(&args, &space, guard, &term, leading)?;
        if held || by_itself {
            drop((lock, space));
            return Ok(exit(how, &signals));
        }
        if let Some(signal) = signals.was_told_to_end() {
            // Not to campaign once more.
            drop((lock, space));
            return Ok(exit(End::Killed(signal as i32), &signals));
        }
        // Whoever waits for the lead can be ended as anybody.
        signals.give_back().map_err(|e| system("watch for signals", &e))?;
    }
}

/// What becomes of it if the lock was not got.
fn conflict(args: &RunArgs, failure: Failure) -> Result<u8, Failure> {
    if failure.code != Code::Conflict as u8 {
        return Err(failure);
    }
    let code = args.conflict_exit_code.unwrap_or(failure.code);
    if args.quiet { Ok(code) } else { Err(Failure { code, ..failure }) }
}

/// The lease of one acquisition, if one is asked for, and the note that it was lost.
struct Term {
    lease: Option<Lease>,
    lost: Option<Lost>,
}

impl Term {
    fn new(lease: Option<Lease>) -> Result<Self, Failure> {
        let Some(lease) = lease else { return Ok(Self { lease: None, lost: None }) };
        let lost = Lost::new().map_err(|e| system("make a pipe", &e))?;
        let tell = lost.teller();
        Ok(Self { lease: Some(lease.kept().on_lost(move |_, _| tell())), lost: Some(lost) })
    }
}

/// How COMMAND ended, whether the lock was held until then, and what watched for signals.
struct Ended {
    how: End,
    held: bool,
    /// It was not ended because of a lost lock.
    by_itself: bool,
    signals: Signals,
}

fn prepare(mut args: RunArgs) -> Result<(RunArgs, Space, Lock), Failure> {
    // `run -- NAME -- COMMAND`, for a NAME that looks like an option.
    if args.command.len() > 1 && args.command[0] == "--" {
        args.command.remove(0);
    }
    lock::check(&args)?;
    if args.lease.is_some() && args.backend.is_files() {
        return Err(Failure::new(
            Code::Usage,
            "--lease takes a space made of a segment: nobody can take a lock file from who has it locked",
        ));
    }
    let mut builder = args.backend.of(args.space.builder()?)?;
    if let Some(mode) = args.mode {
        builder = builder.mode(mode);
    }
    let space = builder.open()?;
    let lock = Lock::open(&space, &args)?;
    Ok((args, space, lock))
}

/// What the tool exits with, or how it ends itself.
fn exit(end: End, signals: &Signals) -> u8 {
    match end {
        End::Exited(code) => code,
        End::Killed(by) => {
            signals.follow(by);
            128u8.wrapping_add(by as u8)
        }
    }
}

/// Runs COMMAND under the lock, and releases it. `begun` is told the token when COMMAND has begun.
fn run_command(
    args: &RunArgs,
    space: &Space,
    guard: Guard,
    term: &Term,
    begun: impl FnOnce(u64),
) -> Result<Ended, Failure> {
    guard.stamp();
    let program = args.command[0].clone();
    let name = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
    let (mut signals, child) = match start(args, space, &guard, &name) {
        Ok(started) => started,
        Err(failure) => {
            // COMMAND was not told of a death, so whoever is next still has to be.
            if guard.abandoned().is_some() {
                let _ = guard.abandon();
            }
            return Err(failure);
        }
    };
    // It is for people who ask who holds the lock.
    let _ = space.act_on_behalf_of(child.id(), &name);

    let token = guard.token();
    begun(token);
    let lost = |and: &str| {
        output::complain(&format!(
            "lost the lease of lock \"{}\" (token {token}){and}: somebody else may hold it by now",
            args.name
        ));
    };
    let (how, by_itself) = match signals.wait_for(&child, term.lost.as_ref(), || lost(&format!("; ending {name}"))) {
        Ok(ended) => ended,
        Err(e) => {
            // COMMAND runs, so nothing may be released: it is for our death to end it, and for what it started to keep the lock.
            std::mem::forget((guard, space.clone()));
            return Err(system("wait for COMMAND", &e));
        }
    };
    let was_lost = term.lost.is_some() && !guard.is_held();
    if was_lost && by_itself {
        lost(&format!(" before {name} ended"));
    }
    let released = match how {
        End::Exited(_) => guard.unlock(),
        // It did not come to its end, so whoever is next may find things half done.
        End::Killed(_) => guard.abandon(),
    };
    if released.is_err() && !was_lost {
        output::complain(&format!(
            "lock \"{}\" was no longer held with token {token} when COMMAND ended: somebody damaged the space; \
             compare tokens before you trust what COMMAND wrote",
            args.name
        ));
    }
    Ok(Ended { how, held: !was_lost, by_itself, signals })
}

fn system(doing: &str, e: &std::io::Error) -> Failure {
    Failure::new(Code::System, format_args!("cannot {doing}: {}", output::reason(e)))
}

/// Starts COMMAND, with all that it is to know and to inherit.
fn start(args: &RunArgs, space: &Space, guard: &Guard, name: &str) -> Result<(Signals, Child), Failure> {
    let signals = Signals::take_over(args.lease.is_some()).map_err(|e| system("watch for signals", &e))?;
    let program = &args.command[0];
    let mut command = Command::new(program);
    command
        .args(&args.command[1..])
        .env(NAME, &args.name)
        .env(SPACE, args.space.for_command(space))
        .env(TOKEN, guard.token().to_string())
        .env_remove(ABANDONED);
    if let Some(dead) = guard.abandoned() {
        // Zero: somebody, but nobody knows who.
        command.env(ABANDONED, dead.pid.unwrap_or(0).to_string());
    }
    if !args.close {
        space.pass_lifeline(&mut command)?;
    }
    // Before COMMAND can ask for the same lock. Its PID follows.
    space.act_on_behalf_of(std::process::id(), name)?;
    let child = signals.start(&mut command).map_err(|e| {
        let code = match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => Code::NotFound,
            Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => Code::System,
            _ => Code::CannotRun,
        };
        Failure::new(code, format_args!("{}: {}", program.display(), output::reason(&e)))
    })?;
    Ok((signals, child))
}

fn acquire(lock: &Lock, args: &RunArgs, lease: Option<&Lease>) -> Result<Guard, Failure> {
    let started = Instant::now();
    let error = match lock.try_acquire(lease) {
        Ok(guard) => return Ok(guard),
        Err(error) => not_by_an_ancestor(lock, Waited::NotAtAll, error)?,
    };
    if args.only_try || args.timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(error.into());
    }
    if !matches!(error, Error::WouldBlock { .. }) {
        return Err(error.into());
    }
    // A time too long to count never ends.
    let deadline = args.timeout.and_then(|timeout| started.checked_add(timeout));
    let silent_until = started + SILENCE;
    // Who stops to say something, or to look who is in the way, loses its place in the queue: only if there is a reason to.
    let until = match (args.quiet && !lock.reads()).then_some(deadline) {
        Some(deadline) => deadline,
        None => Some(deadline.map_or(silent_until, |deadline| deadline.min(silent_until))),
    };
    let first = match lock.acquire_until(until, lease) {
        Err(error @ Error::TimedOut { .. }) if deadline.is_none_or(|deadline| deadline > Instant::now()) => {
            let Error::TimedOut { name, holder, .. } = not_by_an_ancestor(lock, Waited::ForLong, error)? else {
                unreachable!("it was one, and is handed back")
            };
            if !args.quiet {
                let who = holder.map_or("somebody".into(), |holder| holder.to_string());
                output::complain(&format!("waiting for lock \"{name}\", held by {who}"));
            }
            lock.acquire_until(deadline, lease)
        }
        first => first,
    };
    first.map_err(|mut error| {
        if let Error::TimedOut { waited, .. } = &mut error {
            *waited = started.elapsed();
        }
        error.into()
    })
}

/// Waiting for a lock that an ancestor's command runs under would never end: the ancestor waits for us.
fn not_by_an_ancestor(lock: &Lock, waited: Waited, error: Error) -> Result<Error, Failure> {
    let (Error::WouldBlock { name, .. } | Error::TimedOut { name, .. }) = &error else { return Ok(error) };
    let Some(holder) = lock.endless(waited, |holder| is_ancestor(name, holder)) else { return Ok(error) };
    Err(Failure::new(
        Code::Conflict,
        format_args!(
            "lock \"{name}\" is held by {holder}, under which this command runs: waiting for it would never end"
        ),
    ))
}

fn is_ancestor(name: &str, holder: &Holder) -> bool {
    // A token is one acquisition's alone. This finds the nearest one also where PIDs tell nothing.
    let told = |variable, value: &str| std::env::var_os(variable).is_some_and(|it| it == value);
    if told(TOKEN, &holder.token.to_string()) && told(NAME, name) {
        return true;
    }
    // Only who waits for its command: another ancestor may well let go of the lock.
    holder.on_behalf_of.is_some() && !holder.elsewhere && ancestors().any(|pid| pid == holder.pid)
}

/// The PIDs of this process's parent, its parent, and so on, as far as `/proc` shows them.
fn ancestors() -> impl Iterator<Item = u32> {
    std::iter::successors(parent_of(std::process::id()), |&pid| parent_of(pid)).take(1000)
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the command, which stands in parentheses and may hold anything: the state, then the parent.
    let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
    (parent != 0).then_some(parent)
}
