//! `hostlock run` at a terminal: Ctrl-C, Ctrl-Z, the background, a hang-up. A real shell on a pseudo-terminal does the job control, and
//! `flock(1)` goes through the same beside us.
#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use support::tool::*;
use support::wait_until;

/// An interactive shell on a terminal of its own.
struct Terminal {
    shell: Child,
    master: Option<File>,
    screen: Arc<Mutex<String>>,
    asked: usize,
}

/// Whose other end nobody inherits: it would never hang up.
fn pseudo_terminal() -> nix::pty::OpenptyResult {
    let pty = nix::pty::openpty(None, None).expect("a pseudo-terminal");
    nix::fcntl::fcntl(&pty.master, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .expect("a descriptor");
    pty
}

impl Terminal {
    fn new() -> Self {
        let pty = pseudo_terminal();
        let mut shell = dying_with_us(Command::new("bash"));
        shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "").env("TERM", "dumb");
        shell.stdin(pty.slave.try_clone().unwrap()).stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
        // SAFETY: these calls are async-signal-safe and are given valid arguments.
        unsafe {
            shell.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            })
        };
        let shell = shell.spawn().expect("bash");
        let screen = Arc::new(Mutex::new(String::new()));
        let mut output = File::from(pty.master.try_clone().unwrap());
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { shell, master: Some(pty.master.into()), screen, asked: 0 }
    }

    fn type_in(&mut self, keys: &str) {
        self.master.as_mut().unwrap().write_all(keys.as_bytes()).expect("somebody listens");
    }

    fn sees(&self, text: &str) -> bool {
        self.screen.lock().unwrap().contains(text)
    }

    #[track_caller]
    fn expect(&self, text: &str) {
        let end = std::time::Instant::now() + support::PATIENCE;
        while !self.sees(text) {
            assert!(std::time::Instant::now() < end, "never saw {text:?} on:\n{}", self.screen.lock().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// The `$?` of the shell, once it listens again.
    #[track_caller]
    fn dollar_question(&mut self) -> String {
        self.asked += 1;
        let mark = format!("mark{}-", self.asked);
        // In two pieces, so that what is typed is not what is looked for.
        self.type_in(&format!("echo mark''{}-$?.\n", self.asked));
        self.expect(&mark);
        wait_until("the line is complete", || self.after(&mark).contains('.'));
        self.after(&mark).split('.').next().unwrap().into()
    }

    fn after(&self, mark: &str) -> String {
        self.screen.lock().unwrap().split_once(mark).map(|(_, after)| after.to_string()).unwrap_or_default()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// The two programs side by side: what each is typed as.
fn both(place: &Place) -> [(&'static str, String); 2] {
    let tool = format!("{} run --path {} a --", env!("CARGO_BIN_EXE_hostlock"), place.space().display());
    [("hostlock", tool), ("flock", format!("flock {}", place.root.path().join("file").display()))]
}

fn missing() -> Option<&'static str> {
    ["bash", "flock"].into_iter().find(|program| Command::new(program).arg("--version").output().is_err())
}

fn ready(place: &Place) -> std::path::PathBuf {
    let file = place.root.path().join("ready");
    let _ = std::fs::remove_file(&file);
    file
}

fn wait_for(file: &Path) {
    wait_until("COMMAND runs", || file.exists());
    std::fs::remove_file(file).unwrap();
}

#[test]
fn ctrl_c_ends_the_command_and_the_loop_around_it() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let place = Place::new();
    for (program, prefix) in both(&place) {
        let (mut terminal, ready) = (Terminal::new(), ready(&place));
        terminal.type_in(&format!(
            "for i in 1 2 3; do {prefix} sh -c 'touch {0}; exec sleep 600'; done\n",
            ready.display()
        ));
        wait_for(&ready);
        terminal.type_in("\x03");
        assert_eq!(terminal.dollar_question(), "130", "{program}");
        assert!(!ready.exists(), "{program}: the loop went on");
    }
}

#[test]
fn a_command_that_handles_ctrl_c_does_so_once_and_is_waited_for() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let place = Place::new();
    let [(_, prefix), _] = both(&place);
    let (mut terminal, ready, log) = (Terminal::new(), ready(&place), place.root.path().join("log"));
    let go = place.root.path().join("go");
    terminal.type_in(&format!(
        "{prefix} sh -c 'trap \"echo int >> {}\" INT; touch {}; while ! [ -e {} ]; do sleep 0.01; done; exit 3'\n",
        log.display(),
        ready.display(),
        go.display(),
    ));
    wait_for(&ready);
    for count in 1..=5 {
        terminal.type_in("\x03");
        wait_until("it was handled", || std::fs::read_to_string(&log).is_ok_and(|log| log.lines().count() >= count));
        // Long enough for one that was passed on as well.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    File::create(&go).unwrap();
    // (flock ends at the first, with 130, and leaves the command running.)
    assert_eq!(terminal.dollar_question(), "3");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "int\n".repeat(5));
}

#[test]
fn ctrl_z_stops_both_and_the_lock_stays_held() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let place = Place::new();
    for (program, prefix) in both(&place) {
        let (mut terminal, ready) = (Terminal::new(), ready(&place));
        let go = place.root.path().join("go");
        terminal.type_in(&format!(
            "{prefix} sh -c 'touch {}; while ! [ -e {} ]; do sleep 0.01; done; exit 4'\n",
            ready.display(),
            go.display()
        ));
        wait_for(&ready);
        terminal.type_in("\x1a");
        assert_eq!(terminal.dollar_question(), "148", "{program}: 128 + SIGTSTP");
        terminal.type_in("jobs\n");
        terminal.expect("Stopped");
        terminal.type_in(&format!(
            "{} true; echo free''-$?\n",
            prefix.replacen(" a --", " -n a --", 1).replacen("flock ", "flock -n ", 1)
        ));
        terminal.expect(if program == "flock" { "free-1" } else { "free-75" });
        terminal.type_in("fg\n");
        File::create(&go).unwrap();
        assert_eq!(terminal.dollar_question(), "4", "{program}");
        std::fs::remove_file(&go).unwrap();
    }
}

#[test]
fn reading_from_the_background_stops_both() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let place = Place::new();
    for (program, prefix) in both(&place) {
        let mut terminal = Terminal::new();
        terminal.type_in(&format!("{prefix} head -n 1 &\n"));
        // Asked for again and again: the shell says it by itself only before a prompt.
        wait_until(&format!("{program} is stopped"), || {
            terminal.type_in("jobs\n");
            std::thread::sleep(std::time::Duration::from_millis(20));
            terminal.sees("Stopped")
        });
    }
}

