//! One record of Kafka for each message: topic, key, time, value and headers.
//!
//! The value is the payload of the frame as it is, or a JSON object. The frame is read in place
//! ([`View`]), and all memory is reused.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dnstap_core::{dns::Dns, events::EventKind};
use dnstap_proto::{Event, Timestamp, View, lenient, prost::Message as _};

use super::{Kafka, Key, topic::Namer};
use crate::{
    formats::{Content, render::Renderer},
    report::Registered,
    sinks::report::Takes,
};

/// A record, without `run` and `seq`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) topic: &'a str,
    /// `None`: Kafka chooses any partition.
    pub(super) key: Option<&'a [u8]>,
    /// Time of the message, in milliseconds since 1970; `None`: it has no time.
    pub(super) time: Option<i64>,
    pub(super) value: &'a [u8],
    /// Header `content-type`.
    pub(super) content_type: &'static str,
    /// Header `dnstap-type`: type of the message, or kind of the event.
    pub(super) kind: &'static str,
    /// Header `identity`: the server's name.
    pub(super) identity: &'a [u8],
}

/// Reason why there is no record for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRecord {
    /// No message, or no event, in the frame.
    Unfit,
    /// There are too many topics already.
    Topic,
}

/// Makes records.
#[derive(Debug)]
pub(super) struct Recorder {
    takes: Takes,
    key: Key,
    /// Writes JSON, if that is asked for.
    renderer: Option<Renderer>,
    namer: Namer,
    registered: Registered,
    value: Vec<u8>,
    /// Identity of the last event.
    identity: Vec<u8>,
}

/// What a frame says about itself.
struct Facts<'a> {
    kind: &'static str,
    identity: &'a [u8],
    time: Option<Timestamp>,
    client: Option<&'a [u8]>,
    question: Option<&'a [u8]>,
}

impl Recorder {
    pub(super) fn new(kafka: &Kafka, takes: Takes) -> Self {
        let options = &kafka.options;
        Self {
            takes,
            key: options.key,
            renderer: options.json.then(|| Renderer::new(Content::Json, false)),
            namer: Namer::new(kafka.topic.clone()),
            registered: Registered::default(),
            value: Vec::new(),
            identity: Vec::new(),
        }
    }

    /// Makes the record of a frame's payload.
    pub(super) fn record<'a>(&'a mut self, payload: &'a Bytes) -> Result<Record<'a>, NoRecord> {
        self.value.clear();
        let facts = if self.takes == Takes::Events {
            let event = Event::decode(payload.clone()).map_err(|_malformed| NoRecord::Unfit)?;
            if let Some(renderer) = &mut self.renderer {
                renderer.event(&event, &mut self.value);
            }
            self.identity.clear();
            self.identity
                .extend_from_slice(event.identity.as_deref().unwrap_or_default());
            of_event(&event, &self.identity)
        } else {
            if let Some(renderer) = &mut self.renderer {
                let dnstap =
                    lenient::decode(payload.clone()).map_err(|_malformed| NoRecord::Unfit)?;
                renderer.message(&dnstap, &mut self.value);
            }
            of_message(payload).ok_or(NoRecord::Unfit)?
        };
        let value = match &self.renderer {
            Some(_) => self.value.trim_ascii_end(),
            None => payload,
        };
        let content_type = match (&self.renderer, self.takes) {
            (Some(_), _) => "application/json",
            (None, Takes::Events) => "protobuf:dnstap.Event",
            (None, _) => "protobuf:dnstap.Dnstap",
        };
        let topic = self.namer.name(facts.kind, facts.identity);
        let topic = topic.ok_or(NoRecord::Topic)?;
        let key = match self.key {
            Key::Identity => Some(facts.identity).filter(|identity| !identity.is_empty()),
            Key::None => None,
            Key::Client => facts.client,
            Key::Domain => facts
                .question
                .and_then(|message| Dns::parse(message).ok()?.first_name())
                .map(|name| self.registered.of(name).as_bytes()),
        };
        Ok(Record {
            topic,
            key,
            time: facts
                .time
                .and_then(milliseconds)
                .filter(|time| is_believable(*time)),
            value,
            content_type,
            kind: facts.kind,
            identity: facts.identity,
        })
    }
}

fn of_message(payload: &[u8]) -> Option<Facts<'_>> {
    let view = View::parse(payload).filter(|view| view.has_message)?;
    Some(Facts {
        kind: view.kind().map_or("UNKNOWN", |kind| kind.as_str_name()),
        identity: view.identity.unwrap_or_default(),
        // A response has both times, and passed at the later one.
        time: view
            .response_time()
            .filter(|_| view.response_message.is_some())
            .or(view.query_time())
            .or(view.response_time()),
        client: view.query_address,
        question: view.query_message.or(view.response_message),
    })
}

