//! Values behind locks, and queues: for all processes, compared by their type, and never half changed without a word about it.

mod support;

use std::path::Path;
use std::time::Duration;

use hostlock::bytemuck::{Pod, Zeroable};
use hostlock::{Acquired, Error, Space};
use support::{act, hear, root, say, space, start, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);
const CAPACITY: u32 = 4;

#[test]
fn role() {
    act(&[("changer", changer), ("holder", holder), ("pusher", pusher), ("popper", popper), ("reader", reader)]);
}

/// Numbers that agree: each is the first one plus its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[bytemuck(crate = "hostlock::bytemuck")]
#[repr(C)]
struct Agreeing([u64; 200]);

impl Agreeing {
    fn of(first: u64) -> Self {
        Self(std::array::from_fn(|position| first + position as u64))
    }

    fn agrees(&self) -> bool {
        *self == Self::of(self.0[0])
    }
}

fn open(arguments: &[String]) -> Space {
    space(Path::new(&arguments[0]))
}

/// Changes the value all the time, also a part of it at a time.
fn changer(arguments: &[String]) {
    let data = open(arguments).mutex_with("data", Agreeing::of(0)).unwrap();
    say("here");
    loop {
        let mut guard = data.lock().unwrap().or_repair(|value, _| *value = Agreeing::of(value.0[0]));
        let next = guard.0[0] + 1;
        for position in 0..guard.0.len() {
            guard.0[position] = next + position as u64;
        }
        guard.save().unwrap();
        guard.unlock().unwrap();
    }
}

/// Holds the value, changed in its own copy only, or also for the others.
fn holder(arguments: &[String]) {
    let data = open(arguments).mutex_with("number", 0u64).unwrap();
    let mut guard = data.lock().unwrap().or_repair(|_, _| ());
    *guard = 77;
    if arguments[1] == "saved" {
        guard.save().unwrap();
    }
    say("changed");
    hear();
}

fn reader(arguments: &[String]) {
    let data = open(arguments).rwlock_with("shared", Agreeing::of(0)).unwrap();
    say("here");
    loop {
        let Acquired::Clean(guard) = data.read().unwrap() else { panic!("nobody died writing") };
        assert!(guard.agrees(), "{guard:?}");
    }
}

fn pusher(arguments: &[String]) {
    let queue = open(arguments).queue::<[u64; 2]>("queue", CAPACITY).unwrap();
    let mine: u64 = arguments[1].parse().unwrap();
    say("here");
    for number in 0.. {
        queue.push([mine, number]).unwrap();
    }
}

fn popper(arguments: &[String]) {
    let queue = open(arguments).queue::<[u64; 2]>("queue", CAPACITY).unwrap();
    say("here");
    loop {
        queue.pop().unwrap();
    }
}

fn path(root: &tempfile::TempDir) -> &str {
    root.path().to_str().unwrap()
}

#[test]
fn a_value_is_everybodys_and_its_beginning_counts_once() {
    let root = root();
    let space = space(&root);
    let number = space.mutex_with::<u64>("number", 5).unwrap();
    let again = space.mutex_with::<u64>("number", 6).unwrap();
    {
        let Acquired::Clean(mut guard) = number.lock().unwrap() else { panic!("nobody died") };
        assert_eq!(*guard, 5);
        *guard += 1;
        assert!(matches!(again.try_lock(), Err(Error::WouldBlock { .. })));
        assert!(matches!(again.try_lock_for(SHORT), Err(Error::Deadlock { .. })), "by the same thread");
    }
    let guard = again.lock_owned().unwrap().into_clean().ok().unwrap();
    assert_eq!((*guard, number.holder().unwrap().unwrap().token), (6, guard.token()));
    std::thread::spawn(move || guard.unlock()).join().unwrap().unwrap();
    // Taken away, it begins anew.
    space.remove("number").unwrap();
    assert_eq!(*number.lock().unwrap().into_clean().ok().unwrap(), 5);
}

