//! What cannot be is refused, with an error that says what and where, and what to do; and whoever is at work goes on.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hostlock::{Error, Space, SpaceBuilder};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{geteuid, mkfifo};
use support::elsewhere::{NOBODY, as_nobody, in_mount_namespace};
use support::raw::{self, Raw};
use support::{Actor, PATIENCE, act, hear, root, say, space, start};

#[test]
fn role() {
    act(&[
        ("opener", opener),
        ("holder", holder),
        ("waiter", waiter),
        ("full", full),
        ("no_inodes", no_inodes),
        ("too_large", too_large),
    ]);
}

/// Opens the space with all defaults and says how that went.
fn opener(arguments: &[String]) {
    match builder(&arguments[0]).open() {
        Ok(space) => {
            drop(space.mutex("a").unwrap().lock().unwrap());
            say("opened");
        }
        Err(error) => say(format!("{} {error}", variant(&error))),
    }
}

/// Holds a lock until told, then says whether it held it all the time.
fn holder(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex("held").unwrap();
    let guard = mutex.lock().unwrap();
    say(guard.token());
    while hear() == "try another" {
        say(drop_of(space.mutex("other").map(|other| drop_of(other.lock()))));
    }
    say(format!("{} {}", guard.is_held(), drop_of(guard.unlock())));
}

/// Waits for the lock that the holder holds, and says what it got.
fn waiter(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex("held").unwrap();
    say("waiting");
    say(drop_of(mutex.lock()));
}

fn drop_of<T>(result: Result<T, Error>) -> String {
    result.map_or_else(|error| variant(&error), |_| "Ok".into())
}

fn variant(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().into()
}

fn builder(root: impl AsRef<Path>) -> SpaceBuilder {
    Space::builder("test").root(root.as_ref())
}

/// Does it in a thread of its own, so that a hang is a failure. What panicked there panics here.
#[track_caller]
fn within<T: Send + 'static>(limit: Duration, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || sender.send(act()).is_ok());
    match receiver.recv_timeout(limit) {
        Ok(value) => value,
        Err(_) if thread.is_finished() => panic!("it panicked"),
        Err(_) => panic!("it hangs: {limit:?} are over"),
    }
}

/// The error of an open that must fail, and must not hang.
#[track_caller]
fn refused(builder: SpaceBuilder) -> Error {
    within(PATIENCE, || builder.open()).expect_err("it cannot be opened")
}

#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[track_caller]
fn assert_unusable_root(error: &Error, wanted: &Path, parts: &[&str]) {
    let Error::UnusableRoot { path, .. } = error else { panic!("{error:?}") };
    assert_eq!(path, wanted, "{error}");
    assert_says(error, &[wanted.to_str().unwrap()]);
    assert_says(error, parts);
}

