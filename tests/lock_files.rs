//! What befalls lock files: deleted under their holders, replaced by something else, used from processes that lack what others have. What lock files
//! have in common with segments is tested in `conformance`.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use fs2::FileExt;
use hostlock::{Backend, Error, Space};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use support::chance::{Random, now, work};
use support::filter;
use support::{Actor, act, hear, root, say, start, wait_until};

#[test]
fn role() {
    act(&[
        ("holder", holder),
        ("hammer", hammer),
        ("churner", churner),
        ("trier", trier),
        ("reader", reader),
        ("forker", forker),
        ("filtered", filtered),
        ("counter", counter),
        ("taker", taker),
        ("crosser", crosser),
        ("somebody", somebody),
        ("frugal", frugal),
    ]);
}

/// Uses more names than it may have files open, with and without handles that stay.
fn frugal(arguments: &[String]) {
    let limit = libc::rlimit { rlim_cur: 256, rlim_max: 256 };
    // SAFETY: the limit outlives the call, which copies it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let space = space(&arguments[0]);
    let mut kept = Vec::new();
    for n in 0..600 {
        let mutex = space.mutex(&format!("name {n}")).unwrap();
        mutex.lock().unwrap().unlock().unwrap();
        if arguments[1] == "stay" {
            kept.push(mutex);
        }
    }
    // Those that are kept for later are used, and those that are not work as well.
    for mutex in &kept {
        mutex.try_lock().unwrap().unlock().unwrap();
    }
    say(format!("{} names", if kept.is_empty() { 600 } else { kept.len() }));
}

#[test]
fn more_names_than_files_may_be_open_are_served() {
    for handles in ["go", "stay"] {
        let root = root();
        start("frugal", &[root.path().to_str().unwrap(), handles]).expect("600 names");
    }
}

fn space(root: impl AsRef<Path>) -> Space {
    Space::builder("test").root(root.as_ref()).backend(Backend::Files).open().expect("a space")
}

/// The lock files of the space, which are named by their entries.
fn lock_files(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(root.join("test")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "lock"));
    files.sort();
    files
}