#[test]
fn another_type_is_refused_and_both_are_named() {
    let root = root();
    let space = space(&root);
    let _number = space.mutex_with::<u64>("number", 5).unwrap();
    let refused = [
        space.mutex_with::<i64>("number", 5).map(drop).unwrap_err(),
        space.mutex_with::<[u8; 8]>("number", [0; 8]).map(drop).unwrap_err(),
        space.mutex_with("number", Agreeing::of(0)).map(drop).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(&error, Error::WrongType { .. }), "{error}");
        assert!(error.to_string().contains("u64 (8 bytes"), "{error}");
    }
    assert!(matches!(space.mutex("number"), Err(Error::WrongKind { .. })));
    assert!(matches!(space.rwlock_with("number", 5u64), Err(Error::WrongKind { .. })));
    let _queue = space.queue::<u64>("queue", 4).unwrap();
    assert!(matches!(space.queue::<u32>("queue", 4), Err(Error::WrongType { .. })));
    assert!(matches!(space.queue::<u64>("queue", 5), Err(Error::WrongCount { .. })));
    // A handle that is left when the name is taken away and made anew.
    let old = space.mutex_with::<u64>("other", 5).unwrap();
    space.remove("other").unwrap();
    let _new = space.mutex_with::<[u32; 2]>("other", [0; 2]).unwrap();
    assert!(matches!(old.lock(), Err(Error::WrongType { .. })));
    assert!(old.holder().unwrap().is_none(), "and let go of it");
}

#[test]
fn a_value_that_does_not_fit_says_how_much_is_needed() {
    let root = root();
    let space = Space::builder("test").root(root.path()).extents(4096).open().unwrap();
    let error = space.mutex_with("large", [0u64; 1000]).map(drop).unwrap_err();
    let Error::NoExtents { needed, capacity: 4096, .. } = &error else { panic!("{error}") };
    assert!(*needed >= 8000 && error.to_string().contains("extents("), "{error}");
    assert_eq!(space.usage().locks, 0);
    let _small = space.mutex_with("small", [0u64; 100]).unwrap();
}

#[test]
fn what_a_killed_owner_had_only_in_its_hands_is_seen_by_nobody() {
    for saved in ["", "saved"] {
        let root = root();
        let space = space(&root);
        let number = space.mutex_with::<u64>("number", 5).unwrap();
        let mut holder = start("holder", &[path(&root), saved]);
        holder.expect("changed");
        let pid = holder.process.id();
        holder.kill();
        let expected = if saved.is_empty() { 5 } else { 77 };
        // Told again and again, until somebody says that it is repaired; what is changed meanwhile is kept.
        for round in 0..3 {
            let Acquired::Abandoned(mut guard) = number.lock().unwrap() else { panic!("nobody repaired it") };
            assert_eq!(guard.abandoned().pid, Some(pid), "{saved}, round {round}");
            assert_eq!(*guard, expected + round);
            *guard += 1;
        }
        let Acquired::Abandoned(mut guard) = number.lock().unwrap() else { panic!("nobody repaired it") };
        *guard = 9;
        let guard = guard.repaired();
        assert_eq!(*guard, 9);
        drop(guard);
        let Acquired::Clean(guard) = number.lock().unwrap() else { panic!("it was repaired") };
        assert_eq!(*guard, 9);
    }
}

#[test]
fn a_value_is_never_torn_without_a_word_about_it() {
    let root = root();
    let space = space(&root);
    let data = space.mutex_with("data", Agreeing::of(0)).unwrap();
    let (mut told, mut torn) = (0, 0);
    for round in 0..60u64 {
        let mut changer = start("changer", &[path(&root)]);
        changer.expect("here");
        std::thread::sleep(Duration::from_micros(500 + (round * 7919) % 3000));
        changer.kill();
        match data.lock().unwrap() {
            Acquired::Clean(guard) => assert!(guard.agrees(), "torn, and nobody said so"),
            Acquired::Abandoned(mut guard) => {
                told += 1;
                torn += usize::from(!guard.agrees());
                *guard = Agreeing::of(guard.0[0]);
                drop(guard.repaired());
            }
        }
    }
    println!("60 kills, {told} with the value in hand, {torn} torn");
    assert!(told > 0, "no kill hit the lock");
}

