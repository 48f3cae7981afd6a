//! P7 to P10: names and spaces, who sees what, and what is refused.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use hostlock::{Backend, Error, Held, LockKind, Space};
use nix::sys::stat::{Mode, umask};

use crate::actor::{Ask, root, start_in};
use crate::support::{hear, say, start};
use crate::{by_name, name_of, space};

fn other(backend: Backend) -> Backend {
    if backend == Backend::Files { Backend::Segment } else { Backend::Files }
}

fn file_name(backend: Backend) -> &'static str {
    if backend == Backend::Files { "files" } else { "segment" }
}

pub fn a_name_is_one_kind_of_lock(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    assert_eq!(space.look_up("a").unwrap(), None);
    let _mutex = space.mutex("a").unwrap();
    let _rwlock = space.rwlock("r").unwrap();
    let _semaphore = space.semaphore("s", 3).unwrap();
    assert_eq!(space.look_up("a").unwrap(), Some((LockKind::Mutex, 0)));
    assert_eq!(space.look_up("r").unwrap(), Some((LockKind::RwLock, 0)));
    assert_eq!(space.look_up("s").unwrap(), Some((LockKind::Semaphore, 3)));
    assert!(matches!(space.rwlock("a"), Err(Error::WrongKind { .. })));
    assert!(matches!(space.mutex("r"), Err(Error::WrongKind { .. })));
    assert!(matches!(space.mutex("s"), Err(Error::WrongKind { .. })));
}

pub fn a_name_in_use_stays_and_one_that_is_not_goes(backend: Backend) {
    let root = root();
    let mut actor = start_in(root.path(), backend);
    let space = space(root.path(), backend);
    let held = actor.acquire("mutex a");
    actor.acquire("permits s 2 1");
    assert!(matches!(space.remove("a"), Err(Error::InUse { .. })));
    assert!(matches!(space.remove("s"), Err(Error::InUse { .. })));
    assert!(matches!(space.remove("none"), Err(Error::NoSuchName { .. })));
    assert_eq!(actor.ask("release a"), "released");
    assert_eq!(actor.ask("release s"), "released");
    let handle = space.mutex("a").unwrap();
    space.remove("a").unwrap();
    space.remove("s").unwrap();
    assert_eq!((space.look_up("a").unwrap(), space.look_up("s").unwrap()), (None, None));
    // Another kind may have the name now, another name the place; and tokens go on.
    drop(space.mutex("b").unwrap().lock().unwrap());
    assert!(handle.lock().unwrap().token() > held);
    assert_eq!(space.look_up("a").unwrap(), Some((LockKind::Mutex, 0)));
    space.remove("a").unwrap();
    drop(space.rwlock("a").unwrap().write().unwrap());
    assert!(matches!(handle.lock(), Err(Error::WrongKind { .. })));
}

pub fn a_space_has_room_for_so_many_names(backend: Backend) {
    let root = root();
    let space = Space::builder("test").root(root.path()).backend(backend).locks(4).open().unwrap();
    let held: Vec<_> =
        (0..4).map(|number| space.mutex(&format!("lock-{number}")).unwrap().lock_owned().unwrap()).collect();
    assert!(matches!(space.mutex("more"), Err(Error::Full { capacity: 4, .. })));
    assert_eq!((space.usage().locks, space.usage().locks_capacity), (4, 4));
    drop(held);
    space.remove("lock-2").unwrap();
    drop(space.mutex("more").unwrap().lock().unwrap());
}

pub fn bad_names_are_refused(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let long = "x".repeat(65);
    for name in ["", "a\0b", long.as_str()] {
        assert!(matches!(space.mutex(name), Err(Error::InvalidName { .. })), "{name:?}");
    }
    let longest = "ö".repeat(32);
    for name in ["a/b", "..", "with space", longest.as_str()] {
        drop(space.mutex(name).unwrap().lock().unwrap());
        assert!(space.look_up(name).unwrap().is_some(), "{name:?}");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "a name is not a path");
}

