//! Of real threads and processes, and of the list among the C library's own mutexes.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pause};

use super::*;
use crate::os::clock::Monotonic;
use crate::os::futex::{self, Woken};
use crate::os::map::{Mapping, Table};

/// A file of two pages of words, mapped.
fn file() -> (File, Table<AtomicU32>) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * PAGE.get() as u64).unwrap();
    let words = Mapping::new(&file, 2 * PAGE.get()).unwrap().table(0, 2 * PAGE.get() as u64 / 4).unwrap();
    (file, words)
}

fn offset(number: u64) -> u64 {
    number / WORDS * PAGE.get() as u64 + word_at(number % WORDS)
}

fn sign(words: &Table<AtomicU32>, number: u64) -> Sign {
    Sign::of(&words[offset(number) as usize / 4])
}

/// Whether there is anything to test.
fn has_list() -> bool {
    if !is_possible() {
        eprintln!("SKIPPED: this C library's robust list is not as glibc's");
    }
    is_possible()
}

#[test]
fn whoever_sleeps_on_the_word_of_a_process_that_is_killed_is_woken() {
    if !has_list() {
        return;
    }
    let (file, words) = file();
    // SAFETY: the child registers, which takes no lock that a fork copies but the allocator's, and glibc sees to that one.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _registered = Registered::register(file.as_fd(), offset(4));
            loop {
                pause();
            }
        }
    };
    while sign(&words, 4) == Sign::None {
        std::thread::yield_now();
    }
    let Sign::Thread(value) = sign(&words, 4) else { panic!("{:?}", sign(&words, 4)) };
    let (lock, life) = (AtomicU32::new(7), &words[offset(4) as usize / 4]);
    let until = Monotonic::now().saturating_add(Duration::from_secs(60));
    let sleeper = || futex::wait_any(&lock, 7, &[(life, value)], until);
    let woken = std::thread::scope(|scope| {
        let sleeper = scope.spawn(sleeper);
        std::thread::sleep(Duration::from_millis(30));
        kill(child, Signal::SIGKILL).unwrap();
        sleeper.join().unwrap()
    });
    waitpid(child, None).unwrap();
    match woken {
        Woken::Refused(errno) => eprintln!("SKIPPED: futex_waitv: {errno}"),
        // Changed: it was killed before the sleep.
        woken => assert!(matches!(woken, Woken::CalledFor(0) | Woken::Changed), "{woken:?}"),
    }
    assert_eq!(sign(&words, 4), Sign::Ended);
}

#[test]
fn a_thread_that_ends_is_told_of_until_another_registers() {
    if !has_list() {
        return;
    }
    let (file, words) = file();
    let registered = std::thread::spawn({
        let file = file.try_clone().unwrap();
        move || Registered::register(file.as_fd(), offset(0)).unwrap().unwrap()
    });
    let registered = registered.join().unwrap();
    assert_eq!(sign(&words, 0), Sign::Ended);
    let placed = registered.0.clone();
    drop(registered);
    assert_eq!((sign(&words, 0), *placed.state()), (Sign::None, State::Gone));
    let another = Registered::register(file.as_fd(), offset(0)).unwrap();
    assert!(matches!(sign(&words, 0), Sign::Thread(_)));
    drop(another);
    assert_eq!(sign(&words, 0), Sign::None);
}

/// Another thread can end it, and then the file is not mapped any more, and the first thread's end is as any.
#[test]
fn what_another_thread_ends_is_left_behind_without_the_file() {
    if !has_list() {
        return;
    }
    let (file, words) = file();
    let (send, receive) = std::sync::mpsc::channel();
    let (go, end) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn({
        let file = file.try_clone().unwrap();
        move || {
            send.send(Registered::register(file.as_fd(), offset(2)).unwrap().unwrap()).unwrap();
            end.recv().unwrap();
            // It goes by the next registration of the thread at the latest.
            let again = Registered::register(file.as_fd(), offset(1)).unwrap().unwrap();
            let mine = MINE.with(|mine| mine.placed.borrow().len());
            drop(again);
            mine
        }
    });
    let registered = receive.recv().unwrap();
    assert!(matches!(sign(&words, 2), Sign::Thread(_)));
    let placed = registered.0.clone();
    drop(registered);
    assert_eq!((sign(&words, 2), *placed.state()), (Sign::None, State::LeftBehind));
    go.send(()).unwrap();
    assert_eq!(thread.join().unwrap(), 1, "it gathers what it is left with");
    assert_eq!(*placed.state(), State::Gone);
}

