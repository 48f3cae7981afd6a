//! One space in several namespaces, as containers have them: a volume that both have mounted, process 1 twice, other clocks, users that are somebody
//! else inside; and a `/dev/shm` that is small, full, or missing. What is special about segments is in `tests/oracle.rs`.
//!
//! Where a namespace cannot be made, these print `SKIPPED`.

mod support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};

use hostlock::{Backend, Error, Space};
use nix::unistd::geteuid;
use support::elsewhere::{NOBODY, can_run, in_mount_namespace, inner, kill_inner};
use support::parts::{BACKENDS, ask, each_kind, handed_over, with_both};
use support::{Actor, act, behind, command, hear, root, say, start_command};

#[test]
fn role() {
    act(&[("part", support::parts::act), ("default", default_space)]);
}

fn part(program: &[&str], root: &Path, backend: &str) -> Actor {
    let plain = command("part", &[root.to_str().unwrap(), backend, "600"]);
    let actor = match program {
        [] => start_command(plain),
        program => start_command(behind(program, &plain)),
    };
    actor.expect("ready");
    actor
}

const NOT_ELSEWHERE: &[&str] = &[];
const NEW_PIDS: &[&str] = &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
const NEW_TIME: &[&str] =
    &["unshare", "--time", "--boottime", "1000000", "--monotonic", "1000000", "--fork", "--kill-child"];

/// H03, H04, H05, H10: the same PID twice, PIDs that mean nothing here, clocks that differ.
#[test]
fn whoever_is_in_another_namespace_is_alive_until_it_is_dead() {
    for (program, is_pid_namespace) in [(NEW_PIDS, true), (NEW_TIME, false)] {
        or_skip!(can_run(program));
        with_both(|backend| {
            // Inside and outside; in two of them; the other way round.
            for (of_holder, of_waiter) in [(program, NOT_ELSEWHERE), (program, program), (NOT_ELSEWHERE, program)] {
                let root = root();
                let (holder, waiter) = (part(of_holder, root.path(), backend), part(of_waiter, root.path(), backend));
                match of_holder {
                    NOT_ELSEWHERE => {
                        let seen = (holder.pid().as_raw(), is_pid_namespace);
                        each_kind(backend, (holder, waiter), seen, Actor::kill);
                    }
                    _ => {
                        let seen = if is_pid_namespace { (1, true) } else { (inner(holder.pid()).as_raw(), false) };
                        each_kind(backend, (holder, waiter), seen, kill_inner);
                    }
                }
            }
        });
    }
}

/// A process of a container that has `volume` at a place of its own, with the PIDs and the `/proc` of its own, as an engine sets it up.
fn in_container(volume: &Path, at: &Path, backend: &str) -> Actor {
    let script =
        "mount --bind \"$1\" \"$2\" && mount -t proc -o hidepid=invisible proc /proc && shift 2 && exec \"$@\"";
    let program = [
        &["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--ipc", "--uts"][..],
        &["sh", "-c", script, "sh", volume.to_str().unwrap(), at.to_str().unwrap()],
    ]
    .concat();
    part(&program, at, backend)
}

#[test]
fn containers_that_share_a_volume_share_its_locks() {
    or_skip!(can_run(&["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--ipc", "--uts"]));
    let places = root();
    // In memory, and where volumes are: on a disk.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let memory = root();
    for volume in [memory.path(), disk.path()] {
        with_both(|backend| {
            let volume = &volume.join(backend);
            fs::create_dir(volume).unwrap();
            let [at_one, at_two] = ["one", "two"].map(|name| places.path().join(format!("{name} {backend}")));
            [&at_one, &at_two].iter().for_each(|at| fs::create_dir_all(at).unwrap());
            let pair = (in_container(volume, &at_one, backend), in_container(volume, &at_two, backend));
            each_kind(backend, pair, (1, true), kill_inner);
            // The host beside them.
            let (mut one, mut host) = (in_container(volume, &at_one, backend), part(&[], volume, backend));
            handed_over(backend, &mut one, &mut host);
            assert_eq!(ask(&mut one, "hold mutex"), "got");
            assert_eq!(ask(&mut host, "try mutex"), "refused by 1 elsewhere true");
            kill_inner(&mut one);
            assert_eq!(ask(&mut host, "wait mutex"), "got from 1");
        });
    }
}

/// Whoever runs this, as somebody without privilege.
fn as_somebody() -> Vec<&'static str> {
    match geteuid().is_root() {
        true => vec!["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"],
        false => vec!["env"],
    }
}