pub fn holder_says_who_and_since_when(backend: Backend) {
    let root = root();
    let mut actor = start_in(root.path(), backend);
    let space = space(root.path(), backend);
    let mutex = space.mutex("a").unwrap();
    assert_eq!(mutex.holder().unwrap(), None);
    let guard = mutex.lock().unwrap();
    guard.stamp();
    std::thread::sleep(Duration::from_millis(20));
    let holder = mutex.holder().unwrap().unwrap();
    assert_eq!((holder.pid, holder.token, holder.elsewhere), (std::process::id(), guard.token(), false));
    assert_eq!(holder.thread, Some(nix::unistd::gettid().as_raw() as u32));
    let command = std::env::current_exe().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    assert!(!holder.command.is_empty() && command.starts_with(&holder.command), "{} {command}", holder.command);
    let (Held::For(held) | Held::AtLeast(held)) = holder.held else { panic!("{holder:?}") };
    assert!(held >= Duration::from_millis(15) && held < Duration::from_secs(60), "{held:?}");
    drop(guard);
    assert_eq!(mutex.holder().unwrap(), None);
    // An owned guard is no thread's.
    let owned = mutex.lock_owned().unwrap();
    assert_eq!(mutex.holder().unwrap().unwrap().thread, None);
    space.act_on_behalf_of(4711, "rsync").unwrap();
    let behalf = mutex.holder().unwrap().unwrap().on_behalf_of.unwrap();
    assert_eq!((behalf.pid, behalf.command.as_str()), (4711, "rsync"));
    drop(owned);
    actor.acquire("mutex a");
    assert_eq!(mutex.holder().unwrap().unwrap().on_behalf_of, None);
    actor.kill();
    crate::support::wait_until("nobody holds it", || mutex.holder().unwrap().is_none());
}

pub fn looking_from_outside_changes_nothing_and_sees_all(backend: Backend) {
    let root = root();
    let look = || Space::builder("test").root(root.path()).inspect();
    assert!(matches!(look(), Err(Error::NoSuchSpace { .. })));
    let (mut one, mut dead) = (start_in(root.path(), backend), start_in(root.path(), backend));
    let token = one.acquire("mutex a");
    one.acquire("read r");
    one.acquire("permits s 3 2");
    dead.acquire("mutex b");
    let pid = dead.process.id();
    dead.kill();
    let files = |name: &str| -> Vec<(String, u64, i64)> {
        let mut files: Vec<_> = fs::read_dir(root.path().join("test"))
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .map(|entry| {
                let meta = entry.as_ref().unwrap().metadata().unwrap();
                (entry.unwrap().file_name().into_string().unwrap(), meta.ino(), meta.mtime_nsec())
            })
            .collect();
        files.sort();
        files
    };
    let before = files("before");
    let seen = look().unwrap();
    assert_eq!(files("after"), before, "looking left a trace");
    assert_eq!(seen.backend, backend);
    let of = |name: &str| seen.locks.iter().find(|lock| lock.name == name).unwrap();
    assert_eq!(seen.locks.iter().map(|lock| lock.name.as_str()).collect::<Vec<_>>(), ["a", "b", "r", "s"]);
    let holder = of("a").holder.as_ref().unwrap();
    assert_eq!((holder.pid, holder.token, of("a").token), (one.process.id(), token, token));
    assert!(of("b").holder.is_none(), "{:?}", of("b"));
    assert_eq!(of("b").abandoned.as_ref().unwrap().pid, Some(pid));
    assert_eq!((of("r").holders.len(), of("r").holders[0].readers), (1, 1));
    let permits = of("s").permits.unwrap();
    assert_eq!((permits.used, permits.total), (2, 3));
}

/// P7.
pub fn all_openers_agree_on_the_backend(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    assert_eq!(space.backend(), backend);
    let open = |wanted| Space::builder("test").root(root.path()).backend(wanted).open();
    assert_eq!(open(Backend::Auto).unwrap().backend(), backend, "whoever does not care takes what is there");
    match open(other(backend)) {
        Err(Error::OptionDiffers { option: "backend", existing, wanted, .. }) => {
            assert_eq!((existing, wanted), (backend.to_string(), other(backend).to_string()));
        }
        other => panic!("{other:?}"),
    }
    // Nobody made a second one beside it.
    assert!(!root.path().join("test").join(file_name(other(backend))).exists());
}

