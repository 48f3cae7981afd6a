//! `hostlock run` of locks that several hold: permits of a semaphore, what NAME is already, and how all holders are shown.
#![cfg(feature = "cli")]

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::tool::*;
use support::wait_until;

#[track_caller]
fn assert_refused(place: &Place, arguments: &[&str], code: i32, containing: &[&str]) {
    let output = place.output("run", arguments);
    assert_eq!((output.status.code(), stdout(&output)), (Some(code), String::new()), "{arguments:?}");
    let text = stderr(&output);
    assert!(text.starts_with("hostlock: ") && text.lines().count() == 1, "{text:?}");
    for words in containing {
        assert!(text.contains(words), "{arguments:?}: {text:?} does not say {words:?}");
    }
}

fn lock(place: &Place, name: &str) -> Value {
    let output = place.output("status", &["--json", name]);
    assert_eq!(stderr(&output), "");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    found["locks"][0].clone()
}

#[test]
fn so_many_run_at_a_time_and_one_more_waits() {
    let place = Place::new();
    let mut runs: Vec<_> = (0..2).map(|_| place.start_script(&["--of", "2"], "a", "exec sleep 600")).collect();
    let pids: Vec<String> = runs.iter().map(|run| run.pid().to_string()).collect();
    assert_refused(&place, &["-n", "--of", "2", "a", "--", "true"], 75, &[&format!("is held by pid {}", pids[0])]);
    assert_refused(&place, &["-w", "0.2", "--of", "2", "a", "--", "true"], 75, &["is held by pid", "; waited 0.2"]);
    let mut third = place.start(&["-q", "--of", "2", "a", "--", "true"]);
    wait_until("it waits", || lock(&place, "a")["waiters"][0]["pid"] == third.pid().as_raw());

    let found = lock(&place, "a");
    assert_eq!((&found["kind"], &found["state"]), (&"semaphore".into(), &"held".into()));
    assert_eq!((&found["permits"]["used"], &found["permits"]["total"]), (&2.into(), &2.into()));
    let holders = found["holders"].as_array().unwrap();
    assert_eq!(holders.iter().map(|holder| holder["pid"].to_string()).collect::<Vec<_>>(), pids);
    assert!(holders.iter().all(|holder| holder["for"]["command"] == "sleep" || holder["for"]["command"] == "sh"));
    assert_eq!(found["holder"], holders[0]);
    let row = stdout(&place.output("status", &["a"]));
    let row: Vec<&str> = row.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[1], row[2], row[3]), ("semaphore", "held", pids.join(",").as_str()));
    assert_eq!(row.len(), 13, "{row:?}");

    runs[0].signal(Signal::SIGTERM);
    assert!(third.finish().success());
    runs[0].finish();
    assert_eq!(lock(&place, "a")["permits"]["used"], 1);
}

#[test]
fn readers_share_and_keep_a_writer_out() {
    let place = Place::new();
    let mut readers: Vec<_> = (0..2).map(|_| place.start_script(&["-s"], "a", "exec sleep 600")).collect();
    let pids: Vec<String> = readers.iter().map(|run| run.pid().to_string()).collect();
    let found = lock(&place, "a");
    assert_eq!((&found["kind"], &found["state"]), (&"rwlock".into(), &"held".into()));
    let mut shown: Vec<String> = found["holders"].as_array().unwrap().iter().map(|h| h["pid"].to_string()).collect();
    shown.sort();
    let mut sorted = pids.clone();
    sorted.sort();
    assert_eq!(shown, sorted);
    assert!(found["holders"].as_array().unwrap().iter().all(|holder| holder["readers"] == 1));

    // Without an option the name is what it is, alone; and whoever waits to be alone holds newcomers back.
    assert_refused(&place, &["-n", "a", "--", "true"], 75, &["is held by pid ", ", reading with token "]);
    assert_eq!(place.output("run", &["-n", "-s", "a", "--", "true"]).status.code(), Some(0));
    let mut writer = place.start(&["-q", "a", "--", "sleep", "600"]);
    wait_until("it waits", || lock(&place, "a")["waiters"][0]["pid"] == writer.pid().as_raw());
    assert_refused(&place, &["-n", "-s", "a", "--", "true"], 75, &["is held by pid "]);
    readers.iter_mut().for_each(|reader| reader.kill());
    wait_until("it writes", || lock(&place, "a")["holder"]["pid"] == writer.pid().as_raw());
    let found = lock(&place, "a");
    assert_eq!((found["holders"].as_array().unwrap().len(), &found["holder"]["readers"]), (1, &0.into()));
    assert_eq!(found["abandoned"], Value::Null, "readers that died left nothing half done");
    assert_refused(&place, &["-w", "0.2", "-s", "a", "--", "true"], 75, &["is held by pid", "; waited 0.2"]);
    writer.signal(Signal::SIGTERM);
    writer.finish();
    // A writer that a signal ended is told to whoever comes next, which may be a reader.
    let told = ["-s", "a", "--", "sh", "-c", "echo ${HOSTLOCK_ABANDONED-nobody}"];
    assert_eq!(stdout(&place.output("run", &told)).trim(), writer.pid().to_string());
    assert_eq!(place.output("run", &["a", "--", "true"]).status.code(), Some(0));
    assert_eq!(stdout(&place.output("run", &told)).trim(), "nobody");
}

