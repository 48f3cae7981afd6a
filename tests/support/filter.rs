//! System calls that a filter refuses, as in a container.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;

/// From now on, that call fails so in this thread and in all that it starts. Async-signal-safe.
pub fn refuse(call: libc::c_long, errno: Errno) -> io::Result<()> {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    install(&mut [
        // The number of the call is the first word of what the filter is given.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32) },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ])
}

/// From now on, this thread and all that it starts can map nothing that others see. Async-signal-safe.
pub fn refuse_shared_mappings(errno: Errno) -> io::Result<()> {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |code: u32, k, jt, jf| libc::sock_filter { jt, jf, ..statement(libc::BPF_JMP | code | libc::BPF_K, k) };
    // The number, the architecture, the address of the instruction, then six arguments of eight bytes: flags are the fourth.
    let flags = 16 + 3 * 8;
    install(&mut [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        jump(libc::BPF_JEQ, libc::SYS_mmap as u32, 0, 3),
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, flags),
        // Private ones have the other bit.
        jump(libc::BPF_JSET, libc::MAP_SHARED as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ])
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
pub fn filtered(mut command: Command, call: libc::c_long, errno: Errno) -> Command {
    // SAFETY: it is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(move || refuse(call, errno)) };
    command
}

/// Whether there are filters here.
pub fn is_possible() -> Result<(), String> {
    let status = filtered(Command::new("true"), libc::SYS_pidfd_open, Errno::EPERM).status();
    status.map(drop).map_err(|error| format!("no filter can be installed: {error}"))
}