fn the_lock_file(root: &Path) -> PathBuf {
    let files = lock_files(root);
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

/// Acquires, says its token, and releases when it is told to; then again.
fn holder(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex("a").unwrap();
    loop {
        match mutex.try_lock_for(Duration::from_millis(100)) {
            Ok(guard) => {
                say(guard.token());
                hear();
                say(if guard.unlock().is_ok() { "released" } else { "lost" });
            }
            Err(error) => say(error),
        }
        hear();
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Deleted and replaced.

/// H38: an identity check after locking is what keeps this process, which opened the file before, from believing it holds the lock.
#[test]
fn whoever_locked_a_file_that_was_replaced_does_not_hold_the_lock() {
    let root = root();
    let space = space(root.path());
    let mutex = space.mutex("a").unwrap();
    // From now on a description of the first file is kept open.
    let first = mutex.lock().unwrap().token();
    let path = the_lock_file(root.path());
    fs::remove_file(&path).unwrap();
    let holder = start("holder", &[root.path().to_str().unwrap()]);
    let second: u64 = holder.hear().parse().unwrap_or_else(|_| panic!("nobody holds the first file"));
    assert!(second > first);
    match mutex.try_lock() {
        Err(Error::WouldBlock { holder: Some(seen), .. }) => assert_eq!(seen.pid, holder.process.id()),
        other => panic!("two holders: {other:?}"),
    }
}

/// H38, H39, H41: a check after locking is not enough.
#[test]
fn whoever_finds_the_file_gone_fails_closed_while_somebody_holds_the_old_one() {
    let root = root();
    let mut old = start("holder", &[root.path().to_str().unwrap()]);
    let token: u64 = old.hear().parse().unwrap();
    let path = the_lock_file(root.path());
    let space = space(root.path());
    let mutex = space.mutex("a").unwrap();
    for replace in [false, true] {
        fs::remove_file(&path).unwrap();
        if replace {
            File::create(&path).unwrap();
        }
        for _ in 0..3 {
            match mutex.try_lock_for(Duration::from_millis(50)) {
                Err(Error::LockFileGone { path: gone, .. }) => assert_eq!(gone, path),
                other => panic!("two holders: {other:?}"),
            }
        }
    }
    // The old one goes on, and lets go.
    old.tell("release");
    old.expect("released");
    let guard = mutex.try_lock_for(Duration::from_secs(20)).unwrap();
    assert!(guard.token() > token && guard.abandoned().is_none());
}

/// Deleted again while the one before may still be held: no chain of files leads to two holders.
#[test]
fn deleting_the_new_file_as_well_makes_no_second_holder() {
    let root = root();
    let mut old = start("holder", &[root.path().to_str().unwrap()]);
    old.hear();
    let path = the_lock_file(root.path());
    let space = space(root.path());
    let mutex = space.mutex("a").unwrap();
    for _ in 0..20 {
        fs::remove_file(&path).or_else(|e| if path.exists() { Err(e) } else { Ok(()) }).unwrap();
        assert!(matches!(mutex.try_lock(), Err(Error::LockFileGone { .. })));
    }
    let pid = old.process.id();
    assert_eq!(mutex.holder().unwrap().map(|holder| holder.pid), Some(pid), "it is not forgotten");
    old.kill();
    let guard = mutex.try_lock_for(Duration::from_secs(20)).unwrap();
    assert_eq!(guard.abandoned().and_then(|dead| dead.pid), Some(pid));
}

/// Readers leave no claim, and keep writers out all the same.
#[test]
fn whoever_reads_by_the_old_file_keeps_writers_out() {
    let root = root();
    let mut reader = start("reader", &[root.path().to_str().unwrap()]);
    reader.expect("reads");
    let space = space(root.path());
    let lock = space.rwlock("r").unwrap();
    for _ in 0..3 {
        fs::remove_file(the_lock_file(root.path())).unwrap();
        // Whoever else reads may.
        match lock.try_read() {
            Ok(guard) => drop(guard),
            Err(Error::LockFileGone { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        for _ in 0..20 {
            match lock.try_write() {
                Err(Error::LockFileGone { .. }) => {}
                other => panic!("a writer beside a reader: {other:?}"),
            }
        }
        if fs::metadata(root.path().join("test/0.lock")).is_err() {
            break;
        }
    }
    reader.tell("release");
    reader.expect("released");
    reader.kill();
    // It may not be seen that nobody has the old one any more, on a machine with many locks: when all have left, nobody has.
    drop((lock, space));
    let space = Space::builder("test").root(root.path()).open().unwrap();
    drop(space.rwlock("r").unwrap().try_write_for(Duration::from_secs(20)).unwrap());
}

fn reader(arguments: &[String]) {
    let space = space(&arguments[0]);
    let lock = space.rwlock("r").unwrap();
    let guard = lock.read().unwrap();
    say("reads");
    hear();
    guard.unlock().unwrap();
    say("released");
    hear();
}

const ACQUIRERS: usize = 8;
/// Token, acquired, about to be released, 1 if somebody else was inside.
const WORDS: usize = 4;
const LOG: usize = 1 << 22;

/// Acquires again and again, in the way it is told, while somebody deletes the file. What it did is in its log.
fn hammer(arguments: &[String]) {
    let (root, ours, log) = (Path::new(&arguments[0]), arguments[1] == "ours", &arguments[2]);
    let file = File::options().read(true).write(true).create_new(true).open(log).unwrap();
    file.set_len(LOG as u64).unwrap();
    let map = memmap2::MmapRaw::map_raw(&file).unwrap();
    let board =
        memmap2::MmapRaw::map_raw(&File::options().read(true).write(true).open(root.join("board")).unwrap()).unwrap();
    // SAFETY: the file is two words long, and mapped as long as this process lives.
    let [inside, is_over] =
        [0, 1].map(|word| unsafe { AtomicU64::from_ptr(board.as_mut_ptr().cast::<u64>().add(word)) });
    let space = ours.then(|| space(root));
    let mutex = space.as_ref().map(|space| space.mutex("a").unwrap());
    let mut random = Random(std::process::id().into());
    let mut index = 0;
    let mut hold = |token: u64| {
        let double = inside.fetch_add(1, SeqCst) != 0;
        let record = |word: usize, value: u64| {
            // SAFETY: inside the mapping, by the loop's end, and aligned; nobody else writes here.
            unsafe { map.as_mut_ptr().cast::<u64>().add(index * WORDS + word).write_volatile(value) }
        };
        record(1, now());
        record(3, double.into());
        record(0, token);
        work(random.draw() % 300_000);
        record(2, now());
        inside.fetch_sub(1, SeqCst);
        index += 1;
        (index + 1) * WORDS * 8 < LOG
    };
    loop {
        let goes_on = match &mutex {
            Some(mutex) => match mutex.try_lock_for(Duration::from_millis(50)) {
                Ok(guard) => {
                    let goes_on = hold(guard.token());
                    assert!(guard.is_held());
                    drop(guard);
                    goes_on
                }
                Err(Error::LockFileGone { .. } | Error::TimedOut { .. }) => true,
                Err(error) => panic!("{error}"),
            },
            None => re_checked(&root.join("old.lock")).is_none_or(|guard| {
                let goes_on = hold(now());
                drop(guard);
                goes_on
            }),
        };
        if !goes_on || is_over.load(SeqCst) != 0 {
            say("content");
            hear();
        }
    }
}

/// As everybody does it: lock, then see whether the path still leads to what was locked.
fn re_checked(path: &Path) -> Option<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).ok()?;
    FileExt::try_lock_exclusive(&file).ok()?;
    let (mine, its) = (file.metadata().ok()?, fs::metadata(path).ok()?);
    (mine.ino() == its.ino() && mine.nlink() > 0).then_some(file)
}

/// Does something to the file that its holders do not expect.
fn disturb(path: &Path, random: &mut Random) {
    let aside = path.with_extension("aside");
    let _ = match random.draw() % 6 {
        0 | 1 => fs::remove_file(path),
        2 => fs::rename(path, &aside),
        3 => fs::remove_file(path).and_then(|()| File::create(path).map(drop)),
        4 => fs::remove_file(path).and_then(|()| symlink("/dev/null", path)),
        // A file of the same length in its place.
        _ => fs::copy(path, &aside).and_then(|_| fs::rename(&aside, path)),
    };
}

/// How many acquisitions there were, and how many were beside another one.
fn hammered(ours: bool, time: Duration) -> (usize, usize) {
    let root = root();
    let board = File::create(root.path().join("board")).unwrap();
    board.write_all_at(&[0; 16], 0).unwrap();
    let path = match ours {
        true => {
            drop(space(root.path()).mutex("a").unwrap().lock().unwrap());
            the_lock_file(root.path())
        }
        false => root.path().join("old.lock"),
    };
    let logs: Vec<_> = (0..ACQUIRERS).map(|number| root.path().join(format!("log-{number}"))).collect();
    let start = |log: &PathBuf| {
        start("hammer", &[root.path().to_str().unwrap(), if ours { "ours" } else { "old" }, log.to_str().unwrap()])
    };
    let mut acquirers: Vec<Actor> = logs.iter().map(start).collect();
    let (mut random, watch, mut disturbances) = (Random(now()), Instant::now(), 0);
    while watch.elapsed() < time {
        disturb(&path, &mut random);
        disturbances += 1;
        std::thread::sleep(Duration::from_micros(random.draw() % 3000));
    }
    // Not killed: that would be another reason for somebody else to get the lock.
    board.write_all_at(&[1; 8], 8).unwrap();
    for acquirer in &mut acquirers {
        acquirer.expect("content");
    }
    let mut tokens = Vec::new();
    for log in logs {
        for record in fs::read(log).unwrap().chunks_exact(WORDS * 8) {
            let word = |index: usize| u64::from_ne_bytes(record[index * 8..][..8].try_into().unwrap());
            match word(0) {
                0 => break,
                token => tokens.push((token, word(1), word(2), word(3))),
            }
        }
    }
    tokens.sort_unstable();
    if ours {
        for pair in tokens.windows(2) {
            assert!(pair[0].0 < pair[1].0, "one token twice: {pair:?}");
        }
    }
    // By either witness.
    let is_double = |pair: &[(u64, u64, u64, u64)]| pair[0].2 > pair[1].1 || pair[1].3 != 0;
    let doubles: Vec<_> = tokens.windows(2).filter(|pair| is_double(pair)).collect();
    println!("{} acquisitions, {disturbances} disturbances, {} double", tokens.len(), doubles.len());
    for pair in doubles.iter().take(5) {
        println!("{pair:?}");
    }
    (tokens.len(), doubles.len())
}

/// H38, H39.
#[test]
fn a_deleter_in_a_loop_never_makes_two_holders() {
    let (acquisitions, doubles) = hammered(true, Duration::from_secs(20));
    assert_eq!(doubles, 0);
    assert!(acquisitions > 1000, "only {acquisitions}: that shows nothing");
}

/// The same against what others do: this test can fail.
#[test]
fn a_deleter_in_a_loop_makes_two_holders_where_only_the_inode_is_checked() {
    let (acquisitions, doubles) = hammered(false, Duration::from_secs(5));
    assert!(doubles > 0, "{acquisitions} acquisitions and no harm");
}

/// Names are taken away while others use them: each is held by one at a time, and its tokens grow wherever it lives.
#[test]
fn names_that_come_and_go_are_held_once_and_their_tokens_grow() {
    let root = root();
    let board = File::create(root.path().join("board")).unwrap();
    board.set_len(64).unwrap();
    let churners: Vec<_> = (0..4).map(|_| start("churner", &[root.path().to_str().unwrap()])).collect();
    let removed: u32 = churners.iter().map(|churner| churner.hear().parse::<u32>().unwrap()).sum();
    assert!(removed > 10, "only {removed} names were removed: that shows nothing");
}

fn churner(arguments: &[String]) {
    let root = Path::new(&arguments[0]);
    let board = File::options().read(true).write(true).open(root.join("board")).unwrap();
    let board = memmap2::MmapRaw::map_raw(&board).unwrap();
    // SAFETY: the file is eight words long, and mapped as long as this process lives.
    let word = |at: usize| unsafe { AtomicU64::from_ptr(board.as_mut_ptr().cast::<u64>().add(at)) };
    let space = space(root);
    let (mut random, mut removed) = (Random(std::process::id().into()), 0);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let number = random.draw() as usize % 3;
        let name = format!("name-{number}");
        if random.draw().is_multiple_of(8) {
            match space.remove(&name) {
                Ok(()) => removed += 1,
                Err(Error::InUse { .. } | Error::NoSuchName { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            continue;
        }
        let (inside, last) = (word(number * 2), word(number * 2 + 1));
        match space.mutex(&name).unwrap().try_lock_for(Duration::from_millis(100)) {
            Ok(guard) => {
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "{name} is held twice");
                let before = last.swap(guard.token(), SeqCst);
                assert!(before < guard.token(), "{name}: {} after {before}", guard.token());
                assert_eq!(guard.abandoned(), None);
                work(random.draw() % 50_000);
                inside.fetch_sub(1, SeqCst);
                guard.unlock().unwrap();
            }
            Err(Error::TimedOut { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    say(removed);
    hear();
}

/// H40: nobody goes by the age of a file.
#[test]
fn a_file_that_looks_old_is_as_good() {
    let root = root();
    let holder = start("holder", &[root.path().to_str().unwrap()]);
    holder.hear();
    let path = the_lock_file(root.path());
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let space = space(root.path());
    assert!(matches!(space.mutex("a").unwrap().try_lock(), Err(Error::WouldBlock { .. })));
}

// ---------------------------------------------------------------------------------------------------------------------
// Planted in their place.

fn plant(what: &str, path: &Path, target: &Path) {
    match what {
        "a link" => symlink(target, path).unwrap(),
        "a FIFO" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "a socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        "a directory" => fs::create_dir(path).unwrap(),
        "a large file" => File::create(path).unwrap().set_len(1 << 40).unwrap(),
        "an empty file" => drop(File::create(path).unwrap()),
        other => panic!("{other}?"),
    }
}

const PLANTED: [&str; 6] = ["a link", "a FIFO", "a socket", "a directory", "a large file", "an empty file"];

/// H52, H53.
#[test]
fn whatever_lies_in_the_place_of_a_lock_file_is_not_used() {
    for what in PLANTED {
        let root = root();
        let target = root.path().join("target");
        fs::write(&target, "precious").unwrap();
        let space = space(root.path());
        plant(what, &root.path().join("test/0.lock"), &target);
        plant("a link", &root.path().join("test/.lock.new"), &target);
        let begin = Instant::now();
        let acquired = space.mutex("a").unwrap().lock_owned();
        assert!(begin.elapsed() < Duration::from_secs(20), "{what} made it hang");
        match what {
            // It cannot be put away, nor used.
            "a directory" => assert!(matches!(acquired, Err(Error::System { .. })), "{acquired:?}"),
            _ => drop(acquired.unwrap_or_else(|error| panic!("{what}: {error}"))),
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious", "{what}");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o644 & !umask(), "{what}");
    }
}

fn umask() -> u32 {
    // Of a file that this process makes.
    let file = tempfile::NamedTempFile::new().unwrap();
    let probe = file.path().with_extension("probe");
    fs::write(&probe, "").unwrap();
    let mode = fs::metadata(&probe).unwrap().mode() & 0o777;
    fs::remove_file(probe).unwrap();
    0o666 & !mode
}

#[test]
fn whatever_lies_in_the_place_of_the_spaces_file_is_refused() {
    for what in PLANTED {
        let root = root();
        let target = root.path().join("target");
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700)
            .create(root.path().join("test"))
            .unwrap();
        plant(what, &root.path().join("test/files"), &target);
        let begin = Instant::now();
        let opened = Space::builder("test").root(root.path()).open();
        assert!(begin.elapsed() < Duration::from_secs(20), "{what} made it hang");
        assert!(matches!(opened, Err(Error::UnusableSegment { .. })), "{what}: {opened:?}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious", "{what}");
    }
}

/// H52: between a look and an open.
#[test]
fn a_link_swapped_in_and_out_leads_nobody_astray() {
    let root = root();
    let target = root.path().join("target");
    fs::write(&target, "precious").unwrap();
    let space = space(root.path());
    let mutex = space.mutex("a").unwrap();
    drop(mutex.lock().unwrap());
    let path = the_lock_file(root.path());
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let aside = root.path().join("aside");
            while Instant::now() < end {
                let _ = fs::remove_file(&aside);
                symlink(&target, &aside).unwrap();
                let _ = fs::rename(&aside, &path);
            }
        });
        let mut acquired = 0;
        while Instant::now() < end {
            // With a description that is opened each time.
            let space = Space::builder("test").root(root.path()).open().unwrap();
            acquired += u32::from(space.mutex("a").unwrap().try_lock_for(Duration::from_millis(10)).is_ok());
        }
        assert!(acquired > 0);
    });
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

// ---------------------------------------------------------------------------------------------------------------------
// The record.

/// The record is taken back before the lock is released: whoever comes next in between would be told of a death that was none.
#[test]
fn no_release_looks_like_a_death() {
    let root = root();
    let triers: Vec<_> = (0..3).map(|_| start("trier", &[root.path().to_str().unwrap()])).collect();
    for trier in triers {
        trier.expect("content");
    }
}

/// Acquires as often as it can for a while, and is never told of a death.
fn trier(arguments: &[String]) {
    let space = space(&arguments[0]);
    let (mutex, semaphore) = (space.mutex("a").unwrap(), space.semaphore("s", 2).unwrap());
    let (mut acquired, end) = (0, Instant::now() + Duration::from_secs(2));
    while Instant::now() < end {
        if let Ok(guard) = mutex.try_lock() {
            assert_eq!(guard.abandoned(), None, "after {acquired}");
            acquired += 1;
        }
        if let Ok(permit) = semaphore.try_acquire() {
            assert_eq!(permit.abandoned(), None, "after {acquired}");
        }
    }
    assert!(acquired > 10, "too few to show anything");
    say("content");
    hear();
}

/// H46: POSIX locks go when any description of the file is closed.
#[test]
fn opening_and_closing_the_file_leaves_the_lock_alone() {
    let root = root();
    let space = space(root.path());
    let guard = space.mutex("a").unwrap().lock_owned().unwrap();
    for _ in 0..3 {
        drop(File::options().read(true).write(true).open(the_lock_file(root.path())).unwrap());
    }
    drop(fs::read(the_lock_file(root.path())).unwrap());
    let other = start("holder", &[root.path().to_str().unwrap()]);
    assert!(other.hear().contains("held"), "two holders");
    assert!(guard.is_held());
}

/// H48: one mechanism, which `flock(1)` sees as well.
#[test]
fn the_lock_is_the_one_that_flock_sees() {
    let root = root();
    let space = space(root.path());
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    let file = File::options().read(true).write(true).open(the_lock_file(root.path())).unwrap();
    assert!(FileExt::try_lock_exclusive(&file).is_err());
    drop(guard);
    FileExt::try_lock_exclusive(&file).unwrap();
    // Somebody who is not in the space holds it: who, the record does not say.
    assert!(matches!(mutex.try_lock(), Err(Error::WouldBlock { .. })));
    assert!(matches!(mutex.try_lock_for(Duration::from_millis(30)), Err(Error::TimedOut { .. })));
    drop(file);
    mutex.lock().unwrap().unlock().unwrap();
}

/// H47: with POSIX locks the kernel takes two processes of two threads each for a cycle.
#[test]
fn crossing_locks_in_threads_is_no_deadlock() {
    let root = root();
    let crossers: Vec<_> = (0..2).map(|_| start("crosser", &[root.path().to_str().unwrap()])).collect();
    for crosser in crossers {
        crosser.expect("content");
    }
}

fn crosser(arguments: &[String]) {
    let space = space(&arguments[0]);
    let locks = [space.mutex("a").unwrap(), space.mutex("b").unwrap()];
    std::thread::scope(|scope| {
        for lock in &locks {
            scope.spawn(move || {
                for _ in 0..200 {
                    let guard = lock.lock().unwrap();
                    std::thread::yield_now();
                    guard.unlock().unwrap();
                }
            });
        }
    });
    say("content");
    hear();
}

/// H16: a fork copies descriptors that another thread is just locking.
#[test]
fn a_fork_in_the_middle_of_an_acquisition_keeps_nothing() {
    for _ in 0..5 {
        let root = root();
        let mut forker = start("forker", &[root.path().to_str().unwrap()]);
        let children: Vec<i32> = forker.hear().split(' ').map(|pid| pid.parse().unwrap()).collect();
        forker.kill();
        let space = space(root.path());
        let acquired: Vec<_> = (0..3)
            .map(|number| {
                space.mutex(&format!("lock-{number}")).unwrap().try_lock_owned_for(Duration::from_secs(20)).map(drop)
            })
            .collect();
        for child in children {
            let child = nix::unistd::Pid::from_raw(child);
            assert!(nix::sys::signal::kill(child, Signal::SIGKILL).is_ok(), "it should still be there");
        }
        for acquired in acquired {
            acquired.expect("a child keeps the lock of its dead parent");
        }
    }
}

fn forker(arguments: &[String]) {
    let space = space(&arguments[0]);
    for number in 0..3 {
        let mutex = space.mutex(&format!("lock-{number}")).unwrap();
        std::thread::spawn(move || {
            loop {
                let guard = mutex.lock().unwrap();
                work(2000);
                drop(guard);
            }
        });
    }
    let children: Vec<String> = (0..40)
        .map(|number| {
            std::thread::sleep(Duration::from_micros(number * 37));
            // SAFETY: the child makes one system call after the other, and none allocates.
            match unsafe { libc::fork() } {
                // SAFETY: as above.
                0 => unsafe {
                    libc::alarm(120);
                    loop {
                        libc::pause();
                    }
                },
                child => child.to_string(),
            }
        })
        .collect();
    say(children.join(" "));
    hear();
}

// ---------------------------------------------------------------------------------------------------------------------
// Who has what: P7.

/// Opens a space after a filter was put on it, and says what came of it; then holds a lock when it is told to.
fn filtered(arguments: &[String]) {
    match arguments[1].as_str() {
        "futex ENOSYS" => filter::refuse(libc::SYS_futex, Errno::ENOSYS).unwrap(),
        "futex EPERM" => filter::refuse(libc::SYS_futex, Errno::EPERM).unwrap(),
        "mmap" => filter::refuse_shared_mappings(Errno::EPERM).unwrap(),
        "nothing" => {}
        other => panic!("{other}?"),
    }
    match Space::builder("test").root(&arguments[0]).open() {
        Ok(space) => {
            say(space.backend());
            let mutex = space.mutex("a").unwrap();
            hear();
            let guard = mutex.try_lock();
            say(match &guard {
                Ok(guard) => format!("{:?}", guard.abandoned().map(|dead| dead.pid)),
                Err(error) => error.to_string(),
            });
            hear();
            drop(guard);
            say("released");
        }
        Err(error) => say(error),
    }
    hear();
}

/// H78: nobody falls back alone.
#[test]
fn whoever_lacks_what_the_creator_had_is_refused() {
    or_skip!(filter::is_possible());
    for (filter, missing) in
        [("futex ENOSYS", "the futex (ENOSYS"), ("futex EPERM", "the futex (EPERM"), ("mmap", "shared mappings (")]
    {
        let root = root();
        let path = root.path().to_str().unwrap();
        let creator = start("filtered", &[path, "nothing"]);
        creator.expect("segment");
        let refused = start("filtered", &[path, filter]).hear();
        assert!(refused.contains(missing) && refused.contains("hostlock move --to files"), "{refused}");
        assert!(!root.path().join("test/files").exists(), "it made something of its own");
    }
}

#[test]
fn whoever_lacks_something_creates_lock_files_and_all_others_follow() {
    or_skip!(filter::is_possible());
    for filter in ["futex ENOSYS", "futex EPERM", "mmap"] {
        let root = root();
        let path = root.path().to_str().unwrap();
        let mut creator = start("filtered", &[path, filter]);
        creator.expect("files");
        let mut other = start("filtered", &[path, "nothing"]);
        other.expect("files");
        creator.tell("lock");
        creator.expect("None");
        other.tell("lock");
        let refused = other.hear();
        assert!(refused.contains(&format!("held by pid {}", creator.pid())), "{filter}: {refused}");
        other.kill();
        // And the other way round, with a death.
        creator.tell("release");
        creator.expect("released");
        let mut other = start("filtered", &[path, "nothing"]);
        other.expect("files");
        other.tell("lock");
        other.expect("None");
        let pid = other.process.id();
        other.kill();
        let mut third = start("filtered", &[path, filter]);
        third.expect("files");
        third.tell("lock");
        third.expect(&format!("Some(Some({pid}))"));
    }
}

/// A space whose creator could not map is read and written by all.
#[test]
fn without_mappings_the_same_is_promised() {
    or_skip!(filter::is_possible());
    let root = root();
    let path = root.path().to_str().unwrap();
    File::create(root.path().join("count")).unwrap().write_all_at(&[0; 8], 0).unwrap();
    let counters: Vec<_> = ["mmap", "mmap", "mmap", "mmap"].map(|filter| start("counter", &[path, filter])).into();
    let mut tokens = Vec::new();
    for counter in counters {
        let line = counter.hear();
        tokens.extend(line.split(' ').map(|token| token.parse::<u64>().unwrap()));
    }
    let all = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), all, "a token twice");
    let mut bytes = [0; 8];
    File::open(root.path().join("count")).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(u64::from_ne_bytes(bytes), 4 * 200);
    // Whoever may map does not.
    let space = space(root.path());
    assert!(space.semaphore("s", 2).unwrap().acquire().unwrap().token() > tokens[all - 1]);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(path), "{maps}");
}

fn counter(arguments: &[String]) {
    filter::refuse_shared_mappings(Errno::EPERM).unwrap();
    let root = Path::new(&arguments[0]);
    let space = Space::builder("test").root(root).open().unwrap();
    let (mutex, semaphore) = (space.mutex("a").unwrap(), space.semaphore("s", 2).unwrap());
    let file = File::options().read(true).write(true).open(root.join("count")).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..200 {
        let guard = mutex.lock().unwrap();
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        file.write_all_at(&(u64::from_ne_bytes(bytes) + 1).to_ne_bytes(), 0).unwrap();
        assert!(guard.is_held());
        guard.unlock().unwrap();
        let permit = semaphore.acquire().unwrap();
        tokens.push(permit.token().to_string());
        permit.unlock().unwrap();
    }
    say(tokens.join(" "));
    hear();
}

/// Whoever collects several keeps out nobody who takes one, and who takes one does not wait for it: each would wait for the other.
#[test]
fn without_mappings_one_permit_and_several_are_had_beside_each_other() {
    or_skip!(filter::is_possible());
    let root = root();
    let path = root.path().to_str().unwrap();
    let takers: Vec<_> = ["1", "1", "2"].map(|permits| start("taker", &[path, permits])).into();
    for taker in takers {
        taker.expect("content");
    }
}

fn taker(arguments: &[String]) {
    filter::refuse_shared_mappings(Errno::EPERM).unwrap();
    let space = Space::builder("test").root(&arguments[0]).open().unwrap();
    let semaphore = space.semaphore("s", 2).unwrap();
    for _ in 0..300 {
        let permit = semaphore.acquire_many(arguments[1].parse().unwrap()).unwrap();
        std::thread::yield_now();
        permit.unlock().unwrap();
    }
    say("content");
    hear();
}

/// Another user, who opens a space and tries a lock.
fn somebody(arguments: &[String]) {
    let (uid, gid) = (arguments[1].parse().unwrap(), arguments[2].parse().unwrap());
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(nix::unistd::Gid::from_raw(gid)).unwrap();
    nix::unistd::setuid(nix::unistd::Uid::from_raw(uid)).unwrap();
    let builder = Space::builder("test").root(&arguments[0]).backend(Backend::Files);
    let opened = match arguments.get(3) {
        Some(mode) => builder.mode(u32::from_str_radix(mode, 8).unwrap()).open(),
        None => builder.open(),
    };
    let said = opened.and_then(|space| {
        let guard = space.mutex("a")?.try_lock_owned()?;
        Ok((guard.token(), guard))
    });
    say(match &said {
        Ok((token, _)) => token.to_string(),
        Err(error) => error.to_string(),
    });
    // Every file of it that can be opened at all can be locked for good.
    let reached: Vec<_> = fs::read_dir(Path::new(&arguments[0]).join("test"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| File::open(entry.path()).ok())
        .filter(|file| FileExt::try_lock_exclusive(file).is_ok())
        .collect();
    say(reached.len());
    hear();
    drop(said);
    say("released");
    hear();
}

const NOBODY: &str = "65534";

/// H54, H57: whoever has no rights gets in nowhere, blocks nobody, and is told whose it is.
#[test]
fn another_user_gets_in_nowhere_and_blocks_nobody() {
    if !nix::unistd::geteuid().is_root() {
        skip!("becoming another user takes root");
    }
    let root = root();
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = root.path().to_str().unwrap();
    let space = space(root.path());
    drop(space.mutex("a").unwrap().lock().unwrap());
    let nobody = start("somebody", &[path, NOBODY, NOBODY]);
    let said = nobody.hear();
    assert!(said.contains("uid 0, we are uid 65534"), "{said}");
    nobody.expect("0");
    drop(space.mutex("a").unwrap().try_lock().unwrap());
    // The other way round: what is somebody's own is not root's to join by accident.
    let theirs = root.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65534), Some(65534)).unwrap();
    let owner = start("somebody", &[theirs.to_str().unwrap(), NOBODY, NOBODY]);
    owner.hear().parse::<u64>().unwrap();
    let said = Space::builder("test").root(&theirs).open().unwrap_err().to_string();
    assert!(said.contains("belongs to uid 65534"), "{said}");
}

/// H57, H58: users of a group, in a directory in which nobody can remove what is another's.
#[test]
fn users_of_a_group_share_a_space_in_a_sticky_directory() {
    if !nix::unistd::geteuid().is_root() {
        skip!("becoming another user takes root");
    }
    const GROUP: u32 = 4242;
    let root = root();
    std::os::unix::fs::chown(root.path(), None, Some(GROUP)).unwrap();
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let path = root.path().to_str().unwrap();
    let group = GROUP.to_string();
    // The first makes the space and the lock file, the second takes the lock after it, a stranger nothing.
    let mut one = start("somebody", &[path, "4001", &group, "660"]);
    let token: u64 = one.hear().parse().unwrap();
    one.hear();
    for entry in fs::read_dir(root.path().join("test")).unwrap() {
        let meta = entry.unwrap().metadata().unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (GROUP, 0o660));
    }
    let two = start("somebody", &[path, "4002", &group, "660"]);
    let said = two.hear();
    assert!(said.contains(&format!("held by pid {}", one.pid())), "{said}");
    two.hear();
    drop(two);
    one.tell("release");
    one.expect("released");
    let three = start("somebody", &[path, "4002", &group, "660"]);
    assert!(three.hear().parse::<u64>().unwrap() > token);
    let stranger = start("somebody", &[path, "4003", "4003", "660"]);
    assert!(stranger.hear().parse::<u64>().is_err());
    stranger.expect("0");
    // Root opens what others made, without being told that it may not create it.
    let root_too = Space::builder("test").root(root.path()).mode(0o660).open().unwrap();
    drop(three);
    drop(root_too.mutex("a").unwrap().try_lock_for(Duration::from_secs(20)).unwrap());
}

// ---------------------------------------------------------------------------------------------------------------------
// Words of the space's file that cannot be.

/// The first entry's word, changed.
fn put_word(root: &Path, word: u64, value: u64) {
    let file = File::options().write(true).open(root.join("test/files")).unwrap();
    file.write_all_at(&value.to_ne_bytes(), (16 + word) * 8).unwrap();
}

#[test]
fn a_token_that_was_nobodys_is_damage_and_not_the_last_one() {
    let root = root();
    let space = space(root.path());
    let mutex = space.mutex("a").unwrap();
    let first = mutex.lock().unwrap().token();
    for last in [u64::MAX, u64::MAX - 1, u64::MAX >> 2, 0, 1 << 60] {
        put_word(root.path(), 2, last);
        let error = mutex.try_lock().unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{last}: {error}");
        // Nor does the lock stay held, or the next one get a token that is smaller than all.
        assert!(matches!(mutex.try_lock(), Err(Error::Damaged { .. })), "{last}");
    }
    put_word(root.path(), 2, first);
    assert_eq!(mutex.try_lock().unwrap().token(), first + 1);
}

/// As one that another time namespace's clock noted, or a flipped bit.
#[test]
fn a_writer_of_the_future_keeps_no_reader_back() {
    let root = root();
    let space = space(root.path());
    let lock = space.rwlock("a").unwrap();
    put_word(root.path(), 6, 1 << 60);
    drop(lock.try_read().unwrap());
}

// ---------------------------------------------------------------------------------------------------------------------
// Moving.

#[test]
fn a_space_moves_only_while_nobody_is_in_it_and_nothing_is_lost() {
    let root = root();
    let builder = || Space::builder("test").root(root.path());
    assert!(matches!(builder().move_to(Backend::Files), Err(Error::NoSuchSpace { .. })));
    assert!(matches!(builder().move_to(Backend::Auto), Err(Error::InvalidOption { .. })));
    let mut last = 0;
    for (from, to) in [(Backend::Segment, Backend::Files), (Backend::Files, Backend::Segment)].repeat(2) {
        let space = builder().backend(if last == 0 { from } else { Backend::Auto }).locks(64).open().unwrap();
        assert_eq!(space.backend(), from);
        let token = space.mutex("a").unwrap().lock().unwrap().token();
        assert!(token > last, "{token} after {last}");
        last = token;
        let (_r, _s) = (space.rwlock("r").unwrap(), space.semaphore("s", 3).unwrap());
        match builder().move_to(to) {
            Err(Error::CannotMove { why, .. }) => assert!(why.contains(&std::process::id().to_string()), "{why}"),
            other => panic!("somebody is in it: {other:?}"),
        }
        space.mutex("a").unwrap().lock_owned().unwrap().abandon().unwrap();
        drop((space, _r, _s));
        match builder().move_to(to) {
            Err(Error::CannotMove { why, .. }) => assert!(why.contains("\"a\" is abandoned"), "{why}"),
            other => panic!("somebody is to be told: {other:?}"),
        }
        drop(builder().open().unwrap().mutex("a").unwrap().lock().unwrap());
        assert!(builder().move_to(to).unwrap());
        assert!(!builder().move_to(to).unwrap(), "it is that already");
        let seen = builder().inspect().unwrap();
        assert_eq!((seen.backend, seen.usage.locks_capacity), (to, 64));
        let names: Vec<_> = seen.locks.iter().map(|lock| (lock.name.as_str(), lock.kind.to_string())).collect();
        assert_eq!(names, [("a", "mutex".into()), ("r", "rwlock".into()), ("s", "semaphore".into())]);
        assert_eq!(seen.locks[2].permits.map(|permits| permits.total), Some(3));
        let left: Vec<_> =
            fs::read_dir(root.path().join("test")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.len() == 1, "{left:?}");
    }
}

#[test]
fn a_space_with_what_lock_files_cannot_do_is_not_moved() {
    let root = root();
    let builder = || Space::builder("test").root(root.path());
    drop(builder().open().unwrap().mutex_with("data", 7u64).unwrap());
    match builder().move_to(Backend::Files) {
        Err(Error::CannotMove { why, .. }) => assert!(why.contains("\"data\" is a mutex-data"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(builder().open().unwrap().backend(), Backend::Segment);
}

/// Nobody is kept waiting for good by somebody who was killed while changing entries.
#[test]
fn a_stopped_changer_is_waited_for_and_a_dead_one_is_not() {
    let root = root();
    let space = space(root.path());
    let file = File::options().read(true).write(true).open(root.path().join("test/files")).unwrap();
    FileExt::try_lock_exclusive(&file).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| space.mutex("new").map(drop));
        std::thread::sleep(Duration::from_millis(50));
        drop(file);
        waiter.join().unwrap().unwrap();
    });
    wait_until("it is there", || space.look_up("new").unwrap().is_some());
}

#[test]
fn a_name_without_a_token_left_is_an_error_and_does_not_begin_anew() {
    let root = root();
    let space = space(root.path());
    let (mutex, semaphore) = (space.mutex("mutex").unwrap(), space.semaphore("semaphore", 2).unwrap());
    let file = File::options().write(true).open(root.path().join("test/files")).unwrap();
    // The last tokens of the first two entries: see `src/docs/lock_files.md`.
    for entry in 0..2 {
        file.write_all_at(&u64::MAX.to_ne_bytes(), (16 + entry * 48 + 2) * 8).unwrap();
    }
    for _ in 0..3 {
        for error in [mutex.try_lock().err(), semaphore.try_acquire().err()] {
            assert!(matches!(error, Some(Error::Damaged { .. })), "{error:?}");
        }
    }
}
