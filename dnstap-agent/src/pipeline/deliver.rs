//! The last part of the journey, from a whole DNS message to its frame: `classify`, `pair` and `encode` in turn.
//!
//! Every message handed in becomes exactly one frame. What cannot be read as DNS is counted as malformed and delivered
//! all the same, byte for byte: operators want to see attacks.

use crate::{
    classify::{Matter, Profile, Role},
    encode::{Finding, append_frame},
    event::{Direction, Envelope},
    pair::{Pairs, Query},
    pipeline::{Batch, Clock, counters::counters, sockets::Ports},
    stream::wire::{Flags, Message},
};

counters! {
    /// What was encoded.
    pub struct DeliverCounters {
        /// Messages encoded, which is frames.
        messages,
        /// Bytes of the DNS messages.
        message_bytes,
        /// Bytes of the frames with their lengths.
        frame_bytes,
        /// Messages whose header or question cannot be read; part of `messages`.
        malformed,
    }
}

/// State of the last stages.
#[derive(Debug)]
pub(super) struct Deliver {
    pub(super) identity: Vec<u8>,
    pub(super) version: Vec<u8>,
    pub(super) profile: Profile,
    pub(super) clock: Clock,
    pub(super) pairs: Pairs,
    pub(super) ports: Ports,
    pub(super) counters: DeliverCounters,
    pub(super) by_type: [u64; 14],
}

impl Deliver {
    /// Encodes a message; `parsed` is what [`Message::parse`] made of it.
    pub(super) fn message(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        parsed: Option<&Message<'_>>,
        batch: &mut Batch,
    ) {
        let well_formed = parsed.is_some_and(|message| message.well_formed);
        self.counters.malformed += u64::from(!well_formed);
        let flags = self.flags(envelope, bytes);
        let response = flags.response();
        let role = Role::of(envelope.direction, response);
        let matter = Matter::of(role, flags, parsed);
        let kind = self.profile.kind(role, matter, flags.recursion_desired());
        let now = self.clock.wall_ns(envelope.ktime_ns);
        let mut finding = Finding {
            role,
            kind,
            response,
            query_time_ns: None,
            response_time_ns: None,
        };
        let mut envelope = *envelope;
        if response {
            finding.response_time_ns = Some(now);
            if let Some(query) = parsed.and_then(|message| self.pairs.response(&envelope, message))
            {
                finding.kind = query.kind;
                let clock = Clock {
                    offset_ns: query.offset_ns,
                };
                finding.query_time_ns = Some(clock.wall_ns(query.ktime_ns));
                finding.response_time_ns = Some(clock.wall_ns(envelope.ktime_ns));
                if envelope.local.address().is_none() {
                    envelope.local = query.local;
                }
            }
        } else {
            finding.query_time_ns = Some(now);
            if let Some(message) = parsed {
                let query = Query {
                    ktime_ns: envelope.ktime_ns,
                    offset_ns: self.clock.offset_ns,
                    local: envelope.local,
                    kind,
                };
                self.pairs.query(&envelope, message, query);
                if well_formed {
                    self.ports.learn_from_query(&envelope);
                }
            }
        }
        let identity = (!self.identity.is_empty()).then_some(&self.identity[..]);
        let version = (!self.version.is_empty()).then_some(&self.version[..]);
        let before = batch.frames.len();
        append_frame(
            identity,
            version,
            &envelope,
            &finding,
            bytes,
            &mut batch.frames,
        );
        batch.messages += 1;
        self.counters.messages += 1;
        self.counters.message_bytes += bytes.len() as u64;
        self.counters.frame_bytes += (batch.frames.len() - before) as u64;
        self.by_type[finding.kind.message_type(response) as usize - 1] += 1;
    }

    /// The message's flags. One too short to have any is a query or a response by the port that it came to or from.
    fn flags(&self, envelope: &Envelope, bytes: &[u8]) -> Flags {
        if let [_, _, high, rest @ ..] = bytes {
            return Flags(u16::from_be_bytes([
                *high,
                rest.first().copied().unwrap_or(0),
            ]));
        }
        let asks =
            !self.ports.contains(envelope.local.port) && self.ports.contains(envelope.peer.port);
        let response = (envelope.direction == Direction::Received) == asks;
        Flags(if response { 0x8000 } else { 0 })
    }
}
