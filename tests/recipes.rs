//! `hostlock run` side by side with flock(1), in recipes as people write them: crontabs, scripts that lock themselves, makefiles,
//! units, jobs of a CI runner. Both forms of each are run, with the lock free and with the lock held. Where the two differ, the
//! difference is what is asserted: the README's list of differences is checked here, line by line ([`DIFFERENCES`]).
//!
//! Recipes stand here as they would stand in a file. [`Place::as_run`] moves their lock files and their space into a directory of the
//! test's own; nothing else about them is changed.
#![cfg(feature = "cli")]

mod support;

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use support::{PATIENCE, wait_until};

const HOSTLOCK: &str = env!("CARGO_BIN_EXE_hostlock");

/// Long enough for somebody to get a lock that is free, or to do what it should not do.
const A_WHILE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Flock,
    Hostlock,
}
use Tool::{Flock, Hostlock};

/// Who runs a recipe.
#[derive(Clone, Copy, Debug)]
enum By {
    /// A login shell.
    Sh,
    /// cron: a bare environment, a session of its own, no input.
    Cron,
    /// Nobody: it is the text of an executable file.
    File,
    Make,
    /// A service manager: words, not a shell's text.
    Unit,
}

/// What a recipe comes to while another run of it holds the lock.
#[derive(Clone, Copy, Debug)]
enum Busy {
    /// It ends with this status, and in silence or with one line that contains this.
    Refused(i32, Option<&'static str>),
    Waits,
}
use Busy::{Refused, Waits};

struct Recipe {
    what: &'static str,
    by: By,
    flock: &'static str,
    /// What flock's does when the lock is held.
    flock_busy: Busy,
    hostlock: &'static str,
    hostlock_busy: Busy,
}

/// How hostlock begins what it says of a lock that is held.
const IS_HELD: Option<&str> = Some("is held by pid ");

const RECIPES: &[Recipe] = &[
    Recipe {
        what: "cron: not while the last one runs",
        by: By::Cron,
        flock: "flock -n /tmp/sync.lock ./job",
        flock_busy: Refused(1, None),
        hostlock: "hostlock run -n sync -- ./job",
        hostlock_busy: Refused(75, IS_HELD),
    },
    Recipe {
        what: "cron: the same, busy is fine, no mail, and not for ever",
        by: By::Cron,
        flock: "/usr/bin/flock -E 0 -n /run/lock/upload-logs timeout 600 ./job",
        flock_busy: Refused(0, None),
        hostlock: "hostlock run -nqE 0 upload-logs -- timeout 600 ./job",
        hostlock_busy: Refused(0, None),
    },
    Recipe {
        what: "cron: no time to wait",
        by: By::Cron,
        flock: "/usr/bin/flock -w 0 /var/lock/cron.lock ./job",
        flock_busy: Refused(1, None),
        hostlock: "hostlock run -w 0 cron -- ./job",
        hostlock_busy: Refused(75, IS_HELD),
    },
    Recipe {
        what: "cron: a shell's line",
        by: By::Cron,
        flock: "flock -n /tmp/import.lock -c 'cd . && ./job'",
        flock_busy: Refused(1, None),
        hostlock: "hostlock run -n import -- sh -c 'cd . && ./job'",
        hostlock_busy: Refused(75, IS_HELD),
    },
    Recipe {
        what: "cron: take turns",
        by: By::Cron,
        flock: "flock -x /tmp/btrfs.lck ./job",
        flock_busy: Waits,
        hostlock: "hostlock run -x btrfs -- ./job",
        hostlock_busy: Waits,
    },
    Recipe {
        what: "shell: wait a little, or give up",
        by: By::Sh,
        flock: "flock -w 0.3 /var/lock/deploy.lock ./job || exit 3",
        flock_busy: Refused(3, None),
        hostlock: "hostlock run -w 0.3 deploy -- ./job || exit 3",
        hostlock_busy: Refused(3, Some("; waited ")),
    },
    Recipe {
        what: "CI: one deployment at a time on a runner",
        by: By::Sh,
        flock: "set -e\nflock -w 600 /tmp/deploy.lock ./job\necho deployed",
        flock_busy: Waits,
        hostlock: "set -e\nhostlock run -w 10m deploy -- ./job\necho deployed",
        hostlock_busy: Waits,
    },
    Recipe {
        what: "shell: long options",
        by: By::Sh,
        flock: "flock --exclusive --timeout 900 /tmp/pull.lock ./job",
        flock_busy: Waits,
        hostlock: "hostlock run --exclusive --timeout 900 pull -- ./job",
        hostlock_busy: Waits,
    },
    Recipe {
        what: "shell: a directory is the lock",
        by: By::Sh,
        flock: "flock . ./job",
        flock_busy: Waits,
        hostlock: "hostlock run git -- ./job",
        hostlock_busy: Waits,
    },
    Recipe {
        what: "script: a descriptor, until the script ends",
        by: By::File,
        flock: "exec 9>/var/lock/backup.lock\nflock -n 9 || { echo 'backup runs already' >&2; exit 1; }\n./job",
        flock_busy: Refused(1, Some("backup runs already")),
        hostlock: "[ \"${HOSTLOCK_NAME-}\" = backup ] || exec hostlock run -n backup -- \"$0\" \"$@\"\n./job",
        hostlock_busy: Refused(75, IS_HELD),
    },
    Recipe {
        what: "script: a descriptor, for a part of the script",
        by: By::File,
        flock: "(\n  flock -n 9 || exit 1\n  ./job\n) 9>/var/lock/part.lock",
        flock_busy: Refused(1, None),
        hostlock: "hostlock run -n part -- sh -ec '\n  ./job\n'",
        hostlock_busy: Refused(75, IS_HELD),
    },
    Recipe {
        what: "script: itself is the lock, as in flock(1)",
        by: By::File,
        flock: "[ \"${FLOCKER}\" != \"$0\" ] && exec env FLOCKER=\"$0\" flock -en \"$0\" \"$0\" \"$@\" || :\n./job",
        flock_busy: Refused(1, None),
        hostlock: "[ \"${HOSTLOCK_NAME-}\" = \"${0##*/}\" ] || exec hostlock run -en \"${0##*/}\" -- \"$0\" \"$@\"\n./job",
        hostlock_busy: Refused(75, IS_HELD),
    },
    Recipe {
        what: "make: a recipe that must not run twice",
        by: By::Make,
        flock: "flock $(CURDIR)/build.lock ./job",
        flock_busy: Waits,
        hostlock: "hostlock run build -- ./job",
        hostlock_busy: Waits,
    },
    Recipe {
        what: "systemd: a unit of a timer, busy is success",
        by: By::Unit,
        flock: "ExecStart=/usr/bin/flock -n -E 0 /run/rollup.lock ./job",
        flock_busy: Refused(0, None),
        hostlock: "ExecStart=/usr/local/bin/hostlock run -n -E 0 rollup -- ./job",
        hostlock_busy: Refused(0, IS_HELD),
    },
    Recipe {
        what: "systemd: a service that waits for the one before",
        by: By::Unit,
        flock: "ExecStart=/usr/bin/flock --exclusive /run/sysvol.lock ./job",
        flock_busy: Waits,
        hostlock: "ExecStart=/usr/local/bin/hostlock run --exclusive sysvol -- ./job",
        hostlock_busy: Waits,
    },
];

impl Recipe {
    fn of(&self, tool: Tool) -> (&'static str, Busy) {
        match tool {
            Flock => (self.flock, self.flock_busy),
            Hostlock => (self.hostlock, self.hostlock_busy),
        }
    }
}

/// A directory in which recipes of one tool are run. `./job` there writes down when it begins and ends, and lasts as long as there is
/// a file `hold`.
struct Place {
    tool: Tool,
    flock: String,
    directory: tempfile::TempDir,
    space: tempfile::TempDir,
    runs: AtomicU32,
}

/// What a process that has ended left to see.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    /// As a shell has it.
    status: i32,
    stdout: String,
    stderr: String,
}