#[track_caller]
fn assert_unusable_segment(error: &Error, wanted: &Path, parts: &[&str]) {
    let Error::UnusableSegment { path, .. } = error else { panic!("{error:?}") };
    assert_eq!(path, wanted, "{error}");
    assert_says(error, &[wanted.to_str().unwrap()]);
    assert_says(error, parts);
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A root with a space in it that nobody is in, and the path of its segment.
fn left_space() -> (tempfile::TempDir, PathBuf) {
    let root = root();
    drop(builder(&root).participants(4).locks(8).open().unwrap());
    let segment = root.path().join("test/segment");
    assert!(segment.is_file());
    (root, segment)
}

// Names.

#[test]
fn names_that_cannot_be_a_spaces_are_refused_and_make_nothing() {
    let root = root();
    let long = "x".repeat(65);
    // 33 characters, 66 bytes: the limit is in bytes.
    let wide = "ä".repeat(33);
    for (name, reason) in [
        ("", "it is empty"),
        (long.as_str(), "longer than 64 bytes"),
        (wide.as_str(), "longer than 64 bytes"),
        ("a\0b", "slash or NUL"),
        ("\0", "slash or NUL"),
        ("a/b", "slash or NUL"),
        ("/", "slash or NUL"),
        ("../test", "slash or NUL"),
        ("..", "starts with a dot"),
        (".", "starts with a dot"),
        (".hidden", "starts with a dot"),
    ] {
        let error = refused(Space::builder(name).root(root.path()));
        assert!(matches!(&error, Error::InvalidName { of: "space", name: is, .. } if is == name), "{error:?}");
        assert_says(&error, &["space", reason, &format!("{name:?}")]);
        // The same without a root: nothing may be made in the default one either.
        assert!(matches!(Space::open(name), Err(Error::InvalidName { .. })));
    }
    assert_eq!(names_in(root.path()), [""; 0]);
}

#[test]
fn odd_names_of_spaces_that_can_be_are_just_names() {
    let root = root();
    let long = "x".repeat(64);
    for name in [long.as_str(), "a", "ä ö", "a b\nc", "-rf", "a..", "%s"] {
        let space = Space::builder(name).root(root.path()).participants(2).locks(2).open().unwrap();
        assert_eq!(space.name(), name);
        assert_eq!(space.path(), root.path().join(name));
        drop(space.mutex("a").unwrap().lock().unwrap());
    }
}

#[test]
fn names_that_cannot_be_a_locks_are_refused_while_others_are_held() {
    let root = root();
    let space = space(&root);
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    let (long, wide) = ("x".repeat(65), "ä".repeat(33));
    for (name, reason) in [
        ("", "it is empty"),
        (long.as_str(), "longer than 64 bytes"),
        (wide.as_str(), "longer than 64 bytes"),
        ("\0", "it holds NUL"),
        ("a\0", "it holds NUL"),
    ] {
        let error = space.mutex(name).unwrap_err();
        assert!(matches!(&error, Error::InvalidName { of: "lock", name: is, .. } if is == name), "{error:?}");
        assert_says(&error, &["lock", reason, &format!("{name:?}")]);
    }
    assert_eq!(space.usage().locks, 1, "a refused name has no lock");
    assert!(guard.is_held());
    guard.unlock().unwrap();
}

#[test]
fn odd_names_of_locks_that_can_be_are_all_different_locks() {
    let root = root();
    let space = space(&root);
    let long = "x".repeat(64);
    // The longest one, one that is its beginning, one that differs in case: names are compared as bytes and whole.
    let names = [&long, &long[..63], "a", "A", "a/b", ".", "..", "/", "a b\nc", "ä", "a\u{308}", "\u{1b}[31m", "%s"];
    let mutexes: Vec<_> = names.iter().map(|name| space.mutex(name).unwrap()).collect();
    let guards: Vec<_> = mutexes.iter().map(|mutex| mutex.try_lock().unwrap()).collect();
    assert_eq!(space.usage().locks, names.len());
    for name in names {
        let again = space.mutex(name).unwrap();
        assert!(matches!(again.try_lock().unwrap_err(), Error::WouldBlock { name: held, .. } if &*held == name));
    }
    drop(guards);
}

#[test]
fn a_name_of_another_kind_is_an_error_that_names_both() {
    let root = root();
    let space = builder(&root).participants(4).locks(4).open().unwrap();
    let (odd, plain) = (space.mutex("odd").unwrap(), space.mutex("plain").unwrap());
    drop(odd.lock().unwrap());
    let guard = plain.lock().unwrap();
    // What a later version with more kinds would have stored: the kind is the sixth byte of the meta word.
    let raw = Raw::open(space.path());
    let entry = raw.entry("odd").unwrap();
    let [.., state, kind, len, flags] = entry.meta.to_be_bytes();
    assert_eq!((state, kind, len, flags), (1, 3, 3, 0));
    let other_kind = entry.meta & !0xFF_0000 | 0x7F << 16;
    raw.put(entry.at + 32, other_kind);

    let error = space.mutex("odd").unwrap_err();
    let Error::WrongKind { name, is, wanted } = &error else { panic!("{error:?}") };
    assert_eq!((name.as_str(), *wanted), ("odd", "mutex"));
    assert!(is.contains("kind"), "{is}");
    assert_says(&error, &["\"odd\"", "mutex", "choose another name"]);

    // What this version does not know it does not give to another name, however short of places it is.
    for round in 0..20 {
        drop(space.mutex(&format!("another {round}")).unwrap().lock().unwrap());
    }
    assert_eq!(raw.u64_at(entry.at + 32), other_kind);
    assert!(matches!(space.mutex("odd").unwrap_err(), Error::WrongKind { .. }));
    assert!(guard.is_held());
    guard.unlock().unwrap();
}

// Time-outs. H65.

#[test]
fn odd_timeouts_of_a_held_lock_end_at_once_or_wait() {
    let root = root();
    let mut holder = start("holder", &[root.path().to_str().unwrap()]);
    holder.hear();
    let space = space(&root);
    let mutex = space.mutex("held").unwrap();
    let past = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap_or_else(Instant::now);
    for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(1)] {
        let begin = Instant::now();
        assert!(matches!(mutex.try_lock_for(timeout).unwrap_err(), Error::TimedOut { holder: Some(_), .. }));
        assert!(matches!(mutex.try_lock_owned_for(timeout).unwrap_err(), Error::TimedOut { holder: Some(_), .. }));
        assert!(begin.elapsed() >= timeout * 2);
    }
    for deadline in [past, Instant::now()] {
        assert!(matches!(mutex.try_lock_until(deadline).unwrap_err(), Error::TimedOut { .. }));
        assert!(matches!(mutex.try_lock_owned_until(deadline).unwrap_err(), Error::TimedOut { .. }));
    }
    assert_eq!(space.usage().waiting, 0, "giving up leaves nothing");
    // As long as can be said, and longer: these wait. 2^63 nanoseconds is where a signed count would turn negative.
    let signed = Duration::from_nanos(1 << 63);
    let longest = [Duration::MAX, Duration::from_secs(u64::MAX), signed, signed - Duration::from_nanos(1)];
    let mut waiters: Vec<_> = longest
        .into_iter()
        .map(|timeout| {
            let mutex = mutex.clone();
            std::thread::spawn(move || mutex.try_lock_for(timeout).map(|guard| guard.token()))
        })
        .collect();
    let far = Instant::now() + Duration::from_secs(1 << 40);
    let late = mutex.clone();
    waiters.push(std::thread::spawn(move || late.try_lock_until(far).map(|guard| guard.token())));
    support::wait_until("all five sleep, or some came back", || {
        space.usage().waiting == 5 || waiters.iter().any(|waiter| waiter.is_finished())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiters.iter().any(|waiter| waiter.is_finished()), "a wait without end ended");
    holder.tell("end");
    holder.expect("true Ok");
    let mut tokens: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap().unwrap()).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 5);
    assert_eq!(space.usage().waiting, 0);
}

