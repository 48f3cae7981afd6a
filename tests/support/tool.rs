//! The command-line tool, as its users start it.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;

/// A space for the tool, gone when the test is.
pub struct Place {
    pub root: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { root: super::root() }
    }

    /// The space's directory.
    pub fn space(&self) -> PathBuf {
        self.root.path().join("space")
    }

    /// `hostlock VERB --path SPACE ARGUMENTS...`. It dies with this test.
    pub fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = dying_with_us(Command::new(env!("CARGO_BIN_EXE_hostlock")));
        command.arg(verb).arg("--path").arg(self.space()).args(arguments);
        command
    }

    /// Runs it to its end.
    pub fn output(&self, verb: &str, arguments: &[&str]) -> Output {
        output(&mut self.command(verb, arguments))
    }

    /// Starts `hostlock run` in the background, silent.
    pub fn start(&self, arguments: &[&str]) -> Background {
        Background(self.command("run", arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("start"))
    }

    /// Starts `hostlock run NAME -- sh -c SCRIPT` and waits until the script has come to its `READY`, or runs if it has none.
    pub fn start_script(&self, options: &[&str], name: &str, script: &str) -> Background {
        let here = self.root.path().join("here");
        let _ = std::fs::remove_file(&here);
        let script = if script.contains("READY") { script.into() } else { format!("READY; {script}") };
        let script = script.replace("READY", &format!("touch {}", here.display()));
        let arguments: Vec<&str> = options.iter().copied().chain([name, "--", "sh", "-c", &script]).collect();
        let background = self.start(&arguments);
        super::wait_until("the script runs", || here.exists());
        background
    }
}

pub fn dying_with_us(mut command: Command) -> Command {
    // SAFETY: prctl is async-signal-safe and is given valid arguments.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // Whoever started the tests may ignore some (`nohup`).
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
                nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl)?;
            }
            Ok(())
        })
    };
    command
}

/// Runs a command to its end, within the patience of these tests.
pub fn output(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let pid = Pid::from_raw(child.id() as i32);
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE).is_err() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().expect("its output");
    let _ = ended.send(());
    watchdog.join().unwrap();
    output
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A process in the background. It is killed, and waited for, when the test drops it.
pub struct Background(pub Child);

impl Background {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child can be signalled");
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits until it ended by itself.
    pub fn finish(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().expect("our own child can be waited for") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("it did not end within {PATIENCE:?}");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process that is not our child, killed when the test drops this.
pub struct Stray(pub i32);

impl Stray {
    pub fn end(&self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
        super::wait_until("it is gone", || !is_running(self.0));
    }

    pub fn is_running(&self) -> bool {
        is_running(self.0)
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

/// What a shell would show as `$?`.
pub fn dollar_question(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("an end"))
}

/// Whether the process is there and is no zombie.
pub fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// A number that a process wrote to a file.
pub fn number_in(path: &Path) -> i32 {
    let read = || std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    super::wait_until("a number is written", || read().is_some());
    read().expect("a number")
}
