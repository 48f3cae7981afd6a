//! What is measured beside hostlock, by the names that `--peers` takes.

/// One of those that are measured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Whether several processes can use it.
    pub(crate) for_processes: bool,
}

/// Whom all others are compared with, and who is always measured.
pub(crate) const OURS: &str = "hostlock";

const fn peer(name: &'static str, about: &'static str) -> Peer {
    Peer { name, about, for_processes: true }
}

const fn local(name: &'static str, about: &'static str) -> Peer {
    Peer { name, about, for_processes: false }
}

pub(crate) const PEERS: &[Peer] = &[
    peer(OURS, "its mutex, read-write lock or semaphore, in a segment"),
    peer("hostlock-fair", "its mutex, each release by unlock_fair: who waits is before who comes"),
    peer("hostlock-files", "its mutex, made of lock files"),
    local("floor", "two bare compare-and-swaps: no lock at all, and what none goes below"),
    local("std", "std::sync, for the threads of one process"),
    local("parking_lot", "the crate parking_lot, for the threads of one process"),
    peer("pthread", "pthread mutex or rwlock, process-shared"),
    peer("pthread-robust", "pthread mutex, process-shared and robust: nearest in what it promises"),
    peer("pthread-pi", "pthread mutex, process-shared, with priority inheritance"),
    peer("pthread-writers", "pthread rwlock, process-shared, that prefers writers"),
    peer("sem_t", "POSIX semaphore, process-shared; not given back when its owner dies"),
    peer("sysv", "System V semaphore: semop with SEM_UNDO"),
    peer("flock", "flock(2) on a file kept open"),
    peer("ofd", "fcntl on a file kept open: F_OFD_SETLKW"),
    peer("fs2", "flock(2) by the crate fs2"),
    peer("fd-lock", "flock(2) by the crate fd-lock"),
    peer("named-lock", "flock(2) by the crate named-lock, behind a lock for the threads of each process"),
    peer("file", "a file opened, mapped, unmapped and closed: what sharing memory takes"),
];

/// The peer of that name.
pub(crate) fn find(name: &str) -> Option<&'static Peer> {
    PEERS.iter().find(|peer| peer.name == name)
}