// Options.

/// How an option is stated.
type Set = fn(SpaceBuilder) -> SpaceBuilder;

#[test]
fn options_out_of_range_are_refused_and_make_nothing() {
    let root = root();
    let options: [(&str, &str, Set); 14] = [
        ("participants", "0", |b| b.participants(0)),
        ("participants", "8192", |b| b.participants(8192)),
        ("participants", "4294967295", |b| b.participants(u32::MAX)),
        ("locks", "0", |b| b.locks(0)),
        ("locks", "16777217", |b| b.locks((1 << 24) + 1)),
        ("locks", "4294967295", |b| b.locks(u32::MAX)),
        ("mode", "0o0", |b| b.mode(0)),
        ("mode", "0o400", |b| b.mode(0o400)),
        ("mode", "0o666", |b| b.mode(0o666)),
        ("mode", "0o644", |b| b.mode(0o644)),
        ("mode", "0o4600", |b| b.mode(0o4600)),
        ("check_interval", "0ns", |b| b.check_interval(Duration::ZERO)),
        ("check_interval", "999.999µs", |b| b.check_interval(Duration::from_nanos(999_999))),
        ("check_interval", "3600.000000001s", |b| b.check_interval(Duration::new(3600, 1))),
    ];
    for (wanted, value, set) in options {
        let error = refused(set(builder(&root)));
        assert!(matches!(error, Error::InvalidOption { option, .. } if option == wanted), "{error:?}");
        assert_says(&error, &[wanted, value]);
    }
    assert_eq!(names_in(root.path()), [""; 0]);
    for (name, set) in [
        ("least", (|b| b.participants(1).locks(1)) as Set),
        ("most participants", |b| b.participants(8191).locks(1)),
        ("group", |b| b.participants(1).locks(1).mode(0o660)),
        ("slow", |b| b.participants(1).locks(1).check_interval(Duration::from_secs(3600))),
        ("fast", |b| b.participants(1).locks(1).check_interval(Duration::from_millis(1))),
    ] {
        let space = set(Space::builder(name).root(root.path())).open().unwrap();
        drop(space.mutex("a").unwrap().lock().unwrap());
    }
}

#[test]
fn an_opener_that_states_what_the_space_is_not_is_told_the_difference() {
    let root = root();
    let mut holder = start("holder", &[root.path().to_str().unwrap()]);
    holder.hear();
    let options: [(&str, &str, &str, Set); 4] = [
        ("participants", "1024", "1023", |b| b.participants(1023)),
        ("locks", "4096", "4097", |b| b.locks(4097)),
        ("mode", "0o600", "0o660", |b| b.mode(0o660)),
        ("locks", "4096", "1", |b| b.participants(1024).locks(1).mode(0o600)),
    ];
    for (wanted_option, is, asked, set) in options {
        let error = refused(set(builder(&root)));
        let Error::OptionDiffers { path, option, existing, wanted } = &error else { panic!("{error:?}") };
        assert_eq!((*option, existing.as_str(), wanted.as_str()), (wanted_option, is, asked));
        assert_eq!(path, &root.path().join("test"));
        assert_says(&error, &[path.to_str().unwrap(), wanted_option, is, asked, "state that, or nothing"]);
    }
    // Stating nothing, or what is so, just opens it.
    for open in [builder(&root), builder(&root).participants(1024).locks(4096).mode(0o600)] {
        let space = open.open().unwrap();
        assert!(matches!(space.mutex("held").unwrap().try_lock().unwrap_err(), Error::WouldBlock { .. }));
    }
    holder.tell("end");
    holder.expect("true Ok");
    holder.finish();
    assert_eq!(space(&root).usage().participants, 1, "who was refused is not in the space");
}

// Roots. H52, H53, H55, H57.

#[test]
fn a_missing_root_is_named_and_not_created() {
    let root = root();
    let missing = root.path().join("not/there");
    assert_unusable_root(&refused(builder(&missing)), &missing, &["does not exist", "create it"]);
    assert_eq!(names_in(root.path()), [""; 0]);
}

/// Puts what is no directory there, one kind after the other, with the word for it.
fn impostors(at: &Path, mut look: impl FnMut(&str)) {
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), at).unwrap();
    look("symbolic link");
    fs::remove_file(at).unwrap();
    symlink(elsewhere.path().join("nothing"), at).unwrap();
    look("symbolic link");
    fs::remove_file(at).unwrap();
    mkfifo(at, Mode::S_IRWXU).unwrap();
    look("FIFO");
    fs::remove_file(at).unwrap();
    File::create(at).unwrap();
    look("not a directory");
    fs::remove_file(at).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at).unwrap();
    look("not a directory");
    fs::remove_file(at).unwrap();
    assert_eq!(names_in(elsewhere.path()), [""; 0], "a link was followed");
}

