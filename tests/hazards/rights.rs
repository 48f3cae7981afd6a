//! Users: who may do what, and at no moment more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fs2::FileExt;
use hostlock::{Backend, Space};
use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

use crate::support::{self, command, filter, hear, root, say, start, start_command};
use crate::{by_name, name_of, or_skip, skip, space};

// ---------------------------------------------------------------------------------------------------------------------
// Who has no rights.

const NOBODY: u32 = 65534;

/// Somebody else, who locks whatever can be opened of a space: says how many there are, and keeps them.
pub fn intruder(arguments: &[String]) {
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(NOBODY)).unwrap();
    setuid(Uid::from_raw(NOBODY)).unwrap();
    let directory = Path::new(&arguments[0]);
    let inside = ["segment", "files", "0.lock"].map(|name| directory.join(name));
    let listed = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let reached: Vec<File> = [directory.to_owned()]
        .into_iter()
        .chain(inside)
        .chain(listed)
        .filter_map(|path| File::open(path).ok())
        .filter(|file| FileExt::try_lock_exclusive(file).is_ok() || FileExt::try_lock_shared(file).is_ok())
        .collect();
    say(reached.len());
    hear();
}

/// H54: whoever may open a file, if only to read it, can lock it for good. Nobody else may, of all that a space is made of: neither while it is used, nor
/// before somebody is in it again.
#[test]
fn nobody_else_can_lock_what_a_space_is_made_of() {
    if !geteuid().is_root() {
        skip!("becoming another user takes root");
    }
    for backend in [Backend::Segment, Backend::Files] {
        for mode in [0o600, 0o660] {
            let root = root();
            fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let open = || Space::builder("test").root(root.path()).backend(backend).mode(mode).open().unwrap();
            let space = open();
            drop(space.mutex("a").unwrap().lock().unwrap());
            let directory = space.path().to_owned();
            let path = directory.to_str().unwrap();
            let in_use = start("intruder", &[path]);
            in_use.expect("0");
            drop(space.mutex("b").unwrap().try_lock().unwrap());
            drop(space);
            let unused = start("intruder", &[path]);
            unused.expect("0");
            drop(open().mutex("a").unwrap().try_lock().unwrap());
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// While it is made.

/// Creates a space, whatever rights files would get by themselves.
pub fn creator(arguments: &[String]) {
    umask(Mode::empty());
    say("ready");
    hear();
    let mode = u32::from_str_radix(&arguments[2], 8).unwrap();
    let space = Space::builder("test").root(&arguments[0]).backend(by_name(&arguments[1])).mode(mode).open().unwrap();
    drop(space.mutex("a").unwrap().lock().unwrap());
    say("done");
    hear();
}

/// The last octal number of a traced call: the mode that it gives.
fn mode_in(call: &str) -> u32 {
    let arguments = call.rsplit_once(')').unwrap().0;
    let last = arguments.rsplit(", ").next().unwrap();
    u32::from_str_radix(last, 8).unwrap_or_else(|error| panic!("{call}: {error}"))
}

/// How often each mode was given.
fn octal(modes: &BTreeMap<u32, u32>) -> String {
    modes.iter().map(|(mode, times)| format!("{mode:#o} {times} times ")).collect()
}

/// H56: everything that is made has as few rights from its first moment on as it will ever have, and gets more only when it is asked to.
#[test]
fn nothing_is_open_to_others_at_any_moment_of_its_making() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        skip!("strace is not there to see the rights that files are made with");
    }
    for backend in [Backend::Segment, Backend::Files] {
        for mode in ["600", "660"] {
            let root = root();
            let trace = root.path().join("trace");
            let inner = command("creator", &[root.path().to_str().unwrap(), name_of(backend), mode]);
            let calls =
                "trace=?mkdir,mkdirat,?open,openat,?openat2,?creat,?mknod,mknodat,?chmod,fchmod,fchmodat,?fchmodat2";
            let strace = ["strace", "-f", "-y", "-qq", "-e", calls, "-o", trace.to_str().unwrap()];
            let mut creator = start_command(support::behind(&strace, &inner));
            if creator.hear_within(support::PATIENCE).as_deref() != Some("ready") {
                skip!("strace cannot trace here");
            }
            creator.tell("go");
            creator.expect("done");
            creator.finish();
            let (mut born, mut changed) = (BTreeMap::<u32, u32>::new(), BTreeMap::<u32, u32>::new());
            let ours = root.path().to_str().unwrap();
            for call in fs::read_to_string(&trace).unwrap().lines().filter(|call| call.contains(ours)) {
                let name = call.split_once(' ').unwrap().1.trim_start().split('(').next().unwrap();
                if call.contains(" = -1 ") {
                    continue;
                }
                match name {
                    "mkdir" | "mkdirat" | "mknod" | "mknodat" | "creat" => *born.entry(mode_in(call)).or_default() += 1,
                    _ if name.starts_with("open") && call.contains("O_CREAT") => {
                        *born.entry(mode_in(call)).or_default() += 1;
                    }
                    _ if name.contains("chmod") => *changed.entry(mode_in(call)).or_default() += 1,
                    _ => {}
                }
            }
            println!("{backend} {mode}: made with {}, changed to {}", octal(&born), octal(&changed));
            assert!(born.values().sum::<u32>() >= 2, "a directory and a file were made");
            assert!(born.keys().all(|mode| mode & 0o077 == 0), "{backend}: made with {}", octal(&born));
            let allowed: &[u32] = if mode == "600" { &[0o700, 0o600] } else { &[0o770, 0o660] };
            assert!(
                changed.keys().all(|mode| allowed.contains(mode)),
                "{backend} {mode}: changed to {}",
                octal(&changed)
            );
        }
    }
}

/// Opens a space that is there, and locks in it, where no file can be opened in a way that would create it.
pub fn modest_opener(arguments: &[String]) {
    filter::refuse_opening_to_create(Errno::EACCES).unwrap();
    let refused = File::options().read(true).write(true).create(true).truncate(false).open(&arguments[2]);
    assert_eq!(refused.map(drop).unwrap_err().raw_os_error(), Some(libc::EACCES), "the filter lets it pass");
    let space = space(&arguments[0], by_name(&arguments[1]));
    drop(space.mutex("a").unwrap().lock().unwrap());
    drop(space.rwlock("b").unwrap().read().unwrap());
    drop(space.semaphore("c", 1).unwrap().acquire().unwrap());
    say("content");
}

/// H58: in a sticky directory the kernel may refuse to open another's file, for root as well, if it were created were it not there
/// (`fs.protected_regular`, for which a filter stands in here, since it is the whole machine's).
#[test]
fn what_is_there_is_opened_without_being_created() {
    or_skip!(filter::is_possible());
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let users = space(root.path(), backend);
        drop(users.mutex("a").unwrap().lock().unwrap());
        drop(users.rwlock("b").unwrap().read().unwrap());
        drop(users.semaphore("c", 1).unwrap().acquire().unwrap());
        let there = root.path().join("there");
        File::create(&there).unwrap();
        let mut opener =
            start("modest opener", &[root.path().to_str().unwrap(), name_of(backend), there.to_str().unwrap()]);
        opener.expect("content");
        assert!(opener.finish());
    }
}
