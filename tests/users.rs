//! Several users on one space, and users who have no part in it.
//!
//! Who shares a group shares every kind of lock there is, and the deaths: also where the one may neither signal nor look at the other's process. Who
//! does not gets in nowhere, and keeps nobody waiting by whatever it can open.
//!
//! Becoming another user takes root; without it these print `SKIPPED`.

mod support;

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::unistd::geteuid;
use support::parts::{ask, become_user, each_kind, handed_over, kinds, with_both};
use support::{Actor, act, hear, root, say, start};

const GROUP: u32 = 4242;
const ONE: &str = "4001:4001:4242";
const TWO: &str = "4002:4002:4242";
const STRANGER: &str = "65534:65534:";

#[test]
fn role() {
    act(&[("part", support::parts::act), ("intruder", intruder)]);
}

fn may_become_others() -> Result<(), &'static str> {
    if geteuid().is_root() { Ok(()) } else { Err("becoming another user takes root") }
}

/// A root that belongs to the group.
fn shared(rights: u32) -> tempfile::TempDir {
    let root = root();
    chown(root.path(), None, Some(GROUP)).unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(rights)).unwrap();
    root
}

fn member(root: &Path, backend: &str, who: &str) -> Actor {
    let actor = start("part", &[root.to_str().unwrap(), backend, "660", who]);
    actor.expect("ready");
    actor
}

/// Whoever may not signal the other, and be told by that, goes by the byte that it keeps locked.
#[test]
fn users_of_a_group_share_every_kind_and_each_other_s_deaths() {
    or_skip!(may_become_others());
    with_both(|backend| {
        for (of_holder, of_waiter) in [(ONE, TWO), ("0:0:", TWO), (ONE, "0:0:")] {
            let root = shared(0o2770);
            let (holder, waiter) = (member(root.path(), backend, of_holder), member(root.path(), backend, of_waiter));
            let seen = (holder.pid().as_raw(), false);
            each_kind(backend, (holder, waiter), seen, Actor::kill);
        }
    });
}

#[test]
fn users_of_a_group_wake_each_other_and_see_who_holds_what() {
    or_skip!(may_become_others());
    with_both(|backend| {
        for rights in [0o770, 0o2770, 0o1777] {
            let root = shared(rights);
            let (mut one, mut two) = (member(root.path(), backend, ONE), member(root.path(), backend, TWO));
            handed_over(backend, &mut one, &mut two);
            for kind in kinds(backend) {
                assert_eq!(ask(&mut one, format!("hold {kind}")), "got");
            }
            let seen = ask(&mut two, "inspect");
            for name in ["m", "w", "s"] {
                assert!(seen.contains(&format!("{name} Some({})", one.pid())), "{backend}: {seen}");
            }
            // Whatever each of them made is the group's, and nobody else's.
            for entry in fs::read_dir(root.path().join("test")).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                assert_eq!((meta.gid(), meta.mode() & 0o7777), (GROUP, 0o660), "{:?}", entry.path());
            }
            // A stranger sees nothing of it.
            let stranger = start("part", &[root.path().to_str().unwrap(), backend, "660", STRANGER]);
            let said = stranger.hear();
            assert!(said.starts_with("failed: ") && said.contains("uid 65534"), "{backend}, {rights:o}: {said}");
        }
    });
}

// Who has no rights.