/// Where flock(1) is, if it is here.
fn flock() -> Option<String> {
    let found = Command::new("sh").args(["-c", "command -v flock && flock --version"]).output().expect("a shell");
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    (found.status.success() && text.contains("util-linux")).then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Both places, or the test is skipped.
macro_rules! places {
    () => {
        match flock() {
            Some(flock) => [Place::new(Flock, &flock), Place::new(Hostlock, &flock)],
            None => skip!("no flock(1) of util-linux here"),
        }
    };
}

impl Place {
    fn new(tool: Tool, flock: &str) -> Self {
        // Not below /dev/shm: what lies there may not be executable.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let place = Self { tool, flock: flock.into(), directory, space: support::root(), runs: AtomicU32::new(0) };
        // It ends with the test, and with the test's directory, whoever has been killed meanwhile.
        place.executable(
            "job",
            &format!(
                "me=$$\n\
                 trap 'echo \"signal $me\" >> log; exit 143' TERM\n\
                 echo \"begin $me\" >> log\n\
                 echo 'said by the job'; echo 'complained by the job' >&2\n\
                 while [ -e hold ] && [ -d /proc/{} ]; do sleep 0.01; done\n\
                 echo \"end $me\" >> log\n\
                 exit \"$(cat code)\"",
                std::process::id()
            ),
        );
        place.job_ends_with(0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a program. Another process does: a descriptor of ours could be copied by a fork at the wrong moment, and then the program
    /// could not be run ("text file busy").
    fn executable(&self, name: &str, text: &str) {
        fs::write(self.path("text"), format!("#!/bin/sh\n{text}\n")).unwrap();
        let installed = Command::new("install").arg("-m755").arg(self.path("text")).arg(self.path(name)).status();
        assert!(installed.expect("install(1)").success());
    }

    fn job_ends_with(&self, code: u8) {
        fs::write(self.path("code"), code.to_string()).unwrap();
    }

    /// From now on jobs last until [`Place::release`].
    fn hold(&self) {
        File::create(self.path("hold")).unwrap();
    }

    fn release(&self) {
        fs::remove_file(self.path("hold")).unwrap();
    }

    /// The recipe with this test's places for those that it names.
    fn as_run(&self, recipe: &str) -> String {
        let directory = self.directory.path().to_str().unwrap();
        let space = self.space.path().join("space");
        let space = space.to_str().unwrap();
        assert!(![directory, space, HOSTLOCK].concat().contains(char::is_whitespace), "a path that needs quotes");
        // By way of marks, since our own directories may lie in theirs.
        let text = ["/var/lock/", "/run/lock/", "/run/", "/tmp/"].iter().fold(recipe.to_owned(), |text, theirs| {
            assert!(!text.contains('\u{1}') || text.contains("flock"), "a path of flock's in a recipe of hostlock's");
            text.replace(theirs, "\u{1}/")
        });
        // A recipe that names a space keeps it.
        let ours = if text.contains("--space ") { String::new() } else { format!(" --path {space}") };
        text.replace("/usr/bin/flock", "\u{2}")
            .replace("/usr/local/bin/hostlock", "hostlock")
            .replace("hostlock run", &format!("{HOSTLOCK} run{ours}"))
            .replace("hostlock elect", &format!("{HOSTLOCK} elect{ours}"))
            .replace('\u{1}', directory)
            .replace('\u{2}', &self.flock)
    }

    fn command(&self, by: By, recipe: &str) -> Command {
        let text = self.as_run(recipe);
        let mut command = match by {
            By::Sh => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &text]);
                shell
            }
            By::Cron => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &text]).env_clear();
                shell.env("SHELL", "/bin/sh").env("PATH", "/usr/bin:/bin").env("HOME", "/").env("LOGNAME", "nobody");
                shell
            }
            By::File => {
                // Once: who locks a script by its file locks another one when the file is replaced.
                if !self.path("recipe").exists() {
                    self.executable("recipe", &text);
                }
                Command::new("./recipe")
            }
            By::Make => {
                fs::write(self.path("Makefile"), format!("all:\n\t@{text}\n")).unwrap();
                Command::new("make")
            }
            By::Unit => {
                let mut words = text.strip_prefix("ExecStart=").unwrap_or(&text).split_whitespace();
                let mut command = Command::new(words.next().expect("a program"));
                command.args(words);
                command
            }
        };
        if matches!(by, By::Cron | By::Unit) {
            // SAFETY: setsid is async-signal-safe.
            unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
        }
        self.tied_to_us(command)
    }

    /// In this directory, without input, ending with us, and in a group, so that all of it can be ended.
    fn tied_to_us(&self, mut command: Command) -> Command {
        // SAFETY: these calls are async-signal-safe and are given valid arguments.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // Whoever leads a session leads a group.
                if nix::unistd::getpgrp() != nix::unistd::getpid() {
                    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                }
                Ok(())
            })
        };
        command.current_dir(self.directory.path()).stdin(Stdio::null()).env_remove("MAKEFLAGS").env_remove("FLOCKER");
        command
    }

    fn start_command(&self, mut command: Command) -> Running {
        let run = self.runs.fetch_add(1, Relaxed);
        // Files, since a pipe does not end before everybody who has it.
        let [stdout, stderr] = ["stdout", "stderr"].map(|name| self.path(&format!("{name}.{run}")));
        let open = |path: &PathBuf| File::create(path).expect("a file");
        let child = command.stdout(open(&stdout)).stderr(open(&stderr)).spawn().expect("start a process");
        Running { child, stdout, stderr, over: false }
    }

    fn start(&self, by: By, recipe: &str) -> Running {
        self.start_command(self.command(by, recipe))
    }

    /// Starts it, and waits until its job has begun.
    fn start_job(&self, by: By, recipe: &str) -> Running {
        let before = self.log("begin").len();
        let running = self.start(by, recipe);
        wait_until("the job begins", || self.log("begin").len() > before);
        running
    }

    fn run(&self, by: By, recipe: &str) -> Ended {
        self.start(by, recipe).finish()
    }

    /// The PIDs of the jobs that wrote down this, in that order.
    fn log(&self, what: &str) -> Vec<i32> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let words = |line: &str| line.split_once(' ').map(|(what, pid)| (what.to_owned(), pid.parse().unwrap()));
        log.lines().filter_map(words).filter(|(word, _)| word == what).map(|(_, pid)| pid).collect()
    }

    /// Whether one job began before another had ended. A job that was killed wrote no end.
    fn overlapped(&self) -> bool {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let mut inside = 0;
        log.lines().any(|line| {
            inside += match line.split(' ').next() {
                Some("begin") => 1,
                Some("end" | "signal") => -1,
                _ => panic!("{log}"),
            };
            inside > 1
        })
    }

    /// Whether the lock is free, for somebody who only tries. The recipe is this tool's.
    #[track_caller]
    fn is_free(&self, recipe: &str) -> bool {
        match self.run(By::Sh, recipe).status {
            0 => true,
            1 if self.tool == Flock => false,
            75 if self.tool == Hostlock => false,
            status => panic!("{status}"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Jobs that outlived their locker write a last line when they find that they may end, and so make a file in what is removed.
        let end = Instant::now() + PATIENCE;
        while fs::remove_dir_all(self.directory.path()).is_err() && self.directory.path().exists() {
            if Instant::now() > end {
                assert!(std::thread::panicking(), "{} stays", self.directory.path().display());
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A process in the background. It is killed when the test drops it, and so is its group.
struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    over: bool,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child can be signalled");
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).expect("UTF-8")
    }

    fn is_over(&mut self) -> bool {
        self.over |= self.child.try_wait().expect("our own child can be waited for").is_some();
        self.over
    }

    /// Waits until it ended by itself.
    #[track_caller]
    fn finish(&mut self) -> Ended {
        let end = Instant::now() + PATIENCE;
        while !self.is_over() {
            assert!(Instant::now() < end, "it did not end within {PATIENCE:?}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().expect("our own child can be waited for");
        Ended {
            status: status.code().unwrap_or_else(|| 128 + status.signal().expect("an end")),
            stdout: fs::read_to_string(&self.stdout).expect("UTF-8"),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Whether the process is there and is no zombie.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Fails unless it is one line of the tool's that contains this.
#[track_caller]
fn assert_says(text: &str, what: &str) {
    assert!(text.lines().count() == 1 && text.starts_with("hostlock: ") && text.contains(what), "{text:?}");
}

fn make_is_here() -> bool {
    Command::new("make").arg("--version").output().is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("GNU"))
}

// The recipes.

#[test]
fn recipes_do_the_same_with_a_free_lock() {
    let Some(flock) = flock() else { skip!("no flock(1) of util-linux here") };
    for recipe in RECIPES {
        if matches!(recipe.by, By::Make) && !make_is_here() {
            eprintln!("SKIPPED: {}: no GNU make here", recipe.what);
            continue;
        }
        for code in [0, 7] {
            let [with_flock, with_hostlock] = [Flock, Hostlock].map(|tool| {
                let place = Place::new(tool, &flock);
                place.job_ends_with(code);
                let ended = place.run(recipe.by, recipe.of(tool).0);
                assert_eq!(place.log("end").len(), 1, "{} with {tool:?}: {ended:?}", recipe.what);
                ended
            });
            assert!(with_flock.stdout.starts_with("said by the job\n"), "{}: {with_flock:?}", recipe.what);
            assert!(with_flock.stderr.starts_with("complained by the job\n"), "{}: {with_flock:?}", recipe.what);
            assert_eq!(with_flock.status == 0, code == 0, "{}: {with_flock:?}", recipe.what);
            assert_eq!(with_flock, with_hostlock, "{}", recipe.what);
        }
    }
}

#[test]
fn recipes_keep_out_a_second_run_each_in_its_way() {
    let Some(flock) = flock() else { skip!("no flock(1) of util-linux here") };
    for recipe in RECIPES {
        if matches!(recipe.by, By::Make) && !make_is_here() {
            eprintln!("SKIPPED: {}: no GNU make here", recipe.what);
            continue;
        }
        for tool in [Flock, Hostlock] {
            let place = Place::new(tool, &flock);
            let (text, busy) = recipe.of(tool);
            let about = format!("{} with {tool:?}", recipe.what);
            place.hold();
            let mut first = place.start_job(recipe.by, text);
            let mut second = place.start(recipe.by, text);
            match busy {
                Refused(status, says) => {
                    wait_until(&about, || second.is_over() || place.log("begin").len() > 1);
                    assert_eq!(place.log("begin").len(), 1, "{about}: it did not keep out the second run");
                    let ended = second.finish();
                    assert_eq!((ended.status, ended.stdout.as_str()), (status, ""), "{about}: {ended:?}");
                    match says {
                        None => assert_eq!(ended.stderr, "", "{about}"),
                        Some(what) if tool == Hostlock => assert_says(&ended.stderr, what),
                        Some(what) => assert_eq!(ended.stderr.trim(), what, "{about}"),
                    }
                    place.release();
                    assert_eq!(first.finish().status, 0, "{about}");
                }
                Waits => {
                    match tool {
                        Flock => std::thread::sleep(A_WHILE),
                        // After a second.
                        Hostlock => wait_until("it says whom it waits for", || second.stderr().ends_with('\n')),
                    }
                    assert!(!second.is_over() && place.log("begin").len() == 1, "{about}");
                    place.release();
                    assert_eq!((first.finish().status, second.finish().status), (0, 0), "{about}");
                    let said = second.stderr().replace("complained by the job\n", "");
                    match tool {
                        Flock => assert_eq!(said, "", "{about}"),
                        Hostlock => assert_says(&said, "waiting for lock \""),
                    }
                    assert_eq!(place.log("end").len(), 2, "{about}");
                }
            }
            assert!(!place.overlapped(), "{about}");
        }
    }
}

/// The control: jobs that share no lock are seen to overlap.
#[test]
fn jobs_without_a_lock_overlap() {
    for pair in [["./job", "./job"], ["hostlock run one -- ./job", "hostlock run another -- ./job"]] {
        let place = Place::new(Hostlock, "");
        place.hold();
        let mut both = pair.map(|recipe| place.start_job(By::Cron, recipe));
        place.release();
        assert_eq!(both.each_mut().map(|it| it.finish().status), [0, 0]);
        assert!(place.overlapped());
    }
}

// Where they differ.

/// What each line of the README's list of differences begins with, and the test that shows it.
const DIFFERENCES: &[(&str, fn())] = &[
    ("The lock is a name, not a file", deleting_or_replacing_a_file_lets_nobody_in),
    ("COMMAND does not outlive hostlock", a_killed_locker_takes_its_command_with_it),
    ("What COMMAND leaves behind keeps nothing", what_is_left_in_the_background_keeps_nothing),
    ("Signals reach COMMAND", a_cancelled_job_is_told_and_gives_the_lock_back),
    ("75, not 1", a_held_lock_has_a_status_of_its_own),
    ("It says who holds the lock", a_held_lock_is_told_of_unless_quiet_is_asked_for),
    ("A lock within itself is an error", a_run_within_its_own_lock_is_refused_and_does_not_hang),
    ("A shell only where you write one", forms_that_are_not_there_say_so_and_run_nothing),
    ("No descriptors", forms_that_are_not_there_say_so_and_run_nothing),
    ("With `-s` nobody waits for ever", a_writer_that_waits_is_not_overtaken_by_readers),
    ("What a name is, its first user says", a_name_is_shared_only_if_its_first_user_says_so),
    ("Every user has locks of their own", users_share_a_lock_where_a_path_and_a_mode_say_so),
];

#[test]
fn deleting_or_replacing_a_file_lets_nobody_in() {
    // The lock file, or the file of the space.
    let [flock, hostlock] = places!();
    flock.hold();
    let _first = flock.start_job(By::Unit, "flock -n /tmp/a.lock ./job");
    fs::remove_file(flock.path("a.lock")).unwrap();
    let _second = flock.start_job(By::Unit, "flock -n /tmp/a.lock ./job");
    assert!(flock.overlapped());

    hostlock.hold();
    let mut first = hostlock.start_job(By::Unit, "hostlock run -n a -- ./job");
    fs::remove_file(hostlock.space.path().join("space/segment")).unwrap();
    let second = hostlock.run(By::Unit, "hostlock run -n a -- ./job");
    assert_eq!(second.status, 69, "{second:?}");
    assert_says(&second.stderr, "removed");
    hostlock.release();
    assert_eq!(first.finish().status, 0);
    // When nobody is in it any more, it is made anew.
    assert_eq!(hostlock.run(By::Unit, "hostlock run -n a -- ./job").status, 0);
    assert!(!hostlock.overlapped() && hostlock.log("end").len() == 2);

    // A script that is its own lock, and a new version of it.
    let [flock, hostlock] = places!();
    let itself = RECIPES.iter().find(|recipe| recipe.what.contains("itself is the lock")).expect("the recipe");
    for place in [&flock, &hostlock] {
        let recipe = itself.of(place.tool).0;
        place.hold();
        let _first = place.start_job(By::File, recipe);
        place.executable("recipe", &place.as_run(recipe));
        let mut second = place.start(By::File, recipe);
        wait_until("it is in or out", || second.is_over() || place.log("begin").len() > 1);
        assert_eq!(place.overlapped(), place.tool == Flock);
    }
}

/// What neither form survives: whoever removes the directory of the locks makes room for others. The README says so.
#[test]
fn removing_the_directory_of_the_locks_lets_somebody_in() {
    let [flock, hostlock] = places!();
    for (place, recipe, remove) in [
        (&flock, "flock -n /tmp/locks/a.lock ./job", flock.path("locks")),
        (&hostlock, "hostlock run -n a -- ./job", hostlock.space.path().join("space")),
    ] {
        fs::create_dir(place.path("locks")).unwrap();
        place.hold();
        let _first = place.start_job(By::Unit, recipe);
        fs::remove_dir_all(remove).unwrap();
        fs::create_dir_all(place.path("locks")).unwrap();
        let _second = place.start_job(By::Unit, recipe);
        assert!(place.overlapped());
    }
}

#[test]
fn a_killed_locker_takes_its_command_with_it() {
    let [flock, hostlock] = places!();

    let try_flock = "flock -n /tmp/a.lock true";
    flock.hold();
    let mut first = flock.start_job(By::Unit, "flock /tmp/a.lock ./job");
    first.signal(Signal::SIGKILL);
    first.finish();
    let job = flock.log("begin")[0];
    std::thread::sleep(A_WHILE);
    assert!(is_running(job) && !flock.is_free(try_flock));
    flock.release();
    wait_until("its command gives the lock back", || flock.is_free(try_flock));

    let try_hostlock = "hostlock run -nq a -- true";
    hostlock.hold();
    let mut first = hostlock.start_job(By::Unit, "hostlock run a -- ./job");
    first.signal(Signal::SIGKILL);
    first.finish();
    let job = hostlock.log("begin")[0];
    let next = hostlock.run(By::Unit, "hostlock run -w 60 a -- printenv HOSTLOCK_ABANDONED");
    assert!(!is_running(job), "two at once");
    assert_eq!((next.status, next.stdout), (0, format!("{}\n", first.pid())), "{}", next.stderr);
    assert_eq!(hostlock.log("end"), [], "it was killed");

    // What COMMAND had started is not killed, and keeps the lock as long as it runs.
    hostlock.executable("with-child", "./job &\nwait");
    let mut first = hostlock.start_job(By::Unit, "hostlock run a -- ./with-child");
    first.signal(Signal::SIGKILL);
    first.finish();
    std::thread::sleep(A_WHILE);
    assert!(is_running(hostlock.log("begin")[1]) && !hostlock.is_free(try_hostlock));
    hostlock.release();
    wait_until("the child gives the lock back", || hostlock.is_free(try_hostlock));
}

/// `-o`, `--close`: nothing is handed down, so a killed locker can be followed at once.
#[test]
fn with_close_a_killed_locker_is_followed_before_its_command_is_gone() {
    let [flock, hostlock] = places!();
    flock.hold();
    let mut first = flock.start_job(By::Unit, "flock -o -n /tmp/a.lock ./job");
    first.signal(Signal::SIGKILL);
    first.finish();
    let _second = flock.start_job(By::Unit, "flock -o -w 60 /tmp/a.lock ./job");
    assert!(is_running(flock.log("begin")[0]) && flock.overlapped());

    hostlock.hold();
    hostlock.executable("with-child", "./job &\nwait");
    let mut first = hostlock.start_job(By::Unit, "hostlock run -o -n a -- ./with-child");
    first.signal(Signal::SIGKILL);
    first.finish();
    let _second = hostlock.start_job(By::Unit, "hostlock run -o -w 60 a -- ./job");
    assert!(is_running(hostlock.log("begin")[0]) && hostlock.overlapped());

    // COMMAND itself is killed in any case.
    let mut third = hostlock.start_job(By::Unit, "hostlock run -o -n another -- ./job");
    third.signal(Signal::SIGKILL);
    third.finish();
    wait_until("COMMAND is killed", || !is_running(hostlock.log("begin")[2]));
}

#[test]
fn what_is_left_in_the_background_keeps_nothing() {
    let [flock, hostlock] = places!();
    for (place, recipe, only_try, kept) in [
        (&flock, "flock /tmp/a.lock ./start", "flock -n /tmp/a.lock true", true),
        (&flock, "flock -o /tmp/b.lock ./start", "flock -n /tmp/b.lock true", false),
        (&hostlock, "hostlock run a -- ./start", "hostlock run -nq a -- true", false),
        (&hostlock, "hostlock run -o b -- ./start", "hostlock run -nq b -- true", false),
    ] {
        place.executable("start", "setsid ./job </dev/null >/dev/null 2>&1 &\nuntil [ -s log ]; do sleep 0.01; done");
        let _ = fs::remove_file(place.path("log"));
        place.hold();
        assert_eq!(place.run(By::Cron, recipe).status, 0, "{recipe}");
        assert_eq!(place.is_free(only_try), !kept, "{recipe}");
        assert!(is_running(place.log("begin")[0]), "{recipe}");
        place.release();
        wait_until("it gives back what it kept", || place.is_free(only_try));
    }
}

#[test]
fn a_cancelled_job_is_told_and_gives_the_lock_back() {
    let [flock, hostlock] = places!();
    flock.hold();
    let mut first = flock.start_job(By::Unit, "flock -w 600 /tmp/deploy.lock ./job");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.finish().status, 143);
    std::thread::sleep(A_WHILE);
    assert!(flock.log("signal").is_empty() && is_running(flock.log("begin")[0]));
    assert!(!flock.is_free("flock -n /tmp/deploy.lock true"));

    hostlock.hold();
    let mut first = hostlock.start_job(By::Unit, "hostlock run -w 10m deploy -- ./job");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.finish().status, 143);
    assert_eq!(hostlock.log("signal"), hostlock.log("begin"));
    assert!(!is_running(hostlock.log("begin")[0]) && hostlock.is_free("hostlock run -nq deploy -- true"));
}

/// A unit with `KillMode=mixed`: the signal goes to hostlock alone. (By default it goes to everybody, and COMMAND may get it twice.)
#[test]
fn a_service_that_is_stopped_gets_one_signal() {
    let place = Place::new(Hostlock, "");
    place.executable(
        "service",
        "trap 'echo \"signal $$\" >> log' TERM\necho \"begin $$\" >> log\nwhile [ -e hold ]; do sleep 0.01; done\nexit 5",
    );
    place.hold();
    let mut service = place.start_job(By::Unit, "ExecStart=/usr/local/bin/hostlock run service -- ./service");
    service.signal(Signal::SIGTERM);
    wait_until("it is told", || !place.log("signal").is_empty());
    std::thread::sleep(A_WHILE);
    assert_eq!(place.log("signal"), place.log("begin"));
    place.release();
    assert_eq!(service.finish().status, 5, "it may take its time, and end as it likes");
}

#[test]
fn a_held_lock_has_a_status_of_its_own() {
    let [flock, hostlock] = places!();
    for place in [&flock, &hostlock] {
        place.hold();
        fs::write(place.path("no-program"), "").unwrap();
    }
    let _flocked = flock.start_job(By::Unit, "flock /tmp/held.lock ./job");
    let _locked = hostlock.start_job(By::Unit, "hostlock run held -- ./job");
    for (with_flock, its_status, with_hostlock, status) in [
        ("flock -n /tmp/held.lock true", 1, "hostlock run -n held -- true", 75),
        ("flock -w 0.01 /tmp/held.lock true", 1, "hostlock run -w 0.01 held -- true", 75),
        ("flock -n -E 4 /tmp/held.lock true", 4, "hostlock run -n -E 4 held -- true", 4),
        ("flock -n /tmp/free.lock false", 1, "hostlock run -n free -- false", 1),
        ("flock /tmp/free.lock sh -c 'kill $$'", 143, "hostlock run free -- sh -c 'kill $$'", 143),
        ("flock /tmp/free.lock ./nothing", 69, "hostlock run free -- ./nothing", 127),
        ("flock /tmp/free.lock ./no-program", 69, "hostlock run free -- ./no-program", 126),
        ("flock -w soon /tmp/free.lock true", 64, "hostlock run -w soon free -- true", 64),
        ("flock ./nowhere/free.lock true", 66, "hostlock run --space ./nowhere/space free -- true", 69),
    ] {
        assert_eq!(flock.run(By::Sh, with_flock).status, its_status, "{with_flock}");
        assert_eq!(hostlock.run(By::Sh, with_hostlock).status, status, "{with_hostlock}");
    }
}

#[test]
fn a_held_lock_is_told_of_unless_quiet_is_asked_for() {
    let [flock, hostlock] = places!();
    for place in [&flock, &hostlock] {
        place.hold();
    }
    let _flocked = flock.start_job(By::Unit, "flock /tmp/a.lock ./job");
    let holder = hostlock.start_job(By::Unit, "hostlock run a -- ./job");
    for only_try in ["flock -n /tmp/a.lock true", "flock -w 0.1 /tmp/a.lock true"] {
        assert_eq!(flock.run(By::Sh, only_try).stderr, "");
    }
    let who =
        format!("is held by pid {} (hostlock) on behalf of pid {} (job) ", holder.pid(), hostlock.log("begin")[0]);
    // COMMAND begins before hostlock has written down which process it is.
    wait_until("it knows for whom", || hostlock.run(By::Sh, "hostlock run -n a -- true").stderr.contains(&who));
    for option in ["-n", "-w 0.1"] {
        assert_says(&hostlock.run(By::Sh, &format!("hostlock run {option} a -- true")).stderr, &who);
        let quiet = hostlock.run(By::Sh, &format!("hostlock run -q {option} a -- true"));
        assert_eq!((quiet.status, quiet.stderr.as_str()), (75, ""));
    }
    // One that has to wait for more than a second says so while it waits, and not if it is asked to be quiet.
    let waiting = hostlock.start(By::Sh, "hostlock run a -- true");
    let mut silent = hostlock.start(By::Sh, "hostlock run -q a -- true");
    wait_until("it says for whom it waits", || waiting.stderr().ends_with('\n'));
    assert_says(&waiting.stderr(), "waiting for lock \"a\", held by pid ");
    std::thread::sleep(A_WHILE);
    hostlock.release();
    assert_eq!(silent.finish(), Ended { status: 0, stdout: "".into(), stderr: "".into() });
}

#[test]
fn a_run_within_its_own_lock_is_refused_and_does_not_hang() {
    let [flock, hostlock] = places!();
    let mut hangs = flock.start(By::Cron, "flock /tmp/a.lock flock /tmp/a.lock true");
    // No deadline.
    let refused = hostlock.run(By::Cron, "hostlock run a -- hostlock run a -- ./job");
    assert_eq!(refused.status, 75, "{refused:?}");
    assert_says(&refused.stderr, "waiting for it would never end");
    std::thread::sleep(A_WHILE);
    assert!(!hangs.is_over());
    drop(hangs);
    // Another lock may be taken under it.
    assert_eq!(flock.run(By::Cron, "flock /tmp/b.lock flock /tmp/c.lock ./job").status, 0);
    assert_eq!(hostlock.run(By::Cron, "hostlock run b -- hostlock run c -- ./job").status, 0);
}

#[test]
fn forms_that_are_not_there_say_so_and_run_nothing() {
    let [flock, hostlock] = places!();
    for (with_flock, with_hostlock, status) in [
        ("flock /tmp/a.lock -c 'exec ./job'", "hostlock run a -c 'exec ./job'", 64),
        ("flock -n /tmp/a.lock -c 'exec ./job'", "hostlock run -n a -c 'exec ./job'", 64),
        // Not by a shell: this is the name of a program.
        ("flock /tmp/a.lock -c './job; true'", "hostlock run a './job; true'", 127),
        ("exec 9>/tmp/a.lock; flock 9 && ./job", "hostlock run 9 && ./job", 64),
        ("exec 9>/tmp/a.lock; flock -n 9 || exit; ./job; flock -u 9", "hostlock run -u 9 && ./job", 64),
        ("flock -F /tmp/a.lock ./job", "hostlock run -F a -- ./job", 64),
        ("flock --verbose /tmp/a.lock ./job", "hostlock run --verbose a -- ./job", 64),
    ] {
        let begun = flock.log("begin").len();
        assert_eq!((flock.run(By::Sh, with_flock).status, flock.log("begin").len()), (0, begun + 1), "{with_flock}");
        let ended = hostlock.run(By::Sh, with_hostlock);
        assert_eq!((ended.status, hostlock.log("begin").len()), (status, 0), "{with_hostlock}: {ended:?}");
        assert_says(&ended.stderr, "");
    }
}

#[test]
fn a_writer_that_waits_is_not_overtaken_by_readers() {
    for place in places!() {
        let (reader, writer, newcomer, status) = match place.tool {
            Flock => ("flock -s /tmp/a.lock ./job", "flock -x /tmp/a.lock ./job", "flock -sn /tmp/a.lock true", 0),
            Hostlock => ("hostlock run -s a -- ./job", "hostlock run -qx a -- ./job", "hostlock run -sn a -- true", 75),
        };
        place.hold();
        let mut reader = place.start_job(By::Sh, reader);
        assert_eq!(place.run(By::Sh, newcomer).status, 0);
        let mut writer = place.start(By::Sh, writer);
        match place.tool {
            Flock => std::thread::sleep(A_WHILE),
            Hostlock => wait_until("it waits", || place.run(By::Sh, newcomer).status != 0),
        }
        assert!(!writer.is_over() && place.log("begin").len() == 1);
        assert_eq!(place.run(By::Sh, newcomer).status, status, "{:?}", place.tool);
        place.release();
        assert_eq!((reader.finish().status, writer.finish().status), (0, 0));
        assert!(!place.overlapped());
    }
}

#[test]
fn a_name_is_shared_only_if_its_first_user_says_so() {
    let [flock, hostlock] = places!();
    let statuses = |place: &Place, recipes: &[&str]| -> Vec<i32> {
        recipes.iter().map(|recipe| place.run(By::Sh, recipe).status).collect()
    };
    assert_eq!(statuses(&flock, &["flock /tmp/a.lock ./job", "flock -s /tmp/a.lock ./job"]), [0, 0]);
    assert_eq!(statuses(&hostlock, &["hostlock run a -- ./job", "hostlock run -x a -- ./job"]), [0, 0]);
    let refused = hostlock.run(By::Sh, "hostlock run -s a -- ./job");
    assert_eq!(refused.status, 64);
    assert_says(&refused.stderr, "\"a\" is a mutex, not a read-write lock");
    let all = ["hostlock run -x b -- ./job", "hostlock run -s b -- ./job", "hostlock run b -- ./job"];
    assert_eq!(statuses(&hostlock, &all), [0, 0, 0]);
}

// What is the same, and might be thought not to be.

#[test]
fn readers_share() {
    for place in places!() {
        let (reader, writer, busy) = match place.tool {
            Flock => ("flock -s -n /tmp/a.lock ./job", "flock -n /tmp/a.lock ./job", 1),
            Hostlock => ("hostlock run -s -n a -- ./job", "hostlock run -n a -- ./job", 75),
        };
        place.hold();
        let mut readers = [(); 3].map(|()| place.start_job(By::Sh, reader));
        assert!(place.overlapped());
        assert_eq!((place.run(By::Sh, writer).status, place.log("begin").len()), (busy, 3));
        place.release();
        assert_eq!(readers.each_mut().map(|it| it.finish().status), [0; 3]);
        assert_eq!(place.run(By::Sh, writer).status, 0);
        place.hold();
        let _writer = place.start_job(By::Sh, writer);
        assert_eq!(place.run(By::Sh, reader).status, busy);
    }
}

#[test]
fn make_runs_one_locked_recipe_at_a_time() {
    if !make_is_here() {
        skip!("no GNU make here");
    }
    for place in places!() {
        let lock = match place.tool {
            Flock => "flock $(CURDIR)/link.lock",
            Hostlock => "hostlock run -q link --",
        };
        let free = "one two three: ; @./job\n";
        let locked = free.replace("@", &format!("@{lock} "));
        for (rules, together) in [(locked.as_str(), 1), (free, 3)] {
            let _ = fs::remove_file(place.path("log"));
            fs::write(place.path("Makefile"), place.as_run(rules)).unwrap();
            place.hold();
            let mut make = place.start_job(By::Sh, "make -j3 one two three");
            wait_until("all that may run do", || place.log("begin").len() >= together);
            std::thread::sleep(A_WHILE);
            assert_eq!(place.log("begin").len(), together, "{rules}");
            place.release();
            assert_eq!(make.finish().status, 0, "{rules}");
            assert_eq!((place.log("end").len(), place.overlapped()), (3, together > 1), "{rules}");
        }
    }
}

#[test]
fn a_make_under_the_lock_keeps_its_job_server() {
    if !make_is_here() {
        skip!("no GNU make here");
    }
    for place in places!() {
        let lock = match place.tool {
            Flock => "flock $(CURDIR)/all.lock",
            Hostlock => "hostlock run all --",
        };
        fs::write(place.path("parts.mk"), "parts: one two\none two: ; @./job\n").unwrap();
        fs::write(place.path("Makefile"), place.as_run(&format!("all: ; @+{lock} $(MAKE) -sf parts.mk\n"))).unwrap();
        place.hold();
        let mut make = place.start(By::Sh, "make -j2");
        // Without it they would come one after the other.
        wait_until("both parts are made at once", || place.log("begin").len() == 2);
        place.release();
        let ended = make.finish();
        assert!(ended.status == 0 && !ended.stderr.contains("jobserver"), "{ended:?}");
    }
}

#[test]
fn input_is_the_commands() {
    let [flock, hostlock] = places!();
    let with_flock = flock.run(By::Cron, "echo read me | flock /tmp/a.lock cat");
    let with_hostlock = hostlock.run(By::Cron, "echo read me | hostlock run a -- cat");
    assert_eq!(with_flock.stdout, "read me\n");
    assert_eq!(with_flock, with_hostlock);
}

/// `flock /var/lib/dpkg/lock-frontend apt-get ...`, as it is found in many scripts, waits for nobody: dpkg and apt lock that file with
/// fcntl, which flock(1) does not see. Nor does hostlock; both only lock out those who ask in the same way.
#[test]
fn the_lock_of_dpkg_is_neithers() {
    use nix::fcntl::{FcntlArg, fcntl};
    let [flock, hostlock] = places!();
    let file = File::create(flock.path("lock-frontend")).unwrap();
    let lock = |kind| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_SETLK(&lock(libc::F_WRLCK))).unwrap();
    // Another way of asking, that does see it.
    let mut query = lock(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut query)).unwrap();
    assert_eq!(query.l_type, libc::F_WRLCK as libc::c_short);
    assert_eq!(flock.run(By::Sh, "flock -n /tmp/lock-frontend ./job").status, 0);
    assert_eq!(hostlock.run(By::Sh, "hostlock run -n /tmp/lock-frontend -- ./job").status, 0);
}

// In the default space, which is everybody's of one user: only where it can be another than that of this machine.

/// Runs this with an empty /dev/shm of its own, in which the tool lies.
fn with_private_shm(script: &str) -> Option<Ended> {
    let place = Place::new(Hostlock, "");
    let prepare =
        "mount -t tmpfs -o mode=1777 none /dev/shm && cp -p \"$0\" /dev/shm/hostlock && chmod 755 /dev/shm/hostlock";
    let private = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("{prepare} || exit 99; PATH=/dev/shm:$PATH; {script}"), HOSTLOCK]);
        place.start_command(place.tied_to_us(command)).finish()
    };
    (private("true").status == 0).then(|| private(script))
}

