//! Printing: data to stdout, everything else to stderr in lines that begin with the tool's name.

use std::io::{ErrorKind, Write};

use crate::exit::{Code, Failure};

/// Prints to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Output, format_args!("cannot write the output: {}", reason(&e))))
        }
        _ => Ok(()),
    }
}

/// One line to stderr. Where nobody reads that, nothing can be done about it.
pub(crate) fn complain(message: &str) {
    let line: String = message.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    // In one piece: others may write to the same log.
    let _ = std::io::stderr().write_all(format!("hostlock: {line}\n").as_bytes());
}

/// What the system said, without the number.
pub(crate) fn reason(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
