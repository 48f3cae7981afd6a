//! Locks in lock files, locked by `flock`: for where a mapped segment cannot serve.
//!
//! [`index`] is the space's own file, [`ownership`] whose the lock is, [`record`] what is written of its holder, [`lock`] a named lock, [`semaphore`] one of several
//! files, [`table`] what this process has open, [`inspect`] what is seen from outside.
//!
//! The kernel unlocks for the dead, so their death needs no oracle. Each acquisition has a description of its own, which makes threads exclude
//! each other as processes do; a forked child closes its copies before it does anything else. Why there is more to it than that stands in
//! `docs/lock_files.md`.

pub(crate) mod index;
pub(crate) mod inspect;
pub(crate) mod lock;
mod ownership;
pub(crate) mod record;
pub(crate) mod semaphore;
mod table;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fs2::FileExt;

use crate::backend::inspect::kind as kind_of;
use crate::backend::lock::Spec;
use crate::os::clock::{self, Monotonic};
use crate::os::file::{self, FileId, KeptFile};
use crate::os::fork::Guarded;
use crate::os::identity;
use crate::os::lock_file::{self, LockFile, Mode};
use crate::report::Usage;
use crate::segment::files::FilesHeader;
use crate::segment::format::Kind;
use crate::segment::open::{Found, Options};
use crate::{Abandoned, Error, LockKind, Process, Result};
use index::{Index, Named, Place};
use record::Me;
use table::{Idle, Opened};

/// How long a forked child waits for whoever has the space alone for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

static SPACES: Guarded<Vec<Weak<FileSpace>>> = Guarded::new(Vec::new());

pub(super) fn before_fork() {
    SPACES.before_fork();
    table::before_fork();
}

pub(super) fn after_fork() {
    table::after_fork();
    SPACES.after_fork();
}

/// A space made of lock files that this process is in.
#[derive(Debug)]
pub(crate) struct FileSpace {
    index: Index,
    /// With a shared `flock` for as long as we are in the space.
    directory: KeptFile,
    /// The process that opened it. A forked child has it as well.
    process: u64,
    me: Arc<Me>,
    /// This process said for whom it holds its locks.
    acts: AtomicBool,
}

impl FileSpace {
    pub(crate) fn open(options: &Options, found: Found) -> Result<Arc<Self>> {
        let Found { directory, file, path, alone, .. } = found;
        let space = path.parent().unwrap_or(&path).to_path_buf();
        let mode = FilesHeader::checked(&file, &path, &space)?.mode;
        options.check_file(&file, &path, mode)?;
        let index = Index::read(file, &space)?;
        if options.participants.is_some() || options.extents.is_some() {
            return Err(unsupported("a number of participants or extents", &space));
        }
        if let Some(wanted) = options.names.filter(|wanted| *wanted != index.capacity) {
            return Err(Error::OptionDiffers {
                path: space,
                option: "locks",
                existing: index.capacity.to_string(),
                wanted: wanted.to_string(),
            });
        }
        if let Some(wanted) = options.mode.filter(|wanted| *wanted != index.mode) {
            return Err(Error::OptionDiffers {
                path: space,
                option: "mode",
                existing: format!("{:#o}", index.mode),
                wanted: format!("{wanted:#o}"),
            });
        }
        let mut spaces = SPACES.lock();
        spaces.retain(|known| known.strong_count() > 0);
        if let Some(known) = spaces.iter().filter_map(Weak::upgrade).find(|known| known.index.id == index.id) {
            return Ok(known);
        }
        if alone {
            // Nobody holds anything, by whatever file.
            index.forget_all()?;
            FileExt::try_lock_shared(&directory).map_err(|e| Error::system("lock", &space, e))?;
        }
        let directory = KeptFile::new(directory).map_err(|e| Error::system("look at", &space, e))?;
        let process = lock_file::process().map_err(|e| Error::system("watch for forks in", &space, e))?;
        let me = table::me(index.id).0;
        let space = Arc::new(Self { index, directory, process, me, acts: AtomicBool::new(false) });
        spaces.push(Arc::downgrade(&space));
        Ok(space)
    }

    pub(crate) fn id(&self) -> FileId {
        self.index.id
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.index.space
    }

    #[inline]
    fn is_of_this_process(&self) -> bool {
        lock_file::process().is_ok_and(|process| process == self.process)
    }

    #[inline]
    fn me(&self) -> Arc<Me> {
        if self.is_of_this_process() { self.me.clone() } else { table::me(self.index.id).0 }
    }

    pub(crate) fn set_behalf(&self, pid: u32, command: &str) {
        let process = Process { pid, command: identity::cut(command).into() };
        table::set_behalf(self.index.id, process.clone());
        // Relaxed: whoever acquires at the same time may do so before.
        self.acts.store(true, Relaxed);
        // It is for people: what cannot be written is not.
        table::for_each_held(self.index.id, |held| {
            drop(self.index.record(held.place.entry).set_behalf(Some(&process)))
        });
    }

