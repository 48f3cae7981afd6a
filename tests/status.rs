//! `hostlock status` and the library's look from outside: what is shown, and that nothing is changed by looking.
#![cfg(feature = "cli")]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use hostlock::{Held, LockKind, Space};
use serde_json::Value;
use support::tool::*;
use support::wait_until;

#[test]
fn role() {
    support::act(&[("holder", holder)]);
}

/// Holds the locks it is told to, until it is told to go.
fn holder(arguments: &[String]) {
    let space = support::space_named("space", &arguments[0]);
    let guards: Vec<_> = arguments[1..].iter().map(|name| space.mutex(name).unwrap().lock_owned().unwrap()).collect();
    support::say("holding");
    support::hear();
    drop(guards);
}

fn start_holder(place: &Place, names: &[&str]) -> support::Actor {
    let root = place.root.path().to_str().unwrap();
    let arguments: Vec<&str> = [root].into_iter().chain(names.iter().copied()).collect();
    let actor = support::start("holder", &arguments);
    actor.expect("holding");
    actor
}

fn json(place: &Place) -> Value {
    let output = place.output("status", &["--json"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn lock<'a>(found: &'a Value, name: &str) -> &'a Value {
    let locks = found["locks"].as_array().unwrap();
    locks.iter().find(|lock| lock["name"] == name).unwrap_or_else(|| panic!("{name} in {found}"))
}

/// The rows of the table, cell by cell.
fn table(place: &Place, options: &[&str]) -> Vec<Vec<String>> {
    let output = place.output("status", options);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    stdout(&output).lines().map(|line| line.split_whitespace().map(String::from).collect()).collect()
}

#[rustfmt::skip]
const HEAD: [&str; 13] = [
    "NAME", "KIND", "STATE", "PID", "COMMAND", "FOR", "TOKEN", "SINCE", "WAITERS", "DEAD", "CONTENDED", "RECOVERED", "LEASE",
];

#[test]
fn every_state_is_shown_in_stable_columns_and_as_json() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    drop(space.mutex("free").unwrap().lock().unwrap());
    let mut dead = start_holder(&place, &["left", "told"]);
    let dead_pid = dead.pid().to_string();
    dead.kill();
    let told = space.mutex("told").unwrap();
    let told_guard = told.lock().unwrap();
    let run = place.start_script(&[], "held by a run", "exec sleep 600");
    let run_pid = run.pid().to_string();
    let waiting = place.start(&["-q", "held by a run", "--", "true"]);
    wait_until("somebody waits", || space.usage().waiting == 1);

    let found = json(&place);
    let rows = table(&place, &[]);
    assert_eq!(rows[0], HEAD);
    assert!(rows.iter().all(|row| row.len() == HEAD.len()), "{rows:?}");
    let row = |name: &str| rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name} in {rows:?}"));
    let names: Vec<&str> = rows[1..].iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["free", r"held\u{20}by\u{20}a\u{20}run", "left", "told"], "sorted, in one word each");

    let (free, shown) = (lock(&found, "free"), row("free"));
    assert_eq!((&free["state"], &free["kind"], &free["holder"]), (&"free".into(), &"mutex".into(), &Value::Null));
    assert_eq!(shown[1..6], ["mutex", "free", "-", "-", "-"]);

    // Held by `run`: since when, by whom, for whom, and who waits.
    let (held, shown) = (lock(&found, "held by a run"), row(r"held\u{20}by\u{20}a\u{20}run"));
    let holder = &held["holder"];
    assert_eq!((&held["state"], &holder["command"]), (&"held".into(), &"hostlock".into()));
    assert_eq!((holder["pid"].to_string(), &holder["since_exact"]), (run_pid.clone(), &true.into()));
    assert_eq!(holder["for"]["command"], "sh");
    assert!(is_running(holder["for"]["pid"].as_i64().unwrap() as i32));
    assert!(holder["held_seconds"].as_f64().unwrap() >= 0.0 && holder["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(held["waiters"][0]["pid"].to_string(), waiting.pid().to_string());
    assert_eq!((held["waiters"].as_array().unwrap().len(), &held["contended"]), (1, &1.into()));
    assert_eq!(shown[2..5], ["held", &run_pid, "hostlock"]);
    assert_eq!(shown[5], format!("{}(sh)", holder["for"]["pid"]));
    assert_eq!(shown[6], held["token"].as_str().unwrap());
    assert_eq!(
        (&shown[7], &shown[8]),
        (&holder["since"].as_str().unwrap().to_string(), &format!("{}(hostlock)", waiting.pid()))
    );

    // Its owner died. (Whoever took "told" over has not cleaned up yet, so the dead one still stands in "left".)
    let (left, shown) = (lock(&found, "left"), row("left"));
    assert_eq!((&left["state"], &left["holder"]), (&"abandoned".into(), &Value::Null));
    assert_eq!((left["abandoned"]["pid"].to_string(), &left["abandoned"]["token"]), (dead_pid.clone(), &left["token"]));
    assert_eq!((shown[2].as_str(), shown[3].as_str()), ("abandoned", "-"));
    assert!(shown[9].starts_with(&format!("{dead_pid}(status-")), "{shown:?}");

    // Whoever holds it now was told, and the mark stands until it lets go.
    let (told, shown) = (lock(&found, "told"), row("told"));
    assert_eq!((&told["state"], told["holder"]["pid"].as_u64()), (&"held".into(), Some(std::process::id().into())));
    assert_eq!((told["abandoned"]["pid"].to_string(), &told["recovered"]), (dead_pid.clone(), &1.into()));
    assert!(shown[9].starts_with(&format!("{dead_pid}(")), "{shown:?}");
    drop(told_guard);
    let found = json(&place);
    assert_eq!((&lock(&found, "told")["state"], &lock(&found, "told")["abandoned"]), (&"free".into(), &Value::Null));
    // Cleaned up now, after the release.
    let left = lock(&found, "left");
    assert_eq!((&left["state"], left["abandoned"]["pid"].to_string()), (&"abandoned".into(), dead_pid));
    assert_eq!((&found["participants"], &found["dead_participants"]), (&3.into(), &0.into()));
}

/// A waits for what B has, and B for what a third one has.
#[test]
fn who_waits_for_whom_is_shown() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    assert_eq!(
        table(&place, &["--waits"]),
        [["PID", "COMMAND", "THREAD", "NAME", "KIND", "SECONDS", "HOLDERS", "FOR"]]
    );
    let last = space.mutex("last").unwrap().lock_owned().unwrap();
    let (tool, path) = (env!("CARGO_BIN_EXE_hostlock"), place.space());
    let path = path.to_str().unwrap();
    let middle = place.start(&["-q", "middle", "--", tool, "run", "-q", "--path", path, "last", "--", "true"]);
    wait_until("one waits", || space.usage().waiting == 1);
    let first = place.start(&["-q", "middle", "--", "true"]);
    wait_until("two wait", || space.usage().waiting == 2);
    let rows = table(&place, &["--waits"]);
    let row = |at: usize| (rows[at][0].as_str(), rows[at][1].as_str(), rows[at][3].as_str(), rows[at][4].as_str());
    let inner = rows[1][0].clone();
    assert_eq!(row(1), (&*inner, "hostlock", "last", "mutex"));
    assert!(rows[1][6].starts_with(&format!("{}(status-", std::process::id())), "{rows:?}");
    assert_eq!(row(2), (&*first.pid().to_string(), "hostlock", "middle", "mutex"));
    assert_eq!(rows[2][6], format!("{}(hostlock)", middle.pid()));
    // Which leads on: the one that waits above holds this for somebody else's sake.
    assert_eq!((&*rows[1][7], &*rows[2][7]), ("-", &*format!("{inner}(hostlock)")));
    assert!(rows[1][5].parse::<f64>().unwrap() >= rows[2][5].parse::<f64>().unwrap(), "the longest first: {rows:?}");
    assert_eq!(table(&place, &["--waits", "last"]).len(), 2);
    drop(last);
}

