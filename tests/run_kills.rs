//! `hostlock run` when it, its COMMAND, or both are killed: the lock is never given away while COMMAND or what it started runs, and
//! never kept once all of that has ended.
//!
//! The judge is another lock: everything that COMMAND starts inherits a `flock` on a file, so the kernel itself says whether anybody
//! of an earlier run still is there when the next one begins.
#![cfg(feature = "cli")]

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use fs2::FileExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use support::tool::*;
use support::wait_until;

#[test]
fn role() {
    support::act(&[("command", command)]);
}

/// COMMAND: notes that it begins, starts two children that outlive it by different times, and ends.
fn command(arguments: &[String]) {
    let [judge, log, seed] = arguments else { panic!("{arguments:?}") };
    let inside = File::options().write(true).open(judge).unwrap();
    let alone = inside.try_lock_exclusive().is_ok();
    // Without O_CLOEXEC: the children are inside as well.
    nix::fcntl::fcntl(&inside, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let variable = |name| std::env::var(name).unwrap_or("-".into());
    let note = |what: &str| {
        let line = format!("{what} {} {} {}\n", getppid(), variable("HOSTLOCK_TOKEN"), variable("HOSTLOCK_ABANDONED"));
        File::options().append(true).open(log).unwrap().write_all(line.as_bytes()).unwrap();
    };
    note(if alone { "begin" } else { "OVERLAP" });
    let seed: u64 = seed.parse().unwrap();
    for child in 0..2 {
        let span = format!("0.{:03}", (seed * (child + 3)) % 40);
        #[allow(clippy::zombie_processes)] // They outlive us: that is what they are for.
        Command::new("sleep").arg(span).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    }
    std::thread::sleep(Duration::from_millis(seed % 30));
    note("end");
    // In a normal end what is left behind is not inside any more: so the judge must not count it, either.
    FileExt::unlock(&inside).unwrap();
    assert!(inside.as_raw_fd() > 2);
}

fn play(place: &Place, judge: &Path, log: &Path, seed: u64) -> Command {
    let role = support::command("command", &[judge.to_str().unwrap(), log.to_str().unwrap(), &seed.to_string()]);
    let mut run = place.command("run", &["a", "--"]);
    run.arg(role.get_program()).args(role.get_args());
    for (name, value) in role.get_envs() {
        run.env(name, value.unwrap());
    }
    run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run
}

/// How many runs are killed.
const KILLS: usize = 200;

#[test]
fn two_hundred_kills_give_no_overlap_and_tell_each_death_once() {
    let place = Place::new();
    let (judge, log) = (place.root.path().join("judge"), place.root.path().join("log"));
    File::create(&judge).unwrap();
    File::create(&log).unwrap();
    let (kills, worst) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    let seeds = AtomicUsize::new(1);
    let mut killed: Vec<i32> = Vec::new();
    std::thread::scope(|scope| {
        let _done = OnDrop(&done);
        // Two that are left alone, so that there always is a next one.
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let seed = seeds.fetch_add(1, SeqCst) as u64;
                    let status = Background(play(&place, &judge, &log, seed).spawn().unwrap()).finish();
                    assert_eq!(status.code(), Some(0), "a run that nobody killed");
                }
            });
        }
        while kills.load(SeqCst) < KILLS {
            let seed = seeds.fetch_add(1, SeqCst);
            let mut victim = Background(play(&place, &judge, &log, seed as u64).spawn().unwrap());
            std::thread::sleep(Duration::from_millis((seed * 7 % 90) as u64));
            let before_its_end = victim.0.try_wait().unwrap().is_none();
            if before_its_end {
                killed.push(victim.pid().as_raw());
                victim.kill();
                kills.fetch_add(1, SeqCst);
                // Whoever is next is there as soon as what was left has ended, which takes 40 ms here.
                let (count, started) = (lines(&log).len(), Instant::now());
                wait_until("somebody goes on", || lines(&log).len() > count);
                worst.fetch_max(started.elapsed().as_millis() as usize, SeqCst);
            }
        }
    });
    // Whoever died last is told of, too.
    assert!(Background(play(&place, &judge, &log, 1).spawn().unwrap()).finish().success());

    let lines = lines(&log);
    assert!(!lines.iter().any(|line| line.starts_with("OVERLAP")), "somebody was let in beside somebody else");
    let (mut running, mut told) = (HashMap::new(), HashMap::new());
    let mut last_token = 0;
    for line in &lines {
        let [what, holder, token, dead] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let (holder, token): (i32, u64) = (holder.parse().unwrap(), token.parse().unwrap());
        match what {
            "begin" => {
                assert!(token > last_token, "{line:?} after {last_token}");
                last_token = token;
                running.insert(holder, token);
                if dead != "-" {
                    *told.entry(dead.parse::<i32>().unwrap()).or_insert(0) += 1;
                }
            }
            _ => assert_eq!(token, last_token, "{line:?}: somebody began before it ended"),
        }
    }
    for (dead, times) in &told {
        assert_eq!(*times, 1, "pid {dead} was told of {times} times");
        assert!(killed.contains(dead), "pid {dead} was said to have died, and was not killed");
    }
    // (PIDs are not used twice within these few thousand.) One killed while COMMAND ran, or after it ended and before it released.
    let ended = |holder: &i32| lines.iter().any(|line| line.starts_with(&format!("end {holder} ")));
    let in_the_middle: Vec<_> = killed.iter().filter(|pid| running.contains_key(pid) && !ended(pid)).collect();
    for pid in &in_the_middle {
        assert_eq!(told.get(*pid), Some(&1), "pid {pid} died while its command ran, and nobody was told");
    }
    assert!(in_the_middle.len() > KILLS / 20, "only {} kills hit a holder", in_the_middle.len());
    println!(
        "{KILLS} kills of hostlock run: {} in the middle of a command, {} told, {} runs, no overlap; \
         the next began {} ms after a kill at most",
        in_the_middle.len(),
        told.len(),
        running.len(),
        worst.into_inner()
    );
}