#[test]
fn a_root_that_is_no_directory_is_refused_at_once() {
    let root = root();
    let at = root.path().join("root");
    impostors(&at, |what| assert_unusable_root(&within_a_second(&at), &at, &[what]));
    assert_eq!(names_in(root.path()), [""; 0]);
}

#[test]
fn a_spaces_directory_that_is_none_is_refused_at_once() {
    let root = root();
    let at = root.path().join("test");
    impostors(&at, |what| assert_unusable_root(&within_a_second(root.path()), &at, &[what]));
    assert_eq!(names_in(root.path()), [""; 0]);
}

/// What H53 asks for: a FIFO blocks an `open` that does not know better for as long as nobody opens its other end.
fn within_a_second(root: &Path) -> Error {
    let builder = builder(root);
    within(Duration::from_secs(1), || builder.open()).expect_err("it cannot be opened")
}

#[test]
fn a_directory_that_everybody_can_write_to_is_refused_without_the_sticky_bit() {
    let root = root();
    let open = root.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    assert_unusable_root(&refused(builder(&open)), &open, &["everybody can write to it", "chmod o-w"]);
    assert_eq!(names_in(&open), [""; 0]);
    // As /tmp: what others put there they cannot take away from us.
    fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
    drop(space(&open));
    assert_eq!(fs::metadata(open.join("test")).unwrap().mode() & 0o7777, 0o700);
    // The space's own directory: the sticky bit does not keep others from creating files in it.
    for mode in [0o777, 0o1777] {
        fs::set_permissions(open.join("test"), Permissions::from_mode(mode)).unwrap();
        assert_unusable_root(&refused(builder(&open)), &open.join("test"), &["everybody can write", "chmod o-w"]);
    }
    fs::set_permissions(open.join("test"), Permissions::from_mode(0o700)).unwrap();
    drop(space(&open));
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    if !geteuid().is_root() {
        skip!("only root can give a directory to another user");
    }
    let root = root();
    let mine = root.path().join("root");
    fs::create_dir(&mine).unwrap();
    let give = |path: &Path, uid| std::os::unix::fs::chown(path, Some(uid), None).unwrap();
    give(&mine, NOBODY);
    assert_unusable_root(&refused(builder(&mine)), &mine, &["belongs to uid 65534", "uid 0", ".mode(0o660)"]);
    assert_eq!(names_in(&mine), [""; 0]);
    give(&mine, 0);
    drop(space(&mine));
    let directory = mine.join("test");
    give(&directory, NOBODY);
    assert_unusable_root(&refused(builder(&mine)), &directory, &["belongs to uid 65534", "uid 0", ".mode(0o660)"]);
    give(&directory, 0);
    drop(space(&mine));
}

#[test]
fn a_segment_that_belongs_to_another_user_is_refused() {
    if !geteuid().is_root() {
        skip!("only root can give a file to another user");
    }
    let (root, segment) = left_space();
    std::os::unix::fs::chown(&segment, Some(NOBODY), None).unwrap();
    assert_unusable_segment(&refused(builder(&root)), &segment, &["belongs to uid 65534", "uid 0"]);
    std::os::unix::fs::chown(&segment, Some(0), None).unwrap();
    drop(space(&root));
}

#[test]
fn another_user_is_told_whose_the_root_or_the_space_is() {
    // A directory that the other user can get to.
    let root = root();
    let path = root.path().to_str().unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    let Some(actor) = as_nobody("opener", &[path]) else { skip!("we cannot become another user") };
    let heard = actor.hear();
    assert!(heard.starts_with(&format!("UnusableRoot {path}/test cannot be used")), "{heard}");
    assert!(heard.contains("Permission denied"), "{heard}");
    assert_eq!(names_in(root.path()), [""; 0]);

    let mut holder = start("holder", &[path]);
    holder.hear();
    let heard = as_nobody("opener", &[path]).unwrap().hear();
    assert!(heard.starts_with(&format!("UnusableRoot {path}/test cannot be used")), "{heard}");
    assert!(heard.contains("it belongs to uid 0, we are uid 65534"), "{heard}");

    // Somebody opened the directory: the file still is shut.
    fs::set_permissions(root.path().join("test"), Permissions::from_mode(0o755)).unwrap();
    let heard = as_nobody("opener", &[path]).unwrap().hear();
    assert!(heard.starts_with(&format!("UnusableSegment {path}/test/segment cannot be used")), "{heard}");
    assert!(heard.contains("uid 0, we are uid 65534; its mode is 0o600"), "{heard}");

    fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
    let heard = as_nobody("opener", &[path]).unwrap().hear();
    assert!(heard.starts_with(&format!("UnusableRoot {path} cannot be used")), "{heard}");
    assert!(heard.contains("it belongs to uid 0, we are uid 65534"), "{heard}");
    holder.tell("end");
    holder.expect("true Ok");
}

const READ_ONLY: &str = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";

