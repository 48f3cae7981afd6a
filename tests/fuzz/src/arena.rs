//! A space with others in it, put back to where it was before each input.
//!
//! It lies in one directory in memory, and is written anew in place for each input, so that its inodes stay what its header says. The others
//! are processes, this executable in a role: one that lives and holds a part of everything, one that died with it, and one that died asleep.
//! The one that lives removes the directory when this process ends, however it ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostlock::{Backend, Mutex, Space, SpaceBuilder};

use crate::damage::{self, Shape};
use crate::input::Input;

const ROLE: &str = "HOSTLOCK_FUZZ_ROLE";
const ROOT: &str = "HOSTLOCK_FUZZ_ROOT";
/// Whether the space is made of lock files.
const FILES: &str = "HOSTLOCK_FUZZ_FILES";
/// Of a file, what is written together.
const LINE: usize = 64;
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The names that operations are about. The first ones are taken from the beginning, in this order.
pub const NAMES: [&str; 16] = [
    "held", "dead", "readers", "permits", "value", "queue", "barrier", "latch", "event", "once", "one", "two", "three",
    "four", "five", "six",
];
/// How many of them a space has room for.
pub const ROOM: u32 = 12;
/// What semaphores, barriers and the like are made for.
pub const COUNT: u32 = 3;

/// A space of this process's own directory.
pub struct Arena {
    root: PathBuf,
    path: PathBuf,
    shape: Shape,
    place: u64,
    file: File,
    sound: Vec<u8>,
    /// Lock files: their second names, by which they are put back.
    kept: Vec<PathBuf>,
    /// Reads from us until we end.
    _resident: Child,
}

/// The smallest space that has room for all of it.
fn builder(root: &Path, files: bool) -> SpaceBuilder {
    let builder = Space::builder("test").root(root).locks(ROOM).check_interval(Duration::from_millis(1));
    match files {
        true => builder.backend(Backend::Files),
        false => builder.participants(4).extents(8192),
    }
}

impl Arena {
    /// Makes the space, and has others leave their traces in it.
    pub fn new(shape: Shape) -> Self {
        play_if_asked();
        let files = shape == Shape::Files;
        let root = directory();
        let resident = start("resident", &root, files);
        let path = root.join("test").join(if files { "files" } else { "segment" });
        let mut dead = start("dead", &root, files);
        let mut sleeper = start("sleeper", &root, files);
        let end = Instant::now() + PATIENCE;
        // Who waits for a lock file is noted nowhere.
        let sleeps = || files || builder(&root, files).inspect().is_ok_and(|found| found.usage.waiting > 0);
        while !sleeps() {
            assert!(Instant::now() < end, "nobody fell asleep");
            std::thread::sleep(Duration::from_millis(1));
        }
        for process in [&mut dead, &mut sleeper] {
            process.kill().expect("our own child can be killed");
            process.wait().expect("our own child can be waited for");
        }
        let mut arena = Self::of(root, path, shape, resident);
        arena.keep();
        arena
    }

    /// A segment in which nobody ever was, but for us.
    pub fn empty() -> Self {
        play_if_asked();
        let root = directory();
        let caretaker = caretaker(&root);
        drop(builder(&root, false).open().expect("a space"));
        let path = root.join("test/segment");
        Self::of(root, path, Shape::Segment, caretaker)
    }

    fn of(root: PathBuf, path: PathBuf, shape: Shape, resident: Child) -> Self {
        let file = File::options().read(true).write(true).open(&path).expect("a space's file");
        let mut sound = Vec::new();
        (&file).read_to_end(&mut sound).expect("it can be read");
        Self { place: damage::place(&path), root, path, shape, file, sound, kept: Vec::new(), _resident: resident }
    }

    /// As the space is opened by those who know what it is.
    pub fn builder(&self) -> SpaceBuilder {
        builder(&self.root, self.shape == Shape::Files)
    }

    /// As it is opened by those who take it as it is.
    pub fn any_builder(&self) -> SpaceBuilder {
        Space::builder("test").root(&self.root).check_interval(Duration::from_millis(1))
    }

    /// Everything as it was.
    pub fn restore(&self) {
        self.write(&self.sound);
        let lies_at = |path: &Path| fs::metadata(path).map(|meta| meta.ino()).ok();
        for kept in &self.kept {
            let path = self.path.with_file_name(kept.file_name().expect("a file's name"));
            if lies_at(&path) != lies_at(kept) {
                let _ = fs::remove_file(&path);
                fs::hard_link(kept, &path).expect("a file has its name back");
            }
        }
        if self.shape == Shape::Files {
            for path in self.lock_files() {
                if !self.kept.iter().any(|kept| kept.file_name() == path.file_name()) {
                    fs::remove_file(path).expect("it was made since");
                }
            }
        }
    }

    /// Damages the file before anybody comes.
    pub fn damage(&self, operation: u8, input: &mut Input) {
        let mut bytes = self.read();
        damage::edit(operation, input, &mut bytes, self.shape, self.place);
        self.write(&bytes);
    }

