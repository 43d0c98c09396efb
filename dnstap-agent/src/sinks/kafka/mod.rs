//! Output to Kafka: `kafka:BROKER[,BROKER...]/TOPIC[,OPTION...]`, one record for each message.
//!
//! ```text
//! queue ──────────────────► record ─► librdkafka ─► brokers
//!   │                         ▲           │ delivered, or refused for good
//!   └─► spool (if asked for) ─┘ ◄─────────┘ what is settled from the front on is removed
//! ```
//!
//! `topic` has the names of topics, `record` makes the records, `flight` knows what librdkafka has and
//! what became of it, `spool` keeps records on disk. `client` and `worker` need the cargo feature
//! `kafka`, because only they touch librdkafka.
//!
//! **Nothing twice, and in order for each key**: librdkafka numbers what it sends to a partition, and
//! the broker refuses a number that it has (`enable.idempotence`). It repeats for ever, so an outage
//! loses nothing as long as the queue, or the spool, has room.
//!
//! **A gap can be seen**: each record has a `run` (one opening of the output) and a `seq`, the number
//! of messages that the output was sent before in this run. Messages that are dropped have a number,
//! too.

#[cfg(feature = "kafka")]
mod client;
#[cfg(any(test, feature = "kafka"))]
#[cfg_attr(
    not(feature = "kafka"),
    allow(dead_code, reason = "unit tests use a part, and the worker the rest")
)]
mod flight;
#[cfg(any(test, feature = "kafka"))]
#[cfg_attr(
    not(feature = "kafka"),
    allow(dead_code, reason = "unit tests use a part, and the worker the rest")
)]
mod record;
#[cfg(any(test, feature = "kafka"))]
#[cfg_attr(
    not(feature = "kafka"),
    allow(dead_code, reason = "unit tests use a part, and the worker the rest")
)]
mod spool;
mod topic;
#[cfg(feature = "kafka")]
mod worker;

use std::{collections::BTreeSet, path::PathBuf};

use self::topic::Topic;
use super::{
    queue::Policy,
    report::Takes,
    sink::{About, Mistake, Opened, Sink, Typed},
};
use crate::host::{
    kafka::{self, Cluster},
    sandbox::NeededPrivileges,
    units::parse_bytes,
};

/// The output, as it is configured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kafka {
    cluster: Cluster,
    topic: Topic,
    options: Options,
}

/// Options that may follow the topic, besides those of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    /// `key=`.
    key: Key,
    /// `format=json`: JSON instead of protobuf.
    json: bool,
    /// `spool=`: folder of the spool.
    spool: Option<PathBuf>,
    /// `spool-size=`: largest size of the spool, in bytes.
    spool_size: u64,
}

/// Key of a record. Records with the same key are in one partition, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Key {
    /// Name of the server.
    #[default]
    Identity,
    /// No key: any partition, no order.
    None,
    /// Registered domain of the question.
    Domain,
    /// Address of the side that asks.
    Client,
}

impl Key {
    const ALL: [(&'static str, Self); 4] = [
        ("identity", Self::Identity),
        ("none", Self::None),
        ("domain", Self::Domain),
        ("client", Self::Client),
    ];
}

/// Smallest spool, in bytes: some segments of it must have room.
const SMALLEST_SPOOL: u64 = 4 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            key: Key::default(),
            json: false,
            spool: None,
            spool_size: 1 << 30,
        }
    }
}