#[test]
fn a_read_only_root_is_an_error_whether_or_not_the_space_is_there() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let Some(actor) = in_mount_namespace(READ_ONLY, root.path(), "opener", &[path]) else {
        skip!("no mount namespace of our own: {READ_ONLY}");
    };
    let heard = actor.hear();
    assert!(heard.starts_with(&format!("UnusableRoot {path}/test cannot be used")), "{heard}");
    assert!(heard.contains("Read-only file system"), "{heard}");
    assert_eq!(names_in(root.path()), [""; 0]);

    let mut holder = start("holder", &[path]);
    holder.hear();
    let heard = in_mount_namespace(READ_ONLY, root.path(), "opener", &[path]).unwrap().hear();
    assert!(heard.starts_with(&format!("UnusableSegment {path}/test/segment cannot be used")), "{heard}");
    assert!(heard.contains("Read-only file system"), "{heard}");
    assert_eq!(names_in(&root.path().join("test")), ["segment"]);
    holder.tell("end");
    holder.expect("true Ok");
}

#[test]
fn every_refusal_says_what_to_do() {
    let (root, segment) = left_space();
    let path = root.path().to_str().unwrap();
    let bytes = fs::read(&segment).unwrap();
    let mut said = Vec::new();
    let nowhere = root.path().join("nowhere");
    said.push(refused(builder(&nowhere)).to_string());
    impostors(&nowhere, |_| said.push(refused(builder(&nowhere)).to_string()));
    let mut with = |bytes: &[u8]| {
        fs::write(&segment, bytes).unwrap();
        said.push(refused(builder(&root)).to_string());
    };
    with(b"");
    with(b"garbage");
    with(&bytes[..4096]);
    with(&sealed(&bytes, |h| h[raw::VERSION_AT] = 5));
    with(&sealed(&bytes, |h| h[raw::WORD_BITS_AT] = 32));
    with(&sealed(&bytes, |h| h[raw::BYTE_ORDER_AT..][..4].reverse()));
    fs::remove_file(&segment).unwrap();
    impostors(&segment, |_| said.push(refused(builder(&root)).to_string()));
    fs::remove_dir_all(segment.parent().unwrap()).unwrap();
    if let Some(actor) = in_mount_namespace(READ_ONLY, root.path(), "opener", &[path]) {
        said.push(actor.hear());
    }
    const ADVICE: &[&str] =
        &["create it", "name another", "name the directory", "chmod", "remove", "choose another", "use "];
    let mute: Vec<_> = said.iter().filter(|text| !ADVICE.iter().any(|advice| text.contains(advice))).collect();
    assert!(mute.is_empty(), "{} of {} say what is wrong, but not what to do: {mute:#?}", mute.len(), said.len());
}

// No room. H43.

const TINY: &str = "mount -t tmpfs -o size=64k,mode=700 none \"$1\"";

#[test]
fn a_full_tmpfs_is_an_error_now_and_not_a_signal_later() {
    let root = root();
    let Some(mut actor) = in_mount_namespace(TINY, root.path(), "full", &[root.path().to_str().unwrap()]) else {
        skip!("no mount namespace of our own: {TINY}");
    };
    // Without an allocation that is real, what says this is a bus error.
    while actor.hear() != "the end" {}
    assert!(actor.finish());
}

/// In a tmpfs of 64 KiB.
fn full(arguments: &[String]) {
    let root = Path::new(&arguments[0]);
    let error = builder(root).open().unwrap_err();
    let Error::NoRoom { path, needed, available } = &error else { panic!("{error:?}") };
    assert_eq!(path, &root.join("test"));
    assert!(*needed > 1 << 20, "the default space is larger than that: {needed}");
    assert!(*available > 0 && *available <= 64 << 10, "{available}");
    assert_says(&error, &[path.to_str().unwrap(), &needed.to_string(), &available.to_string(), "free some"]);
    say("refused the default");

    // One that fits.
    let space = builder(root).participants(4).locks(4).open().unwrap();
    let mut filler = File::create(root.join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[0xFF; 4096]).is_ok() {}
    say("it is full now");
    // Every page of the segment is touched.
    for round in 0..16 {
        drop(space.mutex(&format!("name {round}")).unwrap().lock().unwrap());
    }
    space.recover_dead().unwrap();
    let mutex = space.mutex("held").unwrap();
    let guard = mutex.lock().unwrap();
    say("locks work");
    // Whoever comes now still gets in: it is there already.
    let mut second = start("opener", &[&arguments[0]]);
    second.expect("opened");
    second.finish();
    for name in ["another", "test2"] {
        let error = Space::builder(name).root(root).participants(4).locks(4).open().unwrap_err();
        assert!(matches!(error, Error::NoRoom { available: 0, .. }), "{error:?}");
    }
    assert!(guard.is_held());
    guard.unlock().unwrap();
    say("the end");
}

#[test]
fn nothing_is_left_of_a_space_that_found_no_room() {
    let root = root();
    let Some(mut actor) = in_mount_namespace(TINY, root.path(), "too_large", &[root.path().to_str().unwrap()]) else {
        skip!("no mount namespace of our own: {TINY}");
    };
    // The documentation of `NoRoom` says "nothing was left there".
    actor.expect("NoRoom []");
    actor.expect("NoRoom []");
    actor.finish();
}

/// In a tmpfs of 64 KiB: what is left there after asking for too much, and for the most that can be asked for.
fn too_large(arguments: &[String]) {
    let root = Path::new(&arguments[0]);
    for open in [builder(root), Space::builder("largest").root(root).participants(8191).locks(1 << 24)] {
        let error = open.open().unwrap_err();
        say(format!("{} {:?}", variant(&error), names_in(root)));
    }
}

