//! What an operation is tried in: a space of its own, whoever else is in it, and what the process that does the operation says of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{Backend, Error, Result, Space, SpaceBuilder};
use nix::errno::Errno;
use nix::unistd::{ForkResult, fork};

use super::control::{BEGUN, Control, ENDED, READY};
use super::led::stop;
use super::support::{chance, filter};

/// What a space is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Segment,
    Files,
    /// Lock files whose words are read and written, as whoever made them could not map them.
    FilesUnmapped,
}

impl Made {
    pub fn backend(self) -> Backend {
        if self == Self::Segment { Backend::Segment } else { Backend::Files }
    }
}

/// The names that every space has: a mutex, a read-write lock, a semaphore of three, and another mutex.
pub const A: &str = "a";
pub const R: &str = "r";
pub const S: &str = "s";
pub const B: &str = "b";
pub const PERMITS: u32 = 3;

/// How long a wait is that is to time out: long enough for two sleeps.
pub const SHORT: Duration = Duration::from_millis(12);
/// No wait takes so long that is to end by itself.
pub const LONG: Duration = Duration::from_secs(10);

/// The world of one attempt.
#[derive(Clone, Debug)]
pub struct Scene {
    root: PathBuf,
    pub made: Made,
    /// Room for so many names.
    pub locks: u32,
    pub victim: &'static Control,
    pub other: &'static Control,
}

impl Scene {
    pub fn new(root: &Path, made: Made, locks: u32, victim: &'static Control, other: &'static Control) -> Self {
        Self { root: root.into(), made, locks, victim, other }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn directory(&self) -> PathBuf {
        self.root.join("space")
    }

    /// Whether there is a space to be looked at.
    pub fn is_made(&self) -> bool {
        ["segment", "files"].iter().any(|file| self.directory().join(file).exists())
    }

    pub fn builder(&self) -> SpaceBuilder {
        let builder = Space::builder("space").root(&self.root).locks(self.locks).backend(self.made.backend());
        let builder = builder.check_interval(Duration::from_millis(5));
        if self.made == Made::Segment { builder.participants(8) } else { builder }
    }

    /// For whoever only looks: whatever it is made of.
    pub fn as_it_is(&self) -> SpaceBuilder {
        Space::builder("space").root(&self.root)
    }

    pub fn open(&self) -> Result<Space> {
        self.builder().open()
    }

    /// In a process of its own: makes the space, and the names in it.
    pub fn make(&self) -> Result<()> {
        if self.made == Made::FilesUnmapped {
            filter::refuse_shared_mappings(Errno::EPERM).expect("a filter");
        }
        let space = self.open()?;
        space.mutex(A)?;
        space.mutex(B)?;
        space.rwlock(R)?;
        space.semaphore(S, PERMITS).map(drop)
    }

    /// In whoever else is there: it is so far.
    pub fn ready(&self) {
        self.other.phase.store(READY, SeqCst);
    }

    /// In whoever else is there: until the operation has begun, and a while longer.
    pub fn until_it_waits(&self) {
        while self.victim.phase.load(SeqCst) < BEGUN {
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_millis(8));
    }

    /// Long enough for others to wait.
    pub fn a_while(&self) {
        std::thread::sleep(Duration::from_millis(3));
    }

    /// Long enough for others to come in.
    pub fn a_moment(&self) {
        chance::work(100_000);
    }

    /// In the process: goes on in a forked child.
    pub fn go_on_in_a_child(&self) {
        // SAFETY: this process has one thread, so the child may do whatever it could.
        match unsafe { fork() }.expect("a fork") {
            ForkResult::Child => {}
            ForkResult::Parent { .. } => loop {
                nix::unistd::pause();
            },
        }
    }

    /// In the process: the operation, twice. The first time one of its calls may fail, the second time it has to work. It stops after each, with
    /// what it got in hand.
    pub fn each<P, T>(
        &self,
        mut prepare: impl FnMut() -> Result<P>,
        mut act: impl FnMut(P) -> Result<T>,
    ) -> Result<()> {
        let prepared = prepare()?;
        self.victim.begin();
        let first = act(prepared);
        self.victim.phase.store(ENDED, SeqCst);
        self.say(&outcome(&first));
        stop();
        drop(first);
        let second = act(prepare()?);
        self.say(&outcome(&second));
        stop();
        drop(second);
        Ok(())
    }

    /// The same, of what needs no preparation.
    pub fn sweep<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<()> {
        self.each(|| Ok(()), |()| act())
    }

    /// In the process: the thread that looks after leases may be at one of them, and be the last to leave the space.
    pub fn let_threads_let_go(&self) {
        let ours = self.root.to_string_lossy();
        let is_in_it = || std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains(&*ours));
        let has_threads = || std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1);
        for _ in 0..400 {
            if !has_threads() || !is_in_it() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// In a process: says something to the test.
    pub fn say(&self, what: &str) {
        std::fs::write(self.root.join("said"), what).expect("the test's own directory");
    }

    /// What was said since it was last asked for.
    pub fn heard(&self) -> Option<String> {
        let file = self.root.join("said");
        let said = std::fs::read_to_string(&file).ok()?;
        let _ = std::fs::remove_file(file);
        Some(said)
    }
}

/// The outcome as two lines: which, and the sentence.
fn outcome<T>(result: &Result<T>) -> String {
    match result {
        Ok(_) => "ok\n".into(),
        Err(error) => format!("{}\n{error}", variant(error)),
    }
}

fn variant(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().into()
}