/// Ends the other threads, also when this one fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap();
    // The last one may be half written.
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| line.trim_end().into()).collect()
}

/// A run whose COMMAND has a child; COMMAND and the child.
fn with_a_child(place: &Place, options: &[&str], child: &str) -> (Background, Stray, Stray) {
    let (ours, childs) = (place.root.path().join("command"), place.root.path().join("child"));
    let _ = (std::fs::remove_file(&ours), std::fs::remove_file(&childs));
    let script = format!("echo $$ > {}; {child} & echo $! > {}; wait", ours.display(), childs.display());
    let run = place.start_script(options, "a", &script);
    (run, Stray(number_in(&ours)), Stray(number_in(&childs)))
}

fn is_free(place: &Place) -> bool {
    place.output("run", &["-nq", "a", "--", "true"]).status.success()
}

#[test]
fn a_killed_hostlock_takes_its_command_along_and_what_that_started_keeps_the_lock() {
    let place = Place::new();
    let (mut run, command, child) = with_a_child(&place, &[], "sleep 600");
    let dead = run.pid();
    run.kill();
    wait_until("the command is gone", || !command.is_running());
    assert!(child.is_running());
    for _ in 0..20 {
        assert!(!is_free(&place), "given away while a child of COMMAND runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = stdout(&place.output("status", &["a"]));
    let row: Vec<&str> = status.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[2..6], ["held", &dead.to_string(), "hostlock", &format!("{}(sh)", command.0)]);
    let waiting =
        place.command("run", &["a", "--", "sh", "-c", "echo $HOSTLOCK_ABANDONED"]).stdout(Stdio::piped()).spawn();
    let waiting = waiting.unwrap();
    child.end();
    let next = waiting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&next.stdout), format!("{dead}\n"));
    assert!(is_free(&place));
}

#[test]
fn both_killed_at_once_is_no_different() {
    let place = Place::new();
    let (mut run, command, child) = with_a_child(&place, &[], "sleep 600");
    // Neither can do anything about the other.
    run.signal(Signal::SIGSTOP);
    command.end();
    run.kill();
    assert!(!is_free(&place), "given away while a child of COMMAND runs");
    child.end();
    wait_until("the lock comes back", || is_free(&place));
}

#[test]
fn a_killed_command_ends_the_run_and_its_children_keep_nothing() {
    let place = Place::new();
    let (mut run, command, child) = with_a_child(&place, &[], "sleep 600");
    command.end();
    assert_eq!(run.finish().code(), Some(137));
    assert!(child.is_running() && is_free(&place));
    child.end();
}

#[test]
fn a_childs_own_daemon_keeps_the_lock_of_a_killed_hostlock_until_it_ends() {
    let place = Place::new();
    let (mut run, _, leader) = with_a_child(&place, &[], "setsid sh -c 'sleep 600; true'");
    run.kill();
    assert!(!is_free(&place));
    // The shell and its sleep.
    kill(Pid::from_raw(-leader.0), Signal::SIGKILL).unwrap();
    wait_until("the lock comes back", || is_free(&place));
}

#[test]
fn with_close_nothing_keeps_the_lock_of_a_killed_hostlock() {
    let place = Place::new();
    let (mut run, command, child) = with_a_child(&place, &["-o"], "sleep 600");
    run.kill();
    wait_until("the command is gone", || !command.is_running());
    assert!(child.is_running());
    wait_until("the lock comes back", || is_free(&place));
    child.end();
}

#[test]
fn a_stopped_hostlock_keeps_the_lock_and_its_command_goes_on() {
    let place = Place::new();
    let (run, command, child) = with_a_child(&place, &[], "sleep 600");
    run.signal(Signal::SIGSTOP);
    assert!(command.is_running() && !is_free(&place));
    run.signal(Signal::SIGCONT);
    drop(run);
    child.end();
}

#[test]
fn a_removed_segment_is_not_made_anew_while_somebody_carries_on_for_the_dead() {
    let place = Place::new();
    let (mut run, command, child) = with_a_child(&place, &[], "sleep 600");
    run.kill();
    wait_until("the command is gone", || !command.is_running());
    std::fs::remove_file(place.space().join("segment")).unwrap();
    let output = place.output("run", &["-n", "a", "--", "true"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("was removed"), "{}", stderr(&output));
    child.end();
    wait_until("it can be made anew", || is_free(&place));
}
