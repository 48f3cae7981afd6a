//! The errors and their sentences: what happened, to which lock or file, and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::holder::{Abandoned, Holder, Seconds, Waits};

/// What can go wrong. Every variant names the lock or the path it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `try_lock` found the lock held.
    #[error("lock \"{name}\" is held by {}", who(holder))]
    WouldBlock {
        /// The lock.
        name: Arc<str>,
        /// Who held it; `None` if it was free again by the time this was looked up.
        holder: Option<Box<Holder>>,
    },

    /// The deadline came before the lock did, or before what was waited for. Nothing of the wait is left behind.
    #[error("{}; waited {}", held(name, holder), Seconds(*waited))]
    TimedOut {
        /// The lock.
        name: Arc<str>,
        /// Who held it; `None` if it was free again by the time this was looked up, or if it is nothing that is held.
        holder: Option<Box<Holder>>,
        /// How long the call took.
        waited: Duration,
    },

    /// The wait was ended by another thread of this process: see [`CancelToken`](crate::CancelToken). Nothing of it is left behind.
    #[error("waiting for \"{name}\" was cancelled")]
    Cancelled {
        /// What was waited for.
        name: Arc<str>,
    },

    /// The calling thread would wait for itself for ever: it holds the lock already, or others that wait for what it holds do. Of those in a cycle one gets this,
    /// whoever began to wait last, and is to let go of what it holds; the others go on waiting, for that.
    #[error("{}", circle(name, *token, cycle))]
    Deadlock {
        /// The lock.
        name: Arc<str>,
        /// The token with which it is held, by this thread or the next one in the cycle.
        token: u64,
        /// Who waits for whom, beginning with the calling thread: each for the next one, and the last one for the first. Empty if this thread itself holds
        /// the lock.
        cycle: Box<[Waits]>,
    },

    /// The acquisition that is to be released is not the lock's any more: its lease ran out, this process was forked from the one that holds it,
    /// or was taken for dead.
    #[error(
        "lock \"{name}\" is no longer held with token {token} by this process; \
         if it guards data, compare tokens before you trust the data"
    )]
    Lost {
        /// The lock.
        name: Arc<str>,
        /// The token it was held with.
        token: u64,
    },

    /// Somebody was here with a larger token: this one is of an acquisition that is over. Whatever it was for must not be done.
    #[error(
        "fence \"{fence}\" refuses token {token}: {newest} was here before, so that acquisition is over; stop, and acquire anew"
    )]
    Fenced {
        /// The fence's name, or its file.
        fence: Arc<str>,
        /// The token that was refused.
        token: u64,
        /// The largest that was let in.
        newest: u64,
    },

    /// All tokens of the name are used: 2⁴⁸ acquisitions, five months at 20 million a second.
    #[error(
        "lock \"{name}\" has used up its tokens; end all processes that use the space {path}, \
         then remove that directory: a new space goes on with larger tokens",
        path = path.display()
    )]
    TokensExhausted {
        /// The lock.
        name: Arc<str>,
        /// The space's directory.
        path: PathBuf,
    },

    /// The name cannot be one.
    #[error("{name:?} cannot be the name of a {of}: {reason}")]
    InvalidName {
        /// What it was to be the name of.
        of: &'static str,
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },

    /// The name exists, and is something else.
    #[error("\"{name}\" is a {is}, not a {wanted}; a name has one kind, so choose another name")]
    WrongKind {
        /// The name.
        name: String,
        /// What it is.
        is: String,
        /// What was asked for.
        wanted: &'static str,
    },

    /// An option cannot have this value.
    #[error("{option} cannot be {value}: {reason}")]
    InvalidOption {
        /// The option, as the builder calls it.
        option: &'static str,
        /// What was asked for.
        value: String,
        /// What is possible.
        reason: String,
    },

    /// The space exists, created with another value of an option than the one stated here.
    #[error(
        "the space {path} was created with {option} {existing}, not {wanted}; \
         state that, or nothing, or end all its processes and remove the directory",
        path = path.display()
    )]
    OptionDiffers {
        /// The space's directory.
        path: PathBuf,
        /// The option, as the builder calls it.
        option: &'static str,
        /// Its value in the space.
        existing: String,
        /// The value asked for.
        wanted: String,
    },

    /// Every place in a table of the space is taken by somebody alive or in use.
    #[error(
        "the space {path} has room for {capacity} {what}, and all of them are in use; \
         create it with more: Space::builder(..).{what}(..)",
        path = path.display()
    )]
    Full {
        /// The space's directory.
        path: PathBuf,
        /// Of what there are too many, as the builder calls it.
        what: &'static str,
        /// How many it has room for.
        capacity: u32,
    },

    /// The space has no room for what a name needs beside its entry: places of permits or members, cells of readers, or data.
    #[error(
        "the space {path} has no room for \"{name}\", which needs {needed} bytes in one piece: of its {capacity} bytes of extents \
         {free} are free, in pieces; remove names that are not used any more, \
         or create the space with more: Space::builder(..).extents({})",
        capacity.saturating_add(*needed).next_multiple_of(4096),
        path = path.display()
    )]
    NoExtents {
        /// The space's directory.
        path: PathBuf,
        /// Whose it was to be.
        name: Arc<str>,
        /// How many bytes it needs.
        needed: u64,
        /// How many bytes are free.
        free: u64,
        /// How many bytes there are.
        capacity: u64,
    },

    /// The name exists, and was made for another number of permits, members or items.
    #[error("\"{name}\" is a {kind} for {is}, not for {wanted}; all who use it have to state the same number")]
    WrongCount {
        /// The name.
        name: String,
        /// What it is.
        kind: &'static str,
        /// The number it was made for.
        is: u32,
        /// The number that was asked for.
        wanted: u32,
    },

    /// Whoever had announced to set the event, or to count the latch down, died or gave up without. So it says until somebody announces anew.
    #[error("\"{name}\" is not coming: {by}, having announced it")]
    SignalLost {
        /// The event or latch.
        name: Arc<str>,
        /// Who had announced it.
        by: Box<Abandoned>,
    },

    /// A member of the barrier died before it arrived, or gave up waiting. All members that wait in this phase get this, until all have left.
    #[error(
        "barrier \"{name}\" is broken in phase {phase}: {by}, or gave up waiting; when all members have left, it can be joined anew"
    )]
    Broken {
        /// The barrier.
        name: Arc<str>,
        /// The phase.
        phase: u64,
        /// Whose death, or whose giving up.
        by: Box<Abandoned>,
    },

    /// The name guards data of another type than the one that was asked for.
    #[error("\"{name}\" holds a {is}, not a {wanted}; all who use it have to use the same type")]
    WrongType {
        /// The name.
        name: Arc<str>,
        /// What it holds: the type's name, size and alignment.
        is: String,
        /// What was asked for.
        wanted: String,
    },

    /// There is no room in the queue now.
    #[error("queue \"{name}\" is full: it holds {capacity}")]
    QueueFull {
        /// The queue.
        name: Arc<str>,
        /// How many items it has room for.
        capacity: u32,
    },

    /// There is nothing in the queue now.
    #[error("queue \"{name}\" is empty")]
    QueueEmpty {
        /// The queue.
        name: Arc<str>,
    },

    /// All places of the barrier or the latch are taken, or were counted.
    #[error("\"{name}\" is a {kind} for {count}, and all of them are taken")]
    NoSeat {
        /// The name.
        name: Arc<str>,
        /// What it is.
        kind: &'static str,
        /// For how many.
        count: u32,
    },

    /// The name cannot be taken away while somebody has a part of it, or waits for it.
    #[error("\"{name}\" is in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    InUse {
        /// The name.
        name: Arc<str>,
        /// Who holds it, if that is one.
        holder: Option<Box<Holder>>,
    },

    /// There is nothing of that name.
    #[error("there is nothing named \"{name}\" in the space {path}", path = path.display())]
    NoSuchName {
        /// The name.
        name: String,
        /// The space's directory.
        path: PathBuf,
    },

    /// The file system has not enough room for a new space. Nothing was left there.
    #[error(
        "cannot create the space {path}: it needs {needed} bytes and the file system has {available}; \
         free some, choose another root, or ask for fewer participants or locks",
        path = path.display()
    )]
    NoRoom {
        /// The space's directory.
        path: PathBuf,
        /// Bytes that were asked for.
        needed: u64,
        /// Bytes that were free.
        available: u64,
    },

    /// There is no such space, and whoever only looks creates none.
    #[error("there is no space {path}; the first process that opens it creates it", path = path.display())]
    NoSuchSpace {
        /// Where its directory would be.
        path: PathBuf,
    },

    /// The directory that spaces are kept in, or a space's own, cannot be used.
    #[error("{path} cannot be used for spaces: {problem}", path = path.display())]
    UnusableRoot {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },

    /// What lies where a segment should be is not one that this version can use.
    #[error("{path} cannot be used as a segment: {problem}", path = path.display())]
    UnusableSegment {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },

    /// The space's file was removed or replaced while processes use it. They still exclude each other, but nobody new would
    /// be excluded; so waiting, opening and creating fail.
    #[error(
        "the space {path} was removed or replaced while processes were using it; \
         end those processes, then start anew",
        path = path.display()
    )]
    Removed {
        /// The space's directory.
        path: PathBuf,
    },

    /// Words in the segment say what cannot be. Locks whose words are sound go on working.
    #[error(
        "the segment {path} is damaged: {what}; end all its processes and remove the space's directory",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },

    /// The space is made of something that this process cannot use. Nobody falls back to another mechanism: two would not exclude each other.
    #[error(
        "the space {path} has the backend \"{backend}\", and this process is refused what that takes: {missing}; \
         let the process have that (a container's filter may keep it from it), or end all processes of the space and {}",
        instead_of(*backend),
        path = path.display()
    )]
    BackendUnusable {
        /// The space's directory.
        path: PathBuf,
        /// What it is made of.
        backend: crate::Backend,
        /// What is missing, and what the system says.
        missing: String,
    },

    /// Nothing else can be made of the space now.
    #[error("the space {path} cannot be moved to {to}: {why}", path = path.display())]
    CannotMove {
        /// The space's directory.
        path: PathBuf,
        /// What it was to be made of.
        to: crate::Backend,
        /// Who is in the way, or what would be lost.
        why: String,
    },

    /// What the space is made of cannot do that.
    #[error(
        "the space {path} has the backend \"{backend}\", which has no {what}; it takes one that is made of a segment (hostlock move --to segment)",
        path = path.display()
    )]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What the space is made of.
        backend: crate::Backend,
        /// The space's directory.
        path: PathBuf,
    },

    /// A lock file was deleted or replaced, and it is not certain that nobody holds the lock in the one that was. Whoever has it open goes on.
    #[error("the lock file {path} was deleted or replaced: {why}", path = path.display())]
    LockFileGone {
        /// The file.
        path: PathBuf,
        /// What keeps it from being made anew, and what to do.
        why: String,
    },

    /// A system call failed in a way that has no name of its own.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    System {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

