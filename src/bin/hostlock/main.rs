//! `hostlock`: the locks of a machine's processes, for shells.
//!
//! Everything here stands on the library's public functions. [`args`] is what can be said on the command line, [`exit`] how the tool
//! ends, [`run`] a command under a lock, or while leading ([`signals`]: what reaches it meanwhile), [`status`] who holds what, [`doctor`] what
//! this machine can do, [`bench`] what locks cost on it.
#![deny(unsafe_code)]

mod args;
#[cfg(feature = "bench")]
mod bench;
mod doctor;
mod exit;
mod lock;
mod output;
mod run;
mod signals;
mod status;

use std::process::ExitCode;

use args::{Action, Parsed};

fn main() -> ExitCode {
    let outcome = match args::parse() {
        Parsed::Act(Action::Run(args)) => run::run(args),
        Parsed::Act(Action::Elect(args)) => run::elect(args.into()),
        Parsed::Act(Action::Status(args)) => status::status(&args).map(|()| 0),
        Parsed::Act(Action::Move(args)) => move_to(&args).map(|()| 0),
        Parsed::Act(Action::Doctor(args)) => doctor::doctor(&args).map(|()| 0),
        #[cfg(feature = "bench")]
        Parsed::Act(Action::Bench(args)) => bench::bench(&args),
        Parsed::Tell(text) => output::print(&text).map(|()| 0),
        Parsed::Wrong(failure) => Err(failure),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(failure) => {
            output::complain(&failure.message);
            failure.code.into()
        }
    }
}

fn move_to(args: &args::MoveArgs) -> Result<(), exit::Failure> {
    args.space.builder()?.move_to(args.to())?;
    Ok(())
}
