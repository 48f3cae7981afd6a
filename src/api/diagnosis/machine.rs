//! The kernel, and what it lets this process do.

use super::{Area::Machine, Draft, Finding, Need, Place, Verdict, found, of, refused, why};
use crate::os::probe::{self, Proc, Scratch, Tried};

const NO_SPACE: &str = "no space can be used";
const NO_SEGMENT: &str = "no space can be used that is a segment";
const LOCK_FILES: &str = "create one of lock files: Backend::Files, or --backend files";
const FILTER: &str = "let the container's filter (seccomp) or policy allow it";
const BY_LOOKING: &str =
    "whoever waits learns of a death by looking, within a tenth of a second (SpaceBuilder::check_interval)";

/// Findings that need a file are made where the space is.
pub(super) fn findings(place: &Place) -> Vec<Finding> {
    let on_file = |probe: fn(&Scratch) -> Tried| match &place.scratch {
        Ok(scratch) => probe(scratch),
        Err(e) => Tried::Untried(format!("no file can be made in {} ({})", place.nearest.display(), why(e))),
    };
    let essential = |name, tried, works: &str| {
        of(Machine, name, tried, works).need(Need::Essential, NO_SPACE).advice_if_missing(FILTER)
    };
    let of_segments = |name, tried, works: &str| {
        of(Machine, name, tried, works).need(place.for_a_segment(), NO_SEGMENT).advice(LOCK_FILES)
    };
    let mut drafts = vec![
        kernel(),
        of_segments(
            "shared mapping",
            on_file(Scratch::shared_mapping),
            "two processes see each other's stores in a mapped file",
        ),
        of(Machine, "futex", on_file(Scratch::futex), "a process that sleeps on a word of a file is woken by another")
            .need(
                place.for_a_segment(),
                "no space can be used that is a segment; whoever creates one makes lock files; and the C library ends programs that \
                 wait for a thread of theirs (hostlock run is one)",
            )
            .advice_if_missing(FILTER),
        of_segments(
            "byte locks",
            on_file(Scratch::byte_lock),
            "two descriptions of a file exclude each other (F_OFD_SETLK)",
        ),
        essential(
            "directory locks",
            on_file(Scratch::directory_lock),
            "two descriptions of a directory exclude each other (flock)",
        ),
        of_segments(
            "presence",
            on_file(Scratch::kept_by_a_mapping),
            "a byte stays locked while a page of the file is mapped, and no child inherits that (MADV_DONTFORK)",
        ),
        essential(
            "wiped in a fork",
            probe::wiped_in_a_child(),
            "a child finds the marked page empty (MADV_WIPEONFORK)",
        ),
        pidfd_open(),
        pidfd_inode(),
        proc(),
        boot_id(),
        robust_list(),
        of(
            Machine,
            "futex_waitv",
            probe::futex_waitv(),
            "who waits sleeps on a word of the owner's as well, so a death wakes it at once",
        )
        .need(Need::Helpful, &format!("{BY_LOOKING}; a wait is cancelled within 10 ms instead of at once"))
        .advice_if_missing("Linux has it since 5.16; if it is newer, let the container's filter allow the call"),
        membarrier(),
    ];
    drafts.extend([pid_namespace(), time_namespace(), user_namespace(), mount_namespace()]);
    drafts.into_iter().map(|draft| draft.0).collect()
}

fn kernel() -> Draft {
    match probe::kernel() {
        Ok(name) => found(Machine, "kernel", Verdict::Ok, name),
        Err(errno) => of(Machine, "kernel", Tried::Refused(errno), ""),
    }
}

const BY_THE_BYTE: &str = "deaths are told by the byte that each process keeps locked, which is exact";

fn pidfd_open() -> Draft {
    let tried = probe::pidfd().err().map_or(Tried::Works, Tried::Refused);
    of(Machine, "pidfd_open", tried, "a process can be asked whether it ended")
        .need(Need::Helpful, &format!("a PID is asked for by signal 0 and start time; {BY_THE_BYTE}"))
        .advice_if_missing("Linux has it since 5.3; if it is newer, let the container's filter allow the call")
}

fn pidfd_inode() -> Draft {
    let draft = match probe::pidfd() {
        Ok(Some(inode)) => {
            found(Machine, "pidfs inode", Verdict::Ok, format!("each process has one of its own (mine: {inode})"))
        }
        Ok(None) => found(
            Machine,
            "pidfs inode",
            Verdict::Missing,
            "all processes have the same one (Linux has them since 6.9)",
        ),
        Err(errno) => found(Machine, "pidfs inode", Verdict::Unknown, format!("not tried: pidfd_open says {errno:?}")),
    };
    draft.need(Need::Helpful, &format!("a PID used again is told by its start time, in steps of 10 ms; {BY_THE_BYTE}"))
}

