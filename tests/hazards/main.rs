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

use support::backends::{by_name, name_of, space};
use support::rounds;

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