#[test]
fn cron_and_a_login_shell_mean_the_same_lock() {
    let script = "hostlock run job -- env -i PATH=/dev/shm:/usr/bin:/bin TMPDIR=/dev/shm/other XDG_RUNTIME_DIR=/dev/shm/other HOME=/ \
                  hostlock run -n job -- echo both";
    let Some(ended) = with_private_shm(script) else { skip!("no mount namespaces here") };
    assert_eq!((ended.status, ended.stdout.as_str()), (75, ""), "{ended:?}");
    assert_says(&ended.stderr, "lock \"job\" is held");
}

#[test]
fn users_share_a_lock_where_a_path_and_a_mode_say_so() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root can be two users");
    }
    if flock().is_none() {
        skip!("no flock(1) of util-linux here");
    }
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let flock = format!(
        "mkdir -m 755 /dev/shm/locks; flock /dev/shm/locks/job.lock {nobody} flock -n /dev/shm/locks/job.lock echo both"
    );
    let Some(ended) = with_private_shm(&flock) else { skip!("no mount namespaces here") };
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{ended:?}");

    let each = with_private_shm(&format!("hostlock run job -- {nobody} hostlock run -n job -- echo both")).unwrap();
    assert_eq!((each.status, each.stdout.as_str(), each.stderr.as_str()), (0, "both\n", ""));

    let team = "--path /dev/shm/team/locks --mode 660";
    let shared = with_private_shm(&format!(
        "mkdir -m 2770 /dev/shm/team && chgrp 65534 /dev/shm/team && \
         hostlock run {team} job -- {nobody} hostlock run {team} -n job -- echo both"
    ));
    let shared = shared.unwrap();
    assert_eq!((shared.status, shared.stdout.as_str()), (75, ""), "{shared:?}");
    assert_says(&shared.stderr, "lock \"job\" is held");
}

