//! Files that others remove, or put something else in the place of.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fs2::FileExt;
use hostlock::{Backend, Error, Space};

use crate::support::root;
use crate::{or_skip, skip, space};

/// Whether the cleaner that systems run daily removed all it could below `root`, as if all of it were old; otherwise why it cannot be run.
fn clean(root: &Path) -> Result<(), String> {
    let rules = root.with_extension("rules");
    fs::write(&rules, format!("d {} 0700 root root 0\n", root.display())).map_err(|error| error.to_string())?;
    let output = Command::new("systemd-tmpfiles").arg("--clean").arg(&rules).output();
    fs::remove_file(&rules).map_err(|error| error.to_string())?;
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("systemd-tmpfiles: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("there is no systemd-tmpfiles: {error}")),
    }
}

/// H41: cleaners that ask whether a directory is locked are told that it is, as long as somebody is in the space. (What becomes of a space that others
/// clean away is tested elsewhere.)
#[test]
fn a_space_in_use_says_so_to_those_who_clean_up() {
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let one = space(root.path(), backend);
        let directory = File::open(one.path()).unwrap();
        drop(one.mutex("a").unwrap().lock().unwrap());
        assert!(FileExt::try_lock_exclusive(&directory).is_err(), "{backend}: a cleaner would take it for unused");
        // Also if nothing in it is held or open.
        let path = one.path().to_owned();
        drop(one);
        FileExt::try_lock_exclusive(&directory).unwrap();
        drop(directory);
        assert!(path.is_dir());
    }
}

/// H41: the real one.
#[test]
fn a_cleaner_of_temporary_files_makes_no_second_holder() {
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let users = space(root.path(), backend);
        let guard = users.mutex("a").unwrap().lock_owned().unwrap();
        or_skip!(clean(root.path()));
        let is_there = |name: &str| users.path().join(name).exists();
        println!("{backend}: in use, it left {}", is_there("segment") || is_there("files"));
        let newcomer = Space::builder("test").root(root.path()).backend(backend).open();
        match newcomer.and_then(|space| space.mutex("a")?.try_lock_owned_for(Duration::from_millis(50))) {
            Err(
                Error::TimedOut { .. } | Error::Deadlock { .. } | Error::Removed { .. } | Error::LockFileGone { .. },
            ) => {}
            outcome => panic!("{backend}: {outcome:?}"),
        }
        assert!(guard.is_held(), "{backend}");
        let path = users.path().to_owned();
        drop((guard, users));
        // It does clean up.
        clean(root.path()).unwrap();
        assert!(!path.join("segment").exists() && !path.join("files").exists(), "{backend}: it removes nothing");
    }
}

/// H52: a link is swapped in for the file, and for its directory, while others open the space and create it. Where it leads, nothing is touched.
#[test]
fn a_link_swapped_in_for_a_segment_leads_nobody_astray() {
    let root = root();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("precious");
    fs::write(&target, "precious").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
    let names_there = || fs::read_dir(elsewhere.path()).unwrap().count();
    let directory = root.path().join("test");
    let segment = directory.join("segment");
    let end = Instant::now() + Duration::from_secs(2);
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let [aside, link] = ["aside", "link"].map(|name| root.path().join(name));
            for round in 0.. {
                if Instant::now() >= end {
                    break;
                }
                // The file, its directory, and the name under which it is made.
                let (path, to) = match round % 3 {
                    0 => (&segment, target.as_path()),
                    1 => (&directory, elsewhere.path()),
                    _ => (&directory.join(".segment.new"), target.as_path()),
                };
                let _ = symlink(to, &link);
                let was_there = fs::rename(path, &aside).is_ok();
                let _ = fs::rename(&link, path);
                std::thread::sleep(Duration::from_micros(200));
                if path.is_symlink() {
                    let _ = fs::remove_file(path);
                }
                if was_there {
                    // Unless somebody made another one meanwhile.
                    let back = nix::fcntl::renameat2(
                        nix::fcntl::AT_FDCWD,
                        &aside,
                        nix::fcntl::AT_FDCWD,
                        path,
                        nix::fcntl::RenameFlags::RENAME_NOREPLACE,
                    );
                    if back.is_err() {
                        let _ = fs::remove_dir_all(&aside).or_else(|_| fs::remove_file(&aside));
                    }
                }
                let _ = fs::remove_file(&link);
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        while Instant::now() < end {
            match Space::builder("test").root(root.path()).participants(4).locks(4).open() {
                Ok(space) => {
                    let _ = space.mutex("a").and_then(|mutex| mutex.try_lock_owned_for(Duration::from_millis(1)));
                    opened += 1;
                }
                Err(error) => {
                    let said = error.to_string();
                    assert!(!said.contains("does not begin as a segment does"), "the link was followed: {said}");
                    refused += 1;
                }
            }
            assert_eq!(names_there(), 1, "something was made where the link leads");
        }
    });
    println!("{opened} times opened, {refused} times refused");
    assert!(opened > 10 && refused > 10, "{opened} times opened, {refused} times refused: that shows nothing");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o644);
}