#[test]
fn no_inode_left_is_no_room_and_not_a_riddle() {
    // The root itself takes one inode: there is none for the space's directory, or one for that and none for the file.
    for inodes in [1, 2] {
        let preparation = format!("mount -t tmpfs -o size=16m,mode=700,nr_inodes={inodes} none \"$1\"");
        let root = root();
        let path = root.path().to_str().unwrap();
        let Some(mut actor) = in_mount_namespace(&preparation, root.path(), "no_inodes", &[path]) else {
            skip!("no mount namespace of our own: {preparation}");
        };
        let text = actor.hear();
        assert!(text.contains(path), "{text}");
        actor.expect("it makes sense");
        actor.finish();
    }
}

/// In a tmpfs that has bytes, but no inodes.
fn no_inodes(arguments: &[String]) {
    let error = builder(&arguments[0]).open().unwrap_err();
    say(&error);
    // "Needs 1000 and has 2000" is no reason; whichever error it is, it names what is missing.
    let short = matches!(error, Error::NoRoom { needed, available, .. } if needed > available);
    let kind = matches!(error, Error::NoRoom { .. } | Error::UnusableRoot { .. });
    say(if kind && (short || error.to_string().contains("inode")) { "it makes sense" } else { "it does not" });
}

// Segments. H35, H44, H53.

fn sealed(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    raw::seal(&mut bytes);
    bytes
}

#[test]
fn a_segment_that_is_not_one_is_refused_and_left_as_it_is() {
    let (root, segment) = left_space();
    let sound = fs::read(&segment).unwrap();
    let version = |version: u8| sealed(&sound, |h| h[raw::VERSION_AT] = version);
    let garbage: Vec<u8> = (0..sound.len() as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut flipped = sound.clone();
    flipped[40] ^= 1;
    let cases: [(&str, Vec<u8>, &str); 13] = [
        ("empty", vec![], "it is empty"),
        ("garbage", garbage, "does not begin as a segment does"),
        ("zeros", vec![0; sound.len()], "does not begin as a segment does"),
        ("text", b"hello\n".to_vec(), "does not begin as a segment does"),
        ("older", version(1), "layout version 1, this program knows 4"),
        ("newer", version(5), "layout version 5, this program knows 4"),
        ("32 bits", sealed(&sound, |h| h[raw::WORD_BITS_AT] = 32), "32-bit program and this one has 64"),
        ("other order", sealed(&sound, |h| h[raw::BYTE_ORDER_AT..][..4].reverse()), "other byte order"),
        ("flipped bit", flipped, "checksum"),
        ("impossible counts", sealed(&sound, |h| h[32..36].fill(0)), "capacities are impossible"),
        ("too many names", sealed(&sound, |h| h[40..44].fill(0xFF)), "capacities are impossible"),
        ("moved table", sealed(&sound, |h| h[73] ^= 0x10), "not where its capacities put them"),
        ("other backend", sealed(&sound, |h| h[20] = 7), "what this version does not know"),
    ];
    for (what, bytes, says) in cases {
        fs::write(&segment, &bytes).unwrap();
        let error = refused(builder(&root));
        assert_unusable_segment(&error, &segment, &[says]);
        assert_eq!(fs::read(&segment).unwrap(), bytes, "{what}: opening wrote to it");
    }
    assert_eq!(names_in(segment.parent().unwrap()), ["segment"]);
    fs::write(&segment, &sound).unwrap();
    drop(space(&root));
}

#[test]
fn a_sealed_header_whose_numbers_overflow_is_refused() {
    // Not what an accident writes, for the checksum is right: what a fuzzer does, or another program with our magic.
    let (root, segment) = left_space();
    let sound = fs::read(&segment).unwrap();
    for (what, at) in [("extents_size", 88), ("token_base", 104)] {
        for value in [u64::MAX, u64::MAX - 4095, 1 << 63] {
            fs::write(&segment, sealed(&sound, |h| h[at..at + 8].copy_from_slice(&value.to_ne_bytes()))).unwrap();
            let builder = builder(&root);
            let outcome = std::panic::catch_unwind(|| {
                let space = builder.open()?;
                let mutex = space.mutex("a")?;
                let first = mutex.lock()?.token();
                let second = mutex.lock()?.token();
                assert!(first > value && second > first, "tokens went backwards: {first}, {second}");
                Ok::<_, Error>(())
            });
            match outcome {
                // A base that is merely odd leaves room for all tokens there are.
                Ok(Ok(())) => assert!(at == 104 && value == 1 << 63, "{what} = {value} is believed"),
                Ok(Err(error)) => assert_unusable_segment(&error, &segment, &["i"]),
                Err(_) => panic!("{what} = {value} panics"),
            }
        }
    }
}

#[test]
fn a_segment_cut_off_anywhere_is_refused() {
    let (root, segment) = left_space();
    let sound = fs::read(&segment).unwrap();
    let lengths = (0..=160).chain((160..sound.len()).step_by(509)).chain([4095, 4096, 4097, sound.len() - 1]);
    for len in lengths {
        fs::write(&segment, &sound[..len]).unwrap();
        let error = refused(builder(&root));
        assert_unusable_segment(&error, &segment, &[if len == 0 { "it is empty" } else { "i" }]);
        if len >= raw::HEADER_LEN {
            assert_says(&error, &[&format!("{len} bytes long and should be {}", sound.len()), "remove its directory"]);
        }
    }
    // One that is longer is none of our business: what lies behind the tables is not looked at.
    fs::write(&segment, [&sound[..], &[0xFF; 100]].concat()).unwrap();
    drop(space(&root));
}

#[test]
fn garbage_in_the_tables_of_a_sound_header_neither_panics_nor_hangs() {
    let (root, segment) = left_space();
    let sound = fs::read(&segment).unwrap();
    let mut state = 88_172_645_463_325_252_u64;
    for round in 0..60_u64 {
        let mut bytes = sound.clone();
        for byte in &mut bytes[1024..] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // All random, few bytes changed, or many of the values that mean something.
            match round % 3 {
                0 => *byte = state as u8,
                1 if state >> 60 == 0 => *byte = state as u8,
                1 => {}
                _ => *byte = [0, 0, 0, 1, 2, 12, 0x7F, 0xFF][(state >> 32) as usize % 8],
            }
        }
        fs::write(&segment, &bytes).unwrap();
        let root = root.path().to_owned();
        within(PATIENCE, move || {
            let Ok(space) = builder(&root).open() else { return };
            space.usage();
            for name in ["a", "b"] {
                // Whatever it says: it says something.
                let _ = space.mutex(name).map(|mutex| {
                    let _ = mutex.holder();
                    let _ = mutex.try_lock();
                    drop(mutex.try_lock_for(Duration::from_millis(5)));
                });
            }
            let _ = space.recover_dead();
        });
    }
    fs::write(&segment, &sound).unwrap();
    drop(space(&root));
}