pub fn what_a_backend_does_not_have_is_unsupported(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let lock = space.rwlock("r").unwrap();
    let results = [
        space.once("once").map(drop),
        space.event("event").map(drop),
        space.auto_event("auto").map(drop),
        space.latch("latch", 2).map(drop),
        space.barrier("barrier", 2).map(drop),
        space.condvar("condvar").map(drop),
        space.mutex_with("mutex-data", 7u64).map(drop),
        space.rwlock_with("rwlock-data", 7u64).map(drop),
        space.queue::<u64>("queue", 4).map(drop),
        lock.read().unwrap().upgrade().map(drop).map_err(|refused| refused.error),
        lock.write().unwrap().downgrade().map(drop).map_err(|refused| refused.error),
    ];
    for (number, result) in results.into_iter().enumerate() {
        match (backend, result) {
            (Backend::Segment, Ok(())) => {}
            (Backend::Files, Err(Error::Unsupported { what, backend: Backend::Files, .. })) => {
                assert!(!what.is_empty());
            }
            (_, result) => panic!("{number}: {result:?}"),
        }
    }
    // Whoever was refused left no name, and what it had it still had, or gave back.
    if backend == Backend::Files {
        assert_eq!(space.usage().locks, 1);
    }
    drop(lock.try_write().unwrap());
}

/// H57.
pub fn rights_are_those_of_the_mode_whatever_the_umask(backend: Backend) {
    let root = root();
    start("masked", &[root.path().to_str().unwrap(), name_of(backend)]).expect("content");
}

/// The mask is a process's.
pub fn masked(arguments: &[String]) {
    let (root, backend) = (Path::new(&arguments[0]), by_name(&arguments[1]));
    for (name, mask, mode) in [("open", 0o000, 0o600), ("shut", 0o777, 0o600), ("group", 0o077, 0o660)] {
        umask(Mode::from_bits_truncate(mask));
        let space = Space::builder(name).root(root).backend(backend).mode(mode).open().unwrap();
        let _held = space.mutex("a").unwrap().lock_owned().unwrap();
        for entry in fs::read_dir(root.join(name)).unwrap() {
            let entry = entry.unwrap();
            let is = entry.metadata().unwrap().mode() & 0o7777;
            assert_eq!(is, mode, "{:?} has mode {is:o}", entry.path());
        }
    }
    say("content");
    hear();
}

/// P8.
pub fn a_damaged_space_is_refused_and_says_why(backend: Backend) {
    let root = root();
    let path = root.path().join("test").join(file_name(backend));
    type Damage<'a> = (&'static str, &'a dyn Fn(&fs::File));
    let damage: [Damage; 4] = [
        ("cut", &|file| file.set_len(100).unwrap()),
        ("empty", &|file| file.set_len(0).unwrap()),
        ("another file", &|file| file.write_all_at(b"#!/bin/sh\nexit 0", 0).unwrap()),
        ("a flipped bit", &|file| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, 17).unwrap();
            file.write_all_at(&[byte[0] ^ 4], 17).unwrap();
        }),
    ];
    for (what, act) in damage {
        drop(space(root.path(), backend));
        act(&fs::File::options().read(true).write(true).open(&path).unwrap());
        let error = Space::builder("test").root(root.path()).open().unwrap_err();
        assert!(matches!(error, Error::UnusableSegment { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{what}: {error}");
        assert!(Space::builder("test").root(root.path()).inspect().is_err(), "{what}");
        fs::remove_dir_all(root.path().join("test")).unwrap();
    }
}

pub fn a_copy_of_a_space_is_refused(backend: Backend) {
    let root = root();
    drop(space(root.path(), backend).mutex("a").unwrap().lock().unwrap());
    let (from, to) = (root.path().join("test"), root.path().join("copy"));
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(&to).unwrap();
    for entry in fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let error = Space::builder("copy").root(root.path()).open().unwrap_err();
    assert!(error.to_string().contains("copy"), "{error}");
}

pub fn a_removed_space_is_noticed(backend: Backend) {
    let root = root();
    let mut one = start_in(root.path(), backend);
    let two = space(root.path(), backend);
    one.acquire("mutex a");
    fs::remove_file(root.path().join("test").join(file_name(backend))).unwrap();
    // Whoever waits is told, and nobody makes a second space beside those who are in the first.
    assert!(matches!(two.mutex("a").and_then(|mutex| mutex.lock().map(drop)), Err(Error::Removed { .. })));
    assert!(Space::builder("test").root(root.path()).backend(backend).open().is_err());
    assert_eq!(one.ask("release a"), "released");
}
