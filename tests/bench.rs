//! `hostlock bench`, as a user sees it: that all of it is measured, in which forms it is told, and that nothing of it is left. Never how fast anything is.
#![cfg(feature = "bench")]

mod support;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::tool::*;
use support::wait_until;

/// Nothing is learnt from so little, except that it works.
const SHORT: [&str; 4] = ["--rounds", "1", "--seconds", "20ms"];

fn command(arguments: &[&str]) -> Command {
    let mut command = dying_with_us(Command::new(env!("CARGO_BIN_EXE_hostlock")));
    command.arg("bench").args(arguments);
    command
}

fn bench(arguments: &[&str]) -> Output {
    output(command(arguments).args(SHORT))
}

#[track_caller]
fn expect_success(output: &Output) {
    assert_eq!((output.status.code(), stderr(output)), (Some(0), String::new()));
}

// ---------------------------------------------------------------------------------------------------------------------
// What is measured.

/// A finite number.
#[track_caller]
fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().filter(|number| number.is_finite()).unwrap_or_else(|| panic!("no {name} in {of}"))
}

#[track_caller]
fn list<'a>(of: &'a Value, name: &str) -> &'a Vec<Value> {
    of[name].as_array().unwrap_or_else(|| panic!("no {name} in {of}"))
}

#[track_caller]
fn names(of: &[Value]) -> Vec<&str> {
    of.iter().map(|one| one["name"].as_str().unwrap_or_else(|| panic!("{one} has no name"))).collect()
}

/// Fails unless every number is there that the page of the tool promises.
#[track_caller]
fn expect_complete(quantity: &Value, rounds: usize) {
    let [median, least, most] = ["median", "least", "most"].map(|name| number(quantity, name));
    assert!(0.0 <= least && least <= median && median <= most, "{quantity}");
    assert_eq!(list(quantity, "rounds").len(), rounds, "{quantity}");
    assert!(quantity["name"].is_string() && quantity["unit"].is_string() && quantity["more_is_better"].is_boolean());
    assert!(quantity["ratio"].is_null() || number(&quantity["ratio"], "least") <= number(&quantity["ratio"], "most"));
}

/// Suites whose every turn is checked, for those that several processes use.
const CHECKED: [&str; 6] = ["uncontended", "contended", "reads", "handoff", "recovery", "held"];
/// Suites that take single times.
const TIMED: [&str; 4] = ["contended", "reads", "handoff", "recovery"];

#[track_caller]
fn expect_case(suite: &str, case: &Value) {
    let peers = list(case, "peers");
    let first = &peers[0];
    assert_eq!(first["name"], "hostlock", "{case}");
    assert!(list(case, "absent").iter().all(|peer| peer["why"].as_str().is_some_and(|why| !why.is_empty())), "{case}");
    for peer in peers {
        let quantities = list(peer, "quantities");
        assert_eq!(quantities.len(), list(first, "quantities").len(), "{peer}");
        quantities.iter().for_each(|quantity| expect_complete(quantity, 1));
        // Something was done at all.
        assert!(number(&quantities[0], "median") > 0.0, "{suite}: {peer}");
        assert!(quantities[0]["ratio"].is_object(), "{suite}: {peer}");
        if CHECKED.contains(&suite) && peer["for_processes"] == true {
            assert!(number(peer, "checked") > 0.0, "{suite}: nothing was checked of {peer}");
        }
        if TIMED.contains(&suite) {
            let times = &peer["times"];
            assert!(number(times, "count") > 0.0, "{suite}: {peer}");
            let nanos: Vec<u64> = list(times, "percentiles").iter().map(|pair| pair[1].as_u64().unwrap()).collect();
            assert!(nanos.is_sorted() && nanos.last() > Some(&0), "{suite}: {peer}");
        }
    }
}

/// Suites in which processes do something all the time, and those in which something happens.
const BUSY: [&str; 3] = ["uncontended", "contended", "reads"];
const SINGLE: [&str; 6] = ["handoff", "recovery", "open", "held", "many", "lines"];

