//! The space itself, if there is one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::place::bytes;
use super::{Area::Space, Draft, Finding, Need, Place, Verdict, found, why};
use crate::backend::inspect;
use crate::os::probe;
use crate::segment::open::Options;
use crate::{Backend, Error, Inspection, Result};

pub(super) fn findings(place: &Place, options: &Options, existing: &Result<Option<Backend>>) -> Vec<Finding> {
    let drafts = match existing {
        Ok(Some(Backend::Segment | Backend::Auto)) => match inspect::look(options) {
            Ok(seen) => vec![file(place, options, &seen), participants(&seen), locks(&seen)],
            // It went between the two looks.
            Err(error) => vec![refused(&error)],
        },
        Ok(Some(Backend::Files)) => match inspect::look(options) {
            Ok(seen) => vec![file(place, options, &seen), locks(&seen)],
            Err(error) => vec![refused(&error)],
        },
        Ok(None) => vec![absent(place)],
        // The finding about the directory has said that, unless it is about its owner or mode.
        Err(error) => vec![refused(error)],
    };
    drafts.into_iter().map(|draft| draft.0).collect()
}

fn refused(error: &Error) -> Draft {
    found(Space, "space", Verdict::Unusable, error.to_string()).need(Need::Essential, "it cannot be opened")
}

fn absent(place: &Place) -> Draft {
    let path = place.space.display();
    let creates = "whoever opens it first creates it";
    // A directory without its file.
    if !place.space.exists() {
        return found(Space, "space", Verdict::Ok, format!("{path} does not exist")).follows(creates);
    }
    let draft = match probe::users_of(&place.space) {
        Ok(0) => {
            found(Space, "space", Verdict::Ok, format!("{path} is empty, and nobody is seen in it")).follows(creates)
        }
        Ok(users) => {
            let seen =
                format!("the file of {path} was removed while it was in use; {users} still have the directory locked");
            found(Space, "space", Verdict::Unusable, seen)
        }
        Err(e) => found(
            Space,
            "space",
            Verdict::Unknown,
            format!("{path} is empty; who is in it cannot be told (/proc/locks: {})", why(&e)),
        ),
    };
    draft
        .need(
            Need::Essential,
            "opening it fails, and who is in it and waits for a lock is told that the space was removed",
        )
        .advice("end those processes, then start anew")
}

fn file(place: &Place, options: &Options, seen: &Inspection) -> Draft {
    let path = place.space.display();
    let owner = fs::metadata(place.space.join(options.file_of(place.made))).map(|meta| {
        format!("{}, mode {:o}, of uid {} and gid {}", bytes(meta.len()), meta.mode() & 0o7777, meta.uid(), meta.gid())
    });
    let owner = owner.unwrap_or_else(|e| why(&e));
    let age =
        seen.created.elapsed().map_or_else(|_| "in the future, by the clock of now".into(), |age| ago(age.as_secs()));
    let made = match place.made {
        Backend::Segment | Backend::Auto => "a segment".into(),
        Backend::Files => format!("lock files, {} processes in it", seen.usage.participants),
    };
    found(Space, "space", Verdict::Ok, format!("{path}: {made}, {owner}, created {age}")).need(Need::Essential, "")
}

fn participants(seen: &Inspection) -> Draft {
    let (used, capacity) = (seen.usage.participants, seen.usage.participants_capacity);
    let dead = seen.participants.iter().filter(|participant| participant.dead).count();
    let elsewhere = seen.participants.iter().filter(|participant| participant.elsewhere && !participant.dead).count();
    let mut text = format!("{used} of {capacity} places are taken");
    let mut follows = Vec::new();
    if dead > 0 {
        text += &format!(", {dead} of them by the dead");
        follows.push("the dead block nobody: whoever needs their locks or their places clears them");
    }
    if elsewhere > 0 {
        text += &format!(", {elsewhere} by processes of other PID namespaces");
        follows.push("those of other PID namespaces are judged by their byte alone, which is exact");
    }
    let is_full = used >= capacity && dead == 0;
    let verdict = if is_full { Verdict::Unusable } else { Verdict::Ok };
    let draft = found(Space, "participants", verdict, text).need(Need::Essential, "nobody else can join");
    let draft =
        draft.advice("end some of them; or end all, remove the space's directory, and create it with room for more");
    if follows.is_empty() { draft } else { draft.follows(follows.join("; ")) }
}

fn locks(seen: &Inspection) -> Draft {
    let count = |is: fn(&&crate::LockReport) -> bool| seen.locks.iter().filter(is).count();
    let held = count(|lock| lock.holder.is_some());
    let abandoned = count(|lock| lock.abandoned.is_some());
    let of_damage = |lock: &crate::LockReport| match &lock.damage {
        Some(damage) if lock.name.is_empty() => Some(damage.clone()),
        damage => damage.is_some().then(|| format!("\"{}\"", lock.name)),
    };
    let damaged: Vec<_> = seen.locks.iter().filter_map(of_damage).collect();
    let usage = seen.usage;
    let mut text = format!("{} of {} names are in use, {held} held", usage.locks, usage.locks_capacity);
    if usage.waiting > 0 {
        text += &format!(", {} asleep waiting", usage.waiting);
    }
    if abandoned > 0 {
        text += &format!(", {abandoned} abandoned");
    }
    if !damaged.is_empty() {
        let text = format!("{text}; damaged: {}", damaged.join(", "));
        return found(Space, "locks", Verdict::Unusable, text)
            .need(Need::Helpful, "these locks are errors for whoever asks; the others go on working")
            .advice("end all processes that use the space and remove its directory");
    }
    let draft = found(Space, "locks", Verdict::Ok, text);
    if abandoned > 0 { draft.follows("the next holder of an abandoned lock is told who died") } else { draft }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
