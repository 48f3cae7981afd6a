//! `hostlock doctor`, as a user sees it, in environments that lack something, each a real one: a filter of system calls, a
//! namespace, a file system without room. What the doctor says cannot work is tried as well, and must not.
#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use hostlock::Space;
use hostlock::diagnosis::{Need, Verdict};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::gettid;
use serde_json::Value;
use support::filter::{self, filtered};
use support::raw::{Raw, held_by};
use support::tool::*;
use support::{act, start, wait_until};

#[test]
fn role() {
    act(&[("diagnoser", diagnoser), ("fuse", fuse)]);
}

const ALL_IS_WELL: &str = "this machine can do everything hostlock needs";
const TOOL: &str = env!("CARGO_BIN_EXE_hostlock");

/// What `doctor --json` printed.
struct Report {
    all: Value,
    code: Option<i32>,
    stderr: String,
}

impl Report {
    #[track_caller]
    fn of(output: &Output) -> Self {
        let all = serde_json::from_slice(&output.stdout);
        let all = all.unwrap_or_else(|e| panic!("{e}: {} {}", stdout(output), stderr(output)));
        Self { all, code: output.status.code(), stderr: stderr(output) }
    }

    /// Of the space at `place`.
    #[track_caller]
    fn new(place: &Place) -> Self {
        Self::of(&place.output("doctor", &["--json"]))
    }

    fn names(&self) -> Vec<&str> {
        self.all["findings"].as_array().unwrap().iter().map(|finding| finding["name"].as_str().unwrap()).collect()
    }

    #[track_caller]
    fn finding(&self, name: &str) -> &Value {
        let findings = self.all["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name} in {}", self.all))
    }

    /// Fails unless this verdict was given for a reason that contains `seen`.
    #[track_caller]
    fn expect(&self, name: &str, verdict: &str, seen: &str) {
        let finding = self.finding(name);
        assert_eq!(finding["verdict"], verdict, "{finding}");
        assert!(finding["seen"].as_str().unwrap().contains(seen), "{finding} does not say {seen:?}");
        // Who reads of a defect reads what it means.
        let says_what_follows = !finding["follows"].as_str().unwrap().is_empty();
        assert!(says_what_follows || !["missing", "unusable"].contains(&verdict), "{finding}");
    }

    /// Fails unless locks cannot work, because of `name`.
    #[track_caller]
    fn expect_failure(&self, name: &str) {
        assert_eq!((self.code, &self.all["can_work"]), (Some(69), &Value::Bool(false)), "{}", self.all);
        assert!(self.stderr.starts_with("hostlock: locks cannot work here: ") && self.stderr.lines().count() == 1);
        assert!(self.stderr.contains(name), "{:?} does not name {name}", self.stderr);
        assert_eq!(self.finding(name)["need"], "essential");
    }

    /// Fails unless locks can work.
    #[track_caller]
    fn expect_success(&self) {
        assert_eq!((self.code, &self.all["can_work"]), (Some(0), &Value::Bool(true)), "{}", self.all);
        assert_eq!(self.stderr, "");
    }
}

/// `doctor --json` behind a shell script that arranges its mounts: `$1` is the root of `place`, `$2` the tool, `$3` the space.
fn in_own_mounts(preparation: &str, place: &Place) -> Command {
    in_namespaces(&["--mount", "--propagation", "private"], preparation, place)
}

fn in_namespaces(options: &[&str], preparation: &str, place: &Place) -> Command {
    let mut command = dying_with_us(Command::new("unshare"));
    command.args(options).args(["sh", "-c", preparation, "sh"]).arg(place.root.path()).arg(TOOL).arg(place.space());
    command
}

/// Whether namespaces are to be had, and the mounts in them; else why not.
fn can_have(options: &[&str], preparation: &str, place: &Place) -> Result<(), String> {
    let tried = output(&mut in_namespaces(options, &format!("{preparation} && echo ready"), place));
    if stdout(&tried) == "ready\n" {
        Ok(())
    } else {
        Err(format!("{options:?} {preparation:?}: {}", stderr(&tried).trim()))
    }
}

