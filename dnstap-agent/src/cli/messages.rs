//! Options on what is delivered and under which names.

use std::{num::NonZeroU32, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;
use dnstap_core::{
    classify::profile::ProfileChoice,
    encode::ExtraField,
    model::{Net, Subject, TypeSet},
    privacy::MethodName,
    reassemble::tcp::Proxies,
};
use dnstap_ebpf::MAX_NETS;

use super::parse_label;
use crate::host::units::parse_seconds;
use crate::sinks::OutputSpec;

/// Options on messages.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Messages")]
pub struct Messages {
    /// How queries and responses are named: `auto` (by the name of the executable), `generic`, `recursive`,
    /// `authoritative`, `forwarder`, `stub`, `tool`, or a server's name, such as `unbound`
    #[arg(long, value_name = "PROFILE", default_value_t)]
    pub profile: ProfileChoice,

    /// Name and select messages as the server's own dnstap does: `bind` (its version is read from the executable)
    /// or `bind:VERSION`
    #[arg(long, value_name = "SERVER")]
    pub mimic: Option<Mimic>,

    /// Trust PROXY headers (version 2) only from these networks; `private`: loopback, private and link-local
    /// networks; `none`: ignore all PROXY headers
    #[arg(long, value_name = "NET,...", default_value = "private")]
    pub proxy_from: Proxies,

    /// What is delivered
    #[command(flatten)]
    pub filters: Filters,

    /// Also deliver unsolicited responses: datagrams with the QR bit for which the process sent no query. They have
    /// `"unsolicited":true` in `extra`
    #[arg(long)]
    pub unsolicited: bool,

    /// Count a query as unanswered after this time, such as `15s`; a number without unit is seconds. A later response has no
    /// query time [default: 15]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub unanswered: Option<Duration>,

    /// Report each unanswered query to this output: `-`, or `text:`, `json:` or `yaml:` followed by `-` or a path. The
    /// report is the query, with `{"event":"unanswered","waited_ns":NUMBER}` as `extra`
    #[arg(long, value_name = "OUTPUT", value_parser = parse_lines)]
    pub unanswered_events: Option<OutputSpec>,

    /// Put these members into dnstap's `extra`, a JSON object: `pid`, `tid`, `hook`, `netns`
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',')]
    pub extra: Vec<ExtraField>,

    /// Hide clients' addresses, also in client subnets (ECS): `truncate:V4,V6` keeps so many bits of IPv4 and IPv6
    /// addresses, such as `truncate:24,48`; `cryptopan` encrypts them and preserves common prefixes
    #[arg(long, value_name = "METHOD")]
    pub anonymise: Option<MethodName>,

    /// Key of `--anonymise cryptopan`: a file of 32 bytes, or of 64 hexadecimal digits
    #[arg(long, value_name = "FILE", requires = "anonymise")]
    pub anonymise_key: Option<PathBuf>,

    /// Deliver only the header of each message: no names, no data
    #[arg(long)]
    pub no_payload_names: bool,

    /// dnstap version of the server; empty for none [default: the server's, read from its executable, else ours]
    #[arg(long, value_name = "TEXT", value_parser = parse_label)]
    pub server_version: Option<String>,
}

/// Options on which messages are delivered: those that SIGHUP changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Filters {
    /// Deliver only these types: `client`, `resolver`, `auth`, `forwarder`, `stub`, `tool`, `update`, or one half, such
    /// as `client-query`
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    pub only: Vec<TypeSet>,

    /// Do not deliver these: `xfr` (zone transfers), `notify`, `refresh` (a secondary's SOA queries), `update`, `query` (all
    /// ordinary ones), `other` (other opcodes)
    #[arg(long, value_name = "MATTER,...", value_delimiter = ',')]
    pub exclude: Vec<Subject>,

    /// Deliver only messages from or to one of these ports, local or remote
    #[arg(long = "port", value_name = "PORT,...", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,

    /// Deliver only messages from and to these subnets or addresses, such as `192.0.2.0/24,2001:db8::/32`; behind a proxy,
    /// this is the proxy's address
    #[arg(long = "net", value_name = "NET,...", value_delimiter = ',')]
    pub nets: Vec<Net>,

    /// Deliver one of so many queries with its response; for TCP, one of so many connections
    #[arg(long, value_name = "N")]
    pub sample: Option<NonZeroU32>,
}

impl Messages {
    /// Returns mistakes in the combination of these options.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let key = match (&self.anonymise, &self.anonymise_key) {
            (Some(MethodName::Truncate(_)), Some(_)) => Some("--anonymise truncate has no key"),
            (Some(MethodName::CryptoPan), None) => {
                Some("--anonymise cryptopan needs --anonymise-key FILE")
            }
            _ => None,
        };
        let key = key.map(str::to_owned);
        self.filters.mistake().into_iter().chain(key).collect()
    }
}

impl Filters {
    /// The long names of these options.
    pub const NAMES: [&str; 5] = ["only", "exclude", "port", "net", "sample"];

    /// Returns a mistake in the combination of these options.
    #[must_use]
    pub fn mistake(&self) -> Option<String> {
        let (nets, most) = (self.nets.len(), MAX_NETS as usize);
        (nets > most).then(|| format!("--net: {nets} subnets, of which there may be {most}"))
    }
}

/// Parses an output that writes lines.
fn parse_lines(text: &str) -> Result<OutputSpec, String> {
    match text.parse::<OutputSpec>() {
        Ok(output) if output.writes_lines() => Ok(output),
        Ok(_) => Err("events are no dnstap: they go to `-`, or as `text:`, `json:` or `yaml:` to `-` or a path".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Server whose dnstap is mimicked: BIND, of a version if one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mimic {
    /// Version of BIND, such as `9.18.49`.
    pub bind_version: Option<String>,
}

impl FromStr for Mimic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "bind" => Ok(Self { bind_version: None }),
            Some(("bind", version)) if version.starts_with("9.") => Ok(Self {
                bind_version: Some(version.to_owned()),
            }),
            _ => Err("there are bind and bind:VERSION, such as bind:9.18.49".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use dnstap_core::pipeline::MAX_LABEL;

    use super::*;

    #[test]
    fn the_names_of_the_filters_are_all_of_their_options() {
        let command = Filters::augment_args(clap::Command::new(""));
        let names: Vec<_> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        assert_eq!(names, Filters::NAMES);
    }

    #[test]
    fn a_text_for_each_message_is_short() {
        assert_eq!(parse_label(""), Ok(String::new()));
        assert!(parse_label(&"x".repeat(MAX_LABEL)).is_ok());
        assert!(parse_label(&"x".repeat(MAX_LABEL + 1)).is_err());
    }

    #[test]
    fn mimic_takes_a_version_of_bind_or_none() {
        let version = |text: &str| text.parse::<Mimic>().map(|mimic| mimic.bind_version);
        assert_eq!(version("bind"), Ok(None));
        assert_eq!(version("bind:9.18.1"), Ok(Some("9.18.1".to_owned())));
        for wrong in ["", "unbound", "bind:", "bind:new", "bind9.18"] {
            assert!(version(wrong).is_err(), "{wrong}");
        }
    }
}