    /// Damages it while it is used: what is mapped is not cut off.
    pub fn damage_in_use(&self, operation: u8, input: &mut Input) {
        let before = self.read();
        let mut bytes = before.clone();
        damage::edit(operation, input, &mut bytes, self.shape, self.place);
        // By lines, and not by bytes: each comparison is one that the fuzzer takes down.
        for (line, new) in bytes.chunks(LINE).enumerate() {
            let at = line * LINE;
            if before.get(at..at + new.len()) != Some(new) {
                self.file.write_all_at(new, at as u64).expect("it can be written");
            }
        }
    }

    /// The space's directory, as messages name it.
    pub fn space(&self) -> PathBuf {
        self.root.join("test")
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().expect("it is open").len() as usize];
        self.file.read_exact_at(&mut bytes, 0).expect("it can be read");
        bytes
    }

    fn write(&self, bytes: &[u8]) {
        self.file.set_len(bytes.len() as u64).expect("it can be cut");
        self.file.write_all_at(bytes, 0).expect("it can be written");
    }

    fn lock_files(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.space()).expect("a directory").map(|entry| entry.expect("an entry").path());
        all.filter(|path| path.extension().is_some_and(|extension| extension == "lock")).collect()
    }

    fn keep(&mut self) {
        let beside = self.root.join("kept");
        fs::create_dir(&beside).expect("a directory can be made");
        for path in self.lock_files() {
            let kept = beside.join(path.file_name().expect("a file's name"));
            fs::hard_link(&path, &kept).expect("a second name");
            self.kept.push(kept);
        }
    }
}

/// A directory of this process's own, in memory where there is such a place.
pub fn directory() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
    let root = parent.join(format!("hostlock-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    fs::create_dir(&root).expect("a directory can be made");
    root
}

/// A process that removes the directory when this one ends, and does nothing else.
pub fn caretaker(root: &Path) -> Child {
    start("caretaker", root, false)
}

/// In a process that was started for a role this does not come back.
pub fn play_if_asked() {
    if let Ok(role) = std::env::var(ROLE) {
        play(&role);
    }
}

/// Starts this executable in a role, and waits until it is where it should be.
fn start(role: &str, root: &Path, files: bool) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this executable"))
        .env(ROLE, role)
        .env(ROOT, root)
        .env(FILES, if files { "1" } else { "" })
        // What a killed process had is no leak.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a process");
    let mut ready = [0];
    child.stdout.take().expect("a pipe").read_exact(&mut ready).expect("it says that it is there");
    child
}

/// Whoever plays a role ends with whoever started it.
fn play(role: &str) -> ! {
    let root = PathBuf::from(std::env::var_os(ROOT).expect("a directory"));
    let files = std::env::var_os(FILES).is_some_and(|value| !value.is_empty());
    match role {
        "caretaker" => stay(),
        "sleeper" => {
            let (_, mutex) = enter(&root, files);
            std::thread::spawn(move || {
                say_ready();
                mutex.lock_owned().map(std::mem::forget)
            });
            wait_for_the_end();
        }
        _ => {
            let (space, mutex) = enter(&root, files);
            // "held" by the one who lives, "dead" by the other.
            let mine = if role == "dead" { space.mutex(NAMES[1]).expect("a mutex") } else { mutex };
            std::mem::forget(mine.lock_owned().expect("nobody has it"));
            let readers = space.rwlock(NAMES[2]).expect("a read-write lock");
            std::mem::forget(readers.read_owned().expect("nobody writes"));
            let permits = space.semaphore(NAMES[3], COUNT).expect("a semaphore");
            std::mem::forget(permits.acquire_owned().expect("there are some"));
            if !files {
                take_part(&space);
            }
            stay();
        }
    }
    if role != "sleeper" && role != "dead" {
        let _ = fs::remove_dir_all(&root);
    }
    // Nothing of ours is to be put in order.
    std::process::exit(0)
}

fn enter(root: &Path, files: bool) -> (Space, Mutex) {
    let space = builder(root, files).open().expect("a space");
    let mutex = space.mutex(NAMES[0]).expect("a mutex");
    (space, mutex)
}

/// In what there is in a segment only.
fn take_part(space: &Space) {
    let _ = space.mutex_with::<u64>(NAMES[4], 7).expect("a value");
    let _ = space.queue::<u64>(NAMES[5], COUNT).expect("a queue").try_push(1);
    let barrier = space.barrier(NAMES[6], COUNT).expect("a barrier");
    std::mem::forget(barrier.join().expect("there are seats"));
    let latch = space.latch(NAMES[7], COUNT).expect("a latch");
    std::mem::forget(latch.party().expect("there are seats"));
    let _ = space.event(NAMES[8]).expect("an event");
    let _ = space.once(NAMES[9]).expect("something done once");
}

fn say_ready() {
    let _ = std::io::stdout().write_all(b"!");
    let _ = std::io::stdout().flush();
}

fn stay() {
    say_ready();
    wait_for_the_end();
}

/// Until whoever started this process closes the pipe, which it does by ending.
fn wait_for_the_end() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}