#[test]
fn a_reader_within_a_reader_is_let_in_unless_a_writer_waits() {
    let place = Place::new();
    let path = place.space();
    let inner =
        |options: &str| format!("{} run --path {} {options} a -- true", env!("CARGO_BIN_EXE_hostlock"), path.display());
    let outer = |options: &[&str], inner: &str| {
        place.output("run", &options.iter().copied().chain(["a", "--", "sh", "-c", inner]).collect::<Vec<_>>())
    };
    assert_eq!(outer(&["-s"], &inner("-s")).status.code(), Some(0));
    for (outside, inside) in [(&["-s"][..], ""), (&[], "-s"), (&[], "")] {
        let output = outer(outside, &inner(inside));
        assert_eq!(output.status.code(), Some(75), "{outside:?}, {inside}");
        assert!(stderr(&output).contains("under which this command runs"), "{}", stderr(&output));
    }
    // The writer waits for us, and we would wait for it.
    let waits = format!(
        "until {} status --path {} --json a | grep -q waiting_seconds; do sleep 0.02; done",
        env!("CARGO_BIN_EXE_hostlock"),
        path.display()
    );
    let ready = place.root.path().join("ready");
    let script = format!("touch {}; {waits}; {}", ready.display(), inner("-s"));
    let place = &place;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| place.output("run", &["-s", "a", "--", "sh", "-c", &script]));
        wait_until("it reads", || ready.exists());
        let mut writer = place.start(&["-q", "a", "--", "true"]);
        let output = reader.join().unwrap();
        assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
        assert!(stderr(&output).contains("under which this command runs"), "{}", stderr(&output));
        assert!(writer.finish().success());
    });
}

#[test]
fn some_count_for_several() {
    let place = Place::new();
    let _big = place.start_script(&["--of", "4", "--permits", "3"], "a", "exec sleep 600");
    assert_eq!(lock(&place, "a")["permits"]["used"], 3);
    assert_refused(&place, &["-n", "--of", "4", "--permits", "2", "a", "--", "true"], 75, &["is held by pid"]);
    assert_eq!(place.output("run", &["-n", "--of", "4", "a", "--", "true"]).status.code(), Some(0));
}

#[test]
fn what_does_not_go_together_is_64_and_names_both() {
    let place = Place::new();
    let refused = |arguments: &[&str], containing: &[&str]| assert_refused(&place, arguments, 64, containing);
    refused(&["--permits", "2", "a", "--", "true"], &["--permits 2", "--of N"]);
    refused(&["--of", "2", "--permits", "3", "a", "--", "true"], &["--permits 3", "--of 2"]);
    refused(&["-x", "--of", "2", "a", "--", "true"], &["--exclusive", "--of"]);
    refused(&["-s", "--of", "2", "a", "--", "true"], &["--shared", "--of"]);
    refused(&["-s", "-x", "a", "--", "true"], &["--shared", "--exclusive"]);
    for of in ["0", "65537", "-1", "two", ""] {
        refused(&["--of", of, "a", "--", "true"], &[]);
    }
    assert!(!place.space().exists(), "a wrong call made the space");
    // Nor with what the name is.
    assert_eq!(place.output("run", &["--of", "2", "a", "--", "true"]).status.code(), Some(0));
    refused(&["--of", "3", "a", "--", "true"], &["\"a\" is a semaphore for 2, not for 3"]);
    assert_eq!(place.output("run", &["m", "--", "true"]).status.code(), Some(0));
    refused(&["--of", "3", "m", "--", "true"], &["\"m\" is a mutex, not a semaphore"]);
    refused(&["-s", "m", "--", "true"], &["\"m\" is a mutex, not a read-write lock"]);
}

