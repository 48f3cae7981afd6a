//! A role that has, tries and waits for a part of each kind there is, for tests of who sees whom: two processes that differ in user or namespace.

use std::any::Any;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use hostlock::{Abandoned, Acquired, Backend, Error, Holder, Lease, Result, Space, SpaceBuilder};

use super::{Actor, PATIENCE, hear, say};

/// What both backends have.
pub const COMMON: &[&str] = &["mutex", "write", "read", "permit"];
/// What only segments have.
pub const OF_SEGMENTS: &[&str] = &["lease", "data", "leader", "fence", "announcement", "party", "member"];

pub const BACKENDS: [&str; 2] = ["segment", "files"];

/// Does it with both at the same time: most of it is waiting.
pub fn with_both(act: impl Fn(&'static str) + Sync) {
    std::thread::scope(|scope| {
        for backend in BACKENDS {
            let act = &act;
            scope.spawn(move || act(backend));
        }
    });
}

pub fn kinds(backend: &str) -> Vec<&'static str> {
    if backend == "segment" { [COMMON, OF_SEGMENTS].concat() } else { COMMON.to_vec() }
}

/// Of the space `test`.
pub fn builder(root: &Path, backend: &str, mode: u32) -> SpaceBuilder {
    let backend = if backend == "segment" { Backend::Segment } else { Backend::Files };
    Space::builder("test").root(root).locks(64).mode(mode).backend(backend)
}

/// Whoever holds something keeps it in here.
type Kept = Box<dyn Any>;
/// What it got, and who had died with it.
type Got = (Kept, Option<u32>);

fn pid(dead: Option<&Abandoned>) -> Option<u32> {
    dead.and_then(|dead| dead.pid)
}

/// Of a process that nobody's wait outlasts.
fn lease() -> Lease {
    Lease::new(Duration::from_secs(600))
}

fn hold(space: &Space, kind: &str, patience: Duration) -> Result<Got> {
    macro_rules! got {
        ($guard:expr) => {{
            let guard = $guard;
            let dead = pid(guard.abandoned());
            (Box::new(guard), dead)
        }};
    }
    Ok(match kind {
        "mutex" => got!(space.mutex("m")?.try_lock_owned_for(patience)?),
        "write" => got!(space.rwlock("w")?.try_write_owned_for(patience)?),
        "read" => got!(space.rwlock("r")?.try_read_owned_for(patience)?),
        "permit" => got!(space.semaphore("s", 1)?.try_acquire_owned_for(patience)?),
        "lease" => got!(space.mutex("l")?.try_lock_with_lease_for(lease(), patience)?),
        "data" => match space.mutex_with::<u64>("d", 7)?.try_lock_owned_for(patience)? {
            Acquired::Clean(guard) => (Box::new(guard), None),
            Acquired::Abandoned(guard) => {
                let dead = pid(Some(guard.abandoned()));
                (Box::new(guard.repaired()), dead)
            }
        },
        "leader" => {
            let leadership = space.election("e", lease())?.campaign_for(patience)?;
            let dead = pid(leadership.predecessor());
            (Box::new(leadership), dead)
        }
        "fence" => {
            let fence = Box::leak(Box::new(space.fence("f")?));
            got!(fence.enter_for(1, patience)?)
        }
        "announcement" => (Box::new(space.event("a")?.announce()?), None),
        "party" => (Box::new(space.latch("p", 1)?.party()?), None),
        "member" => (Box::new(space.barrier("b", 2)?.join()?), None),
        other => panic!("what is {other:?}?"),
    })
}

/// Waits for what somebody has, or for what somebody is to do: who had died with it.
fn wait(space: &Space, kind: &str, patience: Duration) -> Result<Got> {
    let waited: Result<()> = match kind {
        // What a reader has keeps a writer out.
        "read" => {
            let guard = space.rwlock("r")?.try_write_owned_for(patience)?;
            let dead = pid(guard.abandoned());
            return Ok((Box::new(guard), dead));
        }
        "announcement" => space.event("a")?.wait_for(patience),
        "party" => space.latch("p", 1)?.wait_for(patience),
        "member" => space.barrier("b", 2)?.join()?.wait_for(patience).map(drop),
        _ => return hold(space, kind, patience),
    };
    match waited {
        Ok(()) => Ok((Box::new(()), None)),
        Err(Error::SignalLost { by, .. } | Error::Broken { by, .. }) => Ok((Box::new(()), by.pid)),
        Err(error) => Err(error),
    }
}

fn answer(outcome: Result<Got>, held: &mut HashMap<String, Kept>, kind: &str) -> String {
    match outcome {
        Ok((kept, dead)) => {
            held.insert(kind.into(), kept);
            dead.map_or("got".into(), |dead| format!("got from {dead}"))
        }
        Err(Error::TimedOut { holder, .. } | Error::WouldBlock { holder, .. }) => refused(holder),
        Err(Error::NoSeat { .. }) => "refused".into(),
        Err(error) => format!("failed: {error}").replace('\n', " "),
    }
}

fn refused(holder: Option<Box<Holder>>) -> String {
    match holder {
        Some(holder) => format!("refused by {} elsewhere {}", holder.pid, holder.elsewhere),
        None => "refused".into(),
    }
}