// The README.

fn readme() -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let (_, section) = text.split_once("\n## From the shell\n").expect("the section");
    section.split("\n## ").next().expect("its text").to_owned()
}

#[test]
fn every_difference_in_the_readme_is_one_that_is_tested() {
    let text = readme();
    let (_, list) = text.split_once("\n### Where it differs").expect("the list");
    let told: Vec<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("* **"))
        .map(|line| line.split("**").next().expect("what is bold").trim_end_matches('.'))
        .collect();
    assert_eq!(told, DIFFERENCES.iter().map(|(what, _)| *what).collect::<Vec<_>>());
    let words: Vec<_> = text.split_whitespace().collect();
    assert!(words.join(" ").contains("in fifteen recipes") && RECIPES.len() == 15, "there are {}", RECIPES.len());
}

/// The fenced blocks of the README's section: language and text.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let blocks: Vec<_> = text
        .split("\n```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.split_once('\n'))
        .filter(|(its, _)| *its == language)
        .map(|(_, block)| block.to_owned())
        .collect();
    assert!(!blocks.is_empty(), "no block of {language}");
    blocks
}

/// The only block of this language that contains this.
fn block(language: &str, containing: &str) -> String {
    let found: Vec<_> = blocks(language).into_iter().filter(|block| block.contains(containing)).collect();
    assert_eq!(found.len(), 1, "{containing}: {found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn the_readmes_crontab_mails_who_holds_the_lock_or_nothing() {
    let block = block("crontab", "sync");
    let lines: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("*/5 * * * * ")).collect();
    assert_eq!(lines.len(), 2);
    for (line, busy) in lines.iter().zip([(75, IS_HELD), (0, None)]) {
        let place = Place::new(Hostlock, "");
        place.executable("sync.sh", "exec ./job");
        assert_eq!(place.run(By::Cron, line).stdout, "said by the job\n");
        place.hold();
        let _first = place.start_job(By::Cron, line);
        let second = place.run(By::Cron, line);
        assert_eq!((second.status, second.stdout.as_str()), (busy.0, ""), "{second:?}");
        match busy.1 {
            Some(what) => assert_says(&second.stderr, what),
            None => assert_eq!(second.stderr, ""),
        }
        assert_eq!(place.log("begin").len(), 2);
    }
}

