//! A space whose file somebody abuses who may write to it, while four processes do in it all that can be done: words scribbled at random, holes
//! punched, the end cut off; and the same for the file of a space of lock files. What SECURITY.md promises holds: no process panics, is ended by a
//! signal, or waits for longer than its deadline; exclusion is not promised. Afterwards the space can be removed and made anew.
//!
//! `HOSTLOCK_ABUSE_SECONDS=600` scribbles for so long; the seed is printed, and `HOSTLOCK_ABUSE_SEED` sets it.

mod support;

#[path = "abuse/scribbler.rs"]
mod scribbler;
#[path = "abuse/worker.rs"]
mod worker;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostlock::Backend;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::Signal;
use support::{Actor, PATIENCE, act, command, filter, hear, root, say, start, start_command};
use worker::{backend_of, builder, is_ordinary};

const PAGE: i64 = 4096;

#[test]
fn role() {
    act(&[
        ("worker", worker::worker),
        ("scribbler", scribbler::scribbler),
        ("resident", resident),
        ("opener", opener),
        ("handling", handling),
    ]);
}

fn file_of(root: &Path, backend: &str) -> PathBuf {
    root.join("test").join(backend)
}

fn duration(short: Duration) -> Duration {
    let given = std::env::var("HOSTLOCK_ABUSE_SECONDS").ok();
    given.map_or(short, |seconds| Duration::from_secs(seconds.parse().expect("a number")))
}

