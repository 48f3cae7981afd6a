//! `hostlock run`, as a shell sees it: exit codes, messages, environment, waiting, nesting.
#![cfg(feature = "cli")]

mod support;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::tool::*;
use support::wait_until;

/// Fails unless this is one line as the tool's messages are.
#[track_caller]
fn assert_one_line(text: &str, containing: &str) {
    assert!(text.starts_with("hostlock: ") && text.lines().count() == 1 && text.ends_with('\n'), "{text:?}");
    assert!(text.contains(containing), "{text:?} does not say {containing:?}");
}

/// How long a message says that was waited.
fn seconds_waited(text: &str) -> f64 {
    let span = text.rsplit_once("waited ").expect("a span").1;
    span.trim_end().trim_end_matches(" s").parse().expect("seconds")
}

#[test]
fn the_commands_exit_status_is_passed_on() {
    let place = Place::new();
    for code in [0, 1, 3, 75, 255] {
        let output = place.output("run", &["a", "--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(code), String::new()));
    }
    let output = place.output("run", &["a", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137));
}

#[test]
fn wrong_calls_are_one_line_and_64() {
    let place = Place::new();
    let calls: &[(&[&str], &str)] = &[
        (&[], "<NAME>"),
        (&["a"], "<COMMAND>"),
        (&["a", "--"], "<COMMAND>"),
        (&["--frobnicate", "a", "--", "true"], "--frobnicate"),
        (&["-Z", "a", "--", "true"], "-Z"),
        (&["a", "-c", "true"], "run NAME -- sh -c LINE; see hostlock run --help"),
        (&["--wait", "a", "--", "true"], "see hostlock run --help"),
        (&["-w", "soon", "a", "--", "true"], "5s"),
        (&["-w", "-1", "a", "--", "true"], "5s"),
        (&["-w", "inf", "a", "--", "true"], "5s"),
        (&["-w", "nan", "a", "--", "true"], "5s"),
        (&["-w"], "--timeout"),
        (&["-n", "-w", "1", "a", "--", "true"], "--try"),
        (&["-E", "256", "a", "--", "true"], "256"),
        (&["-E", "-1", "a", "--", "true"], "-1"),
        (&["--mode", "777", "a", "--", "true"], "mode"),
        (&["--mode", "rw", "a", "--", "true"], "octal"),
        (&["-s", "-x", "a", "--", "true"], "--exclusive"),
        (&["--space", "other", "a", "--", "true"], "--path"),
        (&["", "--", "true"], "NAME"),
        (&["a-name-of-more-than-sixty-four-bytes-which-is-more-than-there-is-room-for", "--", "true"], "64 bytes"),
    ];
    for (arguments, reason) in calls {
        let output = place.output("run", arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert_eq!(stdout(&output), "");
        assert_one_line(&stderr(&output), reason);
    }
    for arguments in [&[][..], &["frobnicate"], &["--frobnicate"]] {
        let output = output(Command::new(env!("CARGO_BIN_EXE_hostlock")).args(arguments));
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert_one_line(&stderr(&output), "hostlock --help");
    }
}

#[test]
fn help_fits_a_screen_and_the_manual_has_examples() {
    for verb in ["run", "status", "move", "doctor"] {
        let short = output(Command::new(env!("CARGO_BIN_EXE_hostlock")).args([verb, "-h"]));
        let text = stdout(&short);
        assert!(short.status.success() && stderr(&short).is_empty());
        assert!(text.lines().count() <= 24 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    let long = output(Command::new(env!("CARGO_BIN_EXE_hostlock")).args(["run", "--help"]));
    assert!(stdout(&long).contains("Examples:") && stdout(&long).contains("HOSTLOCK_ABANDONED"));
    let version = output(Command::new(env!("CARGO_BIN_EXE_hostlock")).arg("--version"));
    assert_eq!(stdout(&version), format!("hostlock {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_command_that_cannot_be_run_is_127_or_126_and_leaves_the_lock_clean() {
    let place = Place::new();
    let directory = place.root.path().to_str().unwrap();
    for (command, code) in
        [("/nonexistent/program", 127), ("no-such-program", 127), ("/etc/passwd", 126), (directory, 126)]
    {
        let output = place.output("run", &["a", "--", command]);
        assert_eq!(output.status.code(), Some(code), "{command}");
        assert_one_line(&stderr(&output), command);
    }
    let output = place.output("run", &["-n", "a", "--", "sh", "-c", "echo ${HOSTLOCK_ABANDONED-clean}"]);
    assert_eq!(stdout(&output), "clean\n");
}

#[test]
fn a_space_that_cannot_be_used_is_69() {
    let place = Place::new();
    std::fs::create_dir(place.space()).unwrap();
    std::fs::write(place.space().join("segment"), "not a segment").unwrap();
    let output = place.output("run", &["a", "--", "true"]);
    assert_eq!(output.status.code(), Some(69));
    assert_one_line(&stderr(&output), "does not begin as a segment does");
    let missing = place.root.path().join("missing/space");
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_hostlock"));
    let nowhere = support::tool::output(nowhere.args(["run", "--path", missing.to_str().unwrap(), "a", "--", "true"]));
    assert_eq!(nowhere.status.code(), Some(69));
    assert_one_line(&stderr(&nowhere), "--path DIR");
}

#[test]
fn a_full_space_says_what_to_do() {
    let place = Place::new();
    let _only = hostlock::Space::builder("space").root(place.root.path()).participants(1).open().unwrap();
    let output = place.output("run", &["a", "--", "true"]);
    assert_eq!(output.status.code(), Some(69));
    assert_one_line(&stderr(&output), "has room for 1 participants, and all are in use; name another: --space S");
}

#[test]
fn a_name_may_look_like_an_option() {
    let place = Place::new();
    for arguments in [&["--", "--lock", "echo", "got"][..], &["--", "-n", "--", "echo", "got"]] {
        let output = place.output("run", arguments);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), "got\n".into()), "{arguments:?}");
    }
    // Without the first `--` it is taken for one, and said to be wrong.
    assert_eq!(place.output("run", &["--lock", "--", "true"]).status.code(), Some(64));
    // What follows COMMAND is COMMAND's.
    let output = place.output("run", &["a", "echo", "-n", "--try", "--", "x"]);
    assert_eq!(stdout(&output), "--try -- x");
}

#[test]
fn a_held_lock_is_75_and_says_who_unless_told_otherwise() {
    let place = Place::new();
    let holder = place.start_script(&[], "a", "exec sleep 600");
    let try_it = || place.output("run", &["-n", "a", "--", "true"]);
    // COMMAND begins before hostlock has written down which process it is.
    wait_until("it knows for whom", || stderr(&try_it()).contains("on behalf of"));
    let tried = try_it();
    assert_eq!(tried.status.code(), Some(75));
    assert_one_line(&stderr(&tried), &format!("is held by pid {} (hostlock) on behalf of pid ", holder.pid()));
    assert!(stderr(&tried).contains("(sh)"), "the command's name: {:?}", stderr(&tried));

    let waited = place.output("run", &["-w", "0.2", "a", "--", "true"]);
    assert_eq!(waited.status.code(), Some(75));
    assert_one_line(&stderr(&waited), "waited ");
    assert!(seconds_waited(&stderr(&waited)) >= 0.2, "{:?}", stderr(&waited));
    assert_one_line(&stderr(&place.output("run", &["-w", "0", "a", "--", "true"])), "is held by");
    let waited = stderr(&place.output("run", &["--timeout", "30ms", "a", "--", "true"]));
    assert!((0.03..30.0).contains(&seconds_waited(&waited)), "{waited:?}");

    for option in [&["-E", "9"][..], &["-E", "0"], &["--conflict-exit-code=9"]] {
        let arguments: Vec<&str> = option.iter().copied().chain(["-nq", "a", "--", "echo", "ran"]).collect();
        let output = place.output("run", &arguments);
        let code = if option[option.len() - 1] == "0" { 0 } else { 9 };
        assert_eq!(
            (output.status.code(), stdout(&output), stderr(&output)),
            (Some(code), String::new(), String::new())
        );
    }
    // Another name is another lock.
    assert!(place.output("run", &["-n", "b", "--", "true"]).status.success());
}

#[test]
fn a_wait_longer_than_a_second_says_who_holds_the_lock_and_then_gets_it() {
    let place = Place::new();
    let holder = place.start_script(&[], "a", "sleep 1.8");
    let started = Instant::now();
    let output = place.output("run", &["a", "--", "echo", "got it"]);
    assert!(started.elapsed() > Duration::from_secs(1), "the test itself was too slow to show anything");
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "got it\n".into()));
    assert_one_line(&stderr(&output), &format!("waiting for lock \"a\", held by pid {}", holder.pid()));

    drop(holder);
    let holder = place.start_script(&[], "a", "sleep 0.3");
    let short = place.output("run", &["a", "--", "true"]);
    assert_eq!((short.status.code(), stderr(&short)), (Some(0), String::new()));
    drop(holder);
    let holder = place.start_script(&[], "a", "exec sleep 600");
    let silent = place.output("run", &["-q", "-w", "1.2", "a", "--", "true"]);
    assert_eq!((silent.status.code(), stderr(&silent)), (Some(75), String::new()));
    let both = place.output("run", &["-w", "1.2", "a", "--", "true"]);
    let lines: Vec<String> = stderr(&both).lines().map(String::from).collect();
    assert!(lines.len() == 2 && lines[0].contains("waiting for") && seconds_waited(&lines[1]) >= 1.2, "{lines:?}");
    drop(holder);
}

#[test]
fn the_command_sees_name_space_and_a_token_that_grows() {
    let place = Place::new();
    let script = "echo $HOSTLOCK_NAME $HOSTLOCK_SPACE $HOSTLOCK_TOKEN ${HOSTLOCK_ABANDONED-clean}";
    let mut last = 0;
    for _ in 0..3 {
        // What was there before is somebody else's.
        let output =
            output(place.command("run", &["the name", "--", "sh", "-c", script]).env("HOSTLOCK_ABANDONED", "1"));
        let text = stdout(&output);
        let rest = text.strip_prefix(&format!("the name {} ", place.space().display())).expect("name and space");
        let (token, clean) = rest.trim_end().split_once(' ').unwrap();
        let token: u64 = token.parse().unwrap();
        assert!(token > last && clean == "clean", "{text:?} after {last}");
        last = token;
    }
}

#[test]
fn a_command_that_a_signal_ended_is_told_to_the_next_once() {
    let place = Place::new();
    let mut killed = place.start(&["a", "--", "sh", "-c", "kill -9 $$"]);
    let holder = killed.pid();
    assert_eq!(killed.finish().code(), Some(137));
    let show = || stdout(&place.output("run", &["a", "--", "sh", "-c", "echo ${HOSTLOCK_ABANDONED-clean}"]));
    assert_eq!(show(), format!("{holder}\n"));
    assert_eq!(show(), "clean\n");
}

#[test]
fn input_and_output_are_the_commands() {
    let place = Place::new();
    let mut child =
        place.command("run", &["a", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through and through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through and through");

    // A reader that goes away ends COMMAND as it would without us.
    let mut child = place.command("run", &["a", "--", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    drop(child.stdout.take());
    assert_eq!(Background(child).finish().code(), Some(128 + Signal::SIGPIPE as i32));
}

#[test]
fn the_command_inherits_the_lifeline_and_nothing_else() {
    let place = Place::new();
    let count = |mut command: Command| stdout(&output(&mut command)).lines().count();
    let under = |options: &[&str]| {
        let arguments: Vec<&str> = options.iter().copied().chain(["a", "--", "ls", "/proc/self/fd"]).collect();
        count(place.command("run", &arguments))
    };
    let mut bare = Command::new("ls");
    bare.arg("/proc/self/fd");
    let bare = count(bare);
    assert_eq!(under(&[]) - bare, 2, "the lifeline, and the space's directory");
    assert_eq!(under(&["--close"]) - bare, 0);
    assert_eq!(under(&["-o"]) - bare, 0);
}

#[test]
fn what_the_command_leaves_in_the_background_keeps_nothing() {
    let place = Place::new();
    let file = place.root.path().join("daemon");
    let script = format!("setsid sleep 600 >/dev/null 2>&1 & echo $! > {}", file.display());
    // So many that slots would run out if each kept one, in the smallest space there is.
    let space = hostlock::Space::builder("space").root(place.root.path()).participants(4).open().unwrap();
    let mut daemons = Vec::new();
    for _ in 0..8 {
        let output = place.output("run", &["-n", "a", "--", "sh", "-c", &script]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
        daemons.push(Stray(number_in(&file)));
        assert!(daemons.last().unwrap().is_running());
        assert_eq!(space.usage().participants, 1, "only this test is in the space");
        assert_eq!(space.mutex("a").unwrap().holder().unwrap(), None);
    }
    // They are not in the space, either: were its file removed, it could be made anew.
    drop(space);
    std::fs::remove_file(place.space().join("segment")).unwrap();
    assert!(place.output("run", &["-n", "a", "--", "true"]).status.success());
}

#[test]
fn a_run_within_a_run_of_the_same_name_says_so_instead_of_hanging() {
    let place = Place::new();
    let (tool, space) = (env!("CARGO_BIN_EXE_hostlock"), place.space());
    let again = format!("{tool} run --path {} a -- echo inner", space.display());
    let between = format!("{tool} run --path {} b -- {again}", space.display());
    let nestings = [
        format!("exec {again}"),
        format!("{again}; exit $?"),
        between.clone(),
        // Without the environment, only the ancestors tell.
        format!("env -i {again}"),
        format!("env -i {between}"),
        format!("HOSTLOCK_TOKEN=1 HOSTLOCK_NAME=b {again}"),
    ];
    for nesting in nestings {
        let output = place.output("run", &["a", "--", "sh", "-c", &nesting]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(75), String::new()), "{nesting}");
        assert_one_line(&stderr(&output), "under which this command runs: waiting for it would never end");
    }
    // Another name, another space: nothing is wrong with that.
    let elsewhere =
        format!("{tool} run --path {}2 a -- {tool} run --path {}2 b -- echo inner", space.display(), space.display());
    let output = place.output("run", &["a", "--", "sh", "-c", &elsewhere]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "inner\n".into()));
}

#[test]
fn a_nested_run_in_another_pid_namespace_is_noticed_too() {
    if !nix::unistd::geteuid().is_root() {
        skip!("a PID namespace needs root");
    }
    let place = Place::new();
    let nested = format!(
        "exec unshare -p -f {} run --path {} a -- echo inner",
        env!("CARGO_BIN_EXE_hostlock"),
        place.space().display()
    );
    let output = place.output("run", &["a", "--", "sh", "-c", &nested]);
    assert_eq!(output.status.code(), Some(75));
    assert_one_line(&stderr(&output), "under which this command runs");
}

#[test]
fn a_library_holder_that_is_an_ancestor_may_let_go_and_is_waited_for() {
    let place = Place::new();
    let space = hostlock::Space::builder("space").root(place.root.path()).open().unwrap();
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    let mut waiting = place.start(&["a", "--", "true"]);
    wait_until("the tool waits", || space.usage().waiting == 1);
    drop(guard);
    assert!(waiting.finish().success());
}

#[test]
fn whoever_ignores_the_ends_of_children_does_not_hide_the_commands() {
    let place = Place::new();
    let mut command = place.command("run", &["a", "--", "sh", "-c", "exit 3"]);
    // SAFETY: `signal` is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn)?;
            Ok(())
        })
    };
    assert_eq!(output(&mut command).status.code(), Some(3));
}

#[test]
fn the_command_starts_with_the_signals_that_hostlock_was_started_with() {
    let place = Place::new();
    let show = |masked: bool, tool: bool| {
        let mut command = match tool {
            true => place.command("run", &["a", "--", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]),
            false => {
                let mut command = dying_with_us(Command::new("grep"));
                command.args(["-E", "Sig(Blk|Ign)", "/proc/self/status"]);
                command
            }
        };
        if masked {
            // SAFETY: both calls are async-signal-safe.
            unsafe {
                command.pre_exec(|| {
                    let mut set = nix::sys::signal::SigSet::empty();
                    set.add(Signal::SIGUSR2);
                    set.thread_block()?;
                    nix::sys::signal::signal(Signal::SIGHUP, nix::sys::signal::SigHandler::SigIgn)?;
                    Ok(())
                })
            };
        }
        // 32 and 33 are the C library's own.
        let text = stdout(&output(&mut command));
        let masks = text.lines().map(|line| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap());
        masks.map(|mask| mask & !(0b11 << 31)).collect::<Vec<_>>()
    };
    assert_eq!(show(false, true), show(false, false));
    assert_eq!(show(true, true), show(true, false));
    assert_ne!(show(true, true), show(false, true), "the mask is seen at all");
}

#[test]
fn signals_are_passed_on_and_the_end_they_bring_is_shown_as_the_commands() {
    let place = Place::new();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
        let number = signal as i32;
        // COMMAND has its own mind about it.
        let mut run =
            place.start_script(&[], "a", &format!("trap 'exit 7' {number}; READY; while :; do sleep 0.01; done"));
        run.signal(signal);
        assert_eq!(run.finish().code(), Some(7), "{signal}");
        // It does not: then both end of it, as a shell and a supervisor expect.
        let mut run = place.start_script(&[], "a", "exec sleep 600");
        run.signal(signal);
        let status = run.finish();
        assert_eq!((status.signal(), dollar_question(status)), (Some(number), 128 + number), "{signal}");
    }
    // Of a signal that was sent to COMMAND alone, hostlock does not end, but says it.
    let file = place.root.path().join("command");
    let mut run = place.start_script(&[], "a", &format!("echo $$ > {}; exec sleep 600", file.display()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(number_in(&file)), Signal::SIGTERM).unwrap();
    assert_eq!(run.finish().code(), Some(143));
}

#[test]
fn a_signal_that_the_command_sends_to_everybody_does_not_come_back_to_it() {
    let place = Place::new();
    let log = place.root.path().join("log");
    let script = format!(
        "trap 'echo x >> {}' USR1; for i in 1 2 3 4 5 6; do kill -USR1 0; sleep 0.05; done; exit 5",
        log.display()
    );
    let mut command = place.command("run", &["a", "--", "sh", "-c", &script]);
    command.process_group(0);
    assert_eq!(output(&mut command).status.code(), Some(5));
    assert_eq!(std::fs::read_to_string(log).unwrap(), "x\n".repeat(6));
}

#[test]
fn waiting_ends_by_a_signal_as_flocks_does_and_leaves_nothing() {
    let place = Place::new();
    let holder = place.start_script(&[], "a", "exec sleep 600");
    let mut waiting = place.start(&["-q", "a", "--", "true"]);
    let space = hostlock::Space::builder("space").root(place.root.path()).open().unwrap();
    wait_until("it waits", || space.usage().waiting == 1);
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.finish().signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(space.recover_dead().unwrap(), 1);
    assert_eq!((space.usage().waiting, space.usage().participants), (0, 2));
    drop(holder);
}

#[test]
fn an_end_by_a_signal_without_a_name_is_an_end_like_others() {
    let place = Place::new();
    let output = place.output("run", &["a", "--", "bash", "-c", "kill -35 $$"]);
    if output.status.code() == Some(127) {
        skip!("bash is not installed");
    }
    assert_eq!((output.status.code(), stderr(&output)), (Some(163), String::new()));
    let next = place.output("run", &["a", "--", "sh", "-c", "echo ${HOSTLOCK_ABANDONED:+told}"]);
    assert_eq!(stdout(&next), "told\n");
    // A child that hostlock was given, and that is not COMMAND, ends so: nothing follows from it.
    let script = format!(
        "sleep 60 & victim=$!; (sleep 0.3; kill -35 $victim) & exec {} run --path {} a -- sh -c 'sleep 0.8; echo whole'",
        env!("CARGO_BIN_EXE_hostlock"),
        place.space().display()
    );
    let whole = support::tool::output(dying_with_us(Command::new("bash")).args(["-c", &script]));
    assert_eq!((whole.status.code(), stdout(&whole)), (Some(0), "whole\n".into()));
}

#[test]
fn a_command_that_cannot_be_started_does_not_eat_the_news_of_a_death() {
    let place = Place::new();
    let mut dead = place.start_script(&[], "a", "exec sleep 600");
    dead.kill();
    assert_eq!(place.output("run", &["a", "--", "./nonexistent"]).status.code(), Some(127));
    let next = place.output("run", &["a", "--", "sh", "-c", "echo ${HOSTLOCK_ABANDONED:+told}"]);
    assert_eq!(stdout(&next), "told\n");
}

#[test]
fn an_alarm_that_was_set_before_reaches_the_command() {
    let place = Place::new();
    let mut command = place.command("run", &["a", "--", "sleep", "60"]);
    // SAFETY: `alarm` is async-signal-safe; the alarm survives the exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::alarm::set(1);
            Ok(())
        })
    };
    assert_eq!(output(&mut command).status.signal(), Some(Signal::SIGALRM as i32));
}

