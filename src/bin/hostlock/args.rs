//! What can be said on the command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use hostlock::{Backend, Semaphore, Space, SpaceBuilder};

use crate::exit::{Code, Failure};

/// The space that is meant where none is named.
const DEFAULT_SPACE: &str = "default";

/// Locks for the processes of one machine
#[derive(Debug, Parser)]
#[command(name = "hostlock", version, after_long_help = EXAMPLES)]
#[command(disable_help_subcommand = true, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Run a command while holding a lock
    #[command(override_usage = "hostlock run [OPTIONS] NAME -- COMMAND...")]
    #[command(after_help = RUN_EXIT, after_long_help = RUN_MANUAL)]
    Run(RunArgs),
    /// Run a command while leading: of all that say so, one at a time
    #[command(override_usage = "hostlock elect [OPTIONS] NAME -- COMMAND...", after_long_help = ELECT_MANUAL)]
    Elect(ElectArgs),
    /// Show who holds what, who waits, and what died
    #[command(override_usage = "hostlock status [OPTIONS] [NAME]", after_long_help = STATUS_MANUAL)]
    Status(StatusArgs),
    /// Turn a space into one of lock files, or back into a segment
    #[command(override_usage = "hostlock move [OPTIONS] --to BACKEND", after_long_help = MOVE_MANUAL)]
    Move(MoveArgs),
    /// Say what this machine and a space can do for locks, and what follows
    #[command(after_long_help = DOCTOR_MANUAL)]
    Doctor(DoctorArgs),
    /// Measure what locks cost on this machine, beside others
    #[cfg(feature = "bench")]
    #[command(override_usage = "hostlock bench [OPTIONS] [SUITE...]", after_long_help = crate::bench::MANUAL)]
    Bench(crate::bench::BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SpaceArgs {
    /// Use the space S: a name or a path (default: default)
    #[arg(long, value_name = "S", conflicts_with = "path", value_parser = NonEmptyStringValueParser::new())]
    space: Option<String>,
    /// Use the space that lies in directory DIR
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    /// Make a new space of: segment, files (default: auto)
    #[arg(long, value_name = "BACKEND", value_enum, default_value = "auto")]
    #[arg(hide_short_help = true, hide_possible_values = true, hide_default_value = true)]
    backend: BackendArg,
    /// Allow --backend files on the file system of a network
    #[arg(long, hide_short_help = true)]
    any_file_system: bool,
}

/// What a space is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    Auto,
    Segment,
    Files,
}

impl From<BackendArg> for Backend {
    fn from(backend: BackendArg) -> Self {
        match backend {
            BackendArg::Auto => Self::Auto,
            BackendArg::Segment => Self::Segment,
            BackendArg::Files => Self::Files,
        }
    }
}

impl BackendArgs {
    pub(crate) fn is_files(&self) -> bool {
        self.backend == BackendArg::Files
    }

    pub(crate) fn of(&self, builder: SpaceBuilder) -> Result<SpaceBuilder, Failure> {
        if self.any_file_system && self.backend != BackendArg::Files {
            return Err(Failure::new(Code::Usage, "--any-file-system goes with --backend files"));
        }
        let builder = builder.backend(self.backend.into());
        Ok(if self.any_file_system { builder.any_file_system() } else { builder })
    }
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// What the space is to be made of: segment or files
    #[arg(long, value_name = "BACKEND", value_parser = ["segment", "files"], hide_possible_values = true)]
    to: String,
    #[command(flatten)]
    pub(crate) space: SpaceArgs,
}