/// The nodes on this thread's list, as the kernel would walk it; each has its way back.
fn walk() -> Vec<usize> {
    let head = list().unwrap().as_ptr();
    let mut nodes = Vec::new();
    // SAFETY: as in `put_on`: all of them are the head or nodes on the list.
    unsafe {
        let (mut previous, mut next) = (head.addr(), (*head).next);
        while next & !1 != head.addr() {
            assert_eq!(previous_of(head, next).read_volatile() & !1, previous, "the way back");
            nodes.push(next & !1);
            (previous, next) = (next & !1, at(head, next & !1).read_volatile());
            assert!(nodes.len() < 100, "it goes round");
        }
        assert_eq!(previous_of(head, next).read_volatile() & !1, previous, "the way back");
    }
    nodes
}

/// Among the C library's own mutexes, in any order.
#[test]
fn the_list_is_one_at_each_moment() {
    if !has_list() {
        return;
    }
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap();
    let thread = std::thread::spawn(|| {
        let (file, _words) = file();
        let mut mutexes: Vec<Box<libc::pthread_mutex_t>> = (0..6).map(|_| Box::new(robust())).collect();
        let (mut locked, mut registered): (Vec<bool>, Vec<Option<Registered>>) =
            (vec![false; 6], (0..6).map(|_| None).collect());
        let mut expected: Vec<usize> = Vec::new();
        let mut random = 0x2545_F491_4F6C_DD1Du64;
        for _ in 0..4000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let which = (random >> 8) as usize % 6;
            if random & 1 == 0 {
                let mutex: *mut libc::pthread_mutex_t = &mut *mutexes[which];
                // glibc's node is 32 bytes into the mutex.
                let node = mutex.addr() + WORD_TO_NODE;
                // SAFETY: an initialised mutex that stays where it is, and is unlocked by the thread that locked it.
                unsafe {
                    if locked[which] {
                        assert_eq!(libc::pthread_mutex_unlock(mutex), 0);
                        expected.retain(|other| *other != node);
                    } else {
                        assert_eq!(libc::pthread_mutex_lock(mutex), 0);
                        expected.insert(0, node);
                    }
                }
                locked[which] = !locked[which];
            } else {
                match registered[which].take() {
                    Some(one) => {
                        expected.retain(|other| *other != one.0.node().addr());
                        drop(one);
                    }
                    None => {
                        let one = Registered::register(file.as_fd(), offset(which as u64)).unwrap().unwrap();
                        expected.insert(0, one.0.node().addr());
                        registered[which] = Some(one);
                    }
                }
            }
            assert_eq!(walk(), expected);
        }
        for (mutex, locked) in mutexes.iter_mut().zip(locked) {
            if locked {
                // SAFETY: as above.
                unsafe { libc::pthread_mutex_unlock(&mut **mutex) };
            }
        }
    });
    thread.join().unwrap();
}

fn robust() -> libc::pthread_mutex_t {
    let mut mutex = core::mem::MaybeUninit::uninit();
    let mut attributes = core::mem::MaybeUninit::uninit();
    // SAFETY: both are initialised by the calls made for that, in this order.
    unsafe {
        libc::pthread_mutexattr_init(attributes.as_mut_ptr());
        libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
        libc::pthread_mutex_init(mutex.as_mut_ptr(), attributes.as_ptr());
        mutex.assume_init()
    }
}

#[test]
fn a_forked_child_has_none_of_it() {
    if !has_list() {
        return;
    }
    let (file, words) = file();
    let registered = Registered::register(file.as_fd(), offset(5)).unwrap().unwrap();
    // SAFETY: the child allocates nothing, and ends at once.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).unwrap();
            assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
        }
        ForkResult::Child => {
            let is_empty = list().is_some_and(|head| {
                // SAFETY: the child's own list.
                unsafe { (*head.as_ptr()).next == head.as_ptr().addr() }
            });
            drop(registered);
            // SAFETY: nothing is to run at this exit.
            unsafe { libc::_exit(i32::from(!is_empty)) };
        }
    }
    assert!(matches!(sign(&words, 5), Sign::Thread(_)), "the child ended, not this thread");
}