#[test]
fn the_readmes_script_runs_once_and_clears_up_after_a_killed_run() {
    let script = block("sh", "staging");
    let script = script.strip_prefix("#!/bin/sh\n").expect("a script");
    let place = Place::new(Hostlock, "");
    place.executable("import", "echo \"$*\" >> tokens; exec ./job");
    fs::create_dir(place.path("staging")).unwrap();

    assert_eq!(place.run(By::File, script).status, 0);
    assert!(place.path("staging").exists(), "nobody died");
    place.hold();
    let mut first = place.start_job(By::File, script);
    let second = place.run(By::File, script);
    assert_eq!(second.status, 75);
    assert_says(&second.stderr, "lock \"import\" is held by pid ");
    first.signal(Signal::SIGKILL);
    first.finish();
    place.release();
    // It was started by what was killed, and kept the lock.
    wait_until("the import ends", || !is_running(place.log("begin")[1]));
    assert_eq!(place.run(By::File, script).status, 0);
    assert!(!place.path("staging").exists(), "the run before was killed");

    let tokens = fs::read_to_string(place.path("tokens")).unwrap();
    let tokens: Vec<u64> =
        tokens.lines().map(|line| line.strip_prefix("--token ").expect("a token").parse().unwrap()).collect();
    assert!(tokens.len() == 3 && tokens.is_sorted_by(|before, after| before < after), "{tokens:?}");
}

