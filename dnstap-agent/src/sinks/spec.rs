//! Owns what an operator may write after `-o`: which form, and to where; `options` has what may follow.
//!
//! It parses and prints, and opens nothing; that is `open`'s task. As other programs write their outputs, `//` may follow the form's colon:
//! `file:///tmp/a` is `file:/tmp/a`.

use std::{fmt, str::FromStr};

use thiserror::Error;

use super::options::{FileOptions, OptionError, Place};
use crate::{
    formats::Content,
    host::{
        net::{Address, AddressError},
        sandbox::Duties,
    },
};

/// One output, as named by `-o`.
///
/// ```
/// use dnstap_agent::sinks::{Content, OutputSpec};
///
/// let spec: OutputSpec = "file:/tmp/a.fstrm,rotate-size=100M,keep=24".parse()?;
/// assert_eq!(spec.to_string(), "file:/tmp/a.fstrm");
/// let OutputSpec::File(file) = spec else { panic!() };
/// assert_eq!((file.content, file.options.keep), (Content::Dnstap, Some(24)));
/// assert_eq!("tcp:localhost:6000".parse::<OutputSpec>()?.to_string(), "tcp:localhost:6000");
/// assert!("/tmp/a.fstrm".parse::<OutputSpec>().is_err());
/// # Ok::<(), dnstap_agent::sinks::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OutputSpec {
    /// A file, or standard output.
    File(FileSpec),
    /// A collector that takes Frame Streams over a socket: `unix:PATH`, `tcp:HOST:PORT`, `tls:HOST:PORT,...`.
    Socket(Address),
    /// A report, written at the end: `html:PATH`.
    Page(Place),
}

impl OutputSpec {
    /// What writing to all of them takes.
    #[must_use]
    pub fn duties(specs: &[Self]) -> Duties {
        Duties {
            paths: specs.iter().any(Self::uses_paths),
            owners: specs.iter().any(Self::gives_away),
            modes: specs.iter().any(Self::changes_access),
            commands: specs.iter().any(Self::runs_commands),
            ..Duties::default()
        }
    }

    /// Whether both cannot be open at a time: they write to one place, or reports could not tell them apart.
    #[must_use]
    pub fn shares_place(&self, other: &Self) -> bool {
        let same = self.place().is_some() && self.place() == other.place();
        same || self.to_string() == other.to_string()
    }

    /// Where its bytes go, if that is no socket.
    pub(super) fn place(&self) -> Option<&Place> {
        match self {
            Self::File(file) => Some(&file.place),
            Self::Page(place) => Some(place),
            Self::Socket(_) => None,
        }
    }

    /// Whether writing there takes names of files: of its own, of a unix socket, of certificates.
    fn uses_paths(&self) -> bool {
        match self {
            Self::File(file) => file.place != Place::Stdout,
            Self::Socket(address) => !matches!(address, Address::Tcp { .. }),
            Self::Page(place) => *place != Place::Stdout,
        }
    }

    /// Whether its files are to be another user's.
    fn gives_away(&self) -> bool {
        matches!(self, Self::File(file) if file.options.owner.is_some())
    }

    /// Whether it changes the owner or the mode of files, which may be others'.
    fn changes_access(&self) -> bool {
        matches!(self, Self::File(file) if file.options.owner.is_some() || file.options.mode.is_some())
    }

    /// Whether it runs a program.
    fn runs_commands(&self) -> bool {
        matches!(self, Self::File(file) if file.options.exec.is_some())
    }
}

/// What is written where, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileSpec {
    /// What the file holds.
    pub content: Content,
    /// Where it is.
    pub place: Place,
    /// What is behind the first comma.
    pub options: FileOptions,
}

/// What is wrong with the text after `-o`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// No known form, or none at all before the colon.
    #[error(
        "`{0}` is not an output; {FORMS}{hint}",
        hint = if .0.is_empty() || .0.contains("://") { String::new() } else { format!(" (a file? then `file:{}`)", .0.escape_debug()) }
    )]
    UnknownForm(String),
    /// A form with nothing after the colon.
    #[error("`{0}` does not say where to; {FORMS}")]
    NoPlace(String),
    /// An option that cannot be.
    #[error("`{0}`: {1}")]
    Option(String, OptionError),
    /// A page with anything behind its path.
    #[error("`{0}`: a page takes no option")]
    PageOption(String),
    /// A socket that cannot be.
    #[error(transparent)]
    Socket(#[from] AddressError),
}

/// The valid forms, for messages and help.
pub const FORMS: &str = "valid outputs are `-` or `text:-` (one line per message), `json:-` (one JSON object per line), \
     `yaml:-` (one YAML document per message), `pcap:-` (packets), `text:PATH`, `json:PATH`, `yaml:PATH`, `pcap:PATH`, \
     `file:PATH` (Frame Streams, for other dnstap tools), `html:PATH` (a report, written at the end), and the collectors \
     `unix:PATH`, `tcp:HOST:PORT` and `tls:HOST:PORT` (Frame Streams); `tcp://HOST:PORT` and so on mean the same";

/// What stands before the colon.
const CONTENTS: [(&str, Content); 5] = [
    ("text", Content::Text),
    ("json", Content::Json),
    ("yaml", Content::Yaml),
    ("pcap", Content::Pcap),
    ("file", Content::Dnstap),
];

/// The form of a report.
const PAGE: &str = "html";