#[test]
fn a_broken_pipe_that_is_ignored_stays_ignored() {
    let place = Place::new();
    for (trap, ignored) in [("", false), ("trap '' PIPE; ", true)] {
        let script = format!(
            "{trap}exec {} run --path {} a -- grep SigIgn /proc/self/status",
            env!("CARGO_BIN_EXE_hostlock"),
            place.space().display()
        );
        let output = output(dying_with_us(Command::new("sh")).args(["-c", &script]));
        let mask = u64::from_str_radix(stdout(&output).trim().rsplit('\t').next().unwrap(), 16).unwrap();
        assert_eq!(mask & 1 << (Signal::SIGPIPE as i32 - 1) != 0, ignored, "{trap}");
    }
}

#[test]
fn too_few_descriptors_is_71_and_a_time_too_long_to_count_is_for_ever() {
    let place = Place::new();
    assert!(place.output("run", &["a", "--", "true"]).status.success());
    let limited = |limit: u32| {
        let script = format!(
            "ulimit -n {limit}; exec {} run --path {} a -- true",
            env!("CARGO_BIN_EXE_hostlock"),
            place.space().display()
        );
        // Without what this test has open itself.
        let closed = format!(
            "for fd in /proc/self/fd/*; do fd=${{fd##*/}}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; done; {script}"
        );
        output(dying_with_us(Command::new("bash")).args(["-c", &closed]))
    };
    let codes: Vec<_> = (3..14).map(|limit| limited(limit).status.code().unwrap()).collect();
    assert!(codes.iter().all(|code| [0, 69, 71, 127].contains(code)), "{codes:?}");
    assert!(codes.contains(&71) && codes.contains(&0), "{codes:?}");
    for long in ["1e300", "18446744073709551615", "999999999999s"] {
        assert_eq!(place.output("run", &["-w", long, "a", "--", "true"]).status.code(), Some(0), "{long}");
    }
}

#[test]
fn a_command_that_begins_a_pid_namespace_is_run() {
    if !nix::unistd::geteuid().is_root() {
        skip!("a PID namespace needs root");
    }
    let place = Place::new();
    let mut command = dying_with_us(Command::new("unshare"));
    command
        .args(["-p", env!("CARGO_BIN_EXE_hostlock"), "run", "--path"])
        .arg(place.space())
        .args(["a", "--", "echo", "ran"]);
    let output = output(&mut command);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "ran\n".into()), "{}", stderr(&output));
}
