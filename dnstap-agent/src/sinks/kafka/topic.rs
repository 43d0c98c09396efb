//! Names of topics: text in which `{type}` and `{identity}` stand for parts of the message.
//!
//! Kafka allows letters, digits, `.`, `_` and `-`, and 249 of them. Other bytes of an identity become
//! `_`. Whoever sends messages to `receive` chooses identities, and each topic costs memory here and
//! at the brokers, so [`Namer`] makes no more than [`MOST`] topics.

use std::{fmt, str::FromStr};

/// Most characters of a topic (`org.apache.kafka.common.internals.Topic`).
const LONGEST: usize = 249;

/// Most topics of an output.
#[cfg(any(test, feature = "kafka"))]
const MOST: usize = 1000;

/// A topic, perhaps with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `{type}`: the dnstap type in lower case with hyphens (`client-query`), or the kind of an event.
    Type,
    /// `{identity}`: the server's name.
    Identity,
}

fn is_allowed(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-')
}

#[cfg(feature = "kafka")]
impl Topic {
    /// Returns whether a message has a say in its topic.
    pub(super) fn has_placeholders(&self) -> bool {
        self.0.iter().any(|part| !matches!(part, Part::Text(_)))
    }
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no topic: letters, digits, `.`, `_`, `-`, and `{{type}}` and `{{identity}}` for parts of the message, at \
                 most {LONGEST}"
            )
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, behind) = rest.split_at(at);
            parts.push(Part::Text(before.to_owned()));
            let (part, length) = match behind {
                _ if behind.starts_with("{type}") => (Part::Type, "{type}".len()),
                _ if behind.starts_with("{identity}") => (Part::Identity, "{identity}".len()),
                _ => return Err(wrong()),
            };
            parts.push(part);
            rest = &behind[length..];
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        let is_text = |part: &Part| match part {
            Part::Text(text) => text.chars().all(is_allowed),
            Part::Type | Part::Identity => true,
        };
        let fits = !parts.is_empty() && text.len() <= LONGEST && parts.iter().all(is_text);
        if !fits || text == "." || text == ".." {
            return Err(wrong());
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Type => f.write_str("{type}"),
            Part::Identity => f.write_str("{identity}"),
        })
    }
}

#[cfg(any(test, feature = "kafka"))]
pub(super) use self::namer::Namer;

#[cfg(any(test, feature = "kafka"))]
mod namer {
    use std::collections::HashSet;

    use super::{LONGEST, MOST, Part, Topic, is_allowed};

    /// Makes the names of topics, and reuses its memory for the next one.
    #[derive(Debug)]
    pub(in crate::sinks::kafka) struct Namer {
        topic: Topic,
        name: String,
        /// All names so far.
        names: HashSet<String>,
    }

    impl Namer {
        pub(in crate::sinks::kafka) fn new(topic: Topic) -> Self {
            Self {
                topic,
                name: String::new(),
                names: HashSet::new(),
            }
        }

        /// Returns the topic for a message of this type and server. Returns `None` if there would be
        /// too many topics.
        pub(in crate::sinks::kafka) fn name(
            &mut self,
            kind: &str,
            identity: &[u8],
        ) -> Option<&str> {
            if let [Part::Text(text)] = &self.topic.0[..] {
                return Some(text);
            }
            self.name.clear();
            for part in &self.topic.0 {
                match part {
                    Part::Text(text) => self.name.push_str(text),
                    Part::Type => self.name.extend(kind.chars().map(|char| match char {
                        '_' => '-',
                        other => other.to_ascii_lowercase(),
                    })),
                    Part::Identity if identity.is_empty() => self.name.push_str("unknown"),
                    Part::Identity => self.name.extend(identity.iter().map(|&byte| {
                        let char = char::from(byte);
                        if is_allowed(char) { char } else { '_' }
                    })),
                }
            }
            // All characters are of one byte.
            self.name.truncate(LONGEST);
            if matches!(&self.name[..], "." | "..") {
                self.name.push('_');
            }
            if !self.names.contains(&self.name) {
                if self.names.len() >= MOST {
                    return None;
                }
                self.names.insert(self.name.clone());
            }
            Some(&self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("dnstap", "CLIENT_QUERY", "ns1", "dnstap")]
    #[case("dns.{type}", "CLIENT_QUERY", "ns1", "dns.client-query")]
    #[case(
        "{identity}-{type}.x",
        "AUTH_RESPONSE",
        "ns 1/é",
        "ns_1___-auth-response.x"
    )]
    #[case("{identity}", "", "", "unknown")]
    #[case("{identity}", "", "..", ".._")]
    fn placeholders_stand_for_parts_of_the_message(
        #[case] topic: &str,
        #[case] kind: &str,
        #[case] identity: &str,
        #[case] expected: &str,
    ) {
        let parsed: Topic = topic.parse().expect("valid");
        assert_eq!(parsed.to_string(), topic);
        let mut namer = Namer::new(parsed);
        assert_eq!(namer.name(kind, identity.as_bytes()), Some(expected));
    }

    #[rstest]
    #[case("")]
    #[case(".")]
    #[case("..")]
    #[case("a b")]
    #[case("a/b")]
    #[case("{name}")]
    #[case("a{")]
    #[case("a}")]
    #[case(&"x".repeat(250))]
    fn what_kafka_refuses_is_refused(#[case] topic: &str) {
        topic.parse::<Topic>().expect_err(topic);
    }

    #[test]
    fn a_long_identity_is_cut_and_others_cannot_make_any_number_of_topics() {
        let mut namer = Namer::new("{identity}".parse().expect("valid"));
        let name = namer.name("", &[b'a'; 1000]).expect("the first");
        assert_eq!(name.len(), LONGEST);
        for number in 1..MOST {
            assert!(namer.name("", number.to_string().as_bytes()).is_some());
        }
        assert_eq!(namer.name("", b"one more"), None);
        assert!(namer.name("", b"17").is_some(), "known");
    }
}