impl MoveArgs {
    pub(crate) fn to(&self) -> Backend {
        if self.to == "files" { Backend::Files } else { Backend::Segment }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Give up at once if somebody holds the lock
    #[arg(short = 'n', long = "try", aliases = ["nb", "nonblock", "nonblocking"], conflicts_with = "timeout")]
    pub(crate) only_try: bool,
    /// Wait at most TIME: 0.5, 5s, 300ms (default: for ever)
    #[arg(short = 'w', long, alias = "wait", value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
    /// Exit with N if the lock was not got (default: 75)
    #[arg(short = 'E', alias = "conflict-exit-code", value_name = "N")]
    pub(crate) conflict_exit_code: Option<u8>,
    /// Hold the lock alone, as without it; a new NAME can be shared by others later
    #[arg(short = 'x', long, short_alias = 'e', action = ArgAction::SetTrue, hide_short_help = true)]
    pub(crate) exclusive: bool,
    /// Hold the lock together with others who only read
    #[arg(short = 's', long, conflicts_with = "exclusive")]
    pub(crate) shared: bool,
    /// Let N hold the lock at a time
    #[arg(long, value_name = "N", conflicts_with_all = ["shared", "exclusive"], value_parser = permits())]
    pub(crate) of: Option<u32>,
    /// Count for K of those N (default: 1)
    #[arg(long, value_name = "K", conflicts_with_all = ["shared", "exclusive"], value_parser = permits())]
    pub(crate) permits: Option<u32>,
    /// Hold it while renewed within TIME; lost, end COMMAND
    #[arg(long, value_name = "TIME", conflicts_with = "shared", value_parser = time)]
    pub(crate) lease: Option<Duration>,
    /// Let COMMAND inherit nothing of the lock
    #[arg(short = 'o', long)]
    pub(crate) close: bool,
    /// Say nothing about a lock that is held
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) space: SpaceArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// Create the space with MODE: 600 or, for a group, 660
    #[arg(long, value_name = "MODE", value_parser = mode, hide_short_help = true)]
    pub(crate) mode: Option<u32>,
    /// The lock: up to 64 bytes, created if nobody named it before
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    /// What to run, with its arguments
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ElectArgs {
    /// Give up at once if somebody leads
    #[arg(short = 'n', long = "try", conflicts_with = "timeout")]
    pub(crate) only_try: bool,
    /// Campaign for at most TIME: 0.5, 5s, 300ms (default: for ever)
    #[arg(short = 'w', long, alias = "wait", value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
    /// Exit with N if it did not come to lead (default: 75)
    #[arg(short = 'E', alias = "conflict-exit-code", value_name = "N")]
    pub(crate) conflict_exit_code: Option<u8>,
    /// Lead while renewed within TIME; lost, end COMMAND and start over
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) lease: Duration,
    /// Do not say who leads
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Let COMMAND inherit nothing of the lock
    #[arg(short = 'o', long, hide_short_help = true)]
    pub(crate) close: bool,
    #[command(flatten)]
    pub(crate) space: SpaceArgs,
    /// Create the space with MODE: 600 or, for a group, 660
    #[arg(long, value_name = "MODE", value_parser = mode, hide_short_help = true)]
    pub(crate) mode: Option<u32>,
    /// The election: up to 64 bytes, a lock that `run` knows too
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    /// What to run while leading, with its arguments
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

impl From<ElectArgs> for RunArgs {
    fn from(args: ElectArgs) -> Self {
        let ElectArgs { only_try, timeout, conflict_exit_code, lease, quiet, close, space, mode, name, command } = args;
        Self {
            only_try,
            timeout,
            conflict_exit_code,
            exclusive: false,
            shared: false,
            of: None,
            permits: None,
            lease: Some(lease),
            close,
            quiet,
            space,
            backend: BackendArgs { backend: BackendArg::Auto, any_file_system: false },
            mode,
            name,
            command,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this lock
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Show who waits for whom
    #[arg(long, conflicts_with = "json")]
    pub(crate) waits: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) space: SpaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) space: SpaceArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

const EXAMPLES: &str = "\
Examples:
  hostlock run -n nightly -- ./report.sh       run it, unless it runs already
  hostlock run -w 30s deploy -- make deploy    wait half a minute for the lock
  hostlock elect cron -- ./scheduler           one of many runs it, while it can
  hostlock status                              who holds what
  hostlock doctor                              what this machine can do

`hostlock run --help` has more.";

const RUN_EXIT: &str = "\
Exit: as COMMAND; 128+N if signal N ended it; 75 lock not got, 70 lost; 64 wrong
call; 69 space unusable; 71 no process; 126, 127 COMMAND cannot run, not found.";

const RUN_MANUAL: &str = "\
Exit status:
  COMMAND's; 128+N if signal N ended it (if N was sent to hostlock too, it ends of it)
  64   called in a way that cannot be          75   the lock was not got (-E N: N)
  69   the space cannot be used                126  COMMAND cannot be run
  70   the lease was lost (--lease)            127  COMMAND was not found
  71   no process could be started

What COMMAND sees:
  HOSTLOCK_NAME       NAME
  HOSTLOCK_SPACE      the space, as --space takes it
  HOSTLOCK_TOKEN      a number that is larger in every later run of NAME
  HOSTLOCK_ABANDONED  only if the holder before died, or lost its lease: its PID (0: not known).
                      hostlock was killed while COMMAND ran, or a signal ended COMMAND

How many hold it:
  One. With -s all who say so, while nobody holds it alone; with --of N so many, each of
  which counts for --permits K of them (1). Who uses a NAME first says what it is: -s or
  -x one that can be shared, --of a number of permits, else neither. Later -s and --of
  have to fit; without them it is taken as it is: alone, or one permit of it.
  HOSTLOCK_TOKEN of those who share is that of the last who held it alone.

How long the lock is held:
  Until COMMAND has ended; what it leaves in the background then keeps nothing. If
  hostlock is killed (SIGKILL), COMMAND is killed too, and the lock is held until
  everything that COMMAND started has ended. That works by a descriptor that is
  inherited: with --close, and for what closes descriptors (sudo, daemons) or may not
  be killed (set-user-ID programs), the next holder may start before COMMAND is gone.

With --lease TIME:
  hostlock renews the lock while it runs, at a third of TIME. If it cannot for TIME (it was
  stopped, the machine was suspended or did not get to it), whoever waits may take the
  lock over; hostlock then says so, sends COMMAND a TERM, 5 s later a KILL, does the same
  to all that COMMAND started and left behind, and exits with 70. Until then they may run
  beside the next holder: what they write to should refuse a HOSTLOCK_TOKEN smaller than
  the largest it has seen. If hostlock is killed, the lock is held until TIME is over or
  everything that COMMAND started has ended. COMMAND that hangs keeps the lock: it is
  hostlock that is watched. Whoever only reads (-s) has no lease.

Signals sent to hostlock are passed on to COMMAND; those of the terminal reach it by
themselves while it stays in the foreground group. A NAME that an ancestor of hostlock runs under is not waited for.

Examples:
  hostlock run backup -- rsync -a /home /backup
  hostlock run -nq sync -- ./sync.sh               in a crontab: no overlap, no mail
  hostlock run -w 5 -E 0 index -- ./reindex        busy for 5 s is fine
  hostlock run -s repo -- ./publish                together with others that say -s,
  hostlock run -x repo -- ./prune                  and this one alone
  hostlock run --of 4 encode -- ./encode film.mkv  four of these at a time
  hostlock run --of 8 --permits 3 ram -- ./big     this one counts for three of eight
  hostlock run --path /srv/app/locks db -- ./dump  a space of one's own
  hostlock run --path /srv/team/locks --mode 660 db -- ./dump
                                                   shared with the group of /srv/team
  hostlock run --lease 30s feed -- ./publish       not kept if this machine is suspended
  hostlock run job -- sh -c './a && ./b'           several commands";

const ELECT_MANUAL: &str = "\
Waits until it leads under NAME, runs COMMAND, and leads until COMMAND has ended; then
exits as COMMAND did, and somebody else leads. If it loses its lead while COMMAND
runs (see --lease in hostlock run --help), it ends COMMAND and all that this started, and
starts over: it waits until it leads again, and runs COMMAND anew. Not if hostlock was
sent a TERM, or an INT, QUIT or HUP since: then it ends. The leader's death is seen at once.

COMMAND sees what it sees under `run`. HOSTLOCK_TOKEN grows with each term: hand it to
what COMMAND changes, and have that refuse a smaller one than the largest it has seen.
Who leads, `hostlock status NAME` says; `hostlock run NAME` keeps others from leading.

Exit status: COMMAND's, as of run; 75 (-E N: N) if it did not come to lead.

Examples:
  hostlock elect scheduler -- ./scheduler
  hostlock elect --lease 30s --path /srv/app/locks db-primary -- ./primary";

const STATUS_MANUAL: &str = "\
One line for each lock, in the order of their names; with --waits one for each that waits,
the longest first, with who is in its way. Nothing is changed by looking.
The columns, and the fields of --json, are described in src/docs/tool.md.

Exit status: 0; 64 wrong call; 69 no such space, no such lock, or not a sound one.

Examples:
  hostlock status
  hostlock status deploy
  hostlock status --waits                      who waits for whom
  hostlock status --json | jq -r '.locks[] | select(.state == \"held\") | .name'";

const MOVE_MANUAL: &str = "\
What a space is made of is decided by whoever creates it, and all others follow: a segment,
unless that process cannot use one, or lock files (--backend files). This changes it while
no process is in the space. Names and their kinds stay, and tokens go on growing.

It is refused while somebody is in the space, while a lock is abandoned and nobody was told,
and for lock files if there are names that only a segment has: data, queues, events.

Exit status: 0, also if it is that already; 64 wrong call; 69 no such space, or refused.

Examples:
  hostlock move --to files --path /srv/app/locks
  hostlock move --to segment";

const DOCTOR_MANUAL: &str = "\
One line for each thing that was looked at:
  ok        it was tried and works, or is as it should be
  missing   the kernel does not have it, or does not let us have it
  unusable  it is there and does not do what it should
  unknown   it could not be tried
then what was seen, what follows, and what to do; the last line is the verdict. Nothing
of the space is changed by looking, and none is created.

Exit status: 0; 64 wrong call; 69 something is missing without which there are no locks.

Examples:
  hostlock doctor
  hostlock doctor --path /srv/app/locks
  hostlock doctor --json | jq -r '.findings[] | select(.verdict != \"ok\") | .name'";

/// What was said.
pub(crate) enum Parsed {
    Act(Action),
    /// Help or version, to be printed.
    Tell(String),
    Wrong(Failure),
}

pub(crate) fn parse() -> Parsed {
    match Cli::try_parse() {
        Ok(cli) => Parsed::Act(cli.action),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let (last, others) = VERBS.split_last().expect("verbs");
                let what = format_args!("say what to do: {} or {last}; see hostlock --help", others.join(", "));
                Parsed::Wrong(Failure::new(Code::Usage, what))
            }
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Tell(error.render().to_string()),
            _ => Parsed::Wrong(Failure::new(Code::Usage, one_line(&error.render().to_string()))),
        },
    }
}

