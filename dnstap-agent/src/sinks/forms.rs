//! The forms of `-o`: the table of output kinds, and the specification of one output.
//!
//! This module parses and prints; `set` opens outputs. `//` may follow the form's colon, as other
//! programs write it: `file:///tmp/a` is `file:/tmp/a`.

use std::{
    any::Any,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex},
};

use thiserror::Error;

use super::{
    collector::Collector,
    file::FileSink,
    function::{Consumer, Function},
    kafka::Kafka,
    page::Page,
    passive::Passive,
    sink::{Mistake, Place, Sink, Typed},
};
use crate::host::sandbox::NeededPrivileges;

/// All kinds of output. To add one, write a module with a [`Typed`] [`Sink`], and add its forms and
/// their help here.
const FORMS: &[Form] = &[
    form::<FileSink>(
        &["text", "json", "yaml", "pcap", "parquet", "file"],
        "`-` or `text:-` (one line per message), `json:-` (one JSON object per line), `yaml:-` (one YAML document per message), \
         `pcap:-` (packets), `text:PATH`, `json:PATH`, `yaml:PATH`, `pcap:PATH`, `parquet:PATH` (a row for each query and its response), `file:PATH` (Frame Streams, for other dnstap tools)",
    ),
    form::<Page>(&["html"], "`html:PATH` (a report, written at the end)"),
    form::<Passive>(&["pdns"], "`pdns:DIR` (a store of passive DNS)"),
    form::<Kafka>(
        &["kafka"],
        "`kafka:HOST:PORT[,HOST:PORT...]/TOPIC` (one record per message)",
    ),
    form::<Collector>(
        &["unix", "tcp", "tls"],
        "the collectors `unix:PATH`, `tcp:HOST:PORT` and `tls:HOST:PORT` (Frame Streams); `tcp://HOST:PORT` and so on mean the same",
    ),
];

/// One kind of output.
struct Form {
    /// Names before the colon.
    names: &'static [&'static str],
    help: &'static str,
    parse: fn(&str, &str) -> Result<OutputSpec, Mistake>,
}

const fn form<S: Typed>(names: &'static [&'static str], help: &'static str) -> Form {
    Form {
        names,
        help,
        parse: |form, rest| Ok(OutputSpec(Arc::new(S::parse(form, rest)?))),
    }
}

/// One output, as named by `-o`. Cheap to clone.
///
/// ```
/// use dnstap_agent::sinks::OutputSpec;
///
/// let spec: OutputSpec = "file:/tmp/a.fstrm,rotate-size=100M,keep=24".parse()?;
/// assert_eq!(spec.to_string(), "file:/tmp/a.fstrm");
/// assert_eq!("tcp:localhost:6000".parse::<OutputSpec>()?.to_string(), "tcp:localhost:6000");
/// assert!("/tmp/a.fstrm".parse::<OutputSpec>().is_err());
/// # Ok::<(), dnstap_agent::sinks::SpecError>(())
/// ```
#[derive(Debug, Clone)]
pub struct OutputSpec(pub(super) Arc<dyn Sink>);

impl OutputSpec {
    /// Creates an output that passes all messages to a function of this process, on a thread of its
    /// own.
    #[must_use]
    pub fn function(name: &'static str, consumer: Consumer) -> Self {
        Self(Arc::new(Function {
            name,
            consumer: Mutex::new(Some(consumer)),
        }))
    }

    /// Returns the privileges that writing to all of these outputs needs.
    #[must_use]
    pub fn privileges(specs: &[Self]) -> NeededPrivileges {
        let privileges = specs.iter().map(|spec| spec.0.privileges());
        privileges.fold(NeededPrivileges::default(), NeededPrivileges::and)
    }

    /// Returns whether the two outputs cannot be open together: they write to one place, or have
    /// the same name in reports.
    #[must_use]
    pub fn shares_place(&self, other: &Self) -> bool {
        let place: Option<&Place> = self.0.place();
        (place.is_some() && place == other.0.place()) || self.0.name() == other.0.name()
    }

