//! Processes in other situations than a test's own: behind a program that makes a namespace, as another user.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::{Actor, command, start_command};

/// Whether `program` can put somebody into its situation here.
pub fn can_run(program: &[&str]) -> Result<(), String> {
    let output = Command::new(program[0]).args(&program[1..]).arg("true").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program:?}: {error}")),
    }
}

/// The process that the program `outer` started, as we number it.
pub fn inner(outer: Pid) -> Pid {
    let is_inner = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&outer.to_string())
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    Pid::from_raw(all.into_iter().find(|pid| is_inner(*pid)).expect("a process behind the program"))
}

/// Kills the process behind a program, and waits until both are gone.
pub fn kill_inner(actor: &mut Actor) {
    kill(inner(actor.pid()), Signal::SIGKILL).unwrap();
    actor.process.wait().unwrap();
}

/// This executable in a role, in a mount namespace of its own, after `preparation`, a shell script that is given `directory` as $1.
pub fn in_mount_namespace(preparation: &str, directory: &Path, role: &str, arguments: &[&str]) -> Option<Actor> {
    let possible = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", preparation, "sh"])
        .arg(directory)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !possible {
        return None;
    }
    let inner = command(role, arguments);
    let mut outer = Command::new("unshare");
    let script = format!("{preparation} && shift && exec \"$@\"");
    outer.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(directory);
    outer.arg(inner.get_program()).args(inner.get_args());
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(start_command(outer))
}

/// A uid that owns nothing.
pub const NOBODY: u32 = 65534;

/// This executable in a role as another user, if this machine lets us.
pub fn as_nobody(role: &str, arguments: &[&str]) -> Option<Actor> {
    let reachable = || {
        let mut probe = Command::new(std::env::current_exe().unwrap());
        probe.arg("--list").stdout(Stdio::null()).stderr(Stdio::null()).uid(NOBODY).gid(NOBODY);
        probe.status().is_ok_and(|status| status.success())
    };
    (geteuid().is_root() && reachable()).then(|| {
        let mut command = command(role, arguments);
        command.uid(NOBODY).gid(NOBODY);
        start_command(command)
    })
}
