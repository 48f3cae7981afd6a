//! The directory that the space lies in, or would, and its file system.

use std::path::Path;

use super::{Area::Place as Where, Draft, Finding, Need, Place, Verdict, found, of, why};
use crate::os::probe::{self, AtLogout, Room, Scratch, Tried};
use crate::segment::open::Options;

const ELSEWHERE: &str = "name another directory: Space::builder(..).root(..)";
const TMPFS: u64 = 0x0102_1994;

/// In-memory and local file systems that are known by name.
const LOCAL: &[(u64, &str)] = &[
    (TMPFS, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0xEF53, "ext4"),
    (0x5846_5342, "XFS"),
    (0x9123_683E, "Btrfs"),
    (0x794C_7630, "overlayfs"),
    (0x2FC1_2FC1, "ZFS"),
    (0xF2F5_2010, "F2FS"),
    (0xCA45_1A4E, "bcachefs"),
];

fn name_of(kind: u64) -> String {
    let known = LOCAL.iter().find(|(magic, _)| *magic == kind);
    known.map_or_else(|| format!("a file system of type {kind:#x}"), |(_, name)| (*name).into())
}

pub(super) fn findings(place: &Place, options: &Options) -> Vec<Finding> {
    let mut drafts = vec![directory(place), file_system(place, options), room(place, options)];
    let scratch = place.scratch.as_ref();
    let on_file =
        |tried: Option<&Tried>| tried.cloned().unwrap_or_else(|| Tried::Untried("no file can be made".into()));
    let to_create = |name, tried, works: &str| {
        of(Where, name, tried, works).need(place.to_create(), "no new space can be created here").advice(ELSEWHERE)
    };
    drafts.push(to_create(
        "allocation",
        on_file(scratch.ok().map(|scratch| &scratch.allocated)),
        "room is really taken when it is asked for (posix_fallocate)",
    ));
    drafts.push(to_create(
        "publishing",
        on_file(scratch.ok().map(|scratch| &scratch.renamed)),
        "a file takes a name only if nobody has it (renameat2, RENAME_NOREPLACE)",
    ));
    drafts.push(
        of(
            Where,
            "file locks",
            on_file(scratch.ok().map(Scratch::file_lock).as_ref()),
            "two descriptions of a file exclude each other (flock)",
        )
        .need(place.for_files(Need::Essential), "no lock file excludes anybody")
        .advice(ELSEWHERE),
    );
    drafts.push(
        of(
            Where,
            "list of locks",
            on_file(scratch.ok().map(Scratch::listed).as_ref()),
            "the kernel lists a file that is locked, under its number (/proc/locks)",
        )
        .need(
            place.for_files(Need::Helpful),
            "a read-write lock whose file somebody deletes while others read is an error for writers until nobody is in the space",
        ),
    );
    match place.root.starts_with(SHM) {
        true => drafts.push(logout()),
        false => drafts.push(shm()),
    }
    drafts.into_iter().map(|draft| draft.0).collect()
}

fn directory(place: &Place) -> Draft {
    let path = place.nearest.display();
    match &place.scratch {
        Ok(_) if place.nearest == place.root => {
            found(Where, "directory", Verdict::Ok, format!("{path} takes new files"))
        }
        Ok(_) => {
            let seen = format!("{path} takes new files");
            found(Where, "directory", Verdict::Ok, seen)
                .follows(format!("{} is made by the first space", place.root.display()))
        }
        Err(e) => {
            let draft = of(Where, "directory", e.into(), "");
            let seen = format!("no file can be made in {path}: {}", draft.0.seen);
            Draft(Finding { seen, ..draft.0 })
        }
    }
    .need(place.to_create(), "no new space can be created here")
    .advice(ELSEWHERE)
}