/// What was measured of the suites. Fails unless all is there that the page of the tool promises.
#[track_caller]
fn measured(wanted: &[&str]) -> Vec<Value> {
    let output = bench(&[&["--json", "--processes", "3,2"], wanted].concat());
    expect_success(&output);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stdout(&output)));
    assert_eq!((number(&all, "rounds"), number(&all, "seconds")), (1.0, 0.02));
    assert_eq!(all["hostlock"], env!("CARGO_PKG_VERSION"));
    assert!(all["started"].as_str().unwrap().ends_with('Z') && list(&all, "warnings").iter().all(Value::is_string));
    let machine = &all["machine"];
    assert!(machine["kernel"].as_str().unwrap().starts_with("Linux ") && number(machine, "cores") >= 1.0, "{machine}");
    assert!(!machine["processor"].as_str().unwrap().is_empty() && list(machine, "load").len() == 3, "{machine}");

    let suites = list(&all, "suites");
    assert_eq!(names(suites), wanted);
    let listed = stdout(&output_of_list());
    let listed = suites_of(&listed);
    for suite in suites {
        let (name, peers) = listed.iter().find(|(name, _)| suite["name"] == *name).expect("a suite of the list");
        let cases = list(suite, "cases");
        assert!(!cases.is_empty() && !suite["about"].as_str().unwrap().is_empty(), "{name}");
        cases.iter().for_each(|case| expect_case(name, case));
        // Of the first case, which has them all.
        let found = [names(list(&cases[0], "peers")), names(list(&cases[0], "absent"))].concat();
        assert!(peers.iter().all(|peer| found.contains(peer)), "{name}: {found:?}, not {peers:?}");
        for goal in list(suite, "goals") {
            let bounds = [&goal["at_most"], &goal["at_least"]].map(Value::as_f64);
            let value = number(goal, "value");
            let is_met = bounds[0].is_none_or(|most| value <= most) && bounds[1].is_none_or(|least| value >= least);
            assert!(bounds.iter().flatten().count() == 1 && goal["met"] == is_met, "{goal}");
        }
    }
    suites.clone()
}

#[test]
fn what_processes_do_all_the_time_is_measured_beside_all_peers_and_told_in_json() {
    let suites = measured(&BUSY);
    let processes: Vec<f64> = list(&suites[1], "cases").iter().map(|case| number(case, "processes")).collect();
    assert_eq!(processes, [2.0, 3.0, 2.0, 3.0], "short sections, then long ones");
    let goals: Vec<usize> = suites.iter().map(|suite| list(suite, "goals").len()).collect();
    assert_eq!(goals, [3, 2, 0], "{suites:?}");
}

#[test]
fn what_happens_once_is_measured_beside_all_peers_and_told_in_json() {
    let suites = measured(&SINGLE);
    let goals: Vec<usize> = suites.iter().map(|suite| list(suite, "goals").len()).collect();
    // Of a sleeper on the same processor, and on another.
    let places = std::thread::available_parallelism().unwrap().get().min(2);
    assert_eq!(goals, [places, 2, 2, 0, 4, 0], "{suites:?}");
    let held = &list(&suites[3], "cases")[0];
    assert_eq!(number(&list(&list(held, "peers")[0], "quantities")[1], "median"), 3000.0, "{held}");
}

fn output_of_list() -> Output {
    let output = output(&mut command(&["--list"]));
    expect_success(&output);
    output
}

/// What `--list` has of suites: their names, and the peers of each.
fn suites_of(listed: &str) -> Vec<(&str, Vec<&str>)> {
    let suites = listed.split("\nPeers:\n").next().unwrap();
    let heads = suites.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let peers = suites.split('[').skip(1).map(|rest| rest.split(']').next().unwrap());
    let peers = peers.map(|peers| peers.split(',').map(str::trim).collect());
    heads.map(|line| line.split_whitespace().next().unwrap()).zip(peers).collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// How it is told.

#[test]
fn the_table_has_ratios_before_figures_in_a_hundred_columns() {
    let output = output(&mut command(&[
        "contended",
        "uncontended",
        "--rounds",
        "2",
        "--seconds",
        "2ms",
        "--processes",
        "2",
        "--peers",
        "pthread,flock",
    ]));
    expect_success(&output);
    let text = stdout(&output);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(text.starts_with("hostlock ") && text.contains("medians of 2 rounds in turn"), "{text}");
    // In the order of the list, whatever was said.
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what:?} in {text}"));
    assert!(at("== uncontended") < at("== contended"));
    assert!(at("/ it") < at("p99.9"));
    assert!(!text.contains("sem_t") && !text.contains("== reads"), "{text}");
    let goals = text.lines().filter(|line| line.ends_with("  met") || line.ends_with("NOT MET")).count();
    assert_eq!(goals, 3, "{text}");
    // ours, pthread, flock: of a mutex and reading; of a permit we alone; of sections, short and long.
    let rows = |name: &str| text.lines().filter(|line| line.split_whitespace().next() == Some(name)).count();
    assert_eq!((rows("pthread"), rows("flock")), (4, 4), "{text}");
}

