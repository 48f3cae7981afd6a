//! All that a process can do in a space, and what must hold of each answer.

use std::fmt::{Debug, Display};
use std::time::Duration;

use hostlock::{Acquired, Error, Lease, Result, Space, Wanted, try_lock_all_for};

use crate::arena::{COUNT, NAMES};
use crate::input::Input;

/// How long a wait is. Long enough to sleep.
const SHORT: Duration = Duration::from_micros(300);
/// More guards than that are kept by nobody.
const MOST: usize = 6;

/// What is held until it is let go of.
pub type Kept = Box<dyn FnOnce()>;

/// A sentence is made of whatever lies there, on one line, and without what a terminal would obey.
pub fn sound(text: impl Display) {
    let text = text.to_string();
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}

/// The value; an error is looked at.
pub fn of<T>(outcome: Result<T>) -> Option<T> {
    outcome.inspect_err(|error| sound(error)).ok()
}

/// An error that the space cannot be opened or looked at names it, and says what to do.
pub fn refusal(error: &Error, space: &std::path::Path) {
    sound(error);
    let text = error.to_string();
    assert!(text.contains(space.to_str().expect("a path of ours")), "{text}");
    if let Error::UnusableSegment { .. } = error {
        let says =
            ["remove", "chmod", "use the same version", "end all processes"].iter().any(|what| text.contains(what));
        assert!(says, "{text}");
    }
}

/// Looks at what a guard says, then lets go; or keeps it.
macro_rules! guard {
    ($guard:expr, $keep:expr, $kept:expr) => {{
        let guard = $guard;
        let let_go = move || {
            let _ = (guard.token(), guard.is_held());
            if let Some(dead) = guard.abandoned() {
                sound(dead);
            }
            of(guard.unlock());
        };
        if $keep && $kept.len() < MOST { $kept.push(Box::new(let_go)) } else { let_go() }
    }};
}

/// The same for what is the place of a member, a setter, a party: dropped.
macro_rules! place {
    ($place:expr, $keep:expr, $kept:expr) => {{
        let place = $place;
        if $keep && $kept.len() < MOST {
            $kept.push(Box::new(move || drop(place)));
        }
    }};
}

/// One deed: a kind, a name, and which of the things that one can do with it.
pub fn act(space: &Space, input: &mut Input, kept: &mut Vec<Kept>) {
    let (kind, name, how) = (input.byte(), NAMES[usize::from(input.byte()) % NAMES.len()], input.byte());
    let count = if how & 0x80 == 0 { COUNT } else { u32::from(how & 0x3F) };
    // Which one, and whether to keep what was got.
    let (way, keep) = (how & 0x1F, how & 0x20 != 0);
    let done = match kind % 17 {
        0 | 1 => mutex(space, name, way, keep, kept),
        2 => rwlock(space, name, way, keep, kept),
        3 => semaphore(space, name, count, way, keep, kept),
        4 => value(space, name, way),
        5 => queue(space, name, count, way),
        6 => barrier(space, name, count, way, keep, kept),
        7 => latch(space, name, count, way, keep, kept),
        8 => event(space, name, way, keep, kept),
        9 => once(space, name, way),
        10 => fence(space, name, way),
        11 => condvar(space, name, way),
        12 => election(space, name, way),
        13 => several(space, name, way),
        14 => space.remove(name),
        15 => space.look_up(name).map(drop),
        _ => everything(space, way),
    };
    of(done);
}

fn holders(found: impl IntoIterator<Item = impl Display>) {
    found.into_iter().for_each(sound);
}