fn of_event<'a>(event: &Event, identity: &'a [u8]) -> Facts<'a> {
    Facts {
        kind: event
            .kind
            .as_ref()
            .map_or("unknown", |kind| EventKind::of(kind).name()),
        identity,
        time: event.time_sec.map(|seconds| Timestamp {
            seconds,
            nanoseconds: event.time_nsec.unwrap_or_default(),
        }),
        client: None,
        question: None,
    }
}

/// Returns whether a broker takes a record of this time. Kafka refuses those of more than an hour ahead, and the time is
/// the sender's choice. Without a time, the record has that of the agent.
fn is_believable(time: i64) -> bool {
    const AHEAD_MS: i64 = 600_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    time <= now.saturating_add(AHEAD_MS)
}

fn milliseconds(time: Timestamp) -> Option<i64> {
    let seconds = i64::try_from(time.seconds).ok()?;
    seconds
        .checked_mul(1000)?
        .checked_add(i64::from(time.nanoseconds / 1_000_000))
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{Unanswered, event, message::Type};
    use rstest::rstest;

    use super::*;
    use crate::{host::kafka::Cluster, sinks::kafka::Options, tally::tests::message};

    fn recorder(topic: &str, key: Key, json: bool, takes: Takes) -> Recorder {
        let kafka = Kafka {
            cluster: Cluster::default(),
            topic: topic.parse().expect("valid"),
            options: Options {
                key,
                json,
                ..Options::default()
            },
        };
        Recorder::new(&kafka, takes)
    }

    /// A response with both times.
    fn response() -> Bytes {
        let mut dnstap = message(Type::ClientResponse, "name", 1, 0);
        dnstap.identity = Some("ns1".into());
        let message = dnstap.message.as_mut().expect("a message");
        (message.query_time_sec, message.query_time_nsec) = (Some(1_700_000_000), Some(5_999_999));
        (message.response_time_sec, message.response_time_nsec) =
            (Some(1_700_000_001), Some(7_999_999));
        message.response_message = Some(
            b"\0\x07\x80\0\0\x01\0\0\0\0\0\0\x03www\x07Example\x02co\x02uk\0\0\x01\0\x01"[..]
                .into(),
        );
        message.query_address = Some(vec![192, 0, 2, 1].into());
        dnstap.encode_to_vec().into()
    }

    #[rstest]
    #[case(Key::Identity, Some(&b"ns1"[..]))]
    #[case(Key::None, None)]
    #[case(Key::Domain, Some(&b"example.co.uk."[..]))]
    #[case(Key::Client, Some(&[192, 0, 2, 1][..]))]
    fn a_message_is_the_value_as_it_is_with_its_time_and_key(
        #[case] key: Key,
        #[case] expected: Option<&[u8]>,
    ) {
        let mut recorder = recorder("dns.{type}", key, false, Takes::Messages);
        let payload = response();
        let record = recorder.record(&payload).expect("a record");
        let expected = Record {
            topic: "dns.client-response",
            key: expected,
            time: Some(1_700_000_001_007),
            value: &payload,
            content_type: "protobuf:dnstap.Dnstap",
            kind: "CLIENT_RESPONSE",
            identity: b"ns1",
        };
        assert_eq!(record, expected);
    }

    #[test]
    fn json_is_one_object_without_a_line_end() {
        let mut recorder = recorder("t", Key::Identity, true, Takes::Messages);
        let payload = response();
        for _ in 0..2 {
            let record = recorder.record(&payload).expect("a record");
            assert_eq!(record.content_type, "application/json");
            let value: serde_json::Value = serde_json::from_slice(record.value).expect("JSON");
            assert_eq!(value["identity"], "ns1");
            assert!(record.value.ends_with(b"}"));
        }
    }

    #[test]
    fn an_event_has_its_kind_and_no_client() {
        let event = Event {
            identity: Some("ns1".into()),
            time_sec: Some(3),
            kind: Some(event::Kind::Unanswered(Unanswered::default())),
            ..Event::default()
        };
        let payload: Bytes = event.encode_to_vec().into();
        let mut recorder = recorder("{type}", Key::Client, false, Takes::Events);
        let record = recorder.record(&payload).expect("a record");
        assert_eq!(
            (record.topic, record.key, record.time),
            ("unanswered", None, Some(3000))
        );
        assert_eq!(record.content_type, "protobuf:dnstap.Event");
        assert_eq!(record.value, payload);
    }

    #[rstest]
    #[case(b"\xff\xff")]
    #[case(b"")]
    fn a_frame_without_a_message_has_no_record(#[case] payload: &'static [u8]) {
        for json in [false, true] {
            let mut recorder = recorder("t", Key::Identity, json, Takes::Messages);
            let payload = Bytes::from_static(payload);
            assert_eq!(recorder.record(&payload), Err(NoRecord::Unfit));
        }
    }
}