#[test]
fn the_readmes_leaders_follow_each_other() {
    // In the shell's place, which would otherwise be what is killed.
    let line = format!("exec {}", block("sh", "elect"));
    let place = Place::new(Hostlock, "");
    place.executable("scheduler", "echo \"$HOSTLOCK_TOKEN\" >> tokens; exec ./job");
    place.hold();
    let mut first = place.start_job(By::Sh, &line);
    let mut second = place.start(By::Sh, &line);
    std::thread::sleep(A_WHILE);
    assert!(!second.is_over() && place.log("begin").len() == 1, "two lead");
    first.signal(Signal::SIGKILL);
    first.finish();
    wait_until("the second one leads", || place.log("begin").len() == 2);
    place.release();
    assert_eq!(second.finish().status, 0);
    let tokens = fs::read_to_string(place.path("tokens")).unwrap();
    let tokens: Vec<u64> = tokens.lines().map(|line| line.parse().unwrap()).collect();
    assert!(tokens.len() == 2 && tokens.is_sorted_by(|before, after| before < after), "{tokens:?}");
}

#[test]
fn the_readmes_readers_share_and_its_writer_is_alone() {
    let block = block("sh", "publish.sh");
    let lines: Vec<_> = block.lines().collect();
    let [reader, writer] = lines[..] else { panic!("{lines:?}") };
    for first in [reader, writer] {
        let place = Place::new(Hostlock, "");
        ["publish.sh", "prune.sh"].iter().for_each(|name| place.executable(name, "exec ./job"));
        // Whichever comes first makes the name.
        assert_eq!(place.run(By::Sh, first).status, 0);
        let begun = place.log("begin").len();
        place.hold();
        let mut readers = [(); 2].map(|()| place.start_job(By::Sh, reader));
        assert_eq!(place.log("begin").len(), begun + 2);
        let mut alone = place.start(By::Sh, &writer.replace("run ", "run -q "));
        std::thread::sleep(A_WHILE);
        assert!(!alone.is_over() && place.log("begin").len() == begun + 2);
        place.release();
        assert_eq!(readers.each_mut().map(|it| it.finish().status), [0; 2]);
        assert_eq!((alone.finish().status, place.log("end").len()), (0, begun + 3));
    }
}