/// Prints it as well, also when the test passes.
fn seed(of: &str) -> u64 {
    let given = std::env::var("HOSTLOCK_ABUSE_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    report(format!("{of}: HOSTLOCK_ABUSE_SEED={seed}"));
    seed
}

/// A line about what was done: the runner captures what `eprintln!` writes.
fn report(line: String) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Four processes at work in the space `test`.
struct Crew(Vec<Actor>);

impl Crew {
    fn new(root: &Path, backend: &str, seed: u64, how: &str) -> Self {
        let start_one = |number: u64| {
            let number = seed.wrapping_add(number).to_string();
            start_command(command("worker", &[root.to_str().unwrap(), backend, &number, how]))
        };
        let crew: Vec<_> = (0..4).map(start_one).collect();
        crew.iter().for_each(|worker| worker.expect("here"));
        Self(crew)
    }

    /// Has them stop, and says what came of their calls. Each of them has to have ended in good order.
    #[track_caller]
    fn stop(mut self, what: &str) -> BTreeMap<String, u64> {
        let mut outcomes = BTreeMap::<String, u64>::new();
        for worker in &mut self.0 {
            // One that failed does not listen any more.
            if worker.process.try_wait().unwrap().is_none() {
                worker.tell("stop");
            }
        }
        for worker in &mut self.0 {
            let Some(line) = worker.hear_within(PATIENCE) else {
                panic!("{what}: a process ended without a word: {:?}", worker.process.wait());
            };
            assert!(!line.starts_with("failed"), "{what}: {line}");
            for part in line.split_ascii_whitespace() {
                let (name, count) = part.split_once('=').unwrap();
                let (all, count) = (outcomes.entry(name.to_owned()).or_insert(0), count.parse::<u64>().unwrap());
                *all = if name == "longest" { count.max(*all) } else { *all + count };
            }
            assert!(worker.finish(), "{what}: {:?}", worker.process.try_wait());
        }
        report(format!("{what}: {outcomes:?}"));
        outcomes
    }
}

/// The space can be removed and made anew, and its tokens grow.
fn made_anew(root: &Path, backend: Backend, token: u64) {
    fs::remove_dir_all(root.join("test")).unwrap();
    let space = builder(root, backend).open().unwrap();
    let guard = space.mutex("mutex").unwrap().try_lock_owned().unwrap();
    assert!(guard.token() > token && guard.abandoned().is_none());
    drop(guard);
    assert!(space.semaphore("semaphore", 3).unwrap().try_acquire_many(3).is_ok());
    drop(space.rwlock("rwlock").unwrap().try_write().unwrap());
}

/// A token of before.
fn some_token(root: &Path, backend: Backend) -> u64 {
    builder(root, backend).open().unwrap().mutex("mutex").unwrap().lock().unwrap().token()
}

fn scribbled_on(backend: &str, how: &str, short: Duration) {
    let root = root();
    let what = format!("scribbling on {backend} {how}");
    let seed = seed(&what);
    let crew = Crew::new(root.path(), backend, seed, how);
    let token = some_token(root.path(), backend_of(backend));
    let file = file_of(root.path(), backend);
    let pids: Vec<String> = crew.0.iter().map(|worker| worker.pid().to_string()).collect();
    let seed = (!seed).to_string();
    let arguments: Vec<&str> =
        [file.to_str().unwrap(), &seed].into_iter().chain(pids.iter().map(String::as_str)).collect();
    let mut scribbler = start("scribbler", &arguments);
    scribbler.expect("here");
    std::thread::sleep(duration(short));
    scribbler.tell("stop");
    let written: u64 = scribbler.hear().parse().unwrap();
    let outcomes = crew.stop(&format!("{what}, {written} words"));
    assert!(written > 200, "it came to {written} words only");
    // It was noticed, and there was something to notice it in.
    assert!(outcomes["Ok"] > 100, "{outcomes:?}");
    assert!(outcomes.keys().any(|outcome| outcome != "longest" && !is_ordinary(outcome)), "{outcomes:?}");
    made_anew(root.path(), backend_of(backend), token);
}

#[test]
fn a_peer_that_scribbles_on_a_segment_ends_nobody_and_keeps_nobody_waiting() {
    scribbled_on("segment", "", Duration::from_secs(4));
}

#[test]
fn a_peer_that_scribbles_on_the_file_of_lock_files_ends_nobody_and_keeps_nobody_waiting() {
    scribbled_on("files", "", Duration::from_secs(2));
}

#[test]
fn a_peer_that_scribbles_on_a_file_that_nobody_maps_ends_nobody_and_keeps_nobody_waiting() {
    or_skip!(filter::is_possible());
    scribbled_on("files", "without mappings", Duration::from_secs(2));
}

/// Punches holes into each page in turn while the crew works, and puts back what was there.
fn holed(backend: &str) {
    let root = root();
    let what = format!("holes in {backend}");
    let crew = Crew::new(root.path(), backend, seed(&what), "");
    let token = some_token(root.path(), backend_of(backend));
    let file = File::options().read(true).write(true).open(file_of(root.path(), backend)).unwrap();
    let size = file.metadata().unwrap().len();
    let mut before = vec![0; size as usize];
    file.read_exact_at(&mut before, 0).unwrap();
    let pages = size.div_ceil(PAGE as u64) as i64;
    // Each in turn, and of a small file more than once.
    for page in (0..pages).cycle().take(pages.max(24) as usize) {
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if let Err(errno) = fallocate(&file, how, page * PAGE, PAGE) {
            skip!("{} cannot have holes ({errno})", root.path().display());
        }
        std::thread::sleep(Duration::from_millis(40));
        let start = (page * PAGE) as usize;
        let end = before.len().min(start + PAGE as usize);
        file.write_all_at(&before[start..end], start as u64).unwrap();
    }
    let outcomes = crew.stop(&format!("{what}, {pages} pages"));
    assert!(outcomes["Ok"] > 100, "{outcomes:?}");
    assert!(outcomes.keys().any(|outcome| outcome != "longest" && !is_ordinary(outcome)), "{outcomes:?}");
    made_anew(root.path(), backend_of(backend), token);
}

#[test]
fn holes_punched_into_a_segment_at_work_end_nobody() {
    holed("segment");
}

#[test]
fn holes_punched_into_the_file_of_lock_files_end_nobody() {
    holed("files");
}

// The end cut off.

/// Is in a space, and acquires when it is told to.
fn resident(arguments: &[String]) {
    if arguments.get(2).is_some_and(|how| how == "without mappings") {
        filter::refuse_shared_mappings(nix::errno::Errno::EPERM).unwrap();
    }
    let space = builder(Path::new(&arguments[0]), backend_of(&arguments[1])).open().unwrap();
    let mutex = space.mutex("mutex").unwrap();
    say("here");
    loop {
        hear();
        match mutex.try_lock_for(Duration::from_millis(5)) {
            Ok(guard) => say(if guard.is_held() { "Ok" } else { "lost" }),
            Err(error) => say(error.to_string().replace('\n', " ")),
        }
    }
}

/// Opens a space, and says what came of it.
fn opener(arguments: &[String]) {
    match builder(Path::new(&arguments[0]), backend_of(&arguments[1])).open() {
        Ok(_) => say("opened"),
        Err(error) => say(error.to_string().replace('\n', " ")),
    }
    hear();
}

/// What SECURITY.md says of it: whoever touches what is gone is killed, nobody else is harmed, and nobody makes it longer again.
#[test]
fn whoever_touches_a_file_that_was_cut_is_killed_and_nobody_else() {
    // What lock files are about fits a page, so cut behind that nobody misses anything.
    for (backend, keeps) in [("segment", &[0, PAGE as u64][..]), ("files", &[0])] {
        for &keep in keeps {
            let (root, other) = (root(), root());
            let (path, elsewhere) = (root.path().to_str().unwrap(), other.path().to_str().unwrap());
            // In another space, which lies elsewhere; and, where the same process is in both, that is its own affair.
            let mut bystander = start("resident", &[elsewhere, backend]);
            let (mut one, mut two) = (start("resident", &[path, backend]), start("resident", &[path, backend]));
            [&bystander, &one, &two].iter().for_each(|actor| actor.expect("here"));
            let file = File::options().write(true).open(file_of(root.path(), backend)).unwrap();
            let size = file.metadata().unwrap().len();
            assert!(size > keep);
            file.set_len(keep).unwrap();
            // Not yet: whoever touches nothing lives. And whoever comes now is told, and leaves it as it is.
            let said = start("opener", &[path, backend]).hear();
            assert!(said.contains("cannot be used") && said.contains("remove its directory"), "{backend}: {said}");
            assert_eq!(file.metadata().unwrap().len(), keep, "{backend}: it was made longer, or shorter");
            assert_eq!((one.process.try_wait().unwrap(), two.process.try_wait().unwrap()), (None, None));
            one.tell("acquire");
            assert_eq!(one.hear_within(PATIENCE), None, "{backend}, cut to {keep}");
            let status = one.process.wait().unwrap();
            assert_eq!(status.signal(), Some(Signal::SIGBUS as i32), "{backend}, cut to {keep}: {status:?}");
            // One death is no other: they are in the same file, and it lives until it touches that.
            assert_eq!(two.process.try_wait().unwrap(), None);
            assert_eq!(file.metadata().unwrap().len(), keep);
            bystander.tell("acquire");
            bystander.expect("Ok");
            two.kill();
            made_anew(root.path(), backend_of(backend), 0);
        }
    }
}

/// Where nobody maps it, it is an error.
#[test]
fn a_file_that_was_cut_and_that_nobody_maps_is_an_error() {
    or_skip!(filter::is_possible());
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut actor = start("resident", &[path, "files", "without mappings"]);
    actor.expect("here");
    let file = File::options().write(true).open(file_of(root.path(), "files")).unwrap();
    for keep in [128, 0] {
        file.set_len(keep).unwrap();
        actor.tell("acquire");
        let said = actor.hear();
        assert!(said.contains("test/files"), "cut to {keep}: {said}");
        assert_eq!(file.metadata().unwrap().len(), keep);
    }
    assert!(actor.finish());
}

/// What a library must not do that is not asked for it: to own a signal of its program.
#[test]
fn a_program_keeps_its_own_handler_of_bus_errors() {
    let mut actor = start("handling", &[]);
    actor.expect("kept");
    assert!(actor.finish());
}

fn handling(_: &[String]) {
    extern "C" fn mine(_: libc::c_int) {}
    let mine = mine as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: a handler that does nothing, and a structure that the kernel fills in; plain data.
    let now = unsafe {
        libc::signal(libc::SIGBUS, mine);
        || {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut action);
            action.sa_sigaction
        }
    };
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let space = builder(root.path(), backend).open().unwrap();
        let guard = space.mutex("mutex").unwrap().lock_owned().unwrap();
        assert_eq!(now(), mine);
        drop((guard, space));
        assert_eq!(now(), mine);
    }
    say("kept");
}