#[test]
fn what_is_no_file_in_the_segments_place_is_refused_within_a_second() {
    let (root, segment) = left_space();
    let aside = root.path().join("aside");
    fs::rename(&segment, &aside).unwrap();
    let check = |says: &str| assert_unusable_segment(&within_a_second(root.path()), &segment, &[says]);
    fs::create_dir(&segment).unwrap();
    check("not a regular file");
    fs::remove_dir(&segment).unwrap();
    // Also a link to a sound segment: who owns the place it leads to decides who gets which lock.
    symlink(&aside, &segment).unwrap();
    check("symbolic link");
    fs::remove_file(&segment).unwrap();
    impostors(&segment, |what| {
        if what == "symbolic link" {
            check(what);
        } else if fs::symlink_metadata(&segment).unwrap().is_file() {
            check("it is empty");
        } else {
            check("not a regular file");
        }
    });
    // A device that would give and take bytes for ever.
    let zero = nix::libc::makedev(1, 5);
    if mknod(&segment, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, zero).is_ok() {
        check("segment cannot be used");
        fs::remove_file(&segment).unwrap();
    }
    fs::rename(&aside, &segment).unwrap();
    drop(space(&root));
}

#[test]
fn what_a_killed_creator_left_is_removed_and_never_followed() {
    // H52: a link in place of the unpublished file must not lead anybody to overwrite something else.
    let root = root();
    let directory = root.path().join("test");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    let (left, precious) = (directory.join(".segment.new"), root.path().join("precious"));
    fs::write(&precious, "precious").unwrap();
    let leave: [(&str, &dyn Fn()); 4] = [
        ("half a file", &|| fs::write(&left, "half").unwrap()),
        ("a FIFO", &|| mkfifo(&left, Mode::S_IRWXU).unwrap()),
        ("a link", &|| symlink(&precious, &left).unwrap()),
        ("a hard link", &|| fs::hard_link(&precious, &left).unwrap()),
    ];
    for (what, leave) in leave {
        leave();
        drop(space(&root));
        assert_eq!(names_in(&directory), ["segment"], "{what}");
        assert_eq!(fs::read(&precious).unwrap(), b"precious", "{what}");
        fs::remove_file(directory.join("segment")).unwrap();
    }
}

#[test]
fn a_segment_opened_to_others_is_refused_and_its_users_go_on() {
    let root = root();
    let mut holder = start("holder", &[root.path().to_str().unwrap()]);
    holder.hear();
    let segment = root.path().join("test/segment");
    for mode in [0o666, 0o604, 0o660, 0o640, 0o4600] {
        fs::set_permissions(&segment, Permissions::from_mode(mode)).unwrap();
        let error = refused(builder(&root));
        assert_unusable_segment(&error, &segment, &[&format!("{mode:#o}"), "0o600", "chmod 600"]);
    }
    holder.tell("try another");
    holder.expect("Ok");
    fs::set_permissions(&segment, Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(space(&root).mutex("held").unwrap().try_lock().unwrap_err(), Error::WouldBlock { .. }));
    holder.tell("end");
    holder.expect("true Ok");
}

// Removed while in use. H41, H42.

/// A process that holds a lock, and one that sleeps waiting for it.
fn holder_and_sleeper(root: &Path) -> (Actor, Actor) {
    let path = root.to_str().unwrap();
    let holder = start("holder", &[path]);
    holder.hear();
    let waiter = start("waiter", &[path]);
    waiter.expect("waiting");
    let raw = Raw::open(root.join("test"));
    support::wait_until("it sleeps", || raw.entry("held").unwrap().sleepers == 1);
    (holder, waiter)
}

