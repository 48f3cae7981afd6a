//! `hostlock run --lease` and `hostlock elect`: a lock that can be lost, and what becomes of COMMAND then.
#![cfg(feature = "cli")]

mod support;

use std::process::Stdio;
use std::time::Duration;

use hostlock::Space;
use nix::sys::signal::Signal;
use support::tool::{Background, Place, dollar_question, number_in, stderr, stdout};
use support::wait_until;

fn space(place: &Place) -> Space {
    Space::builder("space").root(place.root.path()).open().unwrap()
}

fn start(place: &Place, verb: &str, arguments: &[&str], stderr: &str) -> Background {
    let file = std::fs::File::create(place.root.path().join(stderr)).unwrap();
    let mut command = place.command(verb, arguments);
    Background(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap())
}

fn said(place: &Place, stderr: &str) -> String {
    std::fs::read_to_string(place.root.path().join(stderr)).unwrap()
}

#[test]
fn a_command_with_a_lease_runs_as_without_one() {
    let place = Place::new();
    let output =
        place.output("run", &["--lease", "200ms", "a", "--", "sh", "-c", "sleep 1; echo $HOSTLOCK_TOKEN; exit 7"]);
    // Renewed five times over.
    assert_eq!((output.status.code(), stderr(&output)), (Some(7), String::new()));
    assert!(stdout(&output).trim().parse::<u64>().is_ok());
    for options in [&["--of", "3", "--permits", "2"][..], &["-x"], &["-n"], &["-w", "1"]] {
        let name = format!("n{}", options.join(""));
        let arguments = [options, &["--lease", "5", &name, "--", "true"]].concat();
        assert!(place.output("run", &arguments).status.success(), "{options:?}");
    }
    let output = place.output("run", &["--lease", "5", "-s", "r", "--", "true"]);
    assert_eq!(output.status.code(), Some(64), "who reads has no lease");
    let output = place.output("run", &["--lease", "0", "a", "--", "true"]);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    // Held while it runs, and refused to others.
    let held = place.start_script(&["--lease", "9s"], "held", "sleep 60");
    let output = place.output("run", &["-n", "held", "--", "true"]);
    assert_eq!(output.status.code(), Some(75));
    assert!(stderr(&output).contains("its lease ends in"), "{}", stderr(&output));
    drop(held);
}

#[test]
fn a_command_whose_lock_was_lost_is_ended() {
    let place = Place::new();
    for (script, ends) in [
        ("sleep 60", 0),
        ("trap 'exit 0' TERM; while :; do sleep 0.05; done", 0),
        ("trap '' TERM; while :; do sleep 0.05; done", 4),
    ] {
        let file = place.root.path().join("pid");
        let _ = std::fs::remove_file(&file);
        let script = format!("echo $$ >{}; {script}", file.display());
        let mut run = start(&place, "run", &["--lease", "60ms", "a", "--", "sh", "-c", &script], "stderr");
        let pid = number_in(&file);
        run.signal(Signal::SIGSTOP);
        let mutex = space(&place).mutex("a").unwrap();
        let guard = mutex.lock().unwrap();
        assert!(guard.abandoned().is_some_and(|loser| loser.lease_lost));
        assert!(support::tool::is_running(pid), "until hostlock goes on, nobody ends COMMAND");
        let started = std::time::Instant::now();
        run.signal(Signal::SIGCONT);
        assert_eq!(dollar_question(run.finish()), 70, "{script}");
        assert!(started.elapsed() >= Duration::from_secs(ends), "TERM first");
        wait_until("COMMAND is gone", || !support::tool::is_running(pid));
        let said = said(&place, "stderr");
        assert!(said.contains("lost the lease of lock \"a\"") && said.lines().count() == 1, "{said}");
        assert!(guard.is_held());
    }
}