#[test]
fn a_lease_is_shown_while_it_runs_and_when_it_is_lost() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    let mutex = space.mutex("leased").unwrap();
    let guard = mutex.lock_with_lease(Duration::from_secs(3600)).unwrap();
    assert_eq!(table(&place, &[])[1][12], "3600s");
    let left = lock(&json(&place), "leased")["holder"]["lease_seconds"].as_f64().unwrap();
    assert!(left > 3000.0 && left <= 3600.0, "{left}");
    drop(guard);
    assert_eq!(table(&place, &[])[1][12], "-");

    let guard = mutex.lock_with_lease(Duration::from_millis(1)).unwrap();
    wait_until("it runs out", || !guard.is_held());
    assert_eq!(table(&place, &[])[1][12], "lost");
    assert_eq!(lock(&json(&place), "leased")["holder"]["lease_seconds"], 0.0);
    let next = mutex.lock().unwrap();
    let found = json(&place);
    let lost = &lock(&found, "leased")["abandoned"];
    assert_eq!((&lost["lease_lost"], lost["pid"].as_u64()), (&true.into(), Some(std::process::id().into())));
    assert_eq!(lock(&found, "leased")["holder"]["lease_seconds"], Value::Null);
    drop(next);
}

#[test]
fn one_name_may_be_asked_for_and_an_unknown_one_is_69() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    for name in ["a", "b"] {
        space.mutex(name).unwrap();
    }
    let one = place.output("status", &["b"]);
    assert_eq!(stdout(&one).lines().skip(1).map(|line| &line[..1]).collect::<Vec<_>>(), ["b"]);
    for options in [&["c"][..], &["c", "--json"]] {
        let none = place.output("status", options);
        assert_eq!((none.status.code(), stdout(&none)), (Some(69), String::new()));
        assert!(stderr(&none).starts_with("hostlock: there is no lock \"c\" in the space "), "{}", stderr(&none));
    }
}

