//! Who is alive: a real process for every situation in which that is hard to tell.
//!
//! Each test has a process that holds a lock, in some situation, and one that waits for it, perhaps in another. While the holder
//! lives the waiter must wait, whatever it looks like from there (the twin that must block); once it is dead the waiter must get
//! the lock, however it died and whoever has its PID now, and be told whose it was. `H01` and so on are the rows of the list of
//! hazards that a test provokes.
//!
//! What needs root or a namespace, and does not get it, says `SKIPPED` and why.

mod support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hostlock::{Error, Mutex, MutexGuard, Space};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};
use support::elsewhere::{can_run, inner, kill_inner};
use support::raw::Raw;
use support::{Actor, PATIENCE, act, behind, command, hear, root, say, start_command, wait_until};

/// A waiter that is fooled takes the lock at one of its first looks, of which there are half a dozen in this time.
const WHILE: Duration = Duration::from_millis(350);

/// `nobody`, and its group.
const NOBODY: u32 = 65534;

#[test]
fn role() {
    act(&[("process", process), ("reborn", reborn)]);
}

// ---------------------------------------------------------------------------------------------------------------------
// The process that stands in a situation.

/// Puts itself into the situations it is told, opens the space, says so, and then does what it hears.
fn process(arguments: &[String]) {
    let (mut shared, mut opened_by_a_thread) = (false, false);
    for situation in &arguments[1..] {
        match situation.as_str() {
            "shared with a group" => shared = true,
            "opened by a thread" => opened_by_a_thread = true,
            _ => {
                if let Err(errno) = enter(situation) {
                    say(format!("cannot be {situation:?}: {errno}"));
                    hear();
                }
            }
        }
    }
    let builder = Space::builder("test").root(&arguments[0]);
    let builder = if shared { builder.mode(0o660) } else { builder };
    let opened = match opened_by_a_thread {
        true => std::thread::spawn(move || builder.open()).join().unwrap(),
        false => builder.open(),
    };
    let space = opened.unwrap();
    let mut guards = HashMap::new();
    say("ready");
    loop {
        let order = hear();
        let (order, name) = order.split_once(' ').unwrap_or((&order, ""));
        match order {
            "lock" => {
                let mutex = handle(&space, name);
                say("locking");
                let guard = mutex.lock().unwrap();
                say(told(&guard));
                guards.insert(name.to_owned(), guard);
            }
            "try" => say(attempt(handle(&space, name))),
            "unlock" => say(format!("{:?}", guards.remove(name).unwrap().unlock().is_ok())),
            "is-held" => say(guards[name].is_held()),
            "holder" => match handle(&space, name).holder().unwrap() {
                Some(holder) => say(format!("pid {} elsewhere {}", holder.pid, holder.elsewhere)),
                None => say("nobody"),
            },
            // A thread that opens the space for itself, acquires, and ends; its guard was forgotten.
            "lock-in-a-thread" => {
                let (space, path, name) = (space.clone(), arguments[0].clone(), name.to_owned());
                let acquired = std::thread::spawn(move || {
                    let again = Space::builder("test").root(path).open().unwrap();
                    let mutex = handle(&again, &name);
                    let guard = mutex.lock().unwrap();
                    let told = told(&guard);
                    std::mem::forget(guard);
                    drop(space);
                    told
                });
                say(acquired.join().unwrap());
            }
            // The guard was made in a thread that has ended, and is kept here.
            "lock-by-a-thread" => {
                let mutex = handle(&space, name);
                let guard = std::thread::spawn(move || mutex.lock_owned().unwrap()).join().unwrap();
                say(format!("{} None", guard.token()));
                std::mem::forget(guard);
            }
            "open-and-close-the-file" => {
                drop(File::options().read(true).write(true).open(space.path().join("segment")).unwrap());
                drop(File::open(space.path().join("segment")).unwrap());
                say("done");
            }
            "close-all-descriptors" => {
                // SAFETY: what a daemon does. Nothing here uses a descriptor above 2 but the library, which says that it can
                // live with this.
                let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
                say(if result == 0 { "done" } else { "cannot close them" });
            }
            "fork" => say(child_that_stays(false)),
            "raw-clone" => say(child_that_stays(true)),
            "exec" => {
                say("now");
                panic!("{}", Command::new("sleep").arg("60").exec());
            }
            "end-main-thread" => end_main_thread(),
            "exit" => std::process::exit(0),
            "abort" => {
                // No core file.
                nix::sys::prctl::set_dumpable(false).unwrap();
                std::process::abort()
            }
            other => panic!("what is {other:?}?"),
        }
    }
}

/// A handle that lives as long as the process, so that guards of it can be kept.
fn handle(space: &Space, name: &str) -> &'static Mutex {
    Box::leak(Box::new(space.mutex(name).unwrap()))
}