#[test]
fn readers_see_whole_values_and_are_told_of_a_dead_writer() {
    let root = root();
    let space = space(&root);
    let shared = space.rwlock_with("shared", Agreeing::of(0)).unwrap();
    let mut readers: Vec<_> = (0..2).map(|_| start("reader", &[path(&root)])).collect();
    readers.iter().for_each(|reader| reader.expect("here"));
    for first in 1..300 {
        let mut guard = shared.write().unwrap().into_clean().ok().unwrap();
        *guard = Agreeing::of(first);
    }
    for reader in &mut readers {
        assert!(reader.process.try_wait().unwrap().is_none(), "it saw half a value");
        reader.kill();
    }
    let reading = shared.read().unwrap().into_clean().ok().unwrap();
    assert_eq!(*reading, Agreeing::of(299));
    drop(reading);
    // A writer that gave up, as if it had died.
    let (mut reader_told, plain) = (0, space.rwlock_with("shared", Agreeing::of(0)).unwrap());
    // SAFETY: the child only leaves its guard undropped and ends.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            std::mem::forget(plain.write_owned());
            // SAFETY: ends this copy of the test runner at once.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            nix::sys::wait::waitpid(child, None).unwrap();
        }
    }
    for _ in 0..2 {
        if let Acquired::Abandoned(guard) = shared.read().unwrap() {
            assert!(guard.agrees());
            reader_told += 1;
        }
    }
    assert_eq!(reader_told, 2, "a reader cannot say that it is repaired");
    let guard = shared.write().unwrap().or_repair(|value, _| assert!(value.agrees()));
    drop(guard);
    assert!(matches!(shared.read().unwrap(), Acquired::Clean(_)));
}

#[test]
fn a_forked_childs_guard_writes_nothing() {
    let root = root();
    let space = space(&root);
    let number = space.mutex_with::<u64>("number", 5).unwrap();
    let mut guard = number.lock().unwrap().into_clean().ok().unwrap();
    // SAFETY: the child changes its copy, drops it, and ends.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            *guard = 6;
            let refused = guard.is_held() || guard.save().is_ok();
            drop(guard);
            // SAFETY: ends this copy of the test runner at once.
            unsafe { libc::_exit(i32::from(refused)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
        }
    }
    assert!(guard.is_held());
    drop(guard);
    assert_eq!(*number.lock().unwrap().into_clean().ok().unwrap(), 5);
}

#[test]
fn a_panic_half_way_through_a_change_is_told_and_one_without_a_change_is_not() {
    let root = root();
    let space = space(&root);
    let number = space.mutex_with::<u64>("number", 5).unwrap();
    let shared = space.rwlock_with::<u64>("shared", 5).unwrap();
    let panics = |act: &dyn Fn()| {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        assert!(panicked.is_err());
    };
    panics(&|| {
        let guard = number.lock().unwrap().into_clean().ok().unwrap();
        assert_ne!(*guard, 5, "on purpose");
    });
    assert!(matches!(number.lock().unwrap(), Acquired::Clean(_)));
    panics(&|| {
        let mut guard = number.lock().unwrap().into_clean().ok().unwrap();
        *guard = 6;
        guard.save().unwrap();
        *guard = 7;
        panic!("on purpose");
    });
    panics(&|| {
        let mut guard = shared.write_owned().unwrap().into_clean().ok().unwrap();
        *guard = 6;
        panic!("on purpose");
    });
    let told = number.lock().unwrap().into_clean().err().unwrap();
    assert_eq!((*told, told.abandoned().pid), (6, Some(std::process::id())));
    drop(told);
    drop(number.lock().unwrap().or_repair(|value, _| *value = 8));
    assert_eq!(*number.lock().unwrap().into_clean().ok().unwrap(), 8);
    let told = shared.read().unwrap().into_clean().err().unwrap();
    assert_eq!(*told, 5);
    drop(told);
    // One that was acquired while the thread panicked already is as good as any.
    struct Late<'a>(&'a hostlock::Mutex<u64>);
    impl Drop for Late<'_> {
        fn drop(&mut self) {
            *self.0.lock().unwrap().into_clean().ok().unwrap() += 1;
        }
    }
    panics(&|| {
        let _late = Late(&number);
        panic!("on purpose");
    });
    assert_eq!(*number.lock().unwrap().into_clean().ok().unwrap(), 9);
}

// Queues.

