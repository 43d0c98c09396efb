//! Owns what a kind of output is: all that the rest of the agent knows of it. `forms` has the table of them.

use std::{
    any::Any,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    queue::{Policy, sink_thread::Work},
    report::Account,
};
use crate::{host::sandbox::NeededPrivileges, report::Facts};

/// One output of some kind, as an operator has specified it.
///
/// ```text
/// parse ─► specification ── open ──► all outputs are open ── start ──► Work: a thread that takes what is queued
/// ```
///
/// The `Work` is a function over the queue's end and the account. For a sink that blocks, `queue::blocking` has it: what is
/// left to write is an `Output`.
pub(super) trait Sink: Same + fmt::Debug + Send + Sync {
    /// `form:place`, without options: what reports call it.
    fn name(&self) -> String;

    /// Where it writes to, if that is a file or standard output. No two outputs can have the same place, or the same name.
    fn place(&self) -> Option<&Place> {
        None
    }

    /// What it may have to do when privileges have been given up.
    fn privileges(&self) -> NeededPrivileges {
        NeededPrivileges::default()
    }

    /// Whether it writes lines for people or programs, and so can report events.
    fn writes_lines(&self) -> bool {
        false
    }

    /// Whether it looks at messages, and so is better off with their parsed views beside their frames.
    fn wants_views(&self) -> bool {
        false
    }

    /// What is dropped when its queue is full.
    fn policy(&self) -> Policy {
        Policy::DropNewest
    }

    /// Opens it, or says why not and what to do about it; and harms nothing that is there: another output may turn out to be impossible.
    fn open(&self, about: &About) -> Result<Opened, String>;
}

/// An output that an operator can write after `-o`.
pub(super) trait Typed: Sink + Sized {
    /// Understands one of the output's forms, and what is behind its colon. Opens nothing.
    fn parse(form: &str, rest: &str) -> Result<Self, Mistake>;
}

/// What begins an output once all are open: it may overwrite what was there. Gives what runs on its thread.
pub(super) type Opened = Box<dyn FnOnce(&Arc<Account>) -> Result<Work, String>>;

/// What is wrong with a specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mistake {
    /// Nothing says where to.
    NoPlace,
    /// Anything else, in words.
    Other(String),
}

/// Where an output's bytes go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Standard output, written `-`.
    Stdout,
    /// A file, a device or a named pipe.
    Path(PathBuf),
}

impl Place {
    /// Splits what is behind a form's colon into the place and what follows its first comma.
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
                // Read again, the first two slashes would belong to the form.
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
    /// Whether both are the same kind of sink, with the same specification.
    fn is_same(&self, other: &dyn Any) -> bool;
}

impl<T: Any + PartialEq> Same for T {
    fn is_same(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

/// What a page states of the messages; it is told before the outputs end.
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