fn membarrier() -> Draft {
    of(
        Machine,
        "membarrier",
        probe::membarrier(),
        "a fence can be put into the threads of all processes that registered",
    )
    .need(Need::Helpful, "locks are released by a compare-and-swap, and this process, when it waits, looks every millisecond if others release by a store")
    .advice_if_missing("Linux has it since 4.16; if it is newer, let the container's filter allow the call")
}

fn proc() -> Draft {
    let (verdict, seen, follows) = match probe::proc() {
        Proc::Shown => (Verdict::Ok, "/proc says when processes started", ""),
        Proc::OwnOnly => (
            Verdict::Unusable,
            "/proc does not show the processes of others (hidepid)",
            "start times of other users' processes are not compared",
        ),
        Proc::OfAnother => (
            Verdict::Unusable,
            "/proc is that of another PID namespace, where our numbers are others' processes",
            "start times are not compared",
        ),
        Proc::Nothing => (Verdict::Missing, "/proc does not show this process", "start times are not compared"),
    };
    let follows = if follows.is_empty() { String::new() } else { format!("{follows}; {BY_THE_BYTE}") };
    let mut draft = found(Machine, "start times", verdict, seen).follows(follows);
    // Where a pidfd has an inode they are not asked for.
    draft.0.need = if matches!(probe::pidfd(), Ok(Some(_))) { Need::Nothing } else { Need::Helpful };
    draft.advice("mount a /proc of this PID namespace, or leave it: locks are right without")
}

fn boot_id() -> Draft {
    match probe::boot_id() {
        Ok(id) => found(Machine, "boot id", Verdict::Ok, id),
        Err(e) => of(Machine, "boot id", e.into(), ""),
    }
    .need(Need::Helpful, &format!("processes from before a reboot are not told by that; {BY_THE_BYTE}"))
}

fn robust_list() -> Draft {
    let (verdict, seen) = match probe::robust_list() {
        Ok(Some((24, -32))) => (Verdict::Ok, "the C library's: length 24, words at -32, as glibc's".into()),
        Ok(Some((len, offset))) => {
            (Verdict::Unusable, format!("length {len}, words at {offset}: not as glibc's (24, -32)"))
        }
        Ok(None) => (
            Verdict::Unusable,
            "the C library has registered none for this thread (musl does so when it needs one)".into(),
        ),
        Err(errno) => refused(errno),
    };
    let draft = found(Machine, "robust list", verdict, seen);
    draft.need(Need::Helpful, &format!("when this process dies, {BY_LOOKING}"))
}

/// What the first namespace of its kind has for an inode, in every kernel (`linux/proc_ns.h`).
const FIRST_TIME: u64 = 0xEFFF_FFFA;
const FIRST_PID: u64 = 0xEFFF_FFFC;
const FIRST_USER: u64 = 0xEFFF_FFFD;

fn namespace(name: &'static str, kind: &str, first: u64, in_another: &str) -> Draft {
    match probe::namespace(kind) {
        Some(inode) if inode == first => found(Machine, name, Verdict::Ok, "the machine's first"),
        Some(inode) => {
            found(Machine, name, Verdict::Ok, format!("one of its own ({inode}): a container's, or the like"))
                .follows(in_another)
        }
        None => found(Machine, name, Verdict::Unknown, format!("/proc/self/ns/{kind} cannot be looked at")),
    }
}

fn pid_namespace() -> Draft {
    let elsewhere =
        "processes of other PID namespaces in the same space are judged by their byte alone, which is exact";
    let draft = namespace("PID namespace", "pid", FIRST_PID, elsewhere);
    let is_unknown = draft.0.verdict == Verdict::Unknown;
    let draft = draft.need(Need::Helpful, "");
    if is_unknown { draft.follows(format!("no process is judged by its PID; {BY_THE_BYTE}")) } else { draft }
}

fn time_namespace() -> Draft {
    let elsewhere = "start times are not compared with those of other time namespaces; waits and tokens are as ever";
    match probe::namespace("time") {
        None if probe::namespace("pid").is_some() => {
            found(Machine, "time namespace", Verdict::Ok, "this kernel has none (Linux has them since 5.6)")
        }
        _ => namespace("time namespace", "time", FIRST_TIME, elsewhere),
    }
}

fn user_namespace() -> Draft {
    let elsewhere = "a space shared with processes outside belongs to whom they see as its owner; look at the owner from both sides";
    namespace("user namespace", "user", FIRST_USER, elsewhere)
}

fn mount_namespace() -> Draft {
    let follows =
        "processes share a space only where they see the same directory: containers need a common volume, and --path";
    match probe::namespace("mnt") {
        // Only recent kernels give the first one a number by which it is known.
        Some(0xEFFF_FFF8) => found(Machine, "mount namespace", Verdict::Ok, "the machine's first"),
        Some(inode) => {
            let seen = format!("{inode}; whether that is the machine's first cannot be told");
            found(Machine, "mount namespace", Verdict::Unknown, seen).follows(follows)
        }
        None => found(Machine, "mount namespace", Verdict::Unknown, "/proc/self/ns/mnt cannot be looked at")
            .follows(follows),
    }
}