#[test]
fn ctrl_c_reaches_a_command_that_left_the_foreground_group() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let place = Place::new();
    let [(_, prefix), _] = both(&place);
    let (mut terminal, ready) = (Terminal::new(), ready(&place));
    // `timeout` makes a group of its own.
    terminal.type_in(&format!("{prefix} timeout 600 sh -c 'touch {}; exec sleep 600'\n", ready.display()));
    wait_for(&ready);
    terminal.type_in("\x03");
    assert_ne!(terminal.dollar_question(), "0");
    assert!(place.output("run", &["-n", "a", "--", "true"]).status.success());
}

#[test]
fn a_hang_up_of_a_terminal_that_is_hostlocks_own_reaches_the_command() {
    let place = Place::new();
    let file = place.root.path().join("command");
    let pty = pseudo_terminal();
    let mut run =
        place.command("run", &["a", "--", "sh", "-c", &format!("echo $$ > {}; exec sleep 600", file.display())]);
    run.stdin(pty.slave.try_clone().unwrap()).stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
    // SAFETY: these calls are async-signal-safe and are given valid arguments.
    unsafe {
        run.pre_exec(|| {
            nix::unistd::setsid()?;
            nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            Ok(())
        })
    };
    let mut run = Background(run.spawn().unwrap());
    let command = Stray(number_in(&file));
    drop(pty.master);
    assert_eq!(dollar_question(run.finish()), 128 + Signal::SIGHUP as i32);
    wait_until("the command is gone", || !command.is_running());
}

#[test]
fn a_hang_up_ends_the_command_and_frees_the_lock() {
    if let Some(program) = missing() {
        skip!("{program} is not installed");
    }
    let place = Place::new();
    let [(_, prefix), _] = both(&place);
    let (mut terminal, ready, command) = (Terminal::new(), ready(&place), place.root.path().join("command"));
    terminal.type_in(&format!(
        "{prefix} sh -c 'echo $$ > {}; touch {}; exec sleep 600'\n",
        command.display(),
        ready.display()
    ));
    wait_for(&ready);
    let command = Stray(number_in(&command));
    // As when a window is closed or a connection breaks: the kernel tells the shell, and the shell its jobs.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(terminal.shell.id() as i32), Signal::SIGHUP).unwrap();
    wait_until("the command is gone", || !command.is_running());
    wait_until("the lock is free", || place.output("run", &["-nq", "a", "--", "true"]).status.success());
}