fn told(guard: &MutexGuard<'_>) -> String {
    format!("{} {:?}", guard.token(), guard.abandoned().map(|dead| dead.pid))
}

fn attempt(mutex: &Mutex) -> String {
    match mutex.try_lock() {
        Ok(guard) => format!("got it: {}", told(&guard)),
        Err(Error::WouldBlock { holder: Some(holder), .. }) => {
            format!("pid {} elsewhere {}", holder.pid, holder.elsewhere)
        }
        Err(error) => format!("{error:?}"),
    }
}

/// Puts this thread, which is the only one that does anything, into a situation.
fn enter(situation: &str) -> nix::Result<()> {
    let none = None::<&str>;
    let own_mounts = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
    };
    let (what, with) = situation.split_once('=').unwrap_or((situation, ""));
    match what {
        "without /proc" => {
            own_mounts()?;
            mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::empty(), none)
        }
        "shown only its own /proc" => {
            own_mounts()?;
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), Some("hidepid=invisible"))
        }
        "after a reboot" => {
            own_mounts()?;
            mount(Some(with), "/proc/sys/kernel/random/boot_id", none, MsFlags::MS_BIND, none)
        }
        "without pidfd_open" => without_pidfd_open(with.parse().unwrap()),
        "of group" => {
            let gid = Gid::from_raw(with.parse().unwrap());
            setgroups(&[])?;
            setresgid(gid, gid, gid)
        }
        "in group" => setgroups(&[Gid::from_raw(with.parse().unwrap())]),
        "user" => {
            let uid = Uid::from_raw(with.parse().unwrap());
            setresuid(uid, uid, uid)?;
            // The change of user took it away.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        }
        other => panic!("what is {other:?}?"),
    }
}

/// As in a container whose filter does not know the call: it fails with this error.
fn without_pidfd_open(errno: u32) -> nix::Result<()> {
    let jump = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut filter = [
        // The number of the call is the first word of what a filter sees.
        statement(load, 0),
        libc::sock_filter { code: jump, jt: 0, jf: 1, k: libc::SYS_pidfd_open as u32 },
        statement(give, libc::SECCOMP_RET_ERRNO | errno),
        statement(give, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live until the call has copied them; the other arguments are plain numbers.
    unsafe {
        Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        Errno::result(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program))?;
        assert_eq!(libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0), -1);
    }
    Ok(())
}

/// A child that does not exec and does nothing but outlive us; its PID. It ends with the test, which holds the other end of
/// our standard input.
fn child_that_stays(raw: bool) -> i32 {
    // SAFETY: the child calls nothing that is not async-signal-safe. All pointers of the raw call are null: that is a fork.
    let child = unsafe {
        match raw {
            true => libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32,
            false => libc::fork(),
        }
    };
    if child != 0 {
        return Errno::result(child).unwrap();
    }
    // SAFETY: poll is given one descriptor that lives as long as the call; it returns when the other end is closed. `alarm`
    // and `_exit` take plain numbers.
    unsafe {
        libc::alarm(2 * PATIENCE.as_secs() as u32);
        let mut input = libc::pollfd { fd: 0, events: 0, revents: 0 };
        while libc::poll(&mut input, 1, -1) < 1 {}
        libc::_exit(0)
    }
}

/// Ends the process's first thread while this one goes on.
fn end_main_thread() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: ends this thread and nothing else; nothing waits for it.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    let pid = std::process::id();
    // SAFETY: the handler makes one system call. The test runner's first thread only waits for this one.
    unsafe {
        libc::signal(libc::SIGUSR1, end as extern "C" fn(libc::c_int) as libc::sighandler_t);
        assert_ne!(libc::syscall(libc::SYS_gettid), libc::c_long::from(pid), "a role runs in a thread of its own");
        libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1);
    }
    wait_until("the first thread has ended", || state_of(pid as i32) == 'Z');
    say("done");
}

// ---------------------------------------------------------------------------------------------------------------------
// Around it.

/// Starts a process in these situations. An error says why it cannot be in them.
fn start(root: impl AsRef<Path>, situations: &[&str]) -> Result<Actor, String> {
    start_behind(&[], root, situations)
}

/// The same, behind a program that runs it.
fn start_behind(program: &[&str], root: impl AsRef<Path>, situations: &[&str]) -> Result<Actor, String> {
    let arguments = [&[root.as_ref().to_str().unwrap()], situations].concat();
    let plain = command("process", &arguments);
    let actor = match program {
        [] => start_command(plain),
        program => {
            can_run(program)?;
            start_command(behind(program, &plain))
        }
    };
    match actor.hear().as_str() {
        "ready" => Ok(actor),
        why => Err(why.into()),
    }
}