#[test]
fn the_readmes_limit_lets_so_many_run_and_the_others_wait() {
    let block = block("sh", "--of 3");
    let place = Place::new(Hostlock, "");
    place.executable("encode.sh", "exec ./job");
    (0..5).for_each(|film| drop(File::create(place.path(&format!("{film}.mkv"))).unwrap()));
    place.hold();
    let mut all = place.start(By::Sh, &block);
    wait_until("three run", || place.log("begin").len() == 3);
    std::thread::sleep(A_WHILE);
    assert_eq!(place.log("begin").len(), 3, "a fourth of three");
    place.release();
    assert_eq!((all.finish().status, place.log("end").len()), (0, 5));
    // As GNU parallel's `sem -j 3`.
    let sem = "for film in *.mkv; do sem -j 3 --id encode ./encode.sh \"$film\"; done; sem --wait --id encode";
    if !Command::new("sh").args(["-c", "sem --version"]).output().is_ok_and(|found| found.status.success()) {
        skip!("no sem of GNU parallel here");
    }
    place.hold();
    let mut all = place.start(By::Sh, sem);
    wait_until("three run", || place.log("begin").len() == 8);
    std::thread::sleep(A_WHILE);
    assert_eq!(place.log("begin").len(), 8);
    place.release();
    assert_eq!((all.finish().status, place.log("end").len()), (0, 10));
}