    /// Notes whose the lock is that this process just acquired.
    #[inline]
    fn hold(&self, opened: &Opened, thread: u32, token: u64, dead: Option<&Abandoned>) -> Result<()> {
        let record = self.index.record(opened.place.entry);
        let note = |me: &Me, behalf: Option<&Process>| {
            record.set_behalf(behalf)?;
            record.hold(me, opened.file.id().inode(), thread, token, dead)
        };
        let noted = match self.acts.load(Relaxed) || !self.is_of_this_process() {
            true => {
                let (me, behalf) = table::me(self.index.id);
                note(&me, behalf.as_ref())
            }
            false => note(&self.me, None),
        };
        noted.map_err(|e| Error::system("write", &self.index.path, e))
    }

    /// Finds a name, making it what is wanted if it is not there.
    fn look_up(&self, spec: &Spec) -> Result<Named> {
        let named = self.index.look_up(&spec.name, spec.kind, spec.count)?;
        if named.kind != spec.kind as u8 {
            return Err(Error::WrongKind {
                name: spec.name.to_string(),
                is: kind_name(named.kind),
                wanted: spec.kind.name(),
            });
        }
        if named.count != spec.count {
            return Err(Error::WrongCount {
                name: spec.name.to_string(),
                kind: spec.kind.name(),
                is: named.count,
                wanted: spec.count,
            });
        }
        Ok(named)
    }

    pub(crate) fn kind_of(&self, name: &str) -> Result<Option<(LockKind, u32)>> {
        Ok(self.index.find(name)?.map(|named| (kind_of(named.kind), named.count)))
    }

    /// A description of that lock file: one that is idle, or a new one. `None`: the name is gone.
    #[inline]
    fn open_lock(&self, place: Place, idle: &Idle) -> Result<Option<Box<Opened>>> {
        match idle.take(place) {
            Some(opened) => Ok(Some(opened)),
            None => self.open_anew(place),
        }
    }

    fn open_anew(&self, place: Place) -> Result<Option<Box<Opened>>> {
        if !self.is_of_this_process() && !table::has_joined(self.index.id) {
            self.join_as_a_child()?;
        }
        let file = self.index.open(place)?;
        Ok(file.map(|file| Box::new(Opened { file, place, space: self.index.id, claim: None })))
    }

    fn join_as_a_child(&self) -> Result<()> {
        let failed = |e| Error::system("lock", self.directory(), e);
        let directory = LockFile::made_by(|| file::open_directory(self.directory())).map_err(failed)?;
        if self.index.is_removed() || self.directory.id() != directory.id() {
            return Err(Error::Removed { path: self.directory().into() });
        }
        // Somebody who comes in has it alone for a moment.
        let end = Monotonic::now().saturating_add(PATIENCE);
        while !directory.try_lock(Mode::Shared).map_err(failed)? {
            if Monotonic::now() > end {
                return Err(Error::Removed { path: self.directory().into() });
            }
            clock::sleep(Duration::from_millis(1));
        }
        table::note_joined(self.index.id, directory);
        Ok(())
    }

    /// Takes a name away, if nobody uses it.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let Some(named) = self.index.find(name)? else {
            return Err(Error::NoSuchName { name: name.into(), path: self.directory().into() });
        };
        let idle = Idle::default();
        let mut locked = Vec::new();
        let outcome = (|| {
            let parts = (0..self.parts(&named)).map(|part| self.index.part(&named, part));
            for place in parts.chain([Ok(named.place)]) {
                match self.try_lock(place?, Mode::Exclusive, &idle)? {
                    Some(it) => locked.push(it.opened),
                    None => return Err(Error::InUse { name: name.into(), holder: None }),
                }
            }
            self.index.alone(|| match self.index.is_still(named.place)? {
                true => self.index.unregister(&named),
                false => Err(Error::NoSuchName { name: name.into(), path: self.directory().into() }),
            })
        })();
        for opened in locked {
            self.unlock(opened, &idle);
        }
        outcome
    }

    /// How many entries a name has beside its own.
    fn parts(&self, named: &Named) -> u32 {
        if named.kind == Kind::Semaphore as u8 { named.count } else { 0 }
    }

    /// Lets what `command` starts have the locks as well that this process holds now, for as long as any of them lives.
    pub(crate) fn pass_lifeline(&self, command: &mut Command) -> Result<()> {
        file::pass_on(&self.directory, command);
        let mut passed = Ok(());
        table::for_each_held(self.index.id, |held| {
            let noted = self.index.record(held.place.entry).note_passed_on();
            if let Err(e) = noted.and_then(|()| held.file.pass_on(command)) {
                passed = Err(Error::system("pass on", &self.index.lock_path(held.place.entry), e));
            }
        });
        passed
    }

    pub(crate) fn usage(&self) -> Usage {
        inspect::usage(&self.index)
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.index.is_mapped()
    }
}

impl Drop for FileSpace {
    fn drop(&mut self) {
        table::close_idle(self.index.id);
        // In so many words: a child may have a copy.
        if self.is_of_this_process() {
            file::unlock(&self.directory);
        }
    }
}

fn kind_name(number: u8) -> String {
    Kind::from_number(number).map_or("lock of a kind that this version does not know", Kind::name).into()
}

/// Of what lock files cannot do.
pub(crate) fn unsupported(what: &'static str, space: &Path) -> Error {
    Error::Unsupported { what, backend: crate::Backend::Files, path: space.into() }
}
