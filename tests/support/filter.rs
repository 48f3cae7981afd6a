//! System calls that a filter refuses, as in a container.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;

/// From now on, that call fails so in this thread and in all that it starts. Async-signal-safe.
pub fn refuse(call: libc::c_long, errno: Errno) -> io::Result<()> {
    install(&mut [
        load(NUMBER),
        jump(libc::BPF_JEQ, call as u32, 0, 1),
        answer(libc::SECCOMP_RET_ERRNO | errno as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ])
}

/// From now on, this thread and all that it starts can map nothing that others see. Async-signal-safe.
pub fn refuse_shared_mappings(errno: Errno) -> io::Result<()> {
    install(&mut [
        load(NUMBER),
        jump(libc::BPF_JEQ, libc::SYS_mmap as u32, 0, 3),
        load(argument(3)),
        // Private ones have the other bit.
        jump(libc::BPF_JSET, libc::MAP_SHARED as u32, 0, 1),
        answer(libc::SECCOMP_RET_ERRNO | errno as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ])
}

/// From now on, this thread and all that it starts can open no file in a way that would create it if it were not there, as the kernel has it for
/// another's file in a sticky directory (`fs.protected_regular`). Async-signal-safe.
pub fn refuse_opening_to_create(errno: Errno) -> io::Result<()> {
    install(&mut [
        load(NUMBER),
        jump(libc::BPF_JEQ, libc::SYS_openat as u32, 0, 3),
        load(argument(2)),
        jump(libc::BPF_JSET, libc::O_CREAT as u32, 0, 1),
        answer(libc::SECCOMP_RET_ERRNO | errno as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ])
}

/// From now on, whoever this thread and all that it starts would wake in another process sleeps on, and the waker is told that nobody slept.
/// Async-signal-safe.
pub fn lose_wakes() -> io::Result<()> {
    install(&mut [
        load(NUMBER),
        jump(libc::BPF_JEQ, libc::SYS_futex as u32, 0, 5),
        load(argument(1)),
        // Among the threads of a process there is another bit beside it.
        jump(libc::BPF_JEQ, libc::FUTEX_WAKE as u32, 2, 0),
        jump(libc::BPF_JEQ, libc::FUTEX_WAKE_BITSET as u32, 1, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_ERRNO),
        answer(libc::SECCOMP_RET_ALLOW),
    ])
}

/// From now on, whoever sends a signal to what is no process, or asks for one, dies (SIGSYS): 0 and negative numbers mean many. Async-signal-safe.
pub fn die_of_pids_that_are_none() -> io::Result<()> {
    /// `PID_MAX_LIMIT`.
    const LARGEST: u32 = 1 << 22;
    install(&mut [
        load(NUMBER),
        jump(libc::BPF_JEQ, libc::SYS_kill as u32, 5, 0),
        jump(libc::BPF_JEQ, libc::SYS_tkill as u32, 4, 0),
        jump(libc::BPF_JEQ, libc::SYS_tgkill as u32, 3, 0),
        jump(libc::BPF_JEQ, libc::SYS_rt_sigqueueinfo as u32, 2, 0),
        jump(libc::BPF_JEQ, libc::SYS_pidfd_open as u32, 1, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        load(argument(0)),
        jump(libc::BPF_JEQ, 0, 2, 0),
        jump(libc::BPF_JGT, LARGEST, 1, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
    ])
}

/// Where the number of the call stands in what a filter is given; behind it the architecture, the address of the instruction, and six arguments.
const NUMBER: u32 = 0;

/// Where the low half of an argument stands there.
const fn argument(index: u32) -> u32 {
    16 + index * 8 + if cfg!(target_endian = "big") { 4 } else { 0 }
}

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn load(at: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

const fn answer(answer: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, answer)
}

/// Skips so many of the next statements, if it is so and if it is not.
const fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { jt, jf, ..statement(libc::BPF_JMP | condition | libc::BPF_K, k) }
}

fn install(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    unsafe {
        Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        Errno::result(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter))?;
    }
    Ok(())
}

/// `command` with that call refused.
pub fn filtered(command: Command, call: libc::c_long, errno: Errno) -> Command {
    behind_filter(command, move || refuse(call, errno))
}

/// `command` with a filter, which is one of those above.
pub fn behind_filter(mut command: Command, filter: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Command {
    // SAFETY: they are async-signal-safe, and allocate nothing.
    unsafe { command.pre_exec(filter) };
    command
}

/// Whether there are filters here.
pub fn is_possible() -> Result<(), String> {
    let status = filtered(Command::new("true"), libc::SYS_pidfd_open, Errno::EPERM).status();
    status.map(drop).map_err(|error| format!("no filter can be installed: {error}"))
}