const OWN_MOUNTS: &[&str] = &["--mount", "--propagation", "private"];

/// The report from within mounts that `preparation` arranged.
fn report_after(preparation: &str, place: &Place) -> Result<Report, String> {
    can_have(OWN_MOUNTS, preparation, place)?;
    let script = format!("{preparation} && exec \"$2\" doctor --json --path \"$3\"");
    Ok(Report::of(&output(&mut in_own_mounts(&script, place))))
}

// ---------------------------------------------------------------------------------------------------------------------
// What it prints, and that it leaves everything as it was.

#[test]
fn where_locks_work_everything_essential_is_ok() {
    let place = Place::new();
    let output = place.output("doctor", &[]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    let report = Report::new(&place);
    report.expect_success();
    for finding in report.all["findings"].as_array().unwrap() {
        assert!(finding["need"] != "essential" || finding["verdict"] == "ok", "{finding}");
    }
    // And they do.
    assert!(place.output("run", &["a", "--", "true"]).status.success());
}

#[test]
fn each_finding_is_a_line_and_the_last_one_is_the_verdict() {
    let place = Place::new();
    let (text, report) = (stdout(&place.output("doctor", &[])), Report::new(&place));
    let lines: Vec<&str> = text.lines().collect();
    let (verdict, findings) = lines.split_last().unwrap();
    assert_eq!(*verdict, report.all["summary"].as_str().unwrap());
    assert_eq!(findings.len(), report.names().len(), "{text}");
    let width = report.names().iter().map(|name| name.len()).max().unwrap();
    for (line, name) in findings.iter().zip(report.names()) {
        let finding = report.finding(name);
        let begin = format!("{:8}  {name:width$}  ", finding["verdict"].as_str().unwrap());
        assert!(line.starts_with(&begin) && line.len() > begin.len(), "{line:?} is not {begin:?}");
    }
    let asked_for = [
        "shared mapping",
        "futex",
        "byte locks",
        "directory locks",
        "allocation",
        "publishing",
        "wiped in a fork",
        "presence",
        "pidfd_open",
        "pidfs inode",
        "start times",
        "robust list",
        "futex_waitv",
        "membarrier",
        "kernel",
        "room",
        "file system",
        "PID namespace",
        "time namespace",
        "user namespace",
        "mount namespace",
        "boot id",
        "directory",
        "space",
    ];
    for name in asked_for {
        report.finding(name);
    }
}

/// Everything below a directory: names, inodes, sizes, times of change, and what is in the files.
fn everything_in(directory: &Path) -> Vec<(String, u64, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
        let meta = entry.metadata().unwrap();
        let bytes = if meta.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        found.push((entry.path().display().to_string(), meta.ino(), meta.ctime(), meta.ctime_nsec(), bytes));
        if meta.is_dir() {
            found.extend(everything_in(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn looking_changes_nothing_and_leaves_nothing() {
    let place = Place::new();
    Report::new(&place).expect("space", "ok", "does not exist");
    assert_eq!(everything_in(place.root.path()), []);
    let holder = place.start_script(&[], "held", "exec sleep 1000");
    // What the holder still writes after COMMAND runs.
    wait_until("it is known for whom the lock is held", || {
        let seen = Space::builder("space").root(place.root.path()).inspect().unwrap();
        let for_command = |participant: &hostlock::ParticipantReport| {
            participant.on_behalf_of.as_ref().is_some_and(|command| command.pid != participant.process.pid)
        };
        seen.participants.iter().all(for_command)
    });
    let names =
        || fs::read_dir(place.root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>();
    let before = (names(), everything_in(&place.space()));
    let report = Report::new(&place);
    report.expect_success();
    report.expect("participants", "ok", "1 of 1024");
    report.expect("locks", "ok", "1 of 4096 names are in use, 1 held");
    assert!((names(), everything_in(&place.space())) == before, "something was changed");
    drop(holder);
}

#[test]
fn wrong_calls_are_64() {
    let place = Place::new();
    assert_eq!(place.output("doctor", &["--frobnicate"]).status.code(), Some(64));
    let hidden = output(Command::new(TOOL).args(["doctor", "--path"]).arg(place.root.path().join(".hidden")));
    assert_eq!(hidden.status.code(), Some(64));
    assert!(stderr(&hidden).contains("starts with a dot"), "{}", stderr(&hidden));
}

static CHILDREN_ENDED: AtomicU32 = AtomicU32::new(0);

extern "C" fn child_ended(_: c_int) {
    CHILDREN_ENDED.fetch_add(1, SeqCst);
}

/// A program that counts its children, and looks at itself from several threads.
fn diagnoser(arguments: &[String]) {
    let action = SigAction::new(SigHandler::Handler(child_ended), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler adds to an atomic.
    unsafe { sigaction(Signal::SIGCHLD, &action) }.unwrap();
    let diagnose = || Space::builder("space").root(&arguments[0]).diagnose().unwrap();
    for _ in 0..100 {
        std::thread::scope(|scope| {
            for diagnosis in [0; 8].map(|_| scope.spawn(diagnose)).map(|thread| thread.join().unwrap()) {
                let bad = |verdict| verdict != Verdict::Ok;
                let worst =
                    diagnosis.findings.iter().find(|finding| finding.need == Need::Essential && bad(finding.verdict));
                assert_eq!(worst, None);
            }
        });
    }
    assert_eq!(CHILDREN_ENDED.load(SeqCst), 0, "somebody was told of a child");
    assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD));
    assert_eq!(fs::read_dir(&arguments[0]).unwrap().count(), 0);
    support::say("content");
}

#[test]
fn a_program_that_looks_at_itself_notices_no_children() {
    let root = support::root();
    start("diagnoser", &[root.path().to_str().unwrap()]).expect("content");
}

// ---------------------------------------------------------------------------------------------------------------------
// Filters.

#[test]
fn what_a_filter_refuses_is_named_and_what_then_cannot_work_does_not() {
    or_skip!(filter::is_possible());
    let cases = [
        // A program that waits for its threads is ended by the C library, unless they ended before: no wait, no harm.
        (libc::SYS_futex, Errno::EPERM, "futex", None),
        (libc::SYS_futex, Errno::ENOSYS, "futex", None),
        (libc::SYS_fcntl, Errno::EPERM, "byte locks", Some(false)),
        (libc::SYS_flock, Errno::EPERM, "directory locks", Some(false)),
        (libc::SYS_madvise, Errno::EINVAL, "wiped in a fork", Some(false)),
        (libc::SYS_madvise, Errno::EINVAL, "presence", Some(false)),
        (libc::SYS_fallocate, Errno::ENOSYS, "allocation", Some(false)),
        (libc::SYS_renameat2, Errno::ENOSYS, "publishing", Some(false)),
        (libc::SYS_pidfd_open, Errno::EPERM, "pidfd_open", Some(true)),
        (libc::SYS_pidfd_open, Errno::ENOSYS, "pidfd_open", Some(true)),
        (libc::SYS_get_robust_list, Errno::EPERM, "robust list", Some(true)),
        (libc::SYS_futex_waitv, Errno::ENOSYS, "futex_waitv", Some(true)),
        (libc::SYS_membarrier, Errno::EPERM, "membarrier", Some(true)),
    ];
    for (call, errno, name, works) in cases {
        let place = Place::new();
        let case = format!("{name} {errno:?}");
        let report = Report::of(&output(&mut filtered(place.command("doctor", &["--json"]), call, errno)));
        // What glibc makes of it.
        let seen = if call == libc::SYS_renameat2 { Errno::EINVAL } else { errno };
        report.expect(name, "missing", &format!("{seen:?}"));
        let ran = output(&mut filtered(place.command("run", &["a", "--", "true"]), call, errno));
        assert!(works.is_none_or(|works| ran.status.success() == works), "{case}: {}", stderr(&ran));
        // Without a futex a new space is one of lock files.
        if works == Some(true) || call == libc::SYS_futex {
            report.expect_success()
        } else {
            report.expect_failure(name)
        }
        // A space that is there needs neither room nor a name.
        let place = Place::new();
        assert!(place.output("run", &["a", "--", "true"]).status.success());
        let report = Report::of(&output(&mut filtered(place.command("doctor", &["--json"]), call, errno)));
        let ran = output(&mut filtered(place.command("run", &["a", "--", "true"]), call, errno));
        if call == libc::SYS_futex {
            report.expect_failure(name);
            assert!(
                stderr(&ran)
                    .contains("has the backend \"segment\", and this process is refused what that takes: the futex")
            );
        }
        let is_so = works.is_none() || (report.code == Some(0)) == ran.status.success();
        assert!(is_so, "{case}, in a space: {} {}", report.all, stderr(&ran));
    }
}

#[test]
fn less_than_all_is_not_called_all() {
    or_skip!(filter::is_possible());
    let place = Place::new();
    let doctor = || place.command("doctor", &["--json"]);
    let report = Report::of(&output(&mut filtered(doctor(), libc::SYS_pidfd_open, Errno::EPERM)));
    report.expect("pidfs inode", "unknown", "EPERM");
    report.expect_success();
    assert!(report.all["summary"].as_str().unwrap().contains("less well than they could: pidfd_open, pidfs inode"));
    // Without a child nothing is known of what two processes see.
    let report = Report::of(&output(&mut filtered(doctor(), libc::SYS_clone, Errno::EPERM)));
    for name in ["shared mapping", "futex", "wiped in a fork", "presence"] {
        report.expect(name, "unknown", "no child process can be made: EPERM");
    }
    report.expect_success();
    assert!(report.all["summary"].as_str().unwrap().contains("not all could be tried"), "{}", report.all);
}

// ---------------------------------------------------------------------------------------------------------------------
// Places.

#[test]
fn a_directory_that_is_not_there_is_69() {
    let mut command = dying_with_us(Command::new(TOOL));
    let report = Report::of(&output(command.args(["doctor", "--json", "--path", "/nonexistent/space"])));
    report.expect("directory", "unusable", "ENOENT");
    report.expect("space", "unusable", "--path DIR");
    report.expect("futex", "unknown", "not tried");
    report.expect_failure("directory");
}

#[test]
fn a_directory_of_somebody_else_is_69() {
    let place = Place::new();
    if chown(place.root.path(), Some(12345), None).is_err() {
        skip!("only root can give a directory to another user");
    }
    let report = Report::new(&place);
    report.expect("space", "unusable", "belongs to uid 12345");
    report.expect_failure("space");
    assert!(!place.output("run", &["a", "--", "true"]).status.success());
}

#[test]
fn a_tiny_dev_shm_has_no_room() {
    let place = Place::new();
    let tiny = "mount -t tmpfs -o size=64k none /dev/shm";
    or_skip!(can_have(OWN_MOUNTS, tiny, &place));
    let script = format!("{tiny} && \"$2\" doctor --json; code=$?; ls -A /dev/shm >&2; exit $code");
    let output = output(&mut in_own_mounts(&script, &place));
    let report = Report::of(&output);
    report.expect("room", "unusable", "of 64 KiB are free");
    report.expect("room", "unusable", "none fits");
    report.expect("shared mapping", "ok", "");
    // The listing is empty, too.
    report.expect_failure("room");
    let script = format!("{tiny} && \"$2\" run a -- true");
    assert_eq!(support::tool::output(&mut in_own_mounts(&script, &place)).status.code(), Some(69));
}

#[test]
fn a_login_manager_that_clears_up_after_users_is_named() {
    let place = Place::new();
    let systemd = "mount -t tmpfs none /run && mkdir -p /run/systemd/system";
    or_skip!(can_have(OWN_MOUNTS, systemd, &place));
    // Spaces without a path, of a user with a session; and what its administrator may say about it.
    let as_user = |said: &str, user: &str| {
        let say =
            format!("mkdir -p /run/systemd/logind.conf.d && echo '{said}' > /run/systemd/logind.conf.d/99-zz.conf");
        let script = format!("{systemd} && {say} && exec setpriv --reuid {user} --clear-groups \"$2\" doctor --json");
        Report::of(&output(&mut in_own_mounts(&script, &place)))
    };
    let clears = as_user("RemoveIPC=yes", "54321");
    clears.expect("logout", "unusable", "removes what a user has there");
    assert!(clears.all["summary"].as_str().unwrap().contains("logout"), "{}", clears.all["summary"]);
    as_user("RemoveIPC=no", "54321").expect("logout", "ok", "RemoveIPC=no");
    as_user("RemoveIPC=yes", "0").expect("logout", "ok", "leaves alone");
}

#[test]
fn a_full_file_system_cannot_allocate() {
    let place = Place::new();
    let full =
        "mount -t tmpfs -o size=64k,mode=700 none \"$1\" && { head -c 100000 /dev/zero > \"$1/fill\"; true; } 2>&-";
    let report = or_skip!(report_after(full, &place));
    report.expect("allocation", "unusable", "ENOSPC");
    report.expect("shared mapping", "unknown", "no page");
    report.expect_failure("room");
}

#[test]
fn bytes_without_inodes_are_no_room() {
    let place = Place::new();
    let report = or_skip!(report_after("mount -t tmpfs -o size=64m,nr_inodes=3,mode=700 none \"$1\"", &place));
    report.expect("room", "unusable", "2 inodes");
    report.expect("directory", "unusable", "ENOSPC");
    report.expect_failure("room");
    let twin = report_after("mount -t tmpfs -o size=64m,mode=700 none \"$1\"", &place).unwrap();
    twin.expect("room", "ok", "64 MiB of 64 MiB are free");
    twin.expect("file system", "ok", "tmpfs");
    twin.expect_success();
}

#[test]
fn a_read_only_file_system_is_no_place() {
    let place = Place::new();
    let report = or_skip!(report_after("mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"", &place));
    report.expect("directory", "unusable", "EROFS");
    report.expect("byte locks", "unknown", "EROFS");
    report.expect_failure("directory");
}

#[test]
fn a_dev_shm_that_is_not_in_memory_is_told() {
    let place = Place::new();
    let report = or_skip!(report_after("mount -t proc proc /dev/shm", &Place { root: tempfile::tempdir().unwrap() }));
    report.expect("/dev/shm", "unusable", "not tmpfs");
    report.expect_success();
    drop(place);
}

/// How long an answer is, and the words in it that are not 0: where, and what.
type Answer = (usize, &'static [(usize, u32)]);

/// A file system in user space with an empty directory that refuses everything, on the mount point `arguments[0]`.
fn fuse(arguments: &[String]) {
    let none = None::<&str>;
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").and_then(|device| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("test"), arguments[0].as_str(), Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(device)
    });
    let mut device = match device {
        Ok(device) => device,
        Err(e) => return support::say(format!("cannot: {e}")),
    };
    support::say(format!("ready {}", gettid()));
    let mut request = vec![0; 1 << 17];
    while let Ok(count) = device.read(&mut request) {
        assert!(count >= 40, "shorter than its head");
        let (operation, id) = (&request[4..8], &request[8..16]);
        let answer: Result<Answer, Errno> = match u32::from_ne_bytes(operation.try_into().unwrap()) {
            // GETATTR: a directory, in the attributes' mode.
            3 => Ok((104, &[(16 + 60, 0o40755), (16 + 64, 2)])),
            // STATFS, INIT (version 7.31, with room for writes), OPENDIR, RELEASEDIR.
            17 => Ok((80, &[])),
            26 => Ok((64, &[(0, 7), (4, 31), (20, 4096)])),
            27 => Ok((16, &[])),
            29 => Ok((0, &[])),
            // LOOKUP.
            1 => Err(Errno::ENOENT),
            // FORGET has no answer.
            2 => continue,
            _ => Err(Errno::EPERM),
        };
        let (len, fields) = answer.unwrap_or((0, &[]));
        let mut reply = vec![0; 16 + len];
        reply[..4].copy_from_slice(&(16 + len as u32).to_ne_bytes());
        reply[4..8].copy_from_slice(&answer.err().map_or(0, |errno| -(errno as i32)).to_ne_bytes());
        reply[8..16].copy_from_slice(id);
        for (at, value) in fields {
            reply[16 + at..20 + at].copy_from_slice(&value.to_ne_bytes());
        }
        // An answer to who has gone away meanwhile.
        let _ = device.write(&reply);
    }
}

#[test]
fn a_file_system_in_user_space_is_refused_by_name() {
    let place = Place::new();
    let server = start("fuse", &[place.root.path().to_str().unwrap()]);
    let heard = server.hear();
    let Some(thread) = heard.strip_prefix("ready ") else { skip!("no file system in user space: {heard}") };
    let mut command = dying_with_us(Command::new("nsenter"));
    command.arg(format!("--mount=/proc/{}/task/{thread}/ns/mnt", server.pid()));
    let report = Report::of(&output(command.arg(TOOL).args(["doctor", "--json", "--path"]).arg(place.space())));
    report.expect("file system", "unusable", "FUSE");
    report.expect_failure("file system");
    Report::new(&place).expect("file system", "ok", "");
}

// ---------------------------------------------------------------------------------------------------------------------
// Namespaces, and /proc.

#[test]
fn another_pid_namespace_is_told_and_so_are_those_outside_of_it() {
    let place = Place::new();
    let inside = &["--pid", "--fork", "--kill-child", "--mount-proc"][..];
    or_skip!(can_have(inside, "true", &place));
    let holder = place.start_script(&[], "held", "exec sleep 1000");
    let doctor = "exec \"$2\" doctor --json --path \"$3\"";
    let report = Report::of(&output(&mut in_namespaces(inside, doctor, &place)));
    report.expect("PID namespace", "ok", "one of its own");
    assert!(report.finding("PID namespace")["follows"].as_str().unwrap().contains("by their byte alone"));
    report.expect("participants", "ok", "1 by processes of other PID namespaces");
    report.expect("locks", "ok", "1 held");
    report.expect("start times", "ok", "");
    report.expect_success();
    // The same from outside.
    let report = Report::new(&place);
    assert!(!report.finding("participants")["seen"].as_str().unwrap().contains("other PID namespaces"));
    // With the /proc of the namespace outside.
    let report = Report::of(&output(&mut in_namespaces(&["--pid", "--fork", "--kill-child"], doctor, &place)));
    report.expect("start times", "unusable", "another PID namespace");
    report.expect_success();
    drop(holder);
}

#[test]
fn other_time_and_user_namespaces_are_told() {
    let place = Place::new();
    let doctor = "exec \"$2\" doctor --json --path \"$3\"";
    for (option, name) in [("--time", "time namespace"), ("--user", "user namespace")] {
        let options = match option {
            "--time" => &["--time", "--boottime", "1000", "--fork", "--kill-child"][..],
            _ => &["--user", "--map-root-user"],
        };
        or_skip!(can_have(options, "true", &place));
        let report = Report::of(&output(&mut in_namespaces(options, doctor, &place)));
        report.expect(name, "ok", "one of its own");
        let number = fs::metadata(format!("/proc/self/ns/{}", &option[2..])).unwrap().ino();
        let own = Report::new(&place);
        let seen = own.finding(name)["seen"].as_str().unwrap();
        assert!(seen == "the machine's first" || seen.contains(&number.to_string()), "{seen}");
    }
}

#[test]
fn a_proc_that_hides_others_is_told() {
    // Somewhere that anybody can run it from.
    let place = Place { root: tempfile::tempdir().unwrap() };
    let tool = place.root.path().join("hostlock");
    fs::copy(TOOL, &tool).unwrap();
    fs::set_permissions(place.root.path(), Permissions::from_mode(0o755)).unwrap();
    let as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let hidden = "mount -t proc -o hidepid=invisible proc /proc";
    or_skip!(can_have(OWN_MOUNTS, &format!("{hidden} && {as_nobody} \"$1/hostlock\" --version"), &place).or_else(
        |why| {
            // It prints the version before it is ready.
            if why.ends_with(": ") { Ok(()) } else { Err(why) }
        }
    ));
    let doctor = |mounts: &str| {
        let script = format!("{mounts} && exec {as_nobody} \"$1/hostlock\" doctor --json");
        Report::of(&output(&mut in_own_mounts(&script, &place)))
    };
    doctor(hidden).expect("start times", "unusable", "hidepid");
    doctor("mount -t proc proc /proc").expect("start times", "ok", "");
}

#[test]
fn a_machine_without_proc_is_told_what_is_lost() {
    let place = Place::new();
    let report = or_skip!(report_after("mount -t tmpfs none /proc", &place));
    report.expect("start times", "missing", "/proc");
    report.expect("PID namespace", "unknown", "/proc");
    report.expect("boot id", "unusable", "ENOENT");
    report.expect_success();
    let summary = report.all["summary"].as_str().unwrap();
    assert!(summary.starts_with("locks work here, less well") && summary.contains("PID namespace"), "{summary}");
}

// ---------------------------------------------------------------------------------------------------------------------
// Spaces.

#[test]
fn the_dead_are_counted_until_somebody_cleans_up() {
    let place = Place::new();
    let mut holder = place.start_script(&[], "held", "exec sleep 1000");
    assert_eq!(Report::new(&place).finding("participants")["seen"], "1 of 1024 places are taken");
    holder.kill();
    wait_until("the command is dead, too", || {
        Report::new(&place).finding("participants")["seen"] == "1 of 1024 places are taken, 1 of them by the dead"
    });
    let report = Report::new(&place);
    report.expect_success();
    report.expect("locks", "ok", "0 held, 1 abandoned");
    assert!(place.output("run", &["held", "--", "true"]).status.success());
    assert_eq!(Report::new(&place).finding("participants")["seen"], "0 of 1024 places are taken");
    Report::new(&place).expect("locks", "ok", "1 of 4096 names are in use, 0 held");
}

#[test]
fn a_file_removed_under_its_users_is_found_out() {
    let place = Place::new();
    let mut holder = place.start_script(&[], "held", "exec sleep 1000");
    fs::remove_file(place.space().join("segment")).unwrap();
    let report = Report::new(&place);
    report.expect("space", "unusable", "was removed while it was in use");
    report.expect_failure("space");
    assert_eq!(place.output("run", &["other", "--", "true"]).status.code(), Some(69));
    holder.kill();
    wait_until("nobody is in it", || Report::new(&place).code == Some(0));
    Report::new(&place).expect("space", "ok", "nobody is seen in it");
    assert!(!place.space().join("segment").exists());
}

#[test]
fn what_is_no_segment_is_69() {
    let place = Place::new();
    fs::create_dir(place.space()).unwrap();
    fs::write(place.space().join("segment"), "not a segment").unwrap();
    let report = Report::new(&place);
    report.expect("space", "unusable", "does not begin as a segment does");
    report.expect_failure("space");
}

#[test]
fn a_damaged_lock_is_named_and_the_others_go_on() {
    let place = Place::new();
    for name in ["broken", "sound"] {
        assert!(place.output("run", &[name, "--", "true"]).status.success());
    }
    let raw = Raw::open(place.space());
    raw.put(raw.entry("broken").unwrap().at, held_by(900, 7));
    let report = Report::new(&place);
    report.expect("locks", "unusable", "damaged: \"broken\"");
    report.expect_success();
    assert_eq!(report.all["summary"], "locks work here, less well than they could: locks");
    assert!(place.output("run", &["sound", "--", "true"]).status.success());
    assert!(!place.output("run", &["-n", "broken", "--", "true"]).status.success());
}

#[test]
fn a_space_that_is_full_of_the_living_is_69() {
    let place = Place::new();
    let space = Space::builder("space").root(place.root.path()).participants(1).open().unwrap();
    let report = Report::new(&place);
    report.expect("participants", "unusable", "1 of 1 places are taken");
    report.expect_failure("participants");
    assert_eq!(place.output("run", &["a", "--", "true"]).status.code(), Some(69));
    drop(space);
    let report = Report::new(&place);
    report.expect("participants", "ok", "0 of 1 places");
    assert_eq!(report.all["summary"], ALL_IS_WELL);
}

// ---------------------------------------------------------------------------------------------------------------------
// The file system of a network: H49.

/// A library that, loaded before the C library, makes every file system one of that type.
fn pretended(place: &Place, kind: &str) -> Result<PathBuf, String> {
    let (source, library) = (place.root.path().join("pretend.c"), place.root.path().join("pretend.so"));
    let body = "{ int r = syscall(SYS_fstatfs, fd, b); if (!r) b->f_type = KIND; return r; }";
    let text = format!(
        "#define _GNU_SOURCE\n#include <sys/vfs.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n#define KIND {kind}\n\
         int fstatfs(int fd, struct statfs *b) {body}\nint fstatfs64(int fd, struct statfs64 *b) {body}\n"
    );
    std::fs::write(&source, text).map_err(|e| e.to_string())?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    match built {
        Ok(built) if built.status.success() => Ok(library),
        Ok(built) => Err(format!("cc: {}", String::from_utf8_lossy(&built.stderr))),
        Err(e) => Err(format!("cc: {e}")),
    }
}

#[test]
fn a_network_file_system_is_refused_unless_it_is_allowed_for_lock_files() {
    let place = Place::new();
    for (kind, name) in [("0x6969", "NFS"), ("0x65735546", "FUSE or VirtioFS"), ("0xFE534D42", "SMB2")] {
        let library = or_skip!(pretended(&place, kind));
        let there = |verb: &str, arguments: &[&str]| {
            let mut command = place.command(verb, arguments);
            command.env("LD_PRELOAD", &library);
            output(&mut command)
        };
        for options in [&[][..], &["--backend", "segment"], &["--backend", "files"]] {
            let ran = there("run", &[options, &["a", "--", "true"]].concat());
            assert_eq!(ran.status.code(), Some(69), "{options:?}: {}", stderr(&ran));
            assert!(stderr(&ran).contains(&format!("lies on {name}")), "{options:?}: {}", stderr(&ran));
        }
        let usage = there("run", &["--any-file-system", "a", "--", "true"]);
        assert_eq!(usage.status.code(), Some(64), "{}", stderr(&usage));
        let report = Report::of(&there("doctor", &["--json"]));
        report.expect("file system", "unusable", name);
        report.expect_failure("file system");
        let allowed = ["--backend", "files", "--any-file-system"];
        let report = Report::of(&there("doctor", &[&["--json"], &allowed[..]].concat()));
        report.expect("file system", "ok", "allowed all the same");
        report.expect_success();
        // There, what is not mapped is not another machine's memory: two processes exclude each other.
        let inner =
            format!("{} run --path {} -n {} a -- true; echo $?", TOOL, place.space().display(), allowed.join(" "));
        let ran = there("run", &[&allowed[..], &["a", "--", "sh", "-c", &inner]].concat());
        assert_eq!(stdout(&ran), "75\n", "{}", stderr(&ran));
        assert!(stderr(&ran).contains("waiting for it would never end"), "{}", stderr(&ran));
        std::fs::remove_dir_all(place.space()).unwrap();
    }
}