/// What a newcomer finds in a space whose segment was removed or replaced while somebody holds a lock there: not that lock.
fn newcomer_is_refused(root: &Path) {
    let error = refused(builder(root));
    assert!(matches!(&error, Error::Removed { path } if *path == root.join("test")), "{error:?}");
    assert_says(&error, &[root.join("test").to_str().unwrap(), "removed or replaced", "end those processes"]);
}

#[test]
fn a_segment_removed_while_in_use_is_an_error_for_all_and_not_a_second_set_of_locks() {
    let root = root();
    let (mut holder, waiter) = holder_and_sleeper(root.path());
    fs::remove_file(root.path().join("test/segment")).unwrap();
    waiter.expect("Removed");
    newcomer_is_refused(root.path());
    assert_eq!(names_in(&root.path().join("test")), [""; 0]);
    // A name that the space does not know cannot be added: a newcomer could not see it.
    holder.tell("try another");
    holder.expect("Removed");
    holder.tell("end");
    holder.expect("true Ok");
    holder.finish();
    drop(waiter);
    drop(space(&root).mutex("held").unwrap().try_lock().unwrap());
}

#[test]
fn a_directory_removed_while_in_use_is_an_error_for_the_sleeper() {
    // Nothing of the old space can be found from its name then, so a newcomer cannot know: whoever removes a space's
    // directory has to end its processes. But whoever waits in it is told.
    let root = root();
    let (mut holder, waiter) = holder_and_sleeper(root.path());
    fs::remove_dir_all(root.path().join("test")).unwrap();
    waiter.expect("Removed");
    holder.tell("try another");
    holder.expect("Removed");
    let anew = space(&root);
    assert_eq!(anew.usage().participants, 1);
    // Also when there is another one in its place.
    holder.tell("try another");
    holder.expect("Removed");
    holder.tell("end");
    holder.expect("true Ok");
}

#[test]
fn a_segment_replaced_by_another_spaces_is_an_error_for_all_and_not_a_second_set_of_locks() {
    let root = root();
    let (mut holder, waiter) = holder_and_sleeper(root.path());
    drop(Space::builder("other").root(root.path()).open().unwrap());
    fs::rename(root.path().join("other/segment"), root.path().join("test/segment")).unwrap();
    waiter.expect("Removed");
    holder.tell("try another");
    holder.expect("Removed");
    let outcome = within(PATIENCE, {
        let builder = builder(&root);
        move || builder.open().and_then(|space| space.mutex("held")?.try_lock().map(|guard| guard.token()))
    });
    assert!(outcome.is_err(), "a newcomer got the lock that the holder holds: {outcome:?}");
    holder.tell("end");
    holder.expect("true Ok");
}

#[test]
fn a_segment_replaced_by_a_copy_of_itself_is_an_error_for_all_and_not_a_second_set_of_locks() {
    // What a restored backup, an editor, or `sed -i` does.
    let root = root();
    let (mut holder, waiter) = holder_and_sleeper(root.path());
    let segment = root.path().join("test/segment");
    let copy = root.path().join("test/copy");
    fs::copy(&segment, &copy).unwrap();
    fs::rename(&copy, &segment).unwrap();
    waiter.expect("Removed");
    // In the copy the holder stands in the word, but no peer's wakes and releases reach it.
    let error = within(PATIENCE, {
        let builder = builder(&root);
        move || builder.open().map(|space| space.usage())
    });
    assert!(error.is_err(), "a newcomer joined the copy: {error:?}");
    holder.tell("end");
    holder.expect("true Ok");
}

#[test]
fn a_segment_replaced_by_garbage_is_an_error_for_all() {
    let root = root();
    let (mut holder, waiter) = holder_and_sleeper(root.path());
    let segment = root.path().join("test/segment");
    let junk = root.path().join("junk");
    fs::write(&junk, "junk").unwrap();
    fs::set_permissions(&junk, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&junk, &segment).unwrap();
    waiter.expect("Removed");
    assert_unusable_segment(&refused(builder(&root)), &segment, &["does not begin as a segment does"]);
    holder.tell("try another");
    holder.expect("Removed");
    holder.tell("end");
    holder.expect("true Ok");
}

#[test]
fn a_segment_written_to_by_others_is_read_as_it_is() {
    // The control for the tests above: `Raw` sees what the library does.
    let root = root();
    let space = space(&root);
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    let raw = Raw::open(space.path());
    let [(slot, incarnation, pid)] = raw.participants()[..] else { panic!() };
    assert_eq!((slot, incarnation, pid), (0, 1, std::process::id()));
    let entry = raw.entry("a").unwrap();
    assert_eq!(entry.owner, raw::held_by(0, entry.owner >> 16));
    let mut header = [0; raw::HEADER_LEN];
    raw.file().read_exact_at(&mut header, 0).unwrap();
    let mut again = header;
    raw::seal(&mut again);
    assert_eq!(header, again);
    drop(guard);
    assert_eq!(raw.entry("a").unwrap().owner, entry.owner >> 16 << 16);
}
