//! Progress lines on standard error, with colours only on a terminal (and never under `NO_COLOR`).

use std::{
    env, fmt,
    io::{self, IsTerminal as _},
};

/// Prints a stage of the task.
pub(crate) fn step(what: impl fmt::Display) {
    eprintln!("{} {what}", paint("1;36", "==>"));
}

/// Prints a detail of the current stage.
pub(crate) fn note(what: impl fmt::Display) {
    eprintln!("    {what}");
}

/// Prints a command that is about to run.
pub(crate) fn command(line: &str) {
    eprintln!("    {}", paint("2", &format!("$ {line}")));
}

/// Prints a warning, which does not stop the task.
pub(crate) fn warn(what: impl fmt::Display) {
    eprintln!("{} {what}", paint("1;33", "warning:"));
}

/// Prints the error of a failed task, with its whole chain of causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("{} {error:#}", paint("1;31", "error:"));
}

fn paint(sgr: &str, text: &str) -> String {
    if io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        format!("\x1b[{sgr}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