const NEW_PIDS: &[&str] = &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// What it finds in `/proc` are then the processes of the namespace outside.
const NEW_PIDS_OLD_PROC: &[&str] = &["unshare", "--pid", "--fork", "--kill-child"];
const NEW_TIME: &[&str] =
    &["unshare", "--time", "--boottime", "1000000", "--monotonic", "1000000", "--fork", "--kill-child"];

fn ask(actor: &mut Actor, order: &str) -> String {
    actor.tell(order);
    actor.hear()
}

/// Lets `holder` acquire the lock `a`; its token.
#[track_caller]
fn acquires(holder: &mut Actor) -> u64 {
    assert_eq!(ask(holder, "lock a"), "locking");
    let words = holder.hear();
    let (token, abandoned) = words.split_once(' ').unwrap();
    assert_eq!(abandoned, "None");
    token.parse().unwrap()
}

/// Lets `waiter` see that `a` is held by `pid`, and wait for it, in vain for now.
#[track_caller]
fn waits(waiter: &mut Actor, pid: Pid, elsewhere: bool) {
    let seen = format!("pid {pid} elsewhere {elsewhere}");
    assert_eq!(ask(waiter, "try a"), seen);
    assert_eq!(ask(waiter, "holder a"), seen);
    assert_eq!(ask(waiter, "lock a"), "locking");
    goes_on_waiting(waiter);
}

#[track_caller]
fn goes_on_waiting(waiter: &Actor) {
    assert_eq!(waiter.hear_within(WHILE), None, "two holders");
}

/// Waits until `waiter` has what `dead` held, and was told.
#[track_caller]
fn takes_over(waiter: &Actor, token: u64, dead: Pid) {
    let words = waiter.hear();
    let (next, abandoned) = words.split_once(' ').unwrap();
    assert!(next.parse::<u64>().unwrap() > token, "{words} after {token}");
    assert_eq!(abandoned, format!("Some(Some({dead}))"));
}

/// The whole row: the holder acquires, what `happens` leaves it alive, `ends` does not.
#[track_caller]
fn row(holder: &mut Actor, waiter: &mut Actor, happens: impl FnOnce(&mut Actor), ends: impl FnOnce(&mut Actor)) {
    let token = acquires(holder);
    happens(holder);
    waits(waiter, holder.pid(), false);
    assert_eq!(ask(holder, "is-held a"), "true");
    ends(holder);
    takes_over(waiter, token, holder.pid());
}

/// The letter for a process's state in `/proc`.
fn state_of(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or(' ')
}

/// The byte that the participant recorded with `pid` holds while it lives, held by somebody else once it is dead: as by a
/// copy of its description, made before only the mapping kept it. Only what is known of the process can prove its death then.
fn hold_byte_of(root: impl AsRef<Path>, pid: Pid) -> File {
    let raw = Raw::open(root.as_ref().join("test"));
    let (slot, ..) = *raw.participants().iter().find(|(.., of)| *of == pid.as_raw() as u32).expect("registered");
    let file = raw.file().try_clone().unwrap();
    wait_until("the dead one's byte is free", || try_lock_byte(&file, slot));
    file
}

fn try_lock_byte(file: &File, byte: u32) -> bool {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte.into(),
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).is_ok()
}

/// Whether every process has an inode of its own behind its pidfd (Linux 6.9); before that, nothing but start times tells two
/// processes with one PID apart.
fn has_pidfs() -> bool {
    // SAFETY: no pointers but to a buffer of the right type, read only after success; the descriptor is closed by us.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) as i32;
        let mut stat = std::mem::zeroed::<libc::statfs>();
        let known = fd >= 0 && libc::fstatfs(fd, &mut stat) == 0 && stat.f_type as u64 == 0x5049_4446;
        libc::close(fd);
        known
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Alive, stopped, dead.

#[test]
fn the_living_is_waited_for_and_hands_over_without_a_word() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    let token = acquires(&mut holder);
    waits(&mut waiter, holder.pid(), false);
    assert_eq!(ask(&mut holder, "unlock a"), "true");
    let words = waiter.hear();
    let (next, abandoned) = words.split_once(' ').unwrap();
    assert!(next.parse::<u64>().unwrap() > token);
    assert_eq!(abandoned, "None");
}