fn held(name: &str, holder: &Option<Box<Holder>>) -> String {
    match holder {
        Some(holder) => format!("lock \"{name}\" is held by {holder}"),
        None => format!("\"{name}\" was not to be had"),
    }
}

fn circle(name: &str, token: u64, cycle: &[Waits]) -> String {
    if cycle.is_empty() {
        return format!(
            "this thread already holds lock \"{name}\" (token {token}) and would wait for itself; drop its guard first"
        );
    }
    let links: Vec<_> = cycle.iter().map(Waits::to_string).collect();
    format!(
        "waiting for lock \"{name}\" would never end: {}, held by the first; let go of what this thread holds, and try again",
        links.join(", held by ")
    )
}

fn who(holder: &Option<Box<Holder>>) -> String {
    match holder {
        Some(holder) => holder.to_string(),
        None => "somebody who let go of it meanwhile".into(),
    }
}

impl Error {
    pub(crate) fn system(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::System { doing, path: path.into(), source: source.into() }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}

fn instead_of(backend: crate::Backend) -> &'static str {
    match backend {
        crate::Backend::Files => "remove its directory, so that a process that is refused it creates it anew",
        _ => "make lock files of it: hostlock move --to files",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Held;

    #[test]
    fn errors_are_small_and_can_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert!(size_of::<Error>() <= 96, "{}", size_of::<Error>());
    }

    #[test]
    fn a_timeout_names_the_holder() {
        let error = Error::TimedOut {
            name: "backup".into(),
            holder: Some(Box::new(Holder {
                pid: 4711,
                thread: None,
                command: "rsync".into(),
                token: 9,
                held: Held::For(Duration::from_secs(12)),
                elsewhere: false,
                readers: 0,
                lease: None,
                on_behalf_of: None,
            })),
            waited: Duration::from_secs(5),
        };
        assert_eq!(error.to_string(), "lock \"backup\" is held by pid 4711 (rsync) with token 9 for 12 s; waited 5 s");
    }
}
