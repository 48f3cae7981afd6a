//! What has gone wrong in systems like this one, and is provoked by no test beside it. `src/docs/hazards.md` has all of it, with the tests that
//! provoke each; `H06` and so on are its rows.

#[path = "../conformance/actor.rs"]
#[allow(dead_code)]
mod actor;
#[path = "../support/mod.rs"]
mod support;

mod clocks;
mod deaths;
mod files;
mod kernel;
mod numbers;
mod rights;
#[cfg(feature = "cli")]
mod tool;
mod waiting;

use std::path::Path;

use hostlock::{Backend, Space};

#[test]
fn role() {
    support::act(&[
        ("actor", actor::act),
        ("contained", numbers::contained),
        ("thread reborn", numbers::thread_reborn),
        ("judge", numbers::judge),
        ("murderer", numbers::murderer),
        ("glutton", deaths::glutton),
        ("shut out", deaths::shut_out),
        ("undertaker", deaths::undertaker),
        ("owner of data", deaths::owner_of_data),
        ("patient", clocks::patient),
        ("deaf", kernel::deaf),
        ("first reader", kernel::first_reader),
        ("modest opener", rights::modest_opener),
        ("intruder", rights::intruder),
        ("creator", rights::creator),
        ("waiter", waiting::waiter),
    ]);
}

/// The space under `root`, made so.
fn space(root: impl AsRef<Path>, backend: Backend) -> Space {
    Space::builder("test").root(root.as_ref()).backend(backend).open().expect("a space")
}

fn name_of(backend: Backend) -> &'static str {
    if backend == Backend::Files { "files" } else { "segment" }
}

fn by_name(name: &str) -> Backend {
    if name == "files" { Backend::Files } else { Backend::Segment }
}

/// So many rounds of what is tried, and more in the long form.
fn rounds(short: u32) -> u32 {
    std::env::var("HOSTLOCK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(short)
}

/// Whether `program` can put somebody into its situation here; otherwise why not.
fn can_run(program: &[&str]) -> Result<(), String> {
    let output = support::behind(program, &std::process::Command::new("true")).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program:?}: {error}")),
    }
}

/// A PID namespace of its own, whose process 1 the test's process is.
const NEW_PIDS: &[&str] = &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