/// Becomes that user, of those groups: `1001:1001:42,43`.
pub fn become_user(who: &str) -> nix::Result<()> {
    let [uid, gid, groups] = who.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{who}?") };
    let groups: Vec<Gid> = groups.split(',').filter_map(|group| group.parse().ok()).map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(uid.parse().unwrap()), Gid::from_raw(gid.parse().unwrap()));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // The change of user took it away.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
}

/// The role. Its arguments: the root, the backend, the mode (octal), and perhaps a user.
pub fn act(arguments: &[String]) {
    if let Some(who) = arguments.get(3).filter(|who| !who.is_empty())
        && let Err(errno) = become_user(who)
    {
        say(format!("cannot be {who}: {errno}"));
        hear();
    }
    let root = Path::new(&arguments[0]);
    let mode = u32::from_str_radix(&arguments[2], 8).unwrap();
    let space = match builder(root, &arguments[1], mode).open() {
        Ok(space) => space,
        Err(error) => {
            say(format!("failed: {error}").replace('\n', " "));
            hear();
            return;
        }
    };
    say("ready");
    let mut held = HashMap::new();
    loop {
        let order = hear();
        let (order, kind) = order.split_once(' ').unwrap_or((&order, ""));
        let said = match order {
            // A reader stays back for a moment after a writer.
            "hold" => answer(hold(&space, kind, Duration::from_secs(5)), &mut held, kind),
            "try" => answer(wait(&space, kind, Duration::from_millis(5)), &mut held, kind),
            "wait" => answer(wait(&space, kind, PATIENCE), &mut held, kind),
            "wait-for-all" => {
                let space = &space;
                let wait_for = |kind: &'static str| {
                    let waited = wait(space, kind, PATIENCE);
                    say(format!("{kind}: {}", answer(waited, &mut HashMap::new(), kind)));
                };
                std::thread::scope(|scope| {
                    kinds(&arguments[1]).into_iter().for_each(|kind| drop(scope.spawn(move || wait_for(kind))));
                });
                continue;
            }
            "release" => {
                held.remove(kind);
                "released".into()
            }
            "inspect" => match builder(root, &arguments[1], mode).inspect() {
                Ok(seen) => {
                    let of = |lock: &hostlock::LockReport| {
                        format!("{} {:?}", lock.name, lock.holder.as_ref().map(|h| h.pid))
                    };
                    seen.locks.iter().map(of).collect::<Vec<_>>().join("; ")
                }
                Err(error) => format!("failed: {error}").replace('\n', " "),
            },
            "meet" => {
                // Each phase is a wake from the one to the other.
                let mut member = space.barrier("meeting", 2).unwrap().join().unwrap();
                let met = (0..100).try_for_each(|_| member.wait_for(PATIENCE).map(drop));
                met.map_or_else(|error| format!("failed: {error}"), |()| "met".into())
            }
            other => panic!("what is {other:?}?"),
        };
        say(said);
    }
}

pub fn ask(actor: &mut Actor, order: impl std::fmt::Display) -> String {
    actor.tell(order);
    actor.hear()
}

/// `holder` has a part of each kind, each of which `waiter` is refused, and waits for until the holder is dead. `seen` is what the waiter sees of the holder,
/// its PID and whether that is one of another namespace; `kill` ends it.
pub fn each_kind(
    backend: &str,
    (mut holder, mut waiter): (Actor, Actor),
    seen: (i32, bool),
    kill: impl Fn(&mut Actor),
) {
    let (pid, elsewhere) = seen;
    for kind in kinds(backend) {
        assert_eq!(ask(&mut holder, format!("hold {kind}")), "got", "{backend}, {kind}");
    }
    // A member that gives up breaks the barrier for the others.
    for kind in kinds(backend).into_iter().filter(|kind| *kind != "member") {
        let said = ask(&mut waiter, format!("try {kind}"));
        // Who counts is in nobody's way; which readers there are is not always to be seen.
        let named = format!("refused by {pid} elsewhere {elsewhere}");
        let is_named = !matches!(kind, "announcement" | "party" | "read");
        assert!(said == named || !is_named && said.starts_with("refused"), "{backend}, {kind}: {said}, not {named}");
    }
    waiter.tell("wait-for-all");
    // Whoever is fooled gets it at one of the first looks.
    assert_eq!(waiter.hear_within(Duration::from_millis(250)), None, "{backend}: two holders");
    kill(&mut holder);
    for _ in kinds(backend) {
        let said = waiter.hear();
        let (kind, said) = said.split_once(": ").unwrap();
        // A reader that died leaves nothing half done.
        let expected = if kind == "read" { "got".to_owned() } else { format!("got from {pid}") };
        assert_eq!(said, expected, "{backend}, {kind}");
    }
}

/// Both hand a lock to each other, without a death.
pub fn handed_over(backend: &str, one: &mut Actor, two: &mut Actor) {
    for kind in COMMON {
        for _ in 0..3 {
            assert_eq!(ask(one, format!("hold {kind}")), "got", "{backend}, {kind}");
            two.tell(format!("wait {kind}"));
            assert_eq!(ask(one, format!("release {kind}")), "released");
            assert_eq!(two.hear(), "got", "{backend}, {kind}");
            assert_eq!(ask(two, format!("release {kind}")), "released");
        }
    }
    if backend == "segment" {
        one.tell("meet");
        two.tell("meet");
        assert_eq!((one.hear().as_str(), two.hear().as_str()), ("met", "met"));
    }
}