/// H21: nobody takes from a stopped process, however long it takes.
#[test]
fn a_stopped_holder_keeps_its_lock() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    let token = acquires(&mut holder);
    holder.signal(Signal::SIGSTOP);
    wait_until("it is stopped", || state_of(holder.pid().as_raw()) == 'T');
    waits(&mut waiter, holder.pid(), false);
    std::thread::sleep(Duration::from_secs(1));
    goes_on_waiting(&waiter);
    holder.signal(Signal::SIGCONT);
    assert_eq!(ask(&mut holder, "is-held a"), "true");
    goes_on_waiting(&waiter);
    assert_eq!(ask(&mut holder, "unlock a"), "true");
    let words = waiter.hear();
    let (next, abandoned) = words.split_once(' ').unwrap();
    assert!(next.parse::<u64>().unwrap() > token);
    assert_eq!(abandoned, "None");
}

/// A stopped one can be killed like any other.
#[test]
fn a_holder_killed_while_stopped_is_dead() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    let token = acquires(&mut holder);
    holder.signal(Signal::SIGSTOP);
    waits(&mut waiter, holder.pid(), false);
    holder.kill();
    takes_over(&waiter, token, holder.pid());
}

#[test]
fn however_a_process_ends_its_locks_come_back() {
    let ends: [fn(&mut Actor); 4] = [
        Actor::kill,
        |holder| holder.tell("exit"),
        |holder| holder.tell("abort"),
        |holder| holder.signal(Signal::SIGTERM),
    ];
    for end in ends {
        let root = root();
        let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
        row(
            &mut holder,
            &mut waiter,
            |_| (),
            |holder| {
                end(holder);
                holder.process.wait().unwrap();
            },
        );
    }
}

/// H07: `kill(pid, 0)` finds a zombie.
#[test]
fn a_zombie_is_dead() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    row(&mut holder, &mut waiter, |_| (), |holder| holder.kill_without_reaping());
    assert_eq!(state_of(holder.pid().as_raw()), 'Z');
}

/// The witness that goes by the process, alone: the byte stays locked.
#[test]
fn the_killed_and_the_zombie_are_dead_also_if_their_byte_is_not_free() {
    for reaped in [true, false] {
        let root = root();
        let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
        let token = acquires(&mut holder);
        match reaped {
            true => holder.kill(),
            false => holder.kill_without_reaping(),
        }
        let _copy = hold_byte_of(&root, holder.pid());
        assert_eq!(ask(&mut waiter, "lock a"), "locking");
        takes_over(&waiter, token, holder.pid());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Another process with its PID.

/// H01, H02: the dead owner's PID belongs to another process, which was born at once.
#[test]
fn a_reused_pid_is_another_process() {
    scene_of_reuse("set_tid");
}

/// The same by another way in, which older kernels know.
#[test]
fn a_reused_pid_is_another_process_also_if_it_was_its_turn() {
    scene_of_reuse("ns_last_pid");
}

/// The PID is a thread's id now: `kill(pid, 0)` finds it, and no process has it.
#[test]
fn a_pid_reused_by_a_thread_is_no_process() {
    scene_of_reuse("thread");
}

fn scene_of_reuse(how: &str) {
    or_skip!(can_run(NEW_PIDS));
    let root = root();
    let plain = command("reborn", &[root.path().to_str().unwrap(), how]);
    let mut scene = start_command(behind(NEW_PIDS, &plain));
    loop {
        let line = scene.hear();
        if let Some(why) = line.strip_prefix("cannot ") {
            skip!("{why}");
        }
        println!("{line}");
        if line.starts_with("done") {
            break;
        }
    }
    assert!(scene.finish());
}

/// Process 1 of a namespace, in which nobody takes a PID from under us: it sees holders die and others get their PIDs.
fn reborn(arguments: &[String]) {
    const ROUNDS: usize = 40;
    let how = arguments[1].as_str();
    let space = support::space(&arguments[0]);
    let mutex = space.mutex("a").unwrap();
    let pidfs = has_pidfs();
    let (mut same_start, mut slowest) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let (read, write) = nix::unistd::pipe().unwrap();
        // SAFETY: the child is a fork of a process whose other threads do nothing; it ends by `_exit` or a signal only.
        let child = Errno::result(unsafe { libc::fork() }).unwrap();
        if child == 0 {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
            let guard = mutex.lock().unwrap();
            nix::unistd::write(&write, &[1]).unwrap();
            loop {
                std::thread::park();
                std::hint::black_box(&guard);
            }
        }
        drop(write);
        assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(1), "the holder holds");
        let child = Pid::from_raw(child);
        let before = start_time(child);
        let begin = Instant::now();
        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        let next = match how {
            "set_tid" => sleeper(Some(child)),
            "ns_last_pid" => next_pid(child).and_then(|()| sleeper(None)),
            _ => next_pid(child).and_then(|()| thread_with_id(child)),
        };
        slowest = slowest.max(begin.elapsed());
        let next = match next {
            Ok(next) => next,
            Err(errno) => return say(format!("cannot choose a PID by {how}: {errno}")),
        };
        assert_eq!(next.pid, child);
        assert_eq!(kill(child, None), Ok(()), "the PID is in use");
        same_start += usize::from(before == start_time(child));
        // Every second time only the new process can tell; a thread's id tells nothing.
        let copy = (round % 2 == 1 && pidfs && how != "thread").then(|| hold_byte_of(&arguments[0], child));
        let guard = mutex.try_lock_for(PATIENCE).unwrap();
        assert_eq!(guard.abandoned().map(|dead| dead.pid), Some(Some(child.as_raw() as u32)));
        drop(guard);
        drop(copy);
        next.end();
    }
    say(format!("done: {ROUNDS} times reborn, {same_start} in the same tick, in {slowest:?} at most"));
}

