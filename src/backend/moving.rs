//! Making another thing of a space, while nobody is in it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs2::FileExt;

use super::either::{AnySpace, Lock, Permits, ReadWrite};
use super::files::semaphore::FileSemaphore;
use super::inspect;
use super::lock::Spec;
use crate::os::file::FileId;
use crate::os::fork;
use crate::os::lock_file::KernelLocks;
use crate::report::LockReport;
use crate::segment::format::Kind;
use crate::segment::made::{Made, missing_for_a_segment};
use crate::segment::open::Options;
use crate::{Backend, Error, LockKind, Result};

/// More than a process may have drawn of a semaphore's tokens and not used.
const MARGIN: u64 = 1 << 20;

/// Makes the space one of the other kind; `false` if it is one already.
///
/// Its names stay what they are, its tokens go on growing. Killed in the middle, it is the one or the other: the new file takes effect when
/// the old one goes (to lock files), or when it takes its name (to a segment).
pub(crate) fn move_to(options: &Options, to: Backend) -> Result<bool> {
    let to = Made::from(to);
    let space = options.space_path()?;
    let Some(made) = Made::of(&space)? else { return Err(nothing_there(options, space)) };
    if made == to {
        return Ok(false);
    }
    if to == Made::Segment {
        missing_for_a_segment().map_err(|missing| Error::BackendUnusable {
            path: space.clone(),
            backend: to.backend(),
            missing: missing.what,
        })?;
    }
    let directory = options.existing_directory(&space)?;
    let cannot = |why: String| Error::CannotMove { path: space.clone(), to: to.backend(), why };
    let locks = {
        // A child that had a copy of the description would keep everybody out for as long as it lives.
        let _not_now = fork::NOT_NOW.lock();
        match FileExt::try_lock_exclusive(&directory) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                return Err(cannot(who_is_in(&directory)));
            }
            Err(e) => return Err(Error::system("lock", &space, e)),
        }
        let moved = alone(options, (&directory, &space), made, to, &cannot);
        // In so many words: a child may have a copy.
        let _ = FileExt::unlock(&directory);
        moved?
    };
    // If that failed it would keep us out ourselves.
    drop(directory);
    // Whoever came in meanwhile may have named some of them otherwise.
    let opened = AnySpace::open(&Options { backend: to.backend(), ..options.clone() }, Duration::from_secs(1))?;
    for lock in locks {
        let _ = name(&opened, &lock);
    }
    Ok(true)
}

/// Why a space has no file: there is none, or it was removed under those who are in it.
fn nothing_there(options: &Options, space: PathBuf) -> Error {
    let _not_now = fork::NOT_NOW.lock();
    let is_used = options.existing_directory(&space).is_ok_and(|directory| {
        // Whoever creates a space has it locked, too, and alone.
        let is_used = FileExt::try_lock_exclusive(&directory).is_err() && FileExt::try_lock_shared(&directory).is_ok();
        let _ = FileExt::unlock(&directory);
        is_used
    });
    if is_used { Error::Removed { path: space } } else { Error::NoSuchSpace { path: space } }
}

/// What nobody else may be there for; the names that were there.
fn alone(
    options: &Options,
    (directory, space): (&File, &Path),
    made: Made,
    to: Made,
    cannot: &impl Fn(String) -> Error,
) -> Result<Vec<LockReport>> {
    if Made::of(space)? != Some(made) {
        return Err(cannot("somebody else moved it just now".into()));
    }
    let seen = inspect::look(options)?;
    // A forked child whose parent left may be in a segment without having the directory locked.
    if let Some(them) = seen.participants.iter().find(|them| !them.dead) {
        return Err(cannot(format!("{} is in it; end it first", them.process)));
    }
    if let Some(why) = seen.locks.iter().find_map(|lock| obstacle(lock, to)) {
        return Err(cannot(why));
    }
    let last = seen.locks.iter().map(|lock| lock.token).max().unwrap_or(0);
    let new = Options {
        names: Some(seen.usage.locks_capacity as u32),
        mode: Some(seen.mode),
        token_floor: last.saturating_add(MARGIN),
        ..options.clone()
    };
    // What somebody left who was killed while moving it to a segment.
    match fs::remove_file(space.join(to.file_name())) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::system("remove", space, e)),
        _ => {}
    }
    new.create(directory, space, to)?;
    let old = space.join(made.file_name());
    fs::remove_file(&old).map_err(|e| Error::system("remove", &old, e))?;
    if made == Made::Files {
        let files = fs::read_dir(space).into_iter().flatten().flatten().map(|entry| entry.path());
        for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "lock")) {
            let _ = fs::remove_file(file);
        }
    }
    Ok(seen.locks)
}

/// What would be lost with a name.
fn obstacle(lock: &LockReport, to: Made) -> Option<String> {
    let name = &lock.name;
    if let Some(dead) = &lock.abandoned {
        return Some(format!("\"{name}\" is abandoned ({dead}): somebody has to acquire it first, and be told"));
    }
    if let Some(damage) = &lock.damage {
        let what = if name.is_empty() { damage.into() } else { format!("\"{name}\" is damaged ({damage})") };
        return Some(format!("{what}: end all processes of the space and remove its directory"));
    }
    let kept = match lock.kind {
        LockKind::Mutex | LockKind::RwLock => true,
        LockKind::Semaphore => {
            lock.permits.is_some_and(|permits| to == Made::Segment || permits.total <= FileSemaphore::MOST)
        }
        _ => false,
    };
    (!kept)
        .then(|| format!("\"{name}\" is a {}, which would be lost: remove the name first (Space::remove)", lock.kind))
}

fn name(space: &AnySpace, lock: &LockReport) -> Result<()> {
    let name = &lock.name;
    match lock.kind {
        LockKind::RwLock => ReadWrite::new(space, Spec::of(name, Kind::RwLock)).map(drop),
        LockKind::Semaphore => Permits::new(space, name, lock.permits.map_or(1, |permits| permits.total)).map(drop),
        _ => Lock::new(space, Spec::of(name, Kind::Mutex)).map(drop),
    }
}

fn who_is_in(directory: &File) -> String {
    let mut pids: Vec<u32> = match (FileId::of_file(directory), KernelLocks::read()) {
        (Ok(id), Ok(locks)) => locks.of(id).map(|lock| lock.pid).collect(),
        _ => Vec::new(),
    };
    pids.sort_unstable();
    pids.dedup();
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    match pids.is_empty() {
        true => "processes are in it; end them first".into(),
        false => format!("processes are in it (pid {}); end them first", pids.join(", ")),
    }
}
