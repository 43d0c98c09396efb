//! Owns what an operator may write after `-o`: which form, and to where.
//!
//! It parses and prints, and opens nothing; that is `open`'s task.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use thiserror::Error;

use crate::socket::{Address, AddressError};

/// Where an output's bytes go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// Standard output, written `-`.
    Stdout,
    /// A file, a device or a named pipe.
    Path(PathBuf),
}

/// One output, as named by `-o`.
///
/// ```
/// use dnstap_agent::sink::{OutputSpec, Place};
///
/// assert_eq!("-".parse(), Ok(OutputSpec::Text(Place::Stdout)));
/// assert_eq!("tcp:localhost:6000".parse::<OutputSpec>()?.to_string(), "tcp:localhost:6000");
/// assert_eq!("file:/tmp/a.fstrm".parse(), Ok(OutputSpec::File(Place::Path("/tmp/a.fstrm".into()))));
/// assert!("/tmp/a.fstrm".parse::<OutputSpec>().is_err());
/// # Ok::<(), dnstap_agent::sink::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OutputSpec {
    /// One readable line per message: `-`, `text:-`, `text:PATH`.
    Text(Place),
    /// One JSON object per line: `json:-`, `json:PATH`.
    Json(Place),
    /// A Frame Streams file: `file:PATH`, and `file:-` for a pipe.
    File(Place),
    /// A collector that takes Frame Streams over a socket: `unix:PATH`, `tcp:HOST:PORT`, `tls:HOST:PORT,...`.
    Socket(Address),
}

impl OutputSpec {
    /// The path, unless it is standard output or a socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Text(Place::Path(path))
            | Self::Json(Place::Path(path))
            | Self::File(Place::Path(path)) => Some(path),
            _ => None,
        }
    }

    /// Whether writing there takes names of files: of its own, of a unix socket, of certificates.
    #[must_use]
    pub fn uses_paths(&self) -> bool {
        match self {
            Self::Text(place) | Self::Json(place) | Self::File(place) => *place != Place::Stdout,
            Self::Socket(address) => !matches!(address, Address::Tcp { .. }),
        }
    }
}

/// What is wrong with the text after `-o`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// No known form, or none at all before the colon.
    #[error(
        "`{0}` is not an output; {FORMS}{hint}",
        hint = if .0.is_empty() { String::new() } else { format!(" (a file? then `file:{}`)", .0.escape_debug()) }
    )]
    UnknownForm(String),
    /// A form with nothing after the colon.
    #[error("`{0}` does not say where to; {FORMS}")]
    NoPlace(String),
    /// A socket that cannot be.
    #[error(transparent)]
    Socket(#[from] AddressError),
}

/// The valid forms, for messages and help.
pub const FORMS: &str = "valid outputs are `-` or `text:-` (one line per message), `json:-` (one JSON object per line), \
     `text:PATH`, `json:PATH`, `file:PATH` (Frame Streams, for other dnstap tools), and the collectors `unix:PATH`, \
     `tcp:HOST:PORT` and `tls:HOST:PORT` (Frame Streams)";

impl FromStr for OutputSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text == "-" {
            return Ok(Self::Text(Place::Stdout));
        }
        let (form, place): (fn(Place) -> Self, _) = match text.split_once(':') {
            Some(("text", place)) => (Self::Text, place),
            Some(("json", place)) => (Self::Json, place),
            Some(("file", place)) => (Self::File, place),
            Some(("unix" | "tcp" | "tls", _)) => {
                let address: Address = text.parse()?;
                return match address.port() {
                    Some(0) => Err(AddressError::HostPort(text.to_owned()).into()),
                    _ => Ok(Self::Socket(address)),
                };
            }
            _ => return Err(SpecError::UnknownForm(text.to_owned())),
        };
        match place {
            "" => Err(SpecError::NoPlace(text.to_owned())),
            "-" => Ok(form(Place::Stdout)),
            path => Ok(form(Place::Path(path.into()))),
        }
    }
}

impl fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (form, place) = match self {
            Self::Text(place) => ("text", place),
            Self::Json(place) => ("json", place),
            Self::File(place) => ("file", place),
            Self::Socket(address) => return address.fmt(f),
        };
        match place {
            Place::Stdout => write!(f, "{form}:-"),
            Place::Path(path) => write!(f, "{form}:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("-", OutputSpec::Text(Place::Stdout))]
    #[case("text:-", OutputSpec::Text(Place::Stdout))]
    #[case("json:-", OutputSpec::Json(Place::Stdout))]
    #[case("json:a:b", OutputSpec::Json(Place::Path("a:b".into())))]
    #[case("text:/x", OutputSpec::Text(Place::Path("/x".into())))]
    #[case("file:./a.fstrm", OutputSpec::File(Place::Path("./a.fstrm".into())))]
    #[case("unix:/a.sock", OutputSpec::Socket(Address::Unix("/a.sock".into())))]
    #[case("tcp:[::1]:6000", OutputSpec::Socket(Address::Tcp { host: "::1".into(), port: 6000 }))]
    fn every_form_is_understood_and_printed_back(#[case] text: &str, #[case] spec: OutputSpec) {
        assert_eq!(text.parse(), Ok(spec.clone()));
        assert_eq!(spec.to_string().parse(), Ok(spec));
    }

    #[rstest]
    #[case("")]
    #[case("a.fstrm")]
    #[case("yaml:-")]
    #[case("file:")]
    #[case("FILE:x")]
    fn anything_else_is_refused_with_the_valid_forms(#[case] text: &str) {
        let error = text
            .parse::<OutputSpec>()
            .expect_err("must be refused")
            .to_string();
        assert!(
            error.contains("file:PATH") && error.contains("json:-"),
            "{error}"
        );
    }

    #[rstest]
    #[case("unix:")]
    #[case("tcp:localhost")]
    #[case("tcp:localhost:0")]
    fn a_socket_that_cannot_be_is_refused(#[case] text: &str) {
        let error = text.parse::<OutputSpec>().expect_err("must be refused");
        assert!(matches!(error, SpecError::Socket(_)), "{error}");
    }

    #[test]
    fn a_bare_path_is_told_how_to_say_it() {
        let error = "a.fstrm"
            .parse::<OutputSpec>()
            .expect_err("must be refused");
        assert!(error.to_string().contains("`file:a.fstrm`"), "{error}");
    }
}
