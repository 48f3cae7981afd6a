//! Real processes for tests: a test starts its own executable again in a *role*, and the two talk in lines.
//!
//! A test file that uses roles has one test named `role` that hands its roles to [`act`]; in an ordinary run that one does
//! nothing. Every child dies with the thread that started it, and a watchdog ends a test that hangs.
#![allow(dead_code)]

pub mod backends;
pub mod chance;
pub mod clock;
pub mod elsewhere;
pub mod filter;
pub mod footprint;
pub mod parts;
pub mod raw;
#[cfg(feature = "cli")]
pub mod tool;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hostlock::Space;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// Nothing in these tests takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

const ROLE: &str = "HOSTLOCK_TEST_ROLE";
const ARGUMENTS: &str = "HOSTLOCK_TEST_ARGUMENTS";
/// Lines of a role begin so, to be told from what the test runner prints.
const MARK: &str = "> ";

/// What a role is called and what it does with its arguments.
pub type Role = (&'static str, fn(&[String]));

/// Plays the role this process was started for, if it was.
pub fn act(roles: &[Role]) {
    let Ok(wanted) = std::env::var(ROLE) else { return };
    let arguments = std::env::var(ARGUMENTS).unwrap_or_default();
    let arguments: Vec<String> = arguments.split('\u{1f}').map(String::from).collect();
    let (_, role) = roles.iter().find(|(name, _)| *name == wanted).expect("a role that exists");
    role(&arguments);
    std::process::exit(0);
}

/// In a role: a line for the test.
pub fn say(line: impl std::fmt::Display) {
    // Not `println!`, which the test runner may capture.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\n{MARK}{line}");
    let _ = out.flush();
}

/// In a role: the next line from the test; at the end of its patience or its life, this process ends.
pub fn hear() -> String {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(count) if count > 0 => line.trim_end().into(),
        _ => std::process::exit(0),
    }
}

/// A process in a role.
#[derive(Debug)]
pub struct Actor {
    pub process: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// The command that starts this executable in a role.
pub fn command(role: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this executable"));
    command
        .args(["--exact", "role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGUMENTS, arguments.join("\u{1f}"));
    command
}

/// The same command, run by another program that takes it as its last arguments (`unshare`).
pub fn behind(program: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program[0]);
    outer.args(&program[1..]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// Starts a process in a role.
pub fn start(role: &str, arguments: &[&str]) -> Actor {
    start_command(command(role, arguments))
}

/// Starts a command made from [`command`], perhaps behind another program.
pub fn start_command(mut command: Command) -> Actor {
    // SAFETY: prctl is async-signal-safe and is given valid arguments.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        })
    };
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a process");
    let stdin = process.stdin.take();
    let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if let Some(line) = line.strip_prefix(MARK)
                && sender.send(line.to_owned()).is_err()
            {
                return;
            }
        }
    });
    Actor { process, stdin, lines }
}

impl Actor {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// The actor's next line.
    pub fn hear(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("an actor said nothing for {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("an actor ended without a word"),
        }
    }

    /// The actor's next line, if it comes within `time`.
    pub fn hear_within(&self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    /// Waits for this very line.
    #[track_caller]
    pub fn expect(&self, line: &str) {
        assert_eq!(self.hear(), line);
    }

    /// Says a line to the actor.
    pub fn tell(&mut self, line: impl std::fmt::Display) {
        writeln!(self.stdin.as_mut().expect("a pipe"), "{line}").expect("the actor listens");
    }

    /// Sends it a signal. When it is to be stopped, it is.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child can be signalled");
        if signal == Signal::SIGSTOP {
            // All of its threads: the kernel tells when the last one has stopped.
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            waitid(Id::Pid(self.pid()), flags).expect("our own child can be waited for");
        }
    }

    /// Kills it, and does not ask for it: it stays a zombie.
    pub fn kill_without_reaping(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        self.process.wait().expect("our own child can be waited for");
    }

    /// Waits until it ended by itself; whether it was content.
    pub fn finish(&mut self) -> bool {
        drop(self.stdin.take());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.process.try_wait().expect("our own child can be waited for") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("an actor did not end within {PATIENCE:?}");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory for spaces that is gone when the test is.
pub fn root() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        tempfile::Builder::new().prefix("hostlock-test-").tempdir_in(shm).expect("a directory in /dev/shm")
    } else {
        tempfile::tempdir().expect("a temporary directory")
    }
}

/// A space under `root`.
pub fn space(root: impl AsRef<Path>) -> Space {
    space_named("test", root)
}

/// The space `name` under `root`.
pub fn space_named(name: &str, root: impl AsRef<Path>) -> Space {
    Space::builder(name).root(root.as_ref()).open().expect("a space")
}

/// So many rounds of what is tried, and more in the long form.
pub fn rounds(short: u32) -> u32 {
    std::env::var("HOSTLOCK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(short)
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "in {PATIENCE:?} it never was so that {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Says why a test did not run, and that it did not.
#[macro_export]
macro_rules! skip {
    ($($why:tt)+) => {{
        eprintln!("SKIPPED: {}", format_args!($($why)+));
        return;
    }};
}

/// The value, or the test ends here, and says why.
#[macro_export]
macro_rules! or_skip {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => skip!("{why}"),
        }
    };
}