/// Whoever has the dead one's PID.
struct Reborn {
    pid: Pid,
    thread: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Reborn {
    fn end(self) {
        match self.thread {
            Some((sender, thread)) => {
                drop(sender);
                thread.join().unwrap();
            }
            None => {
                kill(self.pid, Signal::SIGKILL).unwrap();
                waitpid(self.pid, None).unwrap();
            }
        }
    }
}

fn start_time(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Makes `pid` the next one that is given.
fn next_pid(pid: Pid) -> nix::Result<()> {
    let written =
        File::create("/proc/sys/kernel/ns_last_pid").and_then(|mut file| write!(file, "{}", pid.as_raw() - 1));
    written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

fn thread_with_id(id: Pid) -> nix::Result<Reborn> {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        tell.send(nix::unistd::gettid()).unwrap();
        let _ = receiver.recv();
    });
    assert_eq!(told.recv(), Ok(id));
    Ok(Reborn { pid: id, thread: Some((sender, thread)) })
}

/// `sleep`, with the PID we choose, if we do.
fn sleeper(pid: Option<Pid>) -> nix::Result<Reborn> {
    let wanted: Vec<_> = pid.map(Pid::as_raw).into_iter().collect();
    let arguments = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
    // SAFETY: `clone_args` is plain numbers, of which zero means "not used".
    let mut options = unsafe { std::mem::zeroed::<libc::clone_args>() };
    options.exit_signal = libc::SIGCHLD as u64;
    if !wanted.is_empty() {
        options.set_tid = wanted.as_ptr() as u64;
        options.set_tid_size = wanted.len() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork, in which the child calls nothing that is not async-signal-safe; all pointers are
    // to what lives in this frame, or in the program.
    unsafe {
        let child = libc::syscall(libc::SYS_clone3, &options, size_of::<libc::clone_args>());
        if child == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::execvp(arguments[0], arguments.as_ptr());
            libc::_exit(127);
        }
        Ok(Reborn { pid: Pid::from_raw(Errno::result(child)? as i32), thread: None })
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What a process can do to itself.

/// A child that was forked and does not exec has copies of all descriptors and most mappings.
#[test]
fn a_child_that_lives_on_does_not_keep_its_parents_locks() {
    for how in ["fork", "raw-clone"] {
        let root = root();
        let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
        let mut child = 0;
        row(&mut holder, &mut waiter, |holder| child = ask(holder, how).parse().unwrap(), Actor::kill);
        assert!(!matches!(state_of(child), 'Z' | ' '), "the child ended too early to prove anything");
    }
}

/// The same seen from where the parent's process cannot be judged, only what it held.
#[test]
fn a_child_that_lives_on_does_not_keep_its_parents_locks_from_another_namespace() {
    for how in ["fork", "raw-clone"] {
        let root = root();
        let mut waiter = or_skip!(start_behind(NEW_PIDS, &root, &[]));
        let mut holder = start(&root, &[]).unwrap();
        let token = acquires(&mut holder);
        let child = ask(&mut holder, how).parse().unwrap();
        waits(&mut waiter, holder.pid(), true);
        holder.kill();
        takes_over(&waiter, token, holder.pid());
        assert!(!matches!(state_of(child), 'Z' | ' '), "the child ended too early to prove anything");
    }
}

/// H15: the process, its PID and its start are the same, the program that knew of the lock is gone.
#[test]
fn exec_gives_the_locks_back() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    row(&mut holder, &mut waiter, |_| (), |holder| assert_eq!(ask(holder, "exec"), "now"));
    // The locks go before the new program runs. It has the PID, and lives.
    let command = format!("/proc/{}/comm", holder.pid());
    wait_until("it is another program", || fs::read_to_string(&command).unwrap() == "sleep\n");
    wait_until("that runs", || state_of(holder.pid().as_raw()) == 'S');
}

/// `/proc` shows a zombie; the threads that are left are the process.
#[test]
fn a_process_whose_first_thread_ended_is_alive() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    row(&mut holder, &mut waiter, |holder| assert_eq!(ask(holder, "end-main-thread"), "done"), Actor::kill);
}

/// What it says of itself is enough also if it joins only then.
#[test]
fn a_process_without_its_first_thread_can_wait_and_hold() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    assert_eq!(ask(&mut waiter, "end-main-thread"), "done");
    row(&mut holder, &mut waiter, |_| (), Actor::kill);
    let mut third = start(&root, &[]).unwrap();
    waits(&mut third, waiter.pid(), false);
}