fn mutex(space: &Space, name: &str, way: u8, keep: bool, kept: &mut Vec<Kept>) -> Result<()> {
    let mutex = space.mutex(name)?;
    match way % 6 {
        0 => guard!(mutex.try_lock_owned()?, keep, kept),
        1 | 2 => guard!(mutex.try_lock_owned_for(SHORT)?, keep, kept),
        3 => holders(mutex.holder()?),
        4 => {
            let lease = mutex.try_lock_with_lease_for(Lease::new(SHORT * 2), SHORT)?;
            of(lease.renew());
            let _ = (lease.remaining(), lease.abandoned().map(sound));
            guard!(lease, keep, kept);
        }
        _ => {
            let mutex = space.reentrant_mutex(name)?;
            let (first, second) = (mutex.try_lock_for(SHORT)?, mutex.try_lock()?);
            let _ = mutex.depth();
            of(second.unlock());
            of(first.unlock());
        }
    }
    Ok(())
}

fn rwlock(space: &Space, name: &str, way: u8, keep: bool, kept: &mut Vec<Kept>) -> Result<()> {
    let lock = space.rwlock(name)?;
    match way % 7 {
        0 => guard!(lock.try_read_owned()?, keep, kept),
        1 => guard!(lock.try_read_owned_for(SHORT)?, keep, kept),
        2 => guard!(lock.try_write_owned_for(SHORT)?, keep, kept),
        3 => holders(lock.holders()?),
        4 => match lock.try_read_owned()?.try_upgrade_for(SHORT) {
            Ok(guard) => guard!(guard, keep, kept),
            Err(refused) => sound(&refused.error),
        },
        5 => match lock.try_write_owned_for(SHORT)?.downgrade() {
            Ok(guard) => guard!(guard, keep, kept),
            Err(refused) => sound(&refused.error),
        },
        _ => guard!(lock.try_write_with_lease_for(Lease::new(SHORT * 2), SHORT)?, keep, kept),
    }
    Ok(())
}

fn semaphore(space: &Space, name: &str, count: u32, way: u8, keep: bool, kept: &mut Vec<Kept>) -> Result<()> {
    let semaphore = space.semaphore(name, count)?;
    match way % 6 {
        0 => guard!(semaphore.try_acquire_owned()?, keep, kept),
        1 => guard!(semaphore.try_acquire_owned_for(SHORT)?, keep, kept),
        2 => guard!(semaphore.try_acquire_many_owned_for(2, SHORT)?, keep, kept),
        3 => holders(semaphore.holders()?),
        4 => assert!(semaphore.available()? <= semaphore.permits()),
        _ => guard!(semaphore.try_acquire_with_lease(Lease::new(SHORT * 2))?, keep, kept),
    }
    Ok(())
}

fn value(space: &Space, name: &str, way: u8) -> Result<()> {
    match way % 6 {
        0 | 1 => change(space.mutex_with::<u64>(name, 7)?.try_lock_for(SHORT)?)?,
        // Another type.
        2 => change(space.mutex_with::<u32>(name, 7)?.try_lock_for(SHORT)?)?,
        3 => change(space.rwlock_with::<u64>(name, 7)?.try_write_for(SHORT)?)?,
        _ => match space.rwlock_with::<u64>(name, 7)?.try_read_for(SHORT)? {
            Acquired::Clean(guard) => {
                let _ = (*guard, guard.token());
            }
            Acquired::Abandoned(guard) => sound(guard.abandoned()),
        },
    }
    Ok(())
}

fn change<G>(acquired: Acquired<G>) -> Result<()>
where
    G: hostlock::WritesData,
    G::Target: Default + Sized,
{
    let mut guard = acquired.or_repair(|_, dead| sound(dead));
    *guard = G::Target::default();
    Ok(())
}

fn queue(space: &Space, name: &str, count: u32, way: u8) -> Result<()> {
    let queue = space.queue::<u64>(name, count)?;
    match way % 4 {
        0 => queue.try_push(1),
        1 => queue.push_for(2, SHORT),
        2 => queue.pop_for(SHORT).map(drop),
        _ => {
            assert!(queue.len()? <= queue.capacity());
            Ok(())
        }
    }
}

fn barrier(space: &Space, name: &str, count: u32, way: u8, keep: bool, kept: &mut Vec<Kept>) -> Result<()> {
    let barrier = space.barrier(name, count)?;
    holders(barrier.holders()?);
    if !way.is_multiple_of(4) {
        let mut member = barrier.join()?;
        if way % 4 > 1 {
            of(member.wait_for(SHORT));
        }
        place!(member, keep, kept);
    }
    Ok(())
}