/// Containers of an engine without root: inside, its user is root, and everybody else is nobody.
#[test]
fn containers_of_a_user_without_privilege_share_a_space_with_that_user() {
    let somebody = as_somebody();
    let own_users: &[&str] =
        &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let inside = [somebody.as_slice(), own_users].concat();
    // A user that is nobody's: not even its own.
    let unmapped = [somebody.as_slice(), &["unshare", "--user", "--pid", "--fork", "--kill-child"]].concat();
    or_skip!(can_run(&inside));
    let reachable = Command::new(somebody[0])
        .args(&somebody[1..])
        .arg(std::env::current_exe().unwrap())
        .arg("--list")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !reachable.is_ok_and(|status| status.success()) {
        skip!("another user cannot reach this program");
    }
    with_both(|backend| {
        for (of_holder, of_waiter) in
            [(&inside, &somebody), (&somebody, &inside), (&inside, &inside), (&unmapped, &inside)]
        {
            let root = root();
            if geteuid().is_root() {
                chown(root.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            let is_inside = of_holder.len() > somebody.len();
            let (holder, waiter) = (part(of_holder, root.path(), backend), part(of_waiter, root.path(), backend));
            let seen = if is_inside { (1, true) } else { (holder.pid().as_raw(), true) };
            let kill = |holder: &mut Actor| if is_inside { kill_inner(holder) } else { holder.kill() };
            each_kind(backend, (holder, waiter), seen, kill);
        }
    });
}

// A /dev/shm of a container: 64 MB by default, and whatever somebody made it.

/// In a default root, or in the one it is told: what came of opening with the default sizes, and with small ones, and what is left in /dev/shm.
fn default_space(arguments: &[String]) {
    let backend = if arguments[0] == "segment" { Backend::Segment } else { Backend::Files };
    let small = |name: &str| {
        let builder = Space::builder(name).backend(backend).locks(8);
        if backend == Backend::Segment { builder.participants(4).extents(0) } else { builder }
    };
    let left = || {
        let root = format!("/dev/shm/hostlock-{}", geteuid());
        let mut names: Vec<_> = fs::read_dir(root)
            .map(|all| all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names.join(" ")
    };
    match Space::builder("test").backend(backend).open() {
        Ok(space) => say(format!("opened {}", space.backend())),
        Err(Error::NoRoom { needed, available, .. }) => say(format!("no room {needed} {available} [{}]", left())),
        Err(error) => say(format!("failed: {error} [{}]", left()).replace('\n', " ")),
    }
    match small("small").open() {
        Ok(space) => {
            // Every page of it, and every file that may come.
            let held: Vec<_> = (0..8)
                .map(|number| space.mutex(&format!("lock {number}")).and_then(|mutex| mutex.try_lock_owned()))
                .collect::<Result<_, _>>()
                .unwrap();
            assert!(held.iter().all(|guard| guard.is_held()));
            say(format!("works [{}]", left()));
        }
        Err(error) => say(format!("failed: {error} [{}]", left()).replace('\n', " ")),
    }
    hear();
}

/// Starts that in a mount namespace in which /dev/shm was made so.
fn with_shm(preparation: &str, backend: &str) -> Option<Actor> {
    in_mount_namespace(preparation, Path::new("/dev/shm"), "default", &[backend])
}

const OWN_MOUNTS: &[&str] = &["unshare", "--mount", "--propagation", "private"];

#[test]
fn a_small_dev_shm_has_no_room_and_says_for_how_much_and_a_small_space_fits() {
    or_skip!(can_run(OWN_MOUNTS));
    for backend in BACKENDS {
        let Some(actor) = with_shm("mount -t tmpfs -o size=64k,mode=1777 none \"$1\"", backend) else {
            skip!("no tmpfs of our own can be mounted");
        };
        let said = actor.hear();
        let words: Vec<&str> = said.splitn(5, ' ').collect();
        assert_eq!((words[0], words[1], words[4]), ("no", "room", "[]"), "{backend}: {said}");
        let [needed, available] = [words[2], words[3]].map(|word| word.parse::<u64>().unwrap());
        assert!(needed > 1 << 20 && available <= 64 << 10, "{backend}: {said}");
        actor.expect("works [small]");
    }
}

#[test]
fn a_dev_shm_full_of_others_data_is_no_room_and_nothing_is_left_in_it() {
    or_skip!(can_run(OWN_MOUNTS));
    for backend in BACKENDS {
        let full = "mount -t tmpfs -o size=8m,mode=1777 none \"$1\" && ! cat /dev/zero > \"$1/others\" 2>/dev/null";
        let Some(actor) = with_shm(full, backend) else { skip!("no tmpfs of our own can be mounted") };
        let said = actor.hear();
        assert!(said.starts_with("no room ") && said.ends_with(" 0 []"), "{backend}: {said}");
        let said = actor.hear();
        assert!(said.starts_with("failed: cannot create the space") && said.ends_with("[]"), "{backend}: {said}");
        assert!(said.contains("choose another root"), "{backend}: {said}");
    }
}

#[test]
fn a_dev_shm_that_cannot_be_written_to_or_is_missing_is_an_error_that_names_another_way() {
    or_skip!(can_run(OWN_MOUNTS));
    let read_only = "mount -t tmpfs -o ro,mode=1777 none \"$1\"";
    // A file system without it, with the programs that are needed.
    let missing = "mount -t tmpfs none /dev";
    let not_a_directory = "mount -t tmpfs none /dev && touch /dev/shm";
    for (preparation, reason) in
        [(read_only, "Read-only file system"), (missing, "No such file"), (not_a_directory, "Not a directory")]
    {
        for backend in BACKENDS {
            let Some(actor) = with_shm(preparation, backend) else { skip!("not possible here: {preparation}") };
            for _ in 0..2 {
                let said = actor.hear();
                assert!(said.starts_with("failed: ") && said.contains("/dev/shm/hostlock-"), "{backend}: {said}");
                assert!(said.contains(reason) && said.contains("name another"), "{backend}: {said}");
            }
        }
    }
}

#[test]
fn a_dev_shm_without_the_right_to_execute_is_as_good() {
    or_skip!(can_run(OWN_MOUNTS));
    for backend in BACKENDS {
        let bare = "mount -t tmpfs -o size=8m,mode=1777,noexec,nosuid,nodev none \"$1\"";
        let Some(actor) = with_shm(bare, backend) else { skip!("no tmpfs of our own can be mounted") };
        actor.expect(&format!("opened {backend}"));
        actor.expect("works [small test]");
    }
}