    /// Returns why this output cannot be opened together with the outputs `before` it, if one of
    /// them has the same place.
    pub(super) fn conflict<'s>(
        &self,
        before: impl IntoIterator<Item = &'s Self>,
    ) -> Option<&'static str> {
        let is_taken = before.into_iter().any(|other| other.shares_place(self));
        is_taken.then(|| match self.0.place() {
            Some(Place::Stdout) => {
                "standard output is already taken by another output; give one of them a path"
            }
            Some(Place::Path(_)) => "another output has the same path; give one of them another",
            None => "another output goes to the same collector, which would get everything twice",
        })
    }

    /// Returns one line for each output that shares its place with an earlier one.
    #[must_use]
    pub fn mistakes(specs: &[Self]) -> Vec<String> {
        let each = specs.iter().enumerate();
        each.filter_map(|(nth, spec)| {
            let why = spec.conflict(&specs[..nth])?;
            Some(format!("output {spec}: {why}"))
        })
        .collect()
    }

    /// Returns whether the output writes lines, and so can report notices.
    #[must_use]
    pub fn writes_lines(&self) -> bool {
        self.0.writes_lines()
    }

    /// Returns whether the output can show events.
    #[must_use]
    pub fn shows_events(&self) -> bool {
        self.0.shows_events()
    }
}

impl PartialEq for OutputSpec {
    fn eq(&self, other: &Self) -> bool {
        let other: &dyn Any = &*other.0;
        self.0.is_same(other)
    }
}

/// Prints the name in reports, without options.
impl fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name())
    }
}

/// Mistakes in the text after `-o`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The text has no known form, or no form before the colon.
    #[error(
        "`{0}` is not an output; {valid}{hint}",
        valid = valid(),
        hint = if .0.is_empty() || .0.contains("://") { String::new() } else { format!(" (a file? then `file:{}`)", .0.escape_debug()) }
    )]
    UnknownForm(String),
    /// The text has a form with nothing after the colon.
    #[error("`{0}` does not say where to; {valid}", valid = valid())]
    NoPlace(String),
    /// The text has an option or a value that the form does not accept.
    #[error("{0}")]
    Other(String),
}

/// Lists the valid forms, for messages.
fn valid() -> String {
    let helps: Vec<_> = FORMS.iter().map(|form| form.help).collect();
    let (last, others) = helps.split_last().unwrap_or((&"", &[]));
    format!("valid outputs are {}, and {last}", others.join(", "))
}

impl FromStr for OutputSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text == "-" {
            return "text:-".parse();
        }
        let unknown = || SpecError::UnknownForm(text.to_owned());
        let (name, rest) = text.split_once(':').ok_or_else(unknown)?;
        let form = FORMS.iter().find(|form| form.names.contains(&name));
        let form = form.ok_or_else(unknown)?;
        (form.parse)(name, rest).map_err(|mistake| match mistake {
            Mistake::NoPlace => SpecError::NoPlace(text.to_owned()),
            Mistake::Other(problem) => SpecError::Other(problem),
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{formats::Content, host::net::Address};

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
    #[case("json:////a", Content::Json, Place::Path("//a".into()))]
    fn every_form_of_file_is_understood_and_named(
        #[case] text: &str,
        #[case] content: Content,
        #[case] place: Place,
    ) {
        let spec: OutputSpec = text.parse().expect("valid");
        let sink: &dyn Any = &*spec.0;
        let file: &FileSink = sink.downcast_ref().expect("a file");
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
        let collector = OutputSpec(Arc::new(Collector(address)));
        assert_eq!(text.parse(), Ok(collector));
    }

    #[test]
    fn the_same_kind_with_the_same_options_is_the_same() {
        let spec = |text: &str| text.parse::<OutputSpec>().expect("valid");
        assert_eq!(
            spec("file:a,keep=2,rotate-time=1h"),
            spec("file://a,rotate-time=60m,keep=2")
        );
        assert_ne!(spec("file:a"), spec("file:a,mode=0600"));
        assert_ne!(spec("html:a"), spec("text:a"));
    }

    #[test]
    fn a_page_has_a_place_and_no_option() {
        let spec: OutputSpec = "html:a.html".parse().expect("valid");
        let page = Page(Place::Path("a.html".into()));
        assert_eq!(spec, OutputSpec(Arc::new(page)));
        assert_eq!(spec.to_string(), "html:a.html");
        assert!(spec.shares_place(&"text:a.html".parse().expect("valid")));
        assert!(OutputSpec::privileges(std::slice::from_ref(&spec)).paths);
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
        assert!(matches!(error, SpecError::Other(_)), "{error}");
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
        let privileges = OutputSpec::privileges(&[spec.parse().expect("valid")]);
        assert_eq!((privileges.owners, privileges.modes), (owners, modes));
    }

    #[test]
    fn a_bare_path_is_told_how_to_say_it() {
        let error = "a.fstrm"
            .parse::<OutputSpec>()
            .expect_err("must be refused");
        assert!(error.to_string().contains("`file:a.fstrm`"), "{error}");
    }
}