#[test]
fn too_many_permits_for_the_space_is_69() {
    let place = Place::new();
    for name in ["a", "b"] {
        let output = place.output("run", &["--of", "65536", name, "--", "sleep", "0"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        // It is kept: somebody was killed in it.
        place.output("run", &["--of", "65536", name, "--", "sh", "-c", "kill -9 $$"]);
    }
    assert_refused(&place, &["--of", "65536", "c", "--", "true"], 69, &["no room left for \"c\"", "--space S"]);
}

#[test]
fn a_name_is_taken_as_what_it_is() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    let semaphore = space.semaphore("a", 2).unwrap();
    let _run = place.start_script(&[], "a", "exec sleep 600");
    assert_eq!(semaphore.available().unwrap(), 1, "one permit, and not all");
    let last = semaphore.acquire().unwrap();
    assert_refused(&place, &["-n", "a", "--", "true"], 75, &["is held by pid"]);
    drop(last);
    assert_eq!(place.output("run", &["-n", "a", "--", "true"]).status.code(), Some(0));
}

#[test]
fn each_death_is_told_to_the_next_one_with_that_permit() {
    let place = Place::new();
    let env = ["-n", "--of", "1", "a", "--", "sh", "-c", "echo $HOSTLOCK_NAME $HOSTLOCK_TOKEN ${HOSTLOCK_ABANDONED-}"];
    let words = |output| stdout(&output).split_whitespace().map(String::from).collect::<Vec<_>>();
    let first = words(place.output("run", &env));
    assert_eq!((first.len(), first[0].as_str()), (2, "a"));
    // A signal ended COMMAND.
    place.output("run", &["--of", "1", "a", "--", "sh", "-c", "kill -9 $$"]);
    let second = words(place.output("run", &env));
    assert!(second.len() == 3 && second[1].parse::<u64>().unwrap() > first[1].parse().unwrap(), "{second:?}");
    // hostlock itself was killed.
    let mut run = place.start_script(&["--of", "1"], "a", "exec sleep 600");
    let pid = run.pid().to_string();
    run.kill();
    wait_until("its command has ended as well", || {
        let words = words(place.output("run", &env));
        assert!(words.is_empty() || words[2] == pid, "{words:?}");
        !words.is_empty()
    });
    assert_eq!(words(place.output("run", &env)).len(), 2, "told once");
}

#[test]
fn a_killed_run_keeps_its_permits_while_what_it_started_runs() {
    let place = Place::new();
    let pid_file = place.root.path().join("left");
    let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; READY; wait", pid_file.display());
    let mut run = place.start_script(&["--of", "2", "--permits", "2"], "a", &script);
    let left: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    run.kill();
    assert_refused(&place, &["-w", "0.3", "--of", "2", "a", "--", "true"], 75, &["is held by pid"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), Signal::SIGKILL).unwrap();
    wait_until("it is free", || place.output("run", &["-n", "--of", "2", "a", "--", "true"]).status.success());
}

#[test]
fn a_run_within_its_own_permits_waits_only_if_that_can_end() {
    let place = Place::new();
    let path = place.space();
    let inner =
        |options: &str| format!("{} run --path {} {options} a -- true", env!("CARGO_BIN_EXE_hostlock"), path.display());
    let outer = |options: &[&str], inner: &str| {
        let arguments: Vec<&str> = options.iter().copied().chain(["a", "--", "sh", "-c", inner]).collect();
        place.output("run", &arguments)
    };
    // Another one is free.
    assert_eq!(outer(&["--of", "2"], &inner("--of 2")).status.code(), Some(0));
    // All there are belong to those who wait for us.
    let output = outer(&["--of", "2"], &inner("--of 2 --permits 2"));
    assert_eq!(output.status.code(), Some(75));
    assert!(stderr(&output).contains("under which this command runs"), "{}", stderr(&output));
    // The other one is somebody else's, who ends.
    let mut other = place.start_script(&["--of", "2"], "a", "exec sleep 600");
    let waiting = place.start_script(&["--of", "2"], "a", &inner("--of 2 -q"));
    wait_until("the inner one waits", || !lock(&place, "a")["waiters"].as_array().unwrap().is_empty());
    std::thread::sleep(Duration::from_millis(50));
    other.kill();
    let mut waiting = waiting;
    assert!(waiting.finish().success());
}
