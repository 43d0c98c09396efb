//! Exit codes of the agent, taken from sysexits.h where it has a suitable one.

use std::process::ExitCode;

/// Reason why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked, or ended by SIGINT, SIGTERM or the end of the tapped process.
    Ok = 0,
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line is wrong (`EX_USAGE`).
    Usage = 64,
    /// An input file has wrong content, or is cut off (`EX_DATAERR`).
    Data = 65,
    /// An input file cannot be opened (`EX_NOINPUT`).
    NoInput = 66,
    /// The process to tap does not exist, or cannot be tapped (`EX_UNAVAILABLE`).
    NoTarget = 69,
    /// An output cannot be created (`EX_CANTCREAT`).
    CannotCreate = 73,
    /// An output failed while it was written (`EX_IOERR`).
    Output = 74,
    /// A privilege or a kernel feature is missing (`EX_NOPERM`).
    NoPermission = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with an exit code; attach it with [`anyhow::Error::context`].
#[derive(Debug)]
pub struct ExitWith(pub Exit, pub String);

impl std::fmt::Display for ExitWith {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.1)
    }
}

impl std::error::Error for ExitWith {}

impl Exit {
    /// Returns the code for an error: that of the outermost [`ExitWith`] in it, otherwise
    /// [`Exit::Failure`].
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .downcast_ref::<ExitWith>()
            .map_or(Self::Failure, |with| with.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_found_beneath_further_context() {
        let error = anyhow::anyhow!("cause")
            .context(ExitWith(Exit::NoTarget, "no such process".into()))
            .context("attach");
        assert_eq!(Exit::of(&error), Exit::NoTarget);
    }

    #[test]
    fn an_error_without_a_code_is_a_failure() {
        assert_eq!(Exit::of(&anyhow::anyhow!("cause")), Exit::Failure);
    }
}