#[test]
fn one_leads_at_a_time_and_who_lost_its_lead_starts_over() {
    let place = Place::new();
    let log = place.root.path().join("log");
    let script = format!("echo $$ $HOSTLOCK_TOKEN >>{}; exec sleep 60", log.display());
    let run = |number: u32| {
        start(&place, "elect", &["--lease", "400ms", "db", "--", "sh", "-c", &script], &format!("stderr-{number}"))
    };
    let terms = || -> Vec<(i32, u64)> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let term = |line: &str| line.split_once(' ').map(|(pid, token)| (pid.parse().unwrap(), token.parse().unwrap()));
        text.lines().filter_map(term).collect()
    };
    let mut campaigners: Vec<Background> = (0..3).map(run).collect();
    wait_until("somebody leads", || terms().len() == 1);
    let space = space(&place);
    let leader = space.mutex("db").unwrap().holder().unwrap().unwrap();
    let at = campaigners.iter().position(|one| one.pid().as_raw() as u32 == leader.pid).unwrap();
    // The leader's death is seen at once, and COMMAND dies with it.
    campaigners[at].kill();
    wait_until("another leads", || terms().len() == 2);
    assert!(!support::tool::is_running(terms()[0].0));
    let leader = space.mutex("db").unwrap().holder().unwrap().unwrap();
    let stopped = campaigners.iter().position(|one| one.pid().as_raw() as u32 == leader.pid).unwrap();
    campaigners[stopped].signal(Signal::SIGSTOP);
    wait_until("the third leads", || terms().len() == 3);
    campaigners[stopped].signal(Signal::SIGCONT);
    // It ends its COMMAND, and waits to lead once more.
    wait_until("the second's COMMAND is ended", || !support::tool::is_running(terms()[1].0));
    let tokens: Vec<u64> = terms().iter().map(|(_, token)| *token).collect();
    assert!(tokens.is_sorted() && tokens[0] < tokens[1] && tokens[1] < tokens[2], "{tokens:?}");
    let third = 3 - at - stopped;
    campaigners[third].kill();
    wait_until("it leads again", || terms().len() == 4);
    // It says so when COMMAND has begun.
    wait_until("it says that it leads again", || {
        said(&place, &format!("stderr-{stopped}")).matches("leading \"db\"").count() == 2
    });
    // TERM ends COMMAND, and so all of it.
    campaigners[stopped].signal(Signal::SIGTERM);
    assert_eq!(dollar_question(campaigners[stopped].finish()), 143);
    assert_eq!(space.mutex("db").unwrap().holder().unwrap(), None);
}

/// Whoever tells it to end while it is about to lose its lead does not want it to lead once more.
#[test]
fn who_is_told_to_end_while_its_lead_is_lost_does_not_campaign_again() {
    let place = Place::new();
    for (signal, late) in [(Signal::SIGTERM, false), (Signal::SIGTERM, true), (Signal::SIGINT, true)] {
        let file = place.root.path().join("pid");
        let _ = std::fs::remove_file(&file);
        let script =
            format!("trap 'sleep 0.5; exit 0' TERM; echo $$ >{}; while :; do sleep 0.05; done", file.display());
        let mut elect = start(&place, "elect", &["--lease", "80ms", "e", "--", "sh", "-c", &script], "stderr");
        number_in(&file);
        elect.signal(Signal::SIGSTOP);
        let guard = space(&place).mutex("e").unwrap().lock_owned().unwrap();
        if !late {
            elect.signal(signal);
        }
        elect.signal(Signal::SIGCONT);
        wait_until("it knows", || said(&place, "stderr").contains("lost the lease") || !late);
        if late {
            elect.signal(signal);
        }
        assert_eq!(dollar_question(elect.finish()), 128 + signal as i32, "{signal}, {late}");
        assert_eq!(said(&place, "stderr").matches("leading").count(), 1);
        guard.unlock().unwrap();
    }
}

/// INT, QUIT and HUP are for COMMAND as long as it leads: if it goes on, so does hostlock, and wants to lead once more when the lead is lost later.
#[test]
fn who_was_told_to_interrupt_its_command_before_its_lead_was_lost_campaigns_again() {
    let place = Place::new();
    let [pid, heard] = ["pid", "heard"].map(|name| place.root.path().join(name));
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        let _ = (std::fs::remove_file(&pid), std::fs::remove_file(&heard));
        let trap = format!("trap 'echo >{}' INT QUIT HUP", heard.display());
        let script = format!("{trap}; echo $$ >{}; while :; do sleep 0.05; done", pid.display());
        let mut elect = start(&place, "elect", &["--lease", "300ms", "e", "--", "sh", "-c", &script], "stderr");
        let first = number_in(&pid);
        elect.signal(signal);
        wait_until("COMMAND was told", || heard.exists());
        elect.signal(Signal::SIGSTOP);
        let guard = space(&place).mutex("e").unwrap().lock_owned().unwrap();
        elect.signal(Signal::SIGCONT);
        wait_until("COMMAND is ended", || !support::tool::is_running(first));
        guard.unlock().unwrap();
        wait_until("it leads again, or ended", || {
            said(&place, "stderr").matches("leading").count() >= 2 || !support::tool::is_running(elect.pid().as_raw())
        });
        assert!(support::tool::is_running(elect.pid().as_raw()), "{signal} ended it: {}", said(&place, "stderr"));
        elect.signal(Signal::SIGTERM);
        assert_eq!(dollar_question(elect.finish()), 143);
    }
    // A COMMAND that one of them ends has ended by itself.
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let _ = std::fs::remove_file(&pid);
        let script = format!("echo $$ >{}; exec sleep 60", pid.display());
        let mut elect = start(&place, "elect", &["e", "--", "sh", "-c", &script], "stderr");
        number_in(&pid);
        elect.signal(signal);
        assert_eq!(dollar_question(elect.finish()), 128 + signal as i32);
        assert_eq!(said(&place, "stderr").matches("leading").count(), 1);
    }
}