const VERBS: &[&str] = &[
    "run",
    "elect",
    "status",
    "move",
    "doctor",
    #[cfg(feature = "bench")]
    "bench",
];

/// What was asked for, if that is something.
fn verb() -> Option<String> {
    std::env::args().nth(1).filter(|verb| VERBS.contains(&verb.as_str()))
}

/// An error of the parser's, which is several lines with a usage, as one line.
fn one_line(text: &str) -> String {
    let what = text.split("\n\nUsage:").next().unwrap_or_default();
    let what = what.split("\n\nFor more information").next().unwrap_or_default();
    let what: Vec<&str> = what.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut what = what.join(" ").replacen("error: ", "", 1).replace(" tip: ", "; ");
    // It would be COMMAND's then, or NAME.
    if let Some((before, _)) = what.split_once("; to pass '-") {
        what = before.into();
    }
    let verb = verb();
    if verb.as_deref() == Some("run") && what.starts_with("unexpected argument '-c'") {
        // flock(1) has it.
        what = "there is no -c; a line for a shell is: run NAME -- sh -c LINE".into();
    }
    format!("{what}; see hostlock {}--help", verb.map(|verb| verb + " ").unwrap_or_default())
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is seconds with a fraction, or 5s, 300ms".to_string();
    match text.parse::<f64>() {
        // One that is too long to count never ends.
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => {
            Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
        }
        Ok(_) => Err(wrong()),
        Err(_) => humantime::parse_duration(text).map_err(|_| wrong()),
    }
}