#[test]
fn looking_creates_nothing_and_writes_nothing() {
    let place = Place::new();
    let missing = place.output("status", &[]);
    assert_eq!(missing.status.code(), Some(69));
    assert!(stderr(&missing).starts_with("hostlock: there is no space "), "{}", stderr(&missing));
    assert_eq!(std::fs::read_dir(place.root.path()).unwrap().count(), 0, "not even a directory");

    let mut dead = start_holder(&place, &["left"]);
    dead.kill();
    let holder = start_holder(&place, &["held"]);
    let file = place.space().join("segment");
    let state = || {
        let meta = std::fs::metadata(&file).unwrap();
        let mut bytes = Vec::new();
        File::open(&file).unwrap().read_to_end(&mut bytes).unwrap();
        (bytes, meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec(), std::fs::read_dir(place.space()).unwrap().count())
    };
    let before = state();
    for options in [&[][..], &["--json"], &["held"]] {
        assert!(place.output("status", options).status.success());
    }
    assert!(state() == before, "something was changed by looking");
    drop(holder);
}

#[test]
fn whoever_may_read_may_look_and_nobody_else() {
    if !nix::unistd::geteuid().is_root() {
        skip!("becoming another user needs root");
    }
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    let guard = space.mutex("a").unwrap().lock_owned().unwrap();
    let as_nobody = || output(place.command("status", &["a"]).uid(65534).gid(65534));
    let refused = as_nobody();
    assert_eq!((refused.status.code(), stdout(&refused)), (Some(69), String::new()));
    assert!(
        stderr(&refused).contains("Permission denied") && stderr(&refused).lines().count() == 1,
        "{}",
        stderr(&refused)
    );
    // Opened for reading, against our advice, it can be looked at; the holder is not taken for dead.
    for (path, mode) in [(place.root.path(), 0o755), (&place.space(), 0o755), (&place.space().join("segment"), 0o644)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let seen = as_nobody();
    assert_eq!(seen.status.code(), Some(0), "{}", stderr(&seen));
    assert!(stdout(&seen).contains(&format!(" {} ", std::process::id())), "{}", stdout(&seen));
    drop(guard);
}

#[test]
fn a_space_that_is_not_one_is_an_error() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    drop(space);
    let file = place.space().join("segment");
    let sound = std::fs::read(&file).unwrap();
    let shown = |bytes: &[u8]| {
        // In place: another file would be known by its inode.
        std::fs::write(&file, bytes).unwrap();
        let output = place.output("status", &[]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(69), String::new()));
        assert_eq!(stderr(&output).lines().count(), 1);
        stderr(&output)
    };
    assert!(shown(b"").contains("it is empty"));
    assert!(shown(&sound[..5000]).contains("somebody cut it"));
    let mut flipped = sound.clone();
    flipped[40] ^= 1;
    assert!(shown(&flipped).contains("checksum"));
    std::fs::write(&file, &sound).unwrap();
    assert!(place.output("status", &[]).status.success());
}

