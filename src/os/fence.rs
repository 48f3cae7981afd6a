//! A fence in two halves: nothing for those who do something often, all of it for who does it seldom.
//!
//! Whoever would need a fence between a store and a load, many times a second, only tells the compiler. Whoever waits for the store has the
//! kernel put a fence into all running threads of every process that registered (`membarrier`, since Linux 4.16): each of them either had
//! stored by then, so that the waiter sees it, or loads afterwards what the waiter stored before.

use std::sync::OnceLock;

use nix::errno::Errno;

/// Registers this process: from now on [`heavy`], in whatever process, is a fence in its threads. Whether that worked. It costs some
/// milliseconds in a process with threads, the first time; a forked child has to do it again.
pub(crate) fn register() -> bool {
    call(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)
}

/// The heavy half. `false`: the kernel does not do that, or a filter is in the way.
pub(crate) fn heavy() -> bool {
    call(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED)
}

/// Whether this process can make [`heavy`] fences. Asked once.
pub(crate) fn is_there() -> bool {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    *IS_THERE.get_or_init(heavy)
}

fn call(command: libc::c_int) -> bool {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }).is_ok()
}