impl Options {
    /// Sets an option. Returns false if it is unknown.
    fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let wrong = |problem: String| format!("`{name}={value}`: {problem}");
        match name {
            "key" => {
                let known = Key::ALL.iter().find(|(known, _)| *known == value);
                let valid = "valid are `identity`, `none`, `domain` and `client`";
                self.key = known.ok_or_else(|| wrong(valid.to_owned()))?.1;
            }
            "format" => match value {
                "dnstap" => self.json = false,
                "json" => self.json = true,
                _ => return Err(wrong("valid are `dnstap` and `json`".to_owned())),
            },
            "spool" => self.spool = Some(value.into()),
            "spool-size" => {
                self.spool_size = parse_bytes(value).map_err(wrong)? as u64;
                if self.spool_size < SMALLEST_SPOOL {
                    return Err(wrong("less than 4M".to_owned()));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Kafka {
    fn read(rest: &str) -> Result<Self, String> {
        let (mut cluster, topic, text) = Cluster::parse(rest)?;
        let topic = topic.parse()?;
        let mut options = Options::default();
        let mut seen = BTreeSet::new();
        for option in text.into_iter().flat_map(|text| text.split(',')) {
            let unknown = || {
                format!(
                    "`{option}` is no option of Kafka; valid are `key=identity` or `none` or `domain` or `client`, `format=json`, \
                     `spool=DIR`, `spool-size=BYTES` (with K, M, G), {}",
                    kafka::OPTIONS
                )
            };
            let (name, value) = option
                .split_once('=')
                .filter(|(_, value)| !value.is_empty())
                .ok_or_else(unknown)?;
            if !seen.insert(name) {
                return Err(format!("`{name}` is given twice"));
            }
            if !cluster.set(name, value)? && !options.set(name, value)? {
                return Err(unknown());
            }
        }
        if seen.contains("spool-size") && options.spool.is_none() {
            return Err("`spool-size` needs `spool`".to_owned());
        }
        cluster.check()?;
        Ok(Self {
            cluster,
            topic,
            options,
        })
    }
}

impl Typed for Kafka {
    fn parse(_: &str, rest: &str) -> Result<Self, Mistake> {
        let kafka = Self::read(rest).map_err(Mistake::Other)?;
        #[cfg(not(feature = "kafka"))]
        if !cfg!(test) {
            return Err(Mistake::Other(kafka::MISSING.to_owned()));
        }
        Ok(kafka)
    }
}

impl Sink for Kafka {
    fn name(&self) -> String {
        format!("kafka:{}/{}", self.cluster.brokers(), self.topic)
    }

    /// Needs file access for certificates, the password and the spool.
    fn privileges(&self) -> NeededPrivileges {
        NeededPrivileges {
            paths: self.cluster.reads_files() || self.options.spool.is_some(),
            ..NeededPrivileges::default()
        }
    }

    fn policy(&self) -> Policy {
        Policy::DropOldest
    }

    fn shows_events(&self) -> bool {
        true
    }

    #[cfg(feature = "kafka")]
    fn open(&self, takes: Takes, _: &About) -> Result<Opened, String> {
        worker::open(self, takes)
    }

    #[cfg(not(feature = "kafka"))]
    fn open(&self, _: Takes, _: &About) -> Result<Opened, String> {
        Err(kafka::MISSING.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::sinks::OutputSpec;

    #[test]
    fn options_follow_the_topic() {
        let spec =
            "//a:9092,b:9092/dns.{type},key=domain,format=json,spool=/s,spool-size=8M,tls=on";
        let kafka = Kafka::read(spec).expect("valid");
        let expected = Options {
            key: Key::Domain,
            json: true,
            spool: Some("/s".into()),
            spool_size: 8 << 20,
        };
        assert_eq!(kafka.options, expected);
        assert_eq!(kafka.name(), "kafka:a:9092,b:9092/dns.{type}");
        let again: OutputSpec = kafka.name().parse().expect("valid");
        assert_eq!(again.to_string(), kafka.name());
        assert!(kafka.privileges().paths && kafka.shows_events());
        let plain = Kafka::read("a:9092/t").expect("valid");
        assert!(!plain.privileges().paths);
    }

    #[rstest]
    #[case::option("a:1/t,colour=red", "`x-NAME=VALUE`")]
    #[case::no_value("a:1/t,key=", "`key=identity`")]
    #[case::key("a:1/t,key=name", "`domain`")]
    #[case::format("a:1/t,format=xml", "`json`")]
    #[case::twice("a:1/t,key=none,key=none", "given twice")]
    #[case::small("a:1/t,spool=/s,spool-size=1M", "less than 4M")]
    #[case::no_spool("a:1/t,spool-size=8M", "needs `spool`")]
    #[case::topic("a:1/t t", "topic")]
    fn what_makes_no_sense_is_refused(#[case] text: &str, #[case] why: &str) {
        let error = Kafka::read(text).expect_err("refused");
        assert!(error.contains(why), "{error}");
    }
}