/// What COMMAND started goes with it, when the lock it ran under is gone.
#[test]
fn what_a_command_left_behind_is_ended_when_the_lock_was_lost() {
    let place = Place::new();
    let files = ["shell", "orphan", "stubborn"].map(|name| place.root.path().join(name));
    let [shell, orphan, stubborn] = files.each_ref().map(|file| file.display());
    let script = format!(
        "echo $$ >{shell}; (setsid sh -c 'echo $$ >{orphan}; sleep 60' &) ; (sh -c 'trap \"\" TERM; echo $$ >{stubborn}; sleep 60' &); sleep 60; true"
    );
    let mut run = start(&place, "run", &["--lease", "80ms", "a", "--", "sh", "-c", &script], "stderr");
    let pids = files.each_ref().map(|file| number_in(file));
    run.signal(Signal::SIGSTOP);
    drop(space(&place).mutex("a").unwrap().lock().unwrap());
    run.signal(Signal::SIGCONT);
    assert_eq!(dollar_question(run.finish()), 70);
    for pid in pids {
        assert!(!support::tool::is_running(pid), "{pid} of {pids:?} is left");
    }
}

/// It is what it came to that counts, and not that nobody held the lock for it at the end.
#[test]
fn a_command_that_ended_by_itself_is_not_run_again() {
    let place = Place::new();
    for (verb, code) in [("elect", 5), ("run", 70)] {
        let file = place.root.path().join("pid");
        let _ = std::fs::remove_file(&file);
        let script = format!("echo $$ >{}; sleep 0.2; exit 5", file.display());
        let mut tool = start(&place, verb, &["--lease", "80ms", "a", "--", "sh", "-c", &script], "stderr");
        let pid = number_in(&file);
        tool.signal(Signal::SIGSTOP);
        wait_until("COMMAND ended", || !support::tool::is_running(pid));
        drop(space(&place).mutex("a").unwrap().lock().unwrap());
        tool.signal(Signal::SIGCONT);
        assert_eq!(dollar_question(tool.finish()), code);
        let said = said(&place, "stderr");
        assert!(said.contains("lost the lease of lock \"a\"") && said.contains("before sh ended"), "{said}");
        assert_eq!(said.matches("leading").count(), usize::from(verb == "elect"), "{said}");
    }
}

#[test]
fn only_a_lock_that_one_has_at_a_time_can_be_led_by() {
    let place = Place::new();
    assert!(place.output("run", &["--of", "3", "s", "--", "true"]).status.success());
    let output = place.output("elect", &["s", "--", "true"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("\"s\" is a semaphore, not a mutex"), "{}", stderr(&output));
    let leader = start(&place, "elect", &["e", "--", "sleep", "60"], "stderr");
    wait_until("it leads", || said(&place, "stderr").contains("leading"));
    for options in [&["-n"][..], &["-w", "0.1"], &["-n", "-E", "75"]] {
        let output = place.output("elect", &[options, &["e", "--", "true"]].concat());
        assert_eq!(output.status.code(), Some(75), "{options:?}");
        assert!(stderr(&output).contains("is held by pid"), "{}", stderr(&output));
    }
    drop(leader);
    let output = place.output("run", &["--lease", "5", "--backend", "files", "a", "--", "true"]);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
}

#[test]
fn who_leads_until_its_command_ends_ends_as_that_does() {
    let place = Place::new();
    let output = place.output("elect", &["e", "--", "sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).starts_with("hostlock: leading \"e\" with token "), "{}", stderr(&output));
    let output = place.output("elect", &["-q", "e", "--", "sh", "-c", "exit 3"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(3), String::new()));
    assert_eq!(place.output("elect", &["e"]).status.code(), Some(64));
    assert_eq!(place.output("elect", &["e", "--", "/nonexistent"]).status.code(), Some(127));
}
