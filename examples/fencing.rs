//! A write that comes too late: `cargo run --release --example fencing`.
//!
//! Two processes append to a ledger, each under a lock with a lease of 200 ms. The first one is stopped (SIGSTOP) after it acquired the lock and before it
//! writes: as a debugger, a suspended machine or a container's freezer would. Its lease runs out, the second one takes over and writes; then the first one
//! goes on, knowing nothing, and writes what it had in its hands.
//!
//! Once without a fence: the late line is in the ledger, after that of the next owner. Once with one: it is refused, and the process is told why.
//!
//! Exit status: 0 if the fence kept the late line out, and only the fence did.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use hostlock::{Error, Fence, Space};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const LEASE: Duration = Duration::from_millis(200);

fn main() -> Result<ExitCode> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => {}
        [role, root, fenced] if role == "--writer" => {
            return writer(Path::new(root), fenced == "fenced").map(|()| ExitCode::SUCCESS);
        }
        _ => return Err("it takes no arguments".into()),
    }
    println!("without a fence:");
    let naive = late_write(false)?;
    println!("\nwith a fence:");
    let fenced = late_write(true)?;
    let is_right = naive == ["the next owner", "the one that was stopped"] && fenced == ["the next owner"];
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who is in the ledger in the end, in this order.
fn late_write(fenced: bool) -> Result<Vec<String>> {
    let root = tempfile::tempdir()?;
    let mut stopped = Writer::start(root.path(), fenced)?;
    stopped.hear("has the lock")?;
    kill(stopped.pid(), Signal::SIGSTOP)?;

    // It is alive, and keeps the lock as long as its lease runs. Not for longer.
    let ledger = Ledger::open(root.path(), fenced)?;
    let guard = ledger.space.mutex("ledger")?.lock_with_lease(LEASE)?;
    let loser = guard.abandoned().ok_or("nobody lost a lease")?;
    println!("  {loser}; token {} follows", guard.token());
    ledger.append(guard.token(), "the next owner")?;

    kill(stopped.pid(), Signal::SIGCONT)?;
    stopped.tell("write")?;
    stopped.hear("done")?;
    drop(guard);

    let lines = fs::read_to_string(root.path().join("ledger"))?;
    lines.lines().for_each(|line| println!("  in the ledger: {line}"));
    Ok(lines.lines().filter_map(|line| line.split_once(": ")).map(|(_, who)| who.to_owned()).collect())
}

/// Acquires the lock, and writes when it goes on.
fn writer(root: &Path, fenced: bool) -> Result<()> {
    let ledger = Ledger::open(root, fenced)?;
    let guard = ledger.space.mutex("ledger")?.lock_with_lease(LEASE)?;
    if !guard.is_held() {
        return Err("the lease ran out before it was begun".into());
    }
    // What follows looks at nothing any more, as a process does that is stopped between looking and writing.
    println!("has the lock");
    std::io::stdin().read_line(&mut String::new())?;
    match ledger.append(guard.token(), "the one that was stopped") {
        Ok(()) => {}
        Err(error @ Error::Fenced { .. }) => eprintln!("  refused: {error}"),
        Err(error) => return Err(error.into()),
    }
    println!("done");
    Ok(())
}

/// A file to which lines are appended, and what it stands behind.
struct Ledger<'a> {
    space: Space,
    root: &'a Path,
    fence: Option<Fence>,
}

impl<'a> Ledger<'a> {
    fn open(root: &'a Path, fenced: bool) -> Result<Self> {
        // Beside what it protects: it has to live as long.
        let fence = fenced.then(|| Fence::open(root.join("ledger.fence"))).transpose()?;
        Ok(Self { space: Space::builder("fencing").root(root).open()?, root, fence })
    }

    /// Appends a line by the holder of `token`, unless a larger token was here before.
    fn append(&self, token: u64, who: &str) -> hostlock::Result<()> {
        let append = || {
            let mut file = OpenOptions::new().create(true).append(true).open(self.root.join("ledger"))?;
            writeln!(file, "token {token}: {who}")
        };
        match &self.fence {
            // Nobody with another token comes in until it is written: looking first and writing then would not be enough.
            Some(fence) => fence.enter(token)?.write(append),
            None => append(),
        }
        .expect("the ledger can be written");
        Ok(())
    }
}

/// A process that writes, and dies with this one.
struct Writer {
    process: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Writer {
    fn start(root: &Path, fenced: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--writer").arg(root).arg(if fenced { "fenced" } else { "naive" });
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: prctl is async-signal-safe, and takes numbers only.
        unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        let mut process = command.spawn()?;
        let said = BufReader::new(process.stdout.take().ok_or("it has no output")?);
        Ok(Self { process, said })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    fn hear(&mut self, expected: &str) -> Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        if line.trim_end() == expected { Ok(()) } else { Err(format!("the writer said {line:?}").into()) }
    }

    fn tell(&mut self, what: &str) -> Result<()> {
        let input = self.process.stdin.as_mut().ok_or("it has no input")?;
        Ok(writeln!(input, "{what}")?)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It is ours, and not reaped yet: nobody else has its PID.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
