//! Options on events.

use clap::Args;
use dnstap_core::events::EventKinds;

use crate::sinks::OutputSpec;

/// Options on events.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Events")]
pub struct Events {
    /// Report events of these kinds: `transfer` (zone transfers), `rate-limit` (limited responses), `cache` (RRsets that the
    /// cache takes or refuses), `ns-change` (new name servers of a name), `purge` and `expiry` (RRsets that leave the cache),
    /// `unanswered` (queries without a response), `all`. See docs/events.md
    #[arg(long, value_name = "KIND,...", value_delimiter = ',')]
    pub events: Vec<EventKinds>,

    /// Where events go; may be given several times: `-` (a line per event), or `text:`, `json:` or `yaml:` followed by `-` or a path,
    /// or `file:PATH`, `unix:PATH`, `tcp:HOST:PORT`, `tls:HOST:PORT` (Frame Streams with the content type
    /// `protobuf:dnstap.Event`), or `kafka:HOST:PORT/TOPIC`; with the options of `--output` [default: `-`]
    #[arg(long = "events-output", value_name = "OUTPUT", value_parser = parse_output, requires = "events")]
    pub events_outputs: Vec<OutputSpec>,
}

impl Events {
    /// Returns all kinds that are asked for.
    #[must_use]
    pub fn kinds(&self) -> EventKinds {
        EventKinds::union(&self.events)
    }

    /// Returns the outputs of events: those that are named, or standard output.
    #[must_use]
    pub fn outputs(&self) -> Vec<OutputSpec> {
        if self.events_outputs.is_empty() && !self.events.is_empty() {
            return "-".parse().into_iter().collect();
        }
        self.events_outputs.clone()
    }

    /// Returns mistakes in the combination with the `other` outputs.
    #[must_use]
    pub fn mistakes(&self, other: &[OutputSpec]) -> Vec<String> {
        let outputs = self.outputs();
        if self.events_outputs.is_empty()
            && outputs
                .iter()
                .any(|output| other.iter().any(|one| one.shares_place(output)))
        {
            let message = "--events: events go to standard output, but another output has it; name a place with --events-output, \
                           or give -o one";
            return vec![message.to_owned()];
        }
        OutputSpec::mistakes(&[other, &outputs].concat())
    }
}

/// Parses an output that shows events.
fn parse_output(text: &str) -> Result<OutputSpec, String> {
    match text.parse::<OutputSpec>() {
        Ok(output) if output.shows_events() => Ok(output),
        Ok(_) => Err(
            "events go to `-`, `text:`, `json:`, `yaml:`, `file:`, `unix:`, `tcp:` and `tls:`"
                .into(),
        ),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("-", true)]
    #[case("json:events.json,rotate-size=1M", true)]
    #[case("file:events.fstrm", true)]
    #[case("tcp:localhost:6000", true)]
    #[case("pcap:events.pcap", false)]
    #[case("html:events.html", false)]
    #[case("pdns:events", false)]
    fn only_outputs_that_can_show_events_are_taken(#[case] text: &str, #[case] is_taken: bool) {
        assert_eq!(parse_output(text).is_ok(), is_taken);
    }

    #[test]
    fn events_go_to_standard_output_unless_it_is_taken() {
        let spec = |text: &str| text.parse::<OutputSpec>().expect("valid");
        let mut options = Events::default();
        assert_eq!(options.outputs(), []);
        assert_eq!(options.mistakes(&[spec("-")]), [""; 0]);
        options.events = vec![EventKinds::ALL];
        assert_eq!(options.outputs(), [spec("-")]);
        assert_eq!(options.mistakes(&[spec("file:a")]), [""; 0]);
        let mistakes = options.mistakes(&[spec("json:-")]);
        assert!(mistakes[0].contains("--events-output"), "{mistakes:?}");
        options.events_outputs = vec![spec("json:a")];
        assert_eq!(options.mistakes(&[spec("-")]), [""; 0]);
        assert_eq!(options.mistakes(&[spec("json:a")]).len(), 1);
    }
}
