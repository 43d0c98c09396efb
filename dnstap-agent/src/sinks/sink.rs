//! The interface of an output kind. The table of kinds is in `forms`.

use std::{
    any::Any,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    queue::{Policy, sink_thread::Work},
    report::{Account, Takes},
};
use crate::{host::sandbox::NeededPrivileges, report::Facts};

/// One output of some kind, as an operator has specified it.
///
/// ```text
/// parse ─► specification ── open ──► all outputs are open ── start ──► Work: a thread that takes what is queued
/// ```
/// `Work` is a function of the queue's receiver and the account. `queue::blocking` provides it for
/// a sink that blocks, which then needs only an `Output`.
pub(super) trait Sink: Same + fmt::Debug + Send + Sync {
    /// Returns `form:place` without options, the name in reports.
    fn name(&self) -> String;

    /// Returns where the output writes to, if that is a file or standard output. No two outputs can
    /// have the same place, or the same name.
    fn place(&self) -> Option<&Place> {
        None
    }

    /// Returns the privileges that the output may need after the agent has given up its own.
    fn privileges(&self) -> NeededPrivileges {
        NeededPrivileges::default()
    }

    /// Returns whether the output writes lines for people or programs, and so can report notices.
    fn writes_lines(&self) -> bool {
        false
    }

    /// Returns whether the output can show events.
    fn shows_events(&self) -> bool {
        false
    }

    /// Returns whether the output reads messages, and so needs parsed views in addition to frames.
    fn wants_views(&self) -> bool {
        false
    }

    /// Returns what is dropped when the queue is full.
    fn policy(&self) -> Policy {
        Policy::DropNewest
    }

    /// Opens the output for what it `takes`, or returns the reason for failure and a remedy. Must
    /// not change existing data, because another output may still fail to open.
    fn open(&self, takes: Takes, about: &About) -> Result<Opened, String>;
}

/// An output that an operator can write after `-o`.
pub(super) trait Typed: Sink + Sized {
    /// Parses a form and the text behind its colon. Opens nothing.
    fn parse(form: &str, rest: &str) -> Result<Self, Mistake>;
}

/// Starts an output once all are open. It may overwrite existing data. Returns the work of its
/// thread.
pub(super) type Opened = Box<dyn FnOnce(&Arc<Account>) -> Result<Work, String>>;

/// Mistakes in a specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mistake {
    /// The place is missing.
    NoPlace,
    /// Any other mistake, in words.
    Other(String),
}

/// Destination of an output.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Standard output, written `-`.
    Stdout,
    /// A file, a device or a named pipe.
    Path(PathBuf),
}

impl Place {
    /// Splits the text behind a form's colon into the place and the text after the first comma.
    pub(super) fn parse(rest: &str) -> Result<(Self, Option<&str>), Mistake> {
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (place, options) = rest
            .split_once(',')
            .map_or((rest, None), |(place, options)| (place, Some(options)));
        match place {
            "" => Err(Mistake::NoPlace),
            "-" => Ok((Self::Stdout, options)),
            path => Ok((Self::Path(path.into()), options)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::Path(path) => {
                // When the name is parsed again, the first two slashes would be taken as part of
                // the form.
                if path.as_os_str().as_encoded_bytes().starts_with(b"//") {
                    f.write_str("//")?;
                }
                path.display().fmt(f)
            }
        }
    }
}

/// Compares sinks of any kind.
pub(super) trait Same: Any {
    /// Returns whether both are the same kind of sink with the same specification.
    fn is_same(&self, other: &dyn Any) -> bool;
}

impl<T: Any + PartialEq> Same for T {
    fn is_same(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

/// Facts about the messages for the head of a page. They are set before the outputs end.
#[derive(Clone, Debug, Default)]
pub(super) struct About(Arc<Mutex<Facts>>);

impl About {
    pub(super) fn tell(&self, facts: Facts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    pub(super) fn facts(&self) -> Facts {
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        facts.clone()
    }
}