impl FromStr for OutputSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text == "-" {
            return "text:-".parse();
        }
        let unknown = || SpecError::UnknownForm(text.to_owned());
        let (form, rest) = text.split_once(':').ok_or_else(unknown)?;
        if let "unix" | "tcp" | "tls" = form {
            let address: Address = text.parse()?;
            return match address.port() {
                Some(0) => Err(AddressError::HostPort(text.to_owned()).into()),
                _ => Ok(Self::Socket(address)),
            };
        }
        let content = CONTENTS.into_iter().find(|(known, _)| *known == form);
        if content.is_none() && form != PAGE {
            return Err(unknown());
        }
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (place, options) = rest
            .split_once(',')
            .map_or((rest, None), |(place, options)| (place, Some(options)));
        let place = match place {
            "" => return Err(SpecError::NoPlace(text.to_owned())),
            "-" => Place::Stdout,
            path => Place::Path(path.into()),
        };
        let Some((_, content)) = content else {
            return match options {
                None => Ok(Self::Page(place)),
                Some(_) => Err(SpecError::PageOption(text.to_owned())),
            };
        };
        let options = FileOptions::parse(options, &place)
            .map_err(|error| SpecError::Option(text.to_owned(), error))?;
        Ok(Self::File(FileSpec {
            content,
            place,
            options,
        }))
    }
}

/// Without its options: the name that reports give it.
impl fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (form, place) = match self {
            Self::File(file) => {
                let form = CONTENTS
                    .iter()
                    .find(|(_, content)| *content == file.content);
                (form.map_or("full", |(form, _)| form), &file.place)
            }
            Self::Page(place) => (PAGE, place),
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
    #[case("-", Content::Text, Place::Stdout)]
    #[case("text:-", Content::Text, Place::Stdout)]
    #[case("json:-", Content::Json, Place::Stdout)]
    #[case("json:a:b", Content::Json, Place::Path("a:b".into()))]
    #[case("yaml:a", Content::Yaml, Place::Path("a".into()))]
    #[case("pcap:a,compress=zstd", Content::Pcap, Place::Path("a".into()))]
    #[case("file:./a.fstrm", Content::Dnstap, Place::Path("./a.fstrm".into()))]
    #[case("file:///tmp/a.fstrm,keep=2,rotate-time=1h", Content::Dnstap, Place::Path("/tmp/a.fstrm".into()))]
    #[case("file://a.fstrm", Content::Dnstap, Place::Path("a.fstrm".into()))]
    #[case("json://-", Content::Json, Place::Stdout)]
    fn every_form_of_file_is_understood_and_named(
        #[case] text: &str,
        #[case] content: Content,
        #[case] place: Place,
    ) {
        let spec: OutputSpec = text.parse().expect("valid");
        let OutputSpec::File(file) = &spec else {
            panic!("{spec:?}")
        };
        assert_eq!((&file.content, &file.place), (&content, &place));
        let named: OutputSpec = spec.to_string().parse().expect("valid");
        assert_eq!(named.to_string(), spec.to_string());
    }

    #[rstest]
    #[case("unix:/a.sock", Address::Unix("/a.sock".into()))]
    #[case("unix:///a.sock", Address::Unix("/a.sock".into()))]
    #[case("tcp://[::1]:6000", Address::Tcp { host: "::1".into(), port: 6000 })]
    #[case("tcp:[::1]:6000", Address::Tcp { host: "::1".into(), port: 6000 })]
    fn every_socket_is_understood_and_named(#[case] text: &str, #[case] address: Address) {
        assert_eq!(text.parse(), Ok(OutputSpec::Socket(address)));
    }

    #[test]
    fn a_page_has_a_place_and_no_option() {
        let spec: OutputSpec = "html:a.html".parse().expect("valid");
        assert_eq!(spec, OutputSpec::Page(Place::Path("a.html".into())));
        assert_eq!(spec.to_string(), "html:a.html");
        assert!(spec.shares_place(&"text:a.html".parse().expect("valid")));
        assert!(OutputSpec::duties(std::slice::from_ref(&spec)).paths);
        for wrong in ["html:", "html:a,mode=0600"] {
            assert!(wrong.parse::<OutputSpec>().is_err(), "{wrong}");
        }
    }

    #[rstest]
    #[case("")]
    #[case("a.fstrm")]
    #[case("xml:-")]
    #[case("file:")]
    #[case("file://")]
    #[case("FILE:x")]
    #[case("udp://localhost:1")]
    #[case("http://localhost:1/a")]
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
    #[case("tcp://localhost:0")]
    #[case("tcp://:6000")]
    #[case("tls://local host:6000")]
    fn a_socket_that_cannot_be_is_refused(#[case] text: &str) {
        let error = text.parse::<OutputSpec>().expect_err("must be refused");
        assert!(matches!(error, SpecError::Socket(_)), "{error}");
    }

    #[test]
    fn a_wrong_option_is_named_with_the_valid_ones() {
        let error = "file:a.fstrm,rotate=1h"
            .parse::<OutputSpec>()
            .expect_err("must be refused")
            .to_string();
        assert!(
            error.contains("`rotate=1h`") && error.contains("rotate-time="),
            "{error}"
        );
    }

    #[rstest]
    #[case::neither("file:/a", false, false)]
    #[case::mode("file:/a,mode=0600", false, true)]
    #[case::owner("file:/a,owner=root", true, true)]
    fn only_who_gives_files_away_needs_to(
        #[case] spec: &str,
        #[case] owners: bool,
        #[case] modes: bool,
    ) {
        let duties = OutputSpec::duties(&[spec.parse().expect("valid")]);
        assert_eq!((duties.owners, duties.modes), (owners, modes));
    }

    #[test]
    fn a_bare_path_is_told_how_to_say_it() {
        let error = "a.fstrm"
            .parse::<OutputSpec>()
            .expect_err("must be refused");
        assert!(error.to_string().contains("`file:a.fstrm`"), "{error}");
    }
}