#[test]
fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    for number in 0..2000 {
        space.mutex(&format!("{number:060}")).unwrap();
    }
    // More than a pipe holds.
    for options in [&[][..], &["--json"]] {
        let mut child = place.command("status", options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output =
        place.command("status", &[]).stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(74), "hostlock: cannot write the output: no space left on device\n".into())
    );
    let closed = output_of_shell(&place, "exec 1>&-; exec \"$@\"");
    assert_eq!(closed, Some(0), "output that was closed from the start");
}

fn output_of_shell(place: &Place, script: &str) -> Option<i32> {
    let status = place.command("status", &[]);
    let mut shell = dying_with_us(Command::new("sh"));
    shell.args(["-c", script, "sh"]).arg(status.get_program()).args(status.get_args());
    output(&mut shell).status.code()
}

#[test]
fn the_library_sees_the_same_and_says_when() {
    let place = Place::new();
    let builder = || Space::builder("space").root(place.root.path());
    let space = builder().open().unwrap();
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    let look = || builder().inspect().unwrap().locks.remove(0);
    let seen = look().holder.unwrap();
    assert_eq!((seen.pid, seen.token, seen.held), (std::process::id(), guard.token(), Held::Unknown));
    guard.stamp();
    std::thread::sleep(Duration::from_millis(20));
    let seen = look();
    assert!(matches!(seen.holder.unwrap().held, Held::For(span) if span >= Duration::from_millis(20)));
    assert_eq!((seen.kind, seen.abandoned, seen.damage), (LockKind::Mutex, None, None));
    drop(guard);
    let inspection = builder().inspect().unwrap();
    assert_eq!(inspection.usage, space.usage());
    assert_eq!(inspection.path, space.path());
    let [me] = &inspection.participants[..] else { panic!("{inspection:?}") };
    assert_eq!((me.process.pid, me.dead, me.elsewhere, &me.on_behalf_of), (std::process::id(), false, false, &None));
    assert!(inspection.created <= me.joined && me.joined <= std::time::SystemTime::now());
}

#[test]
fn damaged_words_are_shown_as_such() {
    let place = Place::new();
    let space = support::space_named("space", place.root.path());
    drop(space.mutex("a").unwrap().lock().unwrap());
    drop(space.mutex("b").unwrap().lock().unwrap());
    let raw = support::raw::Raw::open(place.space());
    let (a, b) = (raw.entry("a").unwrap(), raw.entry("b").unwrap());
    // A code that nobody can have, and a slot in which nobody is.
    raw.put(a.at, a.owner | 1 << 2);
    raw.put(b.at, support::raw::held_by(77, 9));
    let found = json(&place);
    for (name, text) in [("a", "damaged owner"), ("b", "held by slot 77, epoch 9, whom nobody knows")] {
        let lock = lock(&found, name);
        assert_eq!((&lock["state"], &lock["holder"]), (&"damaged".into(), &Value::Null));
        assert!(lock["damage"].as_str().unwrap().contains(text), "{lock}");
    }
    raw.put(a.at, a.owner);
    raw.put(b.at, b.owner);
}

/// A flipped bit in what says whose an entry is: it was shown as if it were not there, and moving the space lost it, and the death with it.
#[test]
fn a_lock_that_lost_its_name_to_damage_is_shown_and_not_lost_in_a_move() {
    let place = Place::new();
    let mut holder = start_holder(&place, &["a"]);
    holder.kill();
    let raw = support::raw::Raw::open(place.space());
    let entry = raw.entry("a").unwrap();
    // Its state and its length; its name is in another place, and has a hash.
    for (at, flipped) in [(entry.at + 32, 1 << 24), (entry.at + 32, 1 << 15), (entry.at + 64, 1)] {
        let sound = raw.u64_at(at);
        raw.put(at, sound ^ flipped);
        let named = at != entry.at + 32;
        let rows = table(&place, &[]);
        assert_eq!((rows.len(), rows[1][0] == "-", rows[1][2].as_str()), (2, !named, "damaged"), "{rows:?}");
        let found = json(&place);
        assert!(found["locks"][0]["damage"].is_string(), "{found}");
        let doctor = stdout(&place.output("doctor", &[]));
        assert!(doctor.contains("damaged: "), "{doctor}");
        let moved = place.output("move", &["--to", "files"]);
        assert_eq!(moved.status.code(), Some(69), "{}", stderr(&moved));
        raw.put(at, sound);
    }
    assert_eq!(place.output("run", &["a", "--", "true"]).status.code(), Some(0));
    assert_eq!(place.output("move", &["--to", "files"]).status.code(), Some(0));
}