fn file_system(place: &Place, options: &Options) -> Draft {
    let path = place.nearest.display();
    let draft = match probe::file_system(&place.nearest) {
        Ok((_, Some(name))) if options.takes_any_file_system() => {
            let seen = format!("{path} lies on {name}, and was allowed all the same");
            found(Where, "file system", Verdict::Ok, seen)
                .follows("locks exclude the processes of other machines, or a machine's guests, only if that file system says so")
        }
        Ok((_, Some(name))) => {
            let seen = format!("{path} lies on {name}, where processes of other machines could not be seen");
            found(Where, "file system", Verdict::Unusable, seen)
        }
        Ok((TMPFS, None)) => found(Where, "file system", Verdict::Ok, format!("{path} is on tmpfs")),
        Ok((kind, None)) => {
            let seen = format!("{path} is on {}, which is none of a network that is known", name_of(kind));
            found(Where, "file system", Verdict::Ok, seen)
                .follows("locks cost the same as in memory; the kernel writes the segment to the disk now and then")
        }
        Err(e) => found(Where, "file system", Verdict::Unknown, format!("{path} cannot be asked: {}", why(&e))),
    };
    draft.need(Need::Essential, "no space can be used there").advice(ELSEWHERE)
}

fn room(place: &Place, options: &Options) -> Draft {
    let needed = options.size(place.made);
    let draft = match probe::room(&place.nearest) {
        Ok(room) => {
            let fit = room.available / needed;
            let seen = format!("{}; a new space takes {}: {}", sizes(&room), bytes(needed), how_many(fit));
            // Two directories, the file.
            let enough = fit > 0 && room.inodes.is_none_or(|inodes| inodes >= 3);
            let inodes =
                room.inodes.filter(|inodes| *inodes < 3).map(|inodes| format!(", but there are {inodes} inodes"));
            let verdict = if enough { Verdict::Ok } else { Verdict::Unusable };
            found(Where, "room", verdict, seen + &inodes.unwrap_or_default())
        }
        Err(e) => {
            found(Where, "room", Verdict::Unknown, format!("{} cannot be asked: {}", place.nearest.display(), why(&e)))
        }
    };
    draft
        .need(place.to_create(), "no new space can be created here")
        .advice("make room, or name another directory: Space::builder(..).root(..)")
}

const SHM: &str = "/dev/shm";

/// Where spaces lie unless somebody names another place.
fn shm() -> Draft {
    match probe::room(Path::new(SHM)) {
        Ok(room) if room.kind == TMPFS => found(Where, SHM, Verdict::Ok, format!("tmpfs, {}", sizes(&room))),
        Ok(room) => {
            found(Where, SHM, Verdict::Unusable, format!("{}, not tmpfs, {}", name_of(room.kind), sizes(&room)))
                .follows("spaces without a path work there, and reach the disk")
        }
        Err(e) => found(Where, SHM, Verdict::Missing, format!("it cannot be opened: {}", why(&e)))
            .follows("spaces without a path cannot be opened; this one has a path"),
    }
}

/// Whether somebody clears the directory of spaces behind their back.
fn logout() -> Draft {
    let (verdict, seen) = match probe::at_logout() {
        AtLogout::NoSystemd => (Verdict::Ok, "no systemd runs here, whose logind would remove what a user has there"),
        AtLogout::SystemUser => (Verdict::Ok, "systemd-logind leaves alone what root and system users have there"),
        AtLogout::Kept => (Verdict::Ok, "systemd-logind is told to remove nothing (RemoveIPC=no)"),
        AtLogout::Removed => (Verdict::Unusable, "systemd-logind removes what a user has there (RemoveIPC=yes)"),
        AtLogout::Unsaid => {
            (Verdict::Unusable, "systemd-logind may remove what a user has there (RemoveIPC= is not set)")
        }
    };
    found(Where, "logout", verdict, seen)
        .need(Need::Helpful, "when this user's last session ends, its spaces are gone, also for jobs that go on: others may be let in beside them")
        .advice("for what runs without a session name another directory, Space::builder(..).root(..), or set RemoveIPC=no")
}

fn sizes(room: &Room) -> String {
    format!("{} of {} are free", bytes(room.available), bytes(room.size))
}

fn how_many(fit: u64) -> String {
    match fit {
        0 => "none fits".into(),
        1 => "one fits".into(),
        fit => format!("{fit} fit"),
    }
}

/// A size, to three digits at most.
pub(super) fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1000.0 && unit < 4 {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let name = ["bytes", "KiB", "MiB", "GiB", "TiB"][unit];
    if unit > 0 && value < 10.0 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}