/// Opens whatever it can of all that is there, locks it in every way that there is, and keeps that; how much it was.
fn intruder(arguments: &[String]) {
    become_user(STRANGER).unwrap();
    let mut all: Vec<PathBuf> = vec![arguments[0].clone().into()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        all.extend(fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()));
        next += 1;
    }
    // Also those that cannot be listed, but guessed.
    for name in
        ["test", "test/segment", "test/files", "test/.segment.new", "test/0.lock", "test/1.lock", "test/.lock.new"]
    {
        all.push(Path::new(&arguments[0]).join(name));
    }
    let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
    let mut what = Vec::new();
    for path in all {
        let opened = [
            File::open(&path),
            File::options().read(true).write(true).open(&path),
            File::options().append(true).open(&path),
        ];
        for file in opened.into_iter().flatten() {
            for kind in [libc::F_RDLCK, libc::F_WRLCK] {
                // All bytes there are.
                let lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
                let _ = fcntl(&file, FcntlArg::F_OFD_SETLK(&lock));
            }
            assert!(file.as_raw_fd() > 2);
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => kept.push(Box::new(lock)),
                Err((file, _)) => match Flock::lock(file, FlockArg::LockSharedNonblock) {
                    Ok(lock) => kept.push(Box::new(lock)),
                    Err((file, _)) => kept.push(Box::new(file)),
                },
            }
            what.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    what.dedup();
    say(what.join(" "));
    hear();
}

/// H54: in a root that everybody may list and read.
#[test]
fn a_stranger_keeps_nobody_waiting_by_whatever_it_can_open() {
    or_skip!(may_become_others());
    with_both(|backend| {
        for mode in ["600", "660"] {
            let root = root();
            fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
            let path = root.path().to_str().unwrap();
            let above = root.path().file_name().unwrap().to_str().unwrap();
            // While nobody is in it yet, while somebody is, and when all have left.
            let before = start("intruder", &[path]);
            before.expect(above);
            let mut resident = start("part", &[path, backend, mode]);
            resident.expect("ready");
            assert_eq!(ask(&mut resident, "hold mutex"), "got");
            let during = start("intruder", &[path]);
            during.expect(above);
            let begin = Instant::now();
            let mut newcomer = start("part", &[path, backend, mode]);
            newcomer.expect("ready");
            assert!(ask(&mut newcomer, "try mutex").starts_with("refused by"));
            assert_eq!(ask(&mut resident, "release mutex"), "released");
            for kind in kinds(backend) {
                assert_eq!(ask(&mut newcomer, format!("hold {kind}")), "got", "{backend}, {kind}");
            }
            newcomer.kill();
            assert_eq!(ask(&mut resident, "wait mutex"), format!("got from {}", newcomer.pid()));
            resident.kill();
            let after = start("intruder", &[path]);
            after.expect(above);
            let mut last = start("part", &[path, backend, mode]);
            last.expect("ready");
            assert_eq!(ask(&mut last, "wait mutex"), format!("got from {}", resident.pid()));
            // Not by waiting for anybody who is stopped.
            assert!(begin.elapsed() < Duration::from_secs(30), "{backend}: {:?}", begin.elapsed());
        }
    });
}

/// A space's directory that somebody made by hand, and that others may read, they can lock. Who is in goes on, who comes is told what to do.
#[test]
fn a_directory_that_strangers_can_lock_is_named_as_the_reason() {
    or_skip!(may_become_others());
    // Each waits for five seconds.
    with_both(locked_by_a_stranger);
}

fn locked_by_a_stranger(backend: &str) {
    let root = root();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(root.path().join("test")).unwrap();
    fs::set_permissions(root.path().join("test"), Permissions::from_mode(0o755)).unwrap();
    let path = root.path().to_str().unwrap();
    let mut resident = start("part", &[path, backend, "600"]);
    resident.expect("ready");
    // In vain: whoever is in has it, and nobody needs it alone.
    let late = start("intruder", &[path]);
    assert!(late.hear().contains("test"));
    let mut newcomer = start("part", &[path, backend, "600"]);
    newcomer.expect("ready");
    assert_eq!(ask(&mut newcomer, "hold mutex"), "got");
    assert!(ask(&mut resident, "try mutex").starts_with("refused by"));
    drop((newcomer, resident, late));
    let alone = start("intruder", &[path]);
    assert!(alone.hear().contains("test"));
    let refused = start("part", &[path, backend, "600"]).hear();
    assert!(refused.contains("others may read it, and so lock it") && refused.contains("chmod o-rwx"), "{refused}");
    drop(alone);
    start("part", &[path, backend, "600"]).expect("ready");
}