#[test]
fn items_leave_in_the_order_in_which_they_came() {
    let root = root();
    let space = space(&root);
    let queue = space.queue::<u64>("queue", CAPACITY).unwrap();
    assert!(matches!(queue.try_pop(), Err(Error::QueueEmpty { .. })));
    assert!(matches!(queue.pop_for(SHORT), Err(Error::TimedOut { .. })));
    // Round and round.
    for round in 0..20 {
        for item in 0..u64::from(CAPACITY) {
            queue.try_push(round * 100 + item).unwrap();
        }
        assert!(matches!(queue.try_push(0), Err(Error::QueueFull { capacity: CAPACITY, .. })));
        assert!(matches!(queue.push_for(0, Duration::from_millis(1)), Err(Error::TimedOut { .. })));
        assert_eq!(queue.len().unwrap(), CAPACITY);
        for item in 0..u64::from(CAPACITY) {
            assert_eq!(queue.pop().unwrap(), round * 100 + item);
        }
        assert!(queue.is_empty().unwrap());
    }
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.pop_for(BOUND).unwrap());
        wait_until("it sleeps", || space.usage().waiting == 1);
        queue.push(7).unwrap();
        assert_eq!(waiting.join().unwrap(), 7);
        (0..CAPACITY).for_each(|_| queue.push(1).unwrap());
        let waiting = scope.spawn(|| queue.push_for(8, BOUND).unwrap());
        wait_until("it sleeps", || space.usage().waiting == 1);
        queue.pop().unwrap();
        waiting.join().unwrap();
    });
}

#[test]
fn what_was_not_noted_is_still_in_the_queue() {
    let root = root();
    let queue = space(&root).queue::<u64>("queue", CAPACITY).unwrap();
    queue.push(7).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| queue.pop_with(|_| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(queue.pop_with(|item| item + 1).unwrap(), 8);
    assert!(queue.is_empty().unwrap());
}

#[test]
fn a_child_forked_while_an_item_is_noted_has_popped_nothing() {
    let root = root();
    let queue = space(&root).queue::<u64>("queue", CAPACITY).unwrap();
    [7, 8].into_iter().for_each(|item| queue.push(item).unwrap());
    let mut is_child = false;
    let popped = queue.pop_with(|item| {
        // SAFETY: the child comes back from here, and ends below.
        let fork = unsafe { nix::unistd::fork() }.unwrap();
        is_child = fork.is_child();
        if let nix::unistd::ForkResult::Parent { child } = fork {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
        }
        *item
    });
    if is_child {
        let refused = matches!(popped, Err(Error::Lost { .. }));
        // SAFETY: ends this copy of the test runner at once.
        unsafe { libc::_exit(i32::from(!refused)) }
    }
    assert_eq!(popped.unwrap(), 7);
    assert_eq!(queue.pop().unwrap(), 8);
    assert!(queue.is_empty().unwrap());
}

#[test]
fn a_queue_larger_than_any_space_says_how_much_it_needs() {
    let root = root();
    let error = space(&root).queue::<[Agreeing; 10]>("queue", 1 << 24).unwrap_err();
    let Error::NoExtents { needed, capacity, .. } = &error else { panic!("{error}") };
    assert!(*needed > 16_000 << 24 && *capacity < *needed, "{error}");
}

/// Of each pusher the numbers come in order, each once; whoever is killed blocks nobody, and leaves nothing that is no item.
#[test]
fn killed_pushers_and_poppers_lose_and_double_nothing_but_what_they_had_in_hand() {
    let root = root();
    let space = space(&root);
    let queue = space.queue::<[u64; 2]>("queue", CAPACITY).unwrap();
    let mut last = std::collections::HashMap::new();
    let mut popped = 0;
    let mut take = |for_so_long: Duration| {
        let end = std::time::Instant::now() + for_so_long;
        while std::time::Instant::now() < end {
            if let Ok([who, number]) = queue.pop_for(Duration::from_millis(1)) {
                let next = last.entry(who).or_insert(0);
                assert!(number >= *next, "{number} of {who} after {next}");
                *next = number + 1;
                popped += 1;
            }
        }
    };
    for round in 0..40u64 {
        let mut pusher = start("pusher", &[path(&root), &round.to_string()]);
        let mut popper = start("popper", &[path(&root)]);
        pusher.expect("here");
        popper.expect("here");
        take(Duration::from_micros(500 + (round * 7919) % 4000));
        popper.kill();
        take(Duration::from_millis(1));
        pusher.kill();
        take(Duration::from_millis(1));
    }
    assert!(popped > 100, "{popped} items came through");
    while queue.try_pop().is_ok() {}
    queue.push([0, 0]).unwrap();
    assert_eq!(queue.len().unwrap(), 1);
    space.recover_dead().unwrap();
    assert_eq!((space.usage().participants, space.usage().waiting), (1, 0));
}