/// H46: a POSIX lock would be gone.
#[test]
fn opening_and_closing_the_file_loses_nothing() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    let happens = |holder: &mut Actor| assert_eq!(ask(holder, "open-and-close-the-file"), "done");
    row(&mut holder, &mut waiter, happens, Actor::kill);
}

#[test]
fn a_process_that_closed_all_its_descriptors_is_alive() {
    let root = root();
    let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    let happens = |holder: &mut Actor| match ask(holder, "close-all-descriptors").as_str() {
        "done" => {}
        why => println!("SKIPPED: {why}"),
    };
    row(&mut holder, &mut waiter, happens, Actor::kill);
}

/// It holds, releases, gives names a place, waits, and judges as before.
#[test]
fn a_process_that_closed_all_its_descriptors_goes_on_as_before() {
    let root = root();
    let (mut bare, mut other) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
    if let why @ "cannot close them" = ask(&mut bare, "close-all-descriptors").as_str() {
        skip!("{why}");
    }
    assert_eq!(ask(&mut bare, "lock new"), "locking");
    bare.hear();
    assert_eq!(ask(&mut other, "try new"), format!("pid {} elsewhere false", bare.pid()));
    assert_eq!(ask(&mut bare, "unlock new"), "true");
    assert!(ask(&mut other, "try new").starts_with("got it"));
    let mut third = start(&root, &[]).unwrap();
    // Only the byte that the other one held tells of this death, and to look at it takes a descriptor.
    row(&mut other, &mut bare, |_| (), |other| assert_eq!(ask(other, "exec"), "now"));
    // What it took over it holds: its byte is the same.
    waits(&mut third, bare.pid(), false);
    bare.kill();
    third.hear();
}

/// H13: locks belong to processes. The thread that made this process a participant is gone.
#[test]
fn the_thread_that_opened_the_space_may_end() {
    let root = root();
    let mut holder = start(&root, &["opened by a thread"]).unwrap();
    let mut waiter = start(&root, &["opened by a thread"]).unwrap();
    row(&mut holder, &mut waiter, |_| (), Actor::kill);
}

