//! Colours of text on a terminal (ECMA-48 "select graphic rendition").

use std::fmt;

use dnstap_core::{dns::Rcode, model};
use dnstap_proto::message::Type;

/// Whether text has colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Colours(pub(super) bool);

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";
/// Bold and red.
const ALARM: &str = "1;31";

impl Colours {
    pub(super) fn kind(self, kind: Type) -> Coloured<&'static str> {
        let colour = if model::is_response(kind) {
            GREEN
        } else {
            CYAN
        };
        self.with(colour, model::short_name(kind))
    }

    pub(super) fn name<T: fmt::Display>(self, name: T) -> Coloured<T> {
        self.with(BOLD, name)
    }

    pub(super) fn rcode(self, rcode: Rcode) -> Coloured<Rcode> {
        let colour = match rcode {
            Rcode(0) => GREEN,
            Rcode(3) => YELLOW, // NXDOMAIN is a normal answer
            _ => RED,
        };
        self.with(colour, rcode)
    }

    /// Colours the word for something that an operator should know.
    pub(super) fn warning<T: fmt::Display>(self, shown: T) -> Coloured<T> {
        self.with(YELLOW, shown)
    }

    /// Colours what must not be overlooked.
    pub(super) fn alarm<T: fmt::Display>(self, shown: T) -> Coloured<T> {
        self.with(ALARM, shown)
    }

    /// Colours a result.
    pub(super) fn outcome<T: fmt::Display>(self, is_well: bool, shown: T) -> Coloured<T> {
        self.with(if is_well { GREEN } else { RED }, shown)
    }

    fn with<T>(self, colour: &'static str, shown: T) -> Coloured<T> {
        Coloured {
            colour: self.0.then_some(colour),
            shown,
        }
    }
}

/// A value that prints in its colour.
pub(super) struct Coloured<T> {
    colour: Option<&'static str>,
    shown: T,
}

impl<T: fmt::Display> fmt::Display for Coloured<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.colour {
            Some(colour) => write!(f, "\x1b[{colour}m{}\x1b[0m", self.shown),
            None => self.shown.fmt(f),
        }
    }
}
