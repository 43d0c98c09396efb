//! Owns what an operator may write after `-o`: which form, and to where.
//!
//! It parses and prints, and opens nothing; that is `open`'s task.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use thiserror::Error;

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
/// assert_eq!("file:/tmp/a.fstrm".parse(), Ok(OutputSpec::File(Place::Path("/tmp/a.fstrm".into()))));
/// assert!("/tmp/a.fstrm".parse::<OutputSpec>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OutputSpec {
    /// One readable line per message: `-`, `text:-`, `text:PATH`.
    Text(Place),
    /// One JSON object per line: `json:-`, `json:PATH`.
    Json(Place),
    /// A Frame Streams file: `file:PATH`, and `file:-` for a pipe.
    File(Place),
}

impl OutputSpec {
    /// Where it goes.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            Self::Text(place) | Self::Json(place) | Self::File(place) => place,
        }
    }

    /// The path, unless it is standard output.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self.place() {
            Place::Stdout => None,
            Place::Path(path) => Some(path),
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
}

/// The valid forms, for messages and help.
pub const FORMS: &str = "valid outputs are `-` or `text:-` (one line per message), `json:-` (one JSON object per line), \
     `text:PATH`, `json:PATH`, and `file:PATH` (Frame Streams, for other dnstap tools)";

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
        let form = match self {
            Self::Text(_) => "text",
            Self::Json(_) => "json",
            Self::File(_) => "file",
        };
        match self.place() {
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

    #[test]
    fn a_bare_path_is_told_how_to_say_it() {
        let error = "a.fstrm"
            .parse::<OutputSpec>()
            .expect_err("must be refused");
        assert!(error.to_string().contains("`file:a.fstrm`"), "{error}");
    }
}
