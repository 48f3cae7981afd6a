//! System V semaphores, which the kernel gives back for the dead (`SEM_UNDO`), and which themselves outlive all who forget them.

use std::io::Error;

use super::{Lock, Shared, patiently};

/// A set of them, gone when this is dropped.
pub struct SysV(libc::c_int);

impl SysV {
    /// So many semaphores, each of `value`.
    pub fn new(count: usize, value: u32) -> Result<Self, String> {
        // SAFETY: no pointers.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, count as libc::c_int, 0o600) };
        if id < 0 {
            return Err(format!("semget: {}", Error::last_os_error()));
        }
        let set = Self(id);
        (0..count).try_for_each(|index| set.set(index, value)).map(|()| set)
    }

    /// Makes it what it was made as.
    pub fn set(&self, index: usize, value: u32) -> Result<(), String> {
        // SAFETY: SETVAL takes an int.
        match unsafe { libc::semctl(self.0, index as libc::c_int, libc::SETVAL, value as libc::c_int) } {
            0 => Ok(()),
            _ => Err(format!("semctl: {}", Error::last_os_error())),
        }
    }

    pub fn add(&self, index: usize, change: i16) {
        let mut operation = libc::sembuf { sem_num: index as u16, sem_op: change, sem_flg: libc::SEM_UNDO as i16 };
        // SAFETY: one operation.
        patiently("semop", || unsafe { libc::semop(self.0, &raw mut operation, 1) });
    }
}

impl Drop for SysV {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) };
    }
}

impl Lock for SysV {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.add(0, -1);
        let result = critical();
        self.add(0, 1);
        result
    }
}

impl Shared for SysV {
    fn here(&self) -> impl Lock {
        self
    }
}