/// H13: nor does the end of the thread that acquired, with a guard that was forgotten, or kept elsewhere.
#[test]
fn the_thread_that_acquired_may_end() {
    for how in ["lock-in-a-thread a", "lock-by-a-thread a"] {
        let root = root();
        let (mut holder, mut waiter) = (start(&root, &[]).unwrap(), start(&root, &[]).unwrap());
        let words = ask(&mut holder, how);
        let token = words.split(' ').next().unwrap().parse().unwrap();
        waits(&mut waiter, holder.pid(), false);
        holder.kill();
        takes_over(&waiter, token, holder.pid());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Namespaces.

/// H05: a PID of another namespace is nobody's here, or somebody else's.
#[test]
fn a_holder_in_another_pid_namespace_is_alive_until_it_is_dead() {
    for namespace in [NEW_PIDS, NEW_PIDS_OLD_PROC] {
        let root = root();
        let mut holder = or_skip!(start_behind(namespace, &root, &[]));
        let (mut outside, mut inside) = (start(&root, &[]).unwrap(), start_behind(namespace, &root, &[]).unwrap());
        let token = acquires(&mut holder);
        // H04: the one inside has the very PID that is recorded.
        waits(&mut outside, Pid::from_raw(1), true);
        waits(&mut inside, Pid::from_raw(1), true);
        assert_eq!(ask(&mut holder, "is-held a"), "true");
        kill_inner(&mut holder);
        // One of them takes over from process 1, and lets the other one have it without a word.
        let begin = Instant::now();
        let (mut first, second) = loop {
            if let Some(words) = outside.hear_within(Duration::from_millis(5)) {
                break ((words, outside), inside);
            }
            if let Some(words) = inside.hear_within(Duration::from_millis(5)) {
                break ((words, inside), outside);
            }
            assert!(begin.elapsed() < PATIENCE, "nobody found out that it died");
        };
        let (next, abandoned) = first.0.split_once(' ').unwrap();
        let next: u64 = next.parse().unwrap();
        assert!(next > token);
        assert_eq!(abandoned, "Some(Some(1))");
        goes_on_waiting(&second);
        assert_eq!(ask(&mut first.1, "unlock a"), "true");
        let words = second.hear();
        assert!(words.ends_with(" None"), "{words}");
    }
}

/// The other way round.
#[test]
fn a_holder_outside_is_seen_from_another_pid_namespace() {
    for namespace in [NEW_PIDS, NEW_PIDS_OLD_PROC] {
        let root = root();
        let mut waiter = or_skip!(start_behind(namespace, &root, &[]));
        let mut holder = start(&root, &[]).unwrap();
        let token = acquires(&mut holder);
        waits(&mut waiter, holder.pid(), true);
        holder.kill();
        takes_over(&waiter, token, holder.pid());
        // And it holds what it took.
        let mut outside = start(&root, &[]).unwrap();
        waits(&mut outside, Pid::from_raw(1), true);
        kill_inner(&mut waiter);
        assert!(outside.hear().ends_with(" Some(Some(1))"));
    }
}

/// H03: a restarted container is process 1 again, and finds a lock of process 1 that is not its own.
#[test]
fn process_1_of_the_next_container_is_not_process_1_of_the_last() {
    let root = root();
    let mut last = or_skip!(start_behind(NEW_PIDS, &root, &[]));
    let token = acquires(&mut last);
    kill_inner(&mut last);
    let mut next = start_behind(NEW_PIDS, &root, &[]).unwrap();
    assert_eq!(ask(&mut next, "holder a"), "nobody");
    assert_eq!(ask(&mut next, "lock a"), "locking");
    takes_over(&next, token, Pid::from_raw(1));
}

/// H04: and while the other container lives, process 1 there is not me.
#[test]
fn process_1_of_another_container_is_not_me() {
    let root = root();
    let mut one = or_skip!(start_behind(NEW_PIDS, &root, &[]));
    let mut two = start_behind(NEW_PIDS, &root, &[]).unwrap();
    let token = acquires(&mut one);
    waits(&mut two, Pid::from_raw(1), true);
    assert_eq!(ask(&mut one, "unlock a"), "true");
    assert!(two.hear().split(' ').next().unwrap().parse::<u64>().unwrap() > token);
    waits(&mut one, Pid::from_raw(1), true);
}

/// H10: the time at which a process began, as `/proc` says it, is another one in another time namespace. Only who cannot
/// use pidfds goes by that. (The clock that deadlines and sleeps go by is another one too.)
#[test]
fn time_namespaces_make_nobody_dead() {
    for pidfd in [&[][..], &[NO_PIDFD][..]] {
        let root = root();
        let mut inside = or_skip!(start_behind(NEW_TIME, &root, pidfd));
        let mut outside = start(&root, pidfd).unwrap();
        // Outside holds, inside waits.
        row(&mut outside, &mut inside, |_| (), Actor::kill);
        // Inside holds, outside waits.
        let mut outside = start(&root, pidfd).unwrap();
        waits(&mut outside, inner(inside.pid()), false);
        kill_inner(&mut inside);
        outside.hear();
    }
}

/// `ENOSYS`, as in a container whose filter is older than the call.
const NO_PIDFD: &str = "without pidfd_open=38";
/// `EPERM`, as other filters say it.
const PIDFD_FORBIDDEN: &str = "without pidfd_open=1";

/// The call may be missing on either side, or on both.
#[test]
fn without_pidfds_the_living_are_alive_and_the_dead_are_dead() {
    for without in [NO_PIDFD, PIDFD_FORBIDDEN] {
        for (of_holder, of_waiter) in [(&[without][..], &[][..]), (&[], &[without]), (&[without], &[without])] {
            for end in [Actor::kill, |holder: &mut Actor| holder.kill_without_reaping()] {
                let root = root();
                let mut holder = or_skip!(start(&root, of_holder));
                let mut waiter = or_skip!(start(&root, of_waiter));
                row(&mut holder, &mut waiter, |_| (), end);
            }
        }
    }
}

/// Two processes of one PID namespace, of which one, or both, see the `/proc` of another one: what stands there under the other's
/// PID is somebody else. Who cannot use pidfds would go by that.
#[test]
fn the_proc_of_another_namespace_makes_nobody_dead() {
    let own_proc = "--mount-proc";
    for (of_holder, of_waiter) in [(None, Some(own_proc)), (Some(own_proc), None), (None, None)] {
        let root = root();
        let holders: Vec<_> = NEW_PIDS_OLD_PROC.iter().copied().chain(of_holder).collect();
        let mut holder = or_skip!(start_behind(&holders, &root, &[NO_PIDFD]));
        // As after `docker exec`, with what we see here for its /proc, or with one of its own.
        let target = inner(holder.pid()).to_string();
        let enter = ["nsenter", "--target", &target, "--pid", "unshare", "--fork", "--kill-child"];
        let waiters: Vec<_> = enter.into_iter().chain(of_waiter).collect();
        let mut waiter = or_skip!(start_behind(&waiters, &root, &[NO_PIDFD]));
        acquires(&mut holder);
        waits(&mut waiter, Pid::from_raw(1), false);
        assert_eq!(ask(&mut holder, "is-held a"), "true");
        assert_eq!(ask(&mut holder, "unlock a"), "true");
        assert!(waiter.hear().ends_with(" None"));
    }
}

/// H09: a `/proc` that does not show a process proves nothing, nor does one that is not there.
#[test]
fn without_proc_the_living_are_alive_and_the_dead_are_dead() {
    for (of_holder, of_waiter) in [
        (&[][..], &["without /proc"][..]),
        (&["without /proc"], &[]),
        (&["without /proc"], &["without /proc"]),
        (&[], &["without /proc", NO_PIDFD]),
        (&[NO_PIDFD], &["without /proc", NO_PIDFD]),
    ] {
        let root = root();
        let mut holder = or_skip!(start(&root, of_holder));
        let mut waiter = or_skip!(start(&root, of_waiter));
        let token = acquires(&mut holder);
        assert_eq!(ask(&mut waiter, "lock a"), "locking");
        goes_on_waiting(&waiter);
        assert_eq!(ask(&mut holder, "is-held a"), "true");
        holder.kill();
        takes_over(&waiter, token, holder.pid());
    }
}

/// H12: a process that believes that the machine was started anew since finds the living alive.
#[test]
fn another_boot_id_makes_nobody_dead() {
    let root = root();
    let id = root.path().join("boot_id");
    fs::write(&id, "00000000-1111-2222-3333-444444444444\n").unwrap();
    let after = format!("after a reboot={}", id.display());
    for (of_holder, of_waiter) in [(&[][..], &[after.as_str()][..]), (&[after.as_str()], &[])] {
        for end in [Actor::kill, |holder: &mut Actor| holder.kill_without_reaping()] {
            let mut holder = or_skip!(start(&root, of_holder));
            let mut waiter = or_skip!(start(&root, of_waiter));
            row(&mut holder, &mut waiter, |_| (), end);
            // The next round begins with a lock that nobody died with.
            assert_eq!(ask(&mut waiter, "unlock a"), "true");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Users.

/// A root that root and `nobody` share.
fn shared_root(rights: u32) -> Result<tempfile::TempDir, String> {
    let root = root();
    chown(root.path(), None, Some(NOBODY)).map_err(|error| format!("cannot give a directory to a group: {error}"))?;
    fs::set_permissions(root.path(), fs::Permissions::from_mode(rights)).unwrap();
    Ok(root)
}

/// H08, H09: another user's process must not be signalled, and may be hidden in `/proc`; that is no death.
#[test]
fn a_process_of_another_user_is_alive() {
    const SHARED: &str = "shared with a group";
    const GROUP: &str = "of group=65534";
    const USER: &str = "user=65534";
    const HIDDEN: &str = "shown only its own /proc";
    for (of_holder, of_waiter) in [
        (&[SHARED, GROUP][..], &[SHARED, GROUP, USER][..]),
        (&[SHARED, GROUP, USER], &[SHARED, GROUP]),
        (&[SHARED, GROUP], &[SHARED, GROUP, NO_PIDFD, USER]),
        (&[SHARED, GROUP, NO_PIDFD], &[SHARED, GROUP, NO_PIDFD, USER]),
        (&[SHARED, GROUP], &[SHARED, GROUP, HIDDEN, USER]),
        (&[SHARED, GROUP, NO_PIDFD], &[SHARED, GROUP, HIDDEN, NO_PIDFD, USER]),
    ] {
        let root = or_skip!(shared_root(0o770));
        let mut holder = or_skip!(start(&root, of_holder));
        let mut waiter = or_skip!(start(&root, of_waiter));
        row(&mut holder, &mut waiter, |_| (), Actor::kill);
    }
}

/// Two users who share no more than a group, which is not the first one of either, in a directory of that group.
#[test]
fn users_who_share_a_group_share_a_space_in_its_directory() {
    for rights in [0o770, 0o2770] {
        let root = or_skip!(shared_root(rights));
        let of = |group, user| ["shared with a group".into(), group, "in group=65534".into(), user];
        let one: [String; 4] = of("of group=1001".into(), "user=1001".into());
        let two: [String; 4] = of("of group=1002".into(), "user=1002".into());
        let mut holder = or_skip!(start(&root, &one.each_ref().map(String::as_str)));
        let mut waiter = or_skip!(start(&root, &two.each_ref().map(String::as_str)));
        row(&mut holder, &mut waiter, |_| (), Actor::kill);
    }
}