/// The others, with stand-ins for the programs that they name: those say what they were given.
#[test]
fn what_else_the_readme_tells_people_to_type_does_what_it_looks_like() {
    let place = Place::new(Hostlock, "");
    fs::create_dir(place.path("bin")).unwrap();
    for (name, told) in [("bin/git", "git"), ("bin/make", "make"), ("deploy.sh", "deploy"), ("rollup", "rollup")] {
        place.executable(name, &format!("echo {told} \"$@\""));
    }
    place.executable("flash.sh", "echo flash \"$@\"");
    let here = "PATH=$PWD/bin:$PATH\n";
    let yaml = block("yaml", "deploy");
    let unit = block("ini", "ExecStart");
    let exec_start = unit.lines().find(|line| line.starts_with("ExecStart=")).expect("a command");
    assert!(unit.contains("KillMode=mixed"));
    let first = block("sh", "cargo install");
    for (by, recipe, stdout) in [
        (By::Sh, format!("{here}{}", first.lines().last().unwrap()), "make deploy\n"),
        (By::Sh, format!("{here}{}", block("sh", "git pull")), "git pull\nmake install\n"),
        (By::Sh, yaml.trim_start_matches("- run: ").replace("--path /srv/ci/locks", "--space ./locks"), "deploy\n"),
        (By::Unit, exec_start.replace("/usr/local/bin/rollup", "./rollup"), "rollup\n"),
    ] {
        let ended = place.run(by, &recipe);
        assert_eq!((ended.status, ended.stdout.as_str(), ended.stderr.as_str()), (0, stdout, ""), "{recipe}");
    }
    if !make_is_here() {
        skip!("no GNU make here");
    }
    fs::write(place.path("Makefile"), place.as_run(&block("make", "flash"))).unwrap();
    fs::write(place.path("firmware.bin"), "").unwrap();
    let ended = place.run(By::Sh, "make -s flash");
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "flash firmware.bin\n"), "{ended:?}");
}

/// So that none of them goes unchecked.
#[test]
fn every_block_of_the_readme_is_one_that_is_tested() {
    let text = readme();
    let languages: Vec<_> = text.split("\n```").skip(1).step_by(2).map(|block| block.lines().next().unwrap()).collect();
    assert_eq!(languages, ["sh", "crontab", "sh", "sh", "sh", "sh", "make", "yaml", "ini", "sh"]);
}