fn permits() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=i64::from(Semaphore::MAX_PERMITS))
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text.trim_start_matches("0o"), 8).map_err(|_| "a mode is octal: 600 or 660".into())
}

impl SpaceArgs {
    fn directory(&self) -> Option<&Path> {
        let by_name = self.space.as_ref().filter(|space| space.contains('/')).map(Path::new);
        self.path.as_deref().or(by_name)
    }

    pub(crate) fn builder(&self) -> Result<SpaceBuilder, Failure> {
        let Some(directory) = self.directory() else {
            return Ok(Space::builder(self.space.as_deref().unwrap_or(DEFAULT_SPACE)));
        };
        let cannot =
            |why: &str| Failure::new(Code::Usage, format_args!("{} cannot be a space: {why}", directory.display()));
        let directory = std::path::absolute(directory).map_err(|e| cannot(&e.to_string()))?;
        match (directory.parent(), directory.file_name().and_then(|name| name.to_str())) {
            (Some(root), Some(name)) => Ok(Space::builder(name).root(root)),
            _ => Err(cannot("it needs a name, in UTF-8, in a directory")),
        }
    }

    /// The space as `--space` takes it, for COMMAND.
    pub(crate) fn for_command(&self, space: &Space) -> OsString {
        match self.directory() {
            Some(_) => space.path().into(),
            None => space.name().into(),
        }
    }
}