fn latch(space: &Space, name: &str, count: u32, way: u8, keep: bool, kept: &mut Vec<Kept>) -> Result<()> {
    let latch = space.latch(name, count)?;
    match way % 5 {
        0 => assert!(latch.remaining()? <= count),
        1 => latch.count_down()?,
        2 => latch.wait_for(SHORT)?,
        3 => holders(latch.holders()?),
        _ => place!(latch.party()?, keep, kept),
    }
    Ok(())
}

fn event(space: &Space, name: &str, way: u8, keep: bool, kept: &mut Vec<Kept>) -> Result<()> {
    let event = if way & 16 == 0 { space.event(name)? } else { space.auto_event(name)? };
    match way % 6 {
        0 => event.set()?,
        1 => event.reset()?,
        2 => event.wait_for(SHORT)?,
        3 => holders(event.holder()?),
        4 => drop(event.is_set()?),
        _ => place!(event.announce()?, keep, kept),
    }
    Ok(())
}

fn once(space: &Space, name: &str, way: u8) -> Result<()> {
    let once = space.once(name)?;
    match way % 4 {
        0 => once.call_once(|state| {
            if let Some(dead) = state.abandoned() {
                sound(dead);
            }
        }),
        1 => once.call_once_fallible(|_| Err::<(), ()>(())).map(drop),
        2 => once.wait_for(SHORT),
        _ => {
            let _ = once.is_done();
            Ok(())
        }
    }
}

fn fence(space: &Space, name: &str, way: u8) -> Result<()> {
    let fence = space.fence(name)?;
    let newest = fence.newest()?;
    let guard = fence.enter_for(newest.wrapping_add(u64::from(way)).wrapping_sub(2), SHORT)?;
    let _ = (guard.is_held(), guard.token(), guard.abandoned().map(sound));
    Ok(())
}

fn condvar(space: &Space, name: &str, way: u8) -> Result<()> {
    let condvar = space.condvar(name)?;
    match way % 3 {
        0 => condvar.notify_one(),
        1 => condvar.notify_all(),
        _ => {
            let mutex = space.mutex("one")?;
            condvar.wait_for(mutex.try_lock_for(SHORT)?, SHORT).map(drop)
        }
    }
}

fn election(space: &Space, name: &str, way: u8) -> Result<()> {
    let election = space.election(name, SHORT * 4)?;
    match way % 3 {
        0 => holders(election.leader()?),
        1 => holders(election.wait_for_change(None, SHORT)?),
        _ => {
            let leads = election.campaign_for(SHORT)?;
            let _ = (leads.is_leader(), leads.token(), leads.predecessor().map(sound));
            leads.resign()?;
        }
    }
    Ok(())
}

fn several(space: &Space, name: &str, way: u8) -> Result<()> {
    let (first, second) = (space.mutex(name)?, space.mutex("two")?);
    let lock = space.rwlock("readers")?;
    let third = if way.is_multiple_of(2) { Wanted::Read(&lock) } else { Wanted::Write(&lock) };
    try_lock_all_for([Wanted::Lock(&first), Wanted::Lock(&second), third], SHORT).map(drop)
}

/// What is about the space as a whole.
fn everything(space: &Space, way: u8) -> Result<()> {
    match way % 4 {
        0 => {
            let usage = space.usage();
            assert!(usage.locks <= usage.locks_capacity, "{usage:?}");
            // Lock files have room for any number.
            assert!(usage.participants_capacity == 0 || usage.participants <= usage.participants_capacity, "{usage:?}");
        }
        1 => drop(space.recover_dead()?),
        2 => space.act_on_behalf_of(1, "some\u{1b}body")?,
        _ => drop(shown(space)),
    }
    Ok(())
}

fn shown(what: impl Debug) -> String {
    format!("{what:?}")
}
