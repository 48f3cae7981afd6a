//! Processes whose clocks the test sets.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The clock of the processes that were started with it.
pub struct Clock {
    directory: tempfile::TempDir,
    file: std::fs::File,
}

/// What of a clock is set.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    Wall = 0,
    /// The one that goes on while the machine is suspended.
    Boot = 1,
}

impl Clock {
    /// Builds what is put before the C library. Where that cannot be, says why.
    pub fn new() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/shim/clock.rs");
        let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        let built = Command::new(compiler)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"])
            .arg(directory.path().join("clock.so"))
            .arg(source)
            .output()
            .map_err(|e| format!("there is no rustc to build a clock with: {e}"))?;
        if !built.status.success() {
            return Err(format!("no clock can be built here: {}", String::from_utf8_lossy(&built.stderr)));
        }
        let file = std::fs::File::create(directory.path().join("offsets")).map_err(|e| e.to_string())?;
        file.write_all_at(&[0; 16], 0).map_err(|e| e.to_string())?;
        Ok(Self { directory, file })
    }

    /// `command` goes by this clock.
    pub fn give_to(&self, mut command: Command) -> Command {
        command
            .env("LD_PRELOAD", self.directory.path().join("clock.so"))
            .env("HOSTLOCK_TEST_CLOCK", self.directory.path().join("offsets"));
        command
    }

    /// Puts it forward by so much, or back, from what it really is.
    pub fn set(&self, of: Of, forward: i64) {
        let nanos = forward * Duration::from_secs(1).as_nanos() as i64;
        self.file.write_all_at(&nanos.to_ne_bytes(), of as u64 * 8).unwrap();
    }
}
