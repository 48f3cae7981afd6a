//! The tool, where it is needed most: in a space in which something went wrong.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hostlock::{Backend, Space};
use nix::sys::signal::Signal;

use crate::actor::{Ask, start_in};
use crate::numbers::numbers_that_are_no_process;
use crate::support::raw::{HEADER_LEN, NAMES_LOCK_AT, Raw, held_by};
use crate::support::tool::{dying_with_us, output, stderr, stdout};
use crate::support::{Actor, filter, root};
use crate::{or_skip, skip};

/// Every verb, and how it is called.
const VERBS: [(&str, &[&str]); 5] = [
    ("run", &["-w", "1s", "a", "--", "true"]),
    ("elect", &["b", "--", "true"]),
    ("status", &[]),
    ("move", &["--to", "files"]),
    ("doctor", &[]),
];

fn call(verb: &str, space: &Path, arguments: &[&str]) -> Command {
    let mut command = dying_with_us(Command::new(env!("CARGO_BIN_EXE_hostlock")));
    command.arg(verb).arg("--path").arg(space).args(arguments);
    command
}

/// What each verb comes to, in the order of [`VERBS`], and what it says. (`move` has nothing to do where the space is lock files already.)
type Outcomes = [(i32, &'static str); 5];

/// Something that goes wrong in the space of a process that holds `a`: does it, and says what every verb then comes to.
type Wedge = (&'static str, fn(&mut Actor, &Path), Outcomes);

fn write_over(file: &Path, from: usize) {
    let length = fs::metadata(file).unwrap().len() as usize;
    File::options().write(true).open(file).unwrap().write_all_at(&vec![0xA5; length - from], from as u64).unwrap();
}

const WEDGES: [Wedge; 8] = [
    (
        "its holder was killed, in the middle of naming something",
        |holder, space| {
            let raw = Raw::open(space);
            let (slot, ..) = raw.participants()[0];
            raw.put(NAMES_LOCK_AT, held_by(slot, (raw.u64_at(NAMES_LOCK_AT) >> 16) + 1));
            holder.kill();
        },
        [(0, ""), (0, "leading"), (0, "abandoned"), (69, "abandoned"), (0, "")],
    ),
    (
        "its holder is stopped",
        |holder, _| holder.signal(Signal::SIGSTOP),
        [(75, "is held by"), (0, "leading"), (0, "held"), (69, "processes are in it"), (0, "")],
    ),
    (
        "a lock is held by nobody there is",
        |holder, space| {
            holder.kill();
            let raw = Raw::open(space);
            raw.put(raw.entry("a").unwrap().at, held_by(900, 7));
        },
        [(69, "damaged"), (0, "leading"), (0, "damaged"), (69, "damaged"), (0, "damaged")],
    ),
    (
        "its file was cut",
        |holder, space| {
            holder.kill();
            File::options().write(true).open(space.join("segment")).unwrap().set_len(5000).unwrap();
        },
        [(69, "cut"), (69, "cut"), (69, "cut"), (69, "cut"), (69, "cut")],
    ),
    (
        "its file was removed under its holder",
        |_, space| fs::remove_file(space.join("segment")).unwrap(),
        [(69, "removed"), (69, "removed"), (69, "removed"), (69, "removed"), (69, "removed")],
    ),
    (
        "its header was written over",
        |holder, space| {
            holder.kill();
            write_over(&space.join("segment"), 0);
        },
        [
            (69, "does not begin"),
            (69, "does not begin"),
            (69, "does not begin"),
            (69, "does not begin"),
            (69, "does not begin"),
        ],
    ),
    (
        "all its tables were written over",
        |holder, space| {
            holder.kill();
            write_over(&space.join("segment"), HEADER_LEN);
        },
        [(69, "damaged"), (69, "damaged"), (0, "damaged"), (69, "does not say any more"), (0, "damaged")],
    ),
    (
        "it has another file, which is nothing, in the place of its own",
        |holder, space| {
            holder.kill();
            fs::remove_file(space.join("segment")).unwrap();
            fs::write(space.join("files"), "nothing").unwrap();
        },
        [(69, "too few"), (69, "too few"), (69, "too few"), (0, ""), (69, "too few")],
    ),
];

/// H76: what is there to recover with has to work when it is needed, and to come to an end.
#[test]
fn every_verb_ends_and_says_why_in_a_space_gone_wrong() {
    for (what, go_wrong, outcomes) in WEDGES {
        for ((verb, arguments), (code, says)) in VERBS.iter().zip(outcomes) {
            let root = root();
            // Small, so that nobody has to clear away thousands of what was never there.
            let small = Space::builder("test").root(root.path()).participants(8).locks(16).open().unwrap();
            let mut holder = start_in(root.path(), Backend::Segment);
            drop(small);
            holder.acquire("mutex a");
            let space = root.path().join("test");
            go_wrong(&mut holder, &space);
            let run = || {
                let ended = output(&mut call(verb, &space, arguments));
                let said = format!("{}{}", stdout(&ended), stderr(&ended));
                (ended, said)
            };
            let (mut ended, mut said) = run();
            // Another test's child may have a copy of a descriptor of ours for a moment, until it begins its program.
            let end = Instant::now() + Duration::from_secs(10);
            while said.contains("processes are in it") && Instant::now() < end {
                (ended, said) = run();
            }
            println!("{what}: {verb}: {:?} {said}", ended.status.code());
            assert!(!said.contains("panicked"), "{what}: {verb}: {said}");
            assert_eq!(ended.status.code(), Some(code), "{what}: {verb}: {said}");
            assert!(said.contains(says), "{what}: {verb} does not say {says:?}: {said}");
            assert!(code == 0 || stderr(&ended).starts_with("hostlock: "), "{what}: {verb}: {said}");
        }
    }
}

/// The way out that the tool itself names, to its end.
#[test]
fn what_a_verb_advises_helps() {
    let root = root();
    let mut holder = start_in(root.path(), Backend::Segment);
    holder.acquire("mutex a");
    holder.kill();
    let space = root.path().join("test");
    let run = |verb: &str, arguments: &[&str]| output(&mut call(verb, &space, arguments));
    let refused = run("move", &["--to", "files"]);
    assert_eq!(refused.status.code(), Some(69));
    assert!(stderr(&refused).contains("somebody has to acquire it first, and be told"), "{}", stderr(&refused));
    assert!(run("run", &["a", "--", "true"]).status.success());
    assert!(run("move", &["--to", "files"]).status.success());
    assert!(run("run", &["a", "--", "true"]).status.success());
}

#[test]
fn no_verb_is_forgotten() {
    let help = output(Command::new(env!("CARGO_BIN_EXE_hostlock")).arg("--help"));
    let listed: BTreeSet<String> = stdout(&help)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_ascii_whitespace().next().unwrap().to_owned())
        // Neither goes to a space that is there.
        .filter(|verb| !["help", "bench"].contains(&verb.as_str()))
        .collect();
    assert_eq!(listed, VERBS.iter().map(|(verb, _)| (*verb).to_owned()).collect());
}

/// H60, for what the tool reads.
#[test]
fn no_verb_takes_a_number_for_a_process_that_is_none() {
    or_skip!(filter::is_possible());
    let root = root();
    let mut holder = start_in(root.path(), Backend::Segment);
    holder.acquire("mutex a");
    let space = root.path().join("test");
    let mut pid = holder.process.id();
    for number in numbers_that_are_no_process() {
        Raw::open(&space).change_record(pid, |record| record[..4].copy_from_slice(&number.to_ne_bytes()));
        pid = number;
        for (verb, arguments) in
            [("run", &["-n", "a", "--", "true"][..]), ("status", &[]), ("status", &["--waits"]), ("doctor", &[])]
        {
            let ended: Output =
                output(&mut filter::behind_filter(call(verb, &space, arguments), filter::die_of_pids_that_are_none));
            assert!(ended.status.code().is_some(), "{verb} with {number:#x}: {:?} {}", ended.status, stderr(&ended));
        }
    }
}

/// H59: where only root may write to `/run/lock`, everybody has locks all the same, in a directory of their own.
#[test]
fn nobody_needs_a_directory_that_only_root_may_write_to() {
    const ARRANGED: &str = "mount -t tmpfs -o mode=1777 none /dev/shm && cp \"$0\" /dev/shm/hostlock && chmod 755 /dev/shm/hostlock && \
                            { [ ! -d /run/lock ] || mount -t tmpfs -o mode=755 none /run/lock; }";
    let private = |script: &str| {
        let mut command = dying_with_us(Command::new("unshare"));
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg(format!("{ARRANGED} && {script}")).arg(env!("CARGO_BIN_EXE_hostlock"));
        output(&mut command)
    };
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let tried = private(&format!("{nobody} true"));
    or_skip!(tried.status.success().then_some(()).ok_or_else(|| stderr(&tried)));
    let look = "stat -c %n:%a /dev/shm/hostlock-*; ls /run/lock";
    let ran = private(&format!("{nobody} /dev/shm/hostlock run a -- sh -c '{look}'"));
    assert!(ran.status.success(), "{}", stderr(&ran));
    assert_eq!(stdout(&ran), "/dev/shm/hostlock-65534:700\n", "{}", stderr(&ran));
    // Also as somebody who has neither a home nor a session.
    let bare = private(&format!("{nobody} env -i /dev/shm/hostlock run -n a -- true"));
    assert!(bare.status.success(), "{}", stderr(&bare));
}
