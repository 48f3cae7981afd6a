//! Who holds a lock, and who died holding it.

use std::fmt;
use std::time::Duration;

/// Who holds a lock, as far as can be told at one moment; it may have changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The process, as its own PID namespace numbers it (see [`elsewhere`](Self::elsewhere)). 0: somebody has the lock, and who is not known; the
    /// process that acquired a lock file died, and a child of its that it should not have left the lock to goes on.
    pub pid: u32,
    /// The kernel's id of the thread that holds it, if it was acquired with a guard that stays in its thread.
    pub thread: Option<u32>,
    /// The name of the program that runs there, at most 32 bytes.
    pub command: String,
    /// The token of this acquisition.
    pub token: u64,
    /// For how long.
    pub held: Held,
    /// The process lives in another PID namespace (a container), so `pid` is not a number to look up here.
    pub elsewhere: bool,
    /// How many readers it has of a read-write lock; 0 for everything else than reading. Of a reader, [`token`](Self::token) is that of the
    /// last write.
    pub readers: u32,
    /// If it holds it with a lease: how long that still runs, unless it is renewed. Zero: it has run out, and whoever waits takes the lock over.
    pub lease: Option<Duration>,
    /// The process for which it holds its locks, if it said so ([`Space::act_on_behalf_of`](crate::Space::act_on_behalf_of)): the command that
    /// `hostlock run` runs.
    pub on_behalf_of: Option<Process>,
}

/// A process, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its PID, as its own PID namespace numbers it.
    pub pid: u32,
    /// The name of the program that runs there, at most 32 bytes.
    pub command: String,
}

/// A thread that waits for a lock, in a cycle of those who wait for each other: see [`Error::Deadlock`](crate::Error::Deadlock).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waits {
    /// Its process.
    pub process: Process,
    /// The kernel's id of the thread.
    pub thread: u32,
    /// What it waits for; held by the next one in the cycle, or by its process.
    pub lock: String,
    /// The process lives in another PID namespace.
    pub elsewhere: bool,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elsewhere = if self.elsewhere { " of another PID namespace" } else { "" };
        write!(f, "{} thread {}{elsewhere} waits for \"{}\"", self.process, self.thread, self.lock)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)?;
        if self.command.is_empty() { Ok(()) } else { write!(f, " ({})", self.command) }
    }
}

/// For how long a lock has been held.
///
/// An uncontended acquisition does not read the clock: that would cost several times as much as the lock. The first
/// waiter that sees it notes the time instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Held {
    /// Since so long ago, to the millisecond.
    For(Duration),
    /// Since so long ago, when somebody first saw it, or longer.
    AtLeast(Duration),
    /// Nobody looked yet.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "a process that is not known")?,
            pid => write!(f, "pid {pid}")?,
        }
        if !self.command.is_empty() {
            write!(f, " ({})", self.command)?;
        }
        if let Some(process) = &self.on_behalf_of {
            write!(f, " on behalf of {process}")?;
        }
        if self.elsewhere {
            write!(f, " of another PID namespace")?;
        }
        if self.readers != 0 {
            write!(f, ", reading")?;
        }
        write!(f, " with token {}", self.token)?;
        match self.held {
            Held::For(span) => write!(f, " for {}", Seconds(span)),
            Held::AtLeast(span) => write!(f, " for at least {}", Seconds(span)),
            Held::Unknown => Ok(()),
        }?;
        match self.lease {
            Some(Duration::ZERO) => write!(f, ", its lease ran out"),
            Some(left) => write!(f, ", its lease ends in {} unless it is renewed", Seconds(left)),
            None => Ok(()),
        }
    }
}

/// A span of time as people read it: to the millisecond below ten seconds, to the second above.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.0;
        match span.as_secs() {
            0 if span.subsec_millis() == 0 => write!(f, "0 s"),
            0..10 => {
                let text = format!("{}.{:03}", span.as_secs(), span.subsec_millis());
                write!(f, "{} s", text.trim_end_matches('0').trim_end_matches('.'))
            }
            seconds => write!(f, "{seconds} s"),
        }
    }
}

/// An owner that died holding the lock, or lost its lease. Whatever the lock guards may be half changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abandoned {
    /// The token of the acquisition that ended so.
    pub token: u64,
    /// The process, as its own PID namespace numbered it; `None` if its death was cleaned up so that this got lost.
    pub pid: Option<u32>,
    /// The name of the program that ran there, at most 32 bytes; empty if not known.
    pub command: String,
    /// It did not die, as far as anybody knows: its lease ran out. It may go on, stopped or slow as it was, and only the resource can tell, by its
    /// smaller token ([`Fence`](crate::Fence)).
    pub lease_lost: bool,
}

impl Abandoned {
    /// Beside a PID in a note: that process did not die, it lost its lease. No PID has this bit (`PID_MAX_LIMIT` is 2²²).
    pub(crate) const LEASE_LOST: u32 = 1 << 31;

    /// `noted`: the PID as it stands in notes; 0: not known.
    pub(crate) fn noted(token: u64, noted: u32, command: String) -> Self {
        let pid = noted & !Self::LEASE_LOST;
        Self { token, pid: (pid != 0).then_some(pid), command, lease_lost: noted & Self::LEASE_LOST != 0 }
    }
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => write!(f, "a process")?,
        }
        if !self.command.is_empty() {
            write!(f, " ({})", self.command)?;
        }
        match self.lease_lost {
            true => write!(f, " lost its lease of it with token {}", self.token),
            false => write!(f, " died holding it with token {}", self.token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_reads_like_a_sentence() {
        let mut holder = Holder {
            pid: 4711,
            thread: Some(4712),
            command: "rsync".into(),
            token: 42,
            held: Held::AtLeast(Duration::from_millis(3200)),
            elsewhere: false,
            readers: 0,
            lease: None,
            on_behalf_of: None,
        };
        assert_eq!(holder.to_string(), "pid 4711 (rsync) with token 42 for at least 3.2 s");
        holder.held = Held::For(Duration::from_secs(75));
        holder.elsewhere = true;
        holder.on_behalf_of = Some(Process { pid: 4713, command: "sh".into() });
        assert_eq!(
            holder.to_string(),
            "pid 4711 (rsync) on behalf of pid 4713 (sh) of another PID namespace with token 42 for 75 s"
        );
        holder = Holder { on_behalf_of: None, elsewhere: false, lease: Some(Duration::from_millis(2500)), ..holder };
        assert_eq!(
            holder.to_string(),
            "pid 4711 (rsync) with token 42 for 75 s, its lease ends in 2.5 s unless it is renewed"
        );
        holder.lease = Some(Duration::ZERO);
        assert_eq!(holder.to_string(), "pid 4711 (rsync) with token 42 for 75 s, its lease ran out");
    }

    #[test]
    fn spans_are_short() {
        let texts = [(0, "0 s"), (5, "0.005 s"), (1000, "1 s"), (9990, "9.99 s"), (10_900, "10 s")];
        for (millis, text) in texts {
            assert_eq!(Seconds(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