/// Fails unless all tags of a page are closed in turn; which there are.
#[track_caller]
fn tags(page: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap_or(page);
    while let Some((text, after)) = rest.split_once('<') {
        assert!(!text.contains('>'), "a stray > in {text:?}");
        for entity in text.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "&{entity}");
        }
        let (tag, after) = after.split_once('>').expect("a tag that ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "</{name}> closes something else");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap().to_string();
        if !tag.ends_with('/') {
            open.push(name.clone());
        }
        all.push(name);
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}, {rest:?}");
    all
}

/// Fails if something else is needed to see it.
#[track_caller]
fn expect_self_contained(page: &str) {
    let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for outside in ["http:", "https:", "<script", "<link", "<img", "<iframe", "src=", "url(", "@import", "href=\"/"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(!page.contains("NaN") && !page.contains("inf "), "a number that is none");
}

#[test]
fn a_page_with_plots_needs_nothing_beside_itself() {
    let root = support::root();
    let file = root.path().join("bench.html");
    let output = bench(&["--html", file.to_str().unwrap(), "contended", "recovery", "held", "--processes", "2,4"]);
    expect_success(&output);
    assert!(stdout(&output).contains("== recovery"), "the table as well");
    let page = std::fs::read_to_string(&file).unwrap();
    let tags = tags(&page);
    expect_self_contained(&page);
    let count = |name: &str| tags.iter().filter(|tag| *tag == name).count();
    // Throughput of short and long sections; ratios and waits of four cases and of recovery; ratios of what was held.
    assert_eq!((count("svg"), count("h2")), (2 + 4 * 2 + 2 + 1, 3));
    assert_eq!(count("h3"), 6, "a table for each case");
    for (what, class) in
        [("lines", "class=\"line s0 ours\""), ("points", "<circle class=\"f0\""), ("bars", "<rect class=\"good\"")]
    {
        assert!(page.contains(class), "no {what}");
    }
}

#[test]
fn the_plots_alone_are_one_picture() {
    let root = support::root();
    let file = root.path().join("bench.svg");
    let output = bench(&["--svg", file.to_str().unwrap(), "reads", "--peers", "pthread", "--processes", "2,3"]);
    expect_success(&output);
    let picture = std::fs::read_to_string(&file).unwrap();
    expect_self_contained(&picture);
    let tags = tags(&picture);
    assert_eq!(tags.iter().filter(|tag| *tag == "svg").count(), 1);
    assert_eq!(picture.matches("class=\"title\"").count(), 5, "throughput; ratios and waits of two cases");
}

#[test]
fn help_fits_a_screen_and_names_the_suites() {
    let short = output(&mut command(&["-h"]));
    expect_success(&short);
    let text = stdout(&short);
    assert!(text.lines().count() <= 24 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let long = stdout(&output(&mut command(&["--help"])));
    assert!(long.contains("Examples:") && long.contains("Exit status:"), "{long}");
    let listed = stdout(&output_of_list());
    assert!(listed.lines().all(|line| line.chars().count() <= 100), "{listed}");
    let suites: Vec<&str> = suites_of(&listed).iter().map(|(name, _)| *name).collect();
    assert_eq!(suites, [&BUSY[..], &SINGLE[..]].concat(), "each of them is tried above");
}

#[test]
fn wrong_calls_are_one_line_and_64() {
    let root = support::root();
    let nowhere = root.path().join("nowhere/bench.html");
    let calls: &[(&[&str], &str, i32)] = &[
        (&["frobnicate"], "there is no suite 'frobnicate'; see hostlock bench --list", 64),
        (&["contended", ""], "there is no suite ''", 64),
        (&["--peers", "redis"], "there is no peer 'redis'", 64),
        (&["--peers", "pthread,"], "there is no peer ''", 64),
        (&["--peers", "sem_t", "recovery"], "'sem_t' is in none of the suites", 64),
        (&["--frobnicate"], "--frobnicate", 64),
        (&["--rounds", "0"], "0", 64),
        (&["--rounds", "many"], "many", 64),
        (&["--seconds", "soon"], "300ms", 64),
        (&["--seconds", "-1"], "300ms", 64),
        (&["--seconds", "0"], "1ms to 1h", 64),
        (&["--seconds", "2h"], "1ms to 1h", 64),
        (&["--processes", "0"], "0", 64),
        (&["--processes", "2,129"], "129", 64),
        (&["--processes", "2;4"], "2;4", 64),
        (&["--json", "--html", "a"], "--html", 64),
        (&["--html", "a", "--svg", "b"], "--svg", 64),
        (&["--html"], "--html", 64),
        (&["--html", nowhere.to_str().unwrap()], "no such file", 74),
        (&["--svg", root.path().to_str().unwrap()], "it is a directory", 74),
    ];
    for (arguments, reason, code) in calls {
        let output = output(&mut command(arguments));
        let text = stderr(&output);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(*code), ""), "{arguments:?}: {text}");
        assert!(text.starts_with("hostlock: ") && text.lines().count() == 1, "{arguments:?}: {text:?}");
        assert!(text.contains(reason), "{text:?} does not say {reason:?}");
    }
    assert!(!Path::new("a").exists() && !Path::new("b").exists());
}

