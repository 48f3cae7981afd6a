//! How the tool ends: the codes, and which error leads to which.

use std::fmt;

use hostlock::Error;

/// Exit codes of its own; `run` otherwise ends as COMMAND did. Below 128 and apart from what commands use: those of
/// `sysexits.h`, and the shell's two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Called in a way that cannot be.
    Usage = 64,
    /// The space cannot be used, or there is none, or no such lock in it.
    Unavailable = 69,
    /// The lock's lease was lost while COMMAND ran.
    Lost = 70,
    /// The system did not let a process be started.
    System = 71,
    /// What was to be printed could not be written.
    Output = 74,
    /// The lock was not got. `-E` names another.
    Conflict = 75,
    /// COMMAND was found and could not be run.
    CannotRun = 126,
    /// COMMAND was not found.
    NotFound = 127,
}

/// Why the tool ends without having done what it was asked, in one line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code: code as u8, message: message.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::WouldBlock { .. } | Error::TimedOut { .. } | Error::Deadlock { .. } => Code::Conflict,
            Error::InvalidName { .. }
            | Error::InvalidOption { .. }
            | Error::OptionDiffers { .. }
            | Error::WrongKind { .. }
            | Error::WrongCount { .. } => Code::Usage,
            _ => Code::Unavailable,
        };
        let message = match &error {
            // Users of the tool have no builder.
            Error::Full { path, what, capacity } => {
                let path = path.display();
                format!("the space {path} has room for {capacity} {what}, and all are in use; name another: --space S")
            }
            Error::NoExtents { path, name, .. } => {
                let path = path.display();
                format!("the space {path} has no room left for \"{name}\"; name another: --space S")
            }
            error => in_words_of_the_tool(&error.to_string()),
        };
        Self::new(code, message)
    }
}

/// The library's advice is for those who have its builder.
pub(crate) fn in_words_of_the_tool(text: &str) -> String {
    text.replace("Space::builder(..).root(..)", "--path DIR")
}