// ---------------------------------------------------------------------------------------------------------------------
// What is left.

/// Files of the run whose first process is `pid`.
fn files(pid: Pid) -> Vec<PathBuf> {
    let prefix = format!("hostlock-bench-{pid}-");
    let entries = [Path::new("/dev/shm"), &std::env::temp_dir()].map(std::fs::read_dir).into_iter().flatten().flatten();
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))).collect()
}

/// System V semaphores that were last set by it.
fn semaphores(pid: Pid) -> Vec<i32> {
    let table = std::fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default();
    let ids = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)?.parse().ok());
    // SAFETY: there are no pointers; of what is gone, or not ours, there is no answer.
    ids.filter(|id| unsafe { libc::semctl(*id, 0, libc::GETPID) } == pid.as_raw()).collect()
}

/// Whoever was started by it, and by those.
fn descendants(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<i32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    children.iter().flat_map(|&child| [vec![child], descendants(child)].concat()).collect()
}

/// Ends one in the middle of a measurement; what it ended of, when nothing is left of it.
fn interrupted(end: impl Fn(Pid)) -> ExitStatus {
    let mut command = command(&["contended", "--seconds", "60s", "--processes", "4", "--peers", "pthread"]);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Background(command.spawn().unwrap());
    let pid = running.pid();
    wait_until("it measures", || descendants(pid.as_raw()).len() == 5);
    let processes = descendants(pid.as_raw());
    assert_eq!((files(pid).len(), semaphores(pid).len()), (1, 3), "what there is to be cleaned up");
    end(pid);
    let status = running.finish();
    assert_eq!((files(pid), semaphores(pid)), (vec![], vec![]), "after {status}");
    let left: Vec<_> = processes.into_iter().filter(|pid| is_running(*pid)).collect();
    assert!(left.is_empty(), "{left:?} run on after {status}");
    status
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    // As a terminal does it, to all of them; and as `kill` does it, to the first.
    let all = |signal| move |pid: Pid| kill(Pid::from_raw(-pid.as_raw()), signal).unwrap();
    assert_eq!(interrupted(all(Signal::SIGINT)).signal(), Some(libc::SIGINT));
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        assert_eq!(interrupted(|pid| kill(pid, signal).unwrap()).signal(), Some(signal as i32));
    }
    // Of the one that measures: nobody tells the first what happened.
    let worker = |pid: Pid| kill(Pid::from_raw(descendants(pid.as_raw())[0]), Signal::SIGKILL).unwrap();
    let status = interrupted(worker);
    assert_eq!((status.code(), status.signal()), (Some(71), None));
}

#[test]
fn processes_die_with_the_first_of_them_even_if_it_is_killed() {
    let mut command = command(&["contended", "--seconds", "60s", "--processes", "4", "--peers", "pthread"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Background(command.spawn().unwrap());
    let pid = running.pid();
    wait_until("it measures", || descendants(pid.as_raw()).len() == 5);
    let processes = descendants(pid.as_raw());
    let (files, semaphores) = (files(pid), semaphores(pid));
    running.kill();
    wait_until("all are gone", || !processes.iter().any(|pid| is_running(*pid)));
    // Nobody was left to do it.
    for path in files {
        std::fs::remove_dir_all(path).unwrap();
    }
    for id in semaphores {
        // SAFETY: there are no pointers.
        unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
    }
}

#[test]
fn a_finished_run_leaves_nothing() {
    let mut command = command(&["uncontended", "--peers", "sysv,flock"]);
    command.args(SHORT).stdin(Stdio::null()).stdout(Stdio::null());
    // Also where nobody wants to hear of children's ends.
    // SAFETY: signal is async-signal-safe, and no handler is set.
    unsafe {
        command.pre_exec(|| {
            nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigIgn)?;
            Ok(())
        })
    };
    let mut running = Background(command.spawn().unwrap());
    let pid = running.pid();
    assert!(running.finish().success());
    assert_eq!((files(pid), semaphores(pid)), (vec![], vec![]));
}
