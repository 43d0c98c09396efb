//! Makes the expected records from what the actors report to have read and written, and compares them with the agent's
//! records.
//!
//! The file may contain only messages that an actor has read or written as a message. Each such message must be in it
//! once. If the program has made it impossible for the agent to know a message, a counter that accounts for it is
//! enough; [`Faith`] tells which counter.

use std::{collections::HashMap, fmt, time::Duration};

use anyhow::Result;
use dnstap_proto::SocketProtocol;

use crate::{record::Record, tap::Tapped, wire};

/// Whether the agent saw a call of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The agent must have seen it.
    Yes,
    /// The agent may have counted the call and not recorded it.
    OrCounted,
    /// The agent was not attached, or the actor is not tapped.
    No,
}

/// One direction of a connection, as the actors saw it.
#[derive(Default)]
pub(super) struct Flow {
    /// All bytes in order.
    pub(super) bytes: Vec<u8>,
    /// Ends of spans, and whether the agent saw each span.
    spans: Vec<(usize, Seen)>,
    /// Whether the connection began before the agent attached.
    pub(super) midway: bool,
    /// Position up to which [`Self::next`] has returned the messages.
    noticed: usize,
}

impl Flow {
    /// Adds bytes that an actor has read or written.
    pub(super) fn push(&mut self, bytes: &[u8], seen: Seen) {
        self.bytes.extend(bytes);
        match self.spans.last_mut() {
            Some((end, same)) if *same == seen => *end = self.bytes.len(),
            _ => self.spans.push((self.bytes.len(), seen)),
        }
    }

    /// Returns the next complete message, each message once.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let (end, message) = frame(&self.bytes, self.noticed)?;
        let message = message.to_vec();
        self.noticed = end;
        Some(message)
    }

    /// Returns the number of missing bytes of the length field, or else of the message; never 0.
    pub(super) fn wanted(&self) -> usize {
        match &self.bytes[self.boundary()..] {
            [] => 2,
            [_] => 1,
            [high, low, rest @ ..] => usize::from(u16::from_be_bytes([*high, *low])) - rest.len(),
        }
    }

    /// Returns the start of the incomplete message, or of the next one.
    fn boundary(&self) -> usize {
        let mut at = 0;
        while let Some((end, _)) = frame(&self.bytes, at) {
            at = end;
        }
        at
    }

    /// Returns whether there is no incomplete message.
    pub(super) fn is_between(&self) -> bool {
        self.boundary() == self.bytes.len()
    }

    /// Returns whether the agent saw all bytes between these positions. `counted`: calls that may be counted are
    /// included.
    fn is_seen(&self, from: usize, to: usize, counted: bool) -> bool {
        let mut start = 0;
        self.spans.iter().all(|(end, seen)| {
            let outside = *end <= from || start >= to;
            start = *end;
            outside || *seen == Seen::Yes || counted && *seen == Seen::OrCounted
        })
    }

    /// Returns all complete messages whose body the agent saw.
    pub(super) fn messages(&self) -> Vec<(&[u8], Faith)> {
        let mut all = Vec::new();
        let mut at = 0;
        while let Some((end, message)) = frame(&self.bytes, at) {
            let faith = if self.midway || !self.is_seen(0, end, false) {
                Faith::Broken
            } else {
                Faith::Sure
            };
            if !message.is_empty() && self.is_seen(at + 2, end, true) {
                all.push((message, faith));
            }
            at = end;
        }
        all
    }

    /// Returns whether the agent missed bytes or the beginning.
    pub(super) fn is_broken(&self) -> bool {
        self.midway || !self.is_seen(0, self.bytes.len(), true)
    }
}

/// Returns the message at `at` and its end, if it is complete.
fn frame(bytes: &[u8], at: usize) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some((at + 2 + length, rest.get(..length)?))
}

/// Certainty that a message is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Faith {
    /// It must be in the file.
    Sure,
    /// It must be in the file unless the counters show gaps of streams or counted calls: the agent did not see its
    /// stream from the beginning, or the stream has a gap, or may have one because of a call that may be counted.
    Broken,
    /// It must be in the file unless the counters show `unsupported_call`: the call may be counted.
    Counted,
    /// It must be in the file unless the counters show `truncated`: datagrams that arrived with it were cut.
    Cut,
    /// It must be in the file unless the counters show `unsolicited` or a reason for it: the agent did not see its
    /// query. Or unless they show `udp_not_dns`: the message is unusual, and nothing has shown yet that the socket
    /// carries DNS.
    Unasked,
    /// It must not be in the file, and the counters must show it as `unsolicited`.
    Never,
}

/// One message that an actor read or wrote.
pub(super) struct Expected {
    /// Number of its scene.
    pub(super) scene: usize,
    /// Its record in the file.
    pub(super) record: Record,
    /// Certainty that it is in the file.
    pub(super) faith: Faith,
    /// Whether the call did not ask for the sender, so that only the query of a response can tell the peer.
    pub(super) nameless: bool,
    /// Whether it is a response whose query the agent saw.
    pub(super) paired: bool,
    /// Whether it is a datagram of a call that moved another one before it. The kernel counts calls.
    pub(super) shared: bool,
}

/// Losses that the program has caused, in addition to those of single messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Provoked {
    /// Whether the ring may have been full.
    pub(super) ring: bool,
    /// Number of datagrams that were larger than the buffer.
    pub(super) cut: u64,
    /// Number of such datagrams in calls that may be counted for another reason.
    pub(super) maybe_cut: u64,
    /// Whether there are streams with gaps, or streams that began before the agent.
    pub(super) broken: bool,
    /// Whether there are datagrams of calls that may be counted.
    pub(super) counted: bool,
}

/// A difference between the expected and the real result.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// Sort of the finding.
    pub(super) sort: &'static str,
    text: String,
}

impl Finding {
    pub(super) fn new(sort: &'static str, text: impl fmt::Display) -> Self {
        let text = text.to_string();
        Self { sort, text }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.sort, self.text)
    }
}

/// Result of a program.
pub(super) struct Played {
    pub(super) expected: Vec<Expected>,
    /// Output of the agent.
    pub(super) tapped: Tapped,
    pub(super) provoked: Provoked,
    /// Bytes of streams in which the beginning of a message may be missing.
    pub(super) torn: Vec<Vec<u8>>,
}

/// Compares, and returns all findings.
pub(super) fn judge(played: &Played) -> Result<Vec<Finding>> {
    let Played {
        expected,
        tapped,
        provoked,
        torn,
    } = played;
    let provoked = *provoked;
    let records: Vec<_> = tapped
        .records()?
        .into_iter()
        .map(Record::with_plain_kind)
        .collect();
    let mut findings = Vec::new();
    let taken = matched(expected, &records, torn, &mut findings);
    missing(expected, &taken, tapped, provoked, &mut findings)?;
    times(expected, &taken, &records, &mut findings);
    account(tapped, provoked, records.len(), &mut findings)?;
    Ok(findings)
}

/// Returns the matching record of each expected message. Each other record is a finding.
fn matched(
    expected: &[Expected],
    records: &[Record],
    torn: &[Vec<u8>],
    findings: &mut Vec<Finding>,
) -> Vec<Option<usize>> {
    let mut by_message: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, one) in expected.iter().enumerate() {
        by_message.entry(&one.record.message).or_default().push(at);
    }
    let mut taken = vec![None; expected.len()];
    for (number, record) in records.iter().enumerate() {
        let candidates = by_message.get(record.message.as_slice());
        let candidates = candidates.map_or(&[][..], Vec::as_slice);
        let free = |at: &&usize| taken[**at].is_none() && same(&expected[**at], record);
        let found = candidates.iter().find(free).copied();
        match found {
            Some(at) if expected[at].faith == Faith::Never => {
                findings.push(Finding::new(
                    "unasked",
                    format_args!("scene {}: {record}", expected[at].scene),
                ));
                taken[at] = Some(number);
            }
            Some(at) => taken[at] = Some(number),
            // A framed message inside of a message whose beginning is missing looks like a message
            // (docs/architecture.md).
            None if is_hidden(record, torn) => {}
            None => findings.push(Finding::new("extra", extra(expected, candidates, record))),
        }
    }
    taken
}

/// Returns whether a record is a framed message inside of a torn stream.
fn is_hidden(record: &Record, torn: &[Vec<u8>]) -> bool {
    let framed = wire::framed(&record.message);
    record.protocol == SocketProtocol::Tcp
        && torn
            .iter()
            .any(|bytes| bytes.windows(framed.len()).any(|window| window == framed))
}

/// Returns whether the message is the same and has the same ends, as far as they can be known.
fn same(expected: &Expected, record: &Record) -> bool {
    let wanted = &expected.record;
    let ends = |record: &Record| {
        let asked = (record.query_address, record.query_port);
        (asked, (record.response_address, record.response_port))
    };
    let (wanted_ends, ends) = (ends(wanted), ends(record));
    wanted.protocol == record.protocol
        && wanted.kind == record.kind
        && (wanted_ends == ends
            || expected.nameless && wanted_ends.1 == ends.1 && ends.0 == (None, 0)
            // A response whose query the agent did not see.
            || expected.nameless && wanted_ends.0 == ends.0 && ends.1 == (None, 0))
}

/// Describes a record that is not expected.
fn extra(expected: &[Expected], candidates: &[usize], record: &Record) -> String {
    let part = expected.iter().find(|one| {
        let (whole, part) = (&one.record.message, &record.message);
        whole.len() > part.len()
            && !part.is_empty()
            && whole.windows(part.len()).any(|window| window == part)
    });
    let same = candidates.first().map(|at| &expected[*at]);
    match (same, part) {
        (Some(same), _) => format!("{record}\n    the same bytes are expected once: {same}"),
        (None, Some(whole)) => format!("{record}\n    a part of: {whole}"),
        (None, None) => match expected.iter().find_map(|one| differs(one, record)) {
            Some((at, near)) => format!("{record}\n    differs from byte {at} on: {near}"),
            None => record.to_string(),
        },
    }
}

/// Finds an expected message that begins like the record, and the position of the first difference.
fn differs<'a>(expected: &'a Expected, record: &Record) -> Option<(usize, &'a Expected)> {
    let (wanted, found) = (&expected.record.message, &record.message);
    let same = wanted.iter().zip(found).take_while(|(a, b)| a == b).count();
    (same >= 12).then_some((same, expected))
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scene,
            record,
            faith,
            ..
        } = self;
        write!(formatter, "scene {scene}: {record} ({faith:?})")
    }
}

/// Checks that a counter accounts for each missing message.
fn missing(
    expected: &[Expected],
    taken: &[Option<usize>],
    tapped: &Tapped,
    provoked: Provoked,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let summary = &tapped.summary;
    let lost = summary.kernel("ring_full")? + summary.missed()?;
    let counted = if provoked.counted {
        summary.kernel("unsupported_call")?
    } else {
        0
    };
    let unsolicited = summary.pipeline("unsolicited").unwrap_or(0);
    let mut gaps = summary.kernel("not_dns")?;
    for counter in [
        "stream_gaps",
        "stream_missing_bytes",
        "stream_skipped_bytes",
        "stream_joined_midway",
        "stream_not_dns_bytes",
        "udp_not_dns",
    ] {
        gaps += summary.pipeline(counter)?;
    }
    let mut datagrams = 0;
    for (one, _) in expected
        .iter()
        .zip(taken)
        .filter(|(_, taken)| taken.is_none())
    {
        let excused = match one.faith {
            Faith::Never => true,
            Faith::Sure => false,
            Faith::Broken => gaps + counted > 0,
            Faith::Counted => counted > 0,
            Faith::Cut => summary.kernel("truncated")? > 0,
            Faith::Unasked => unsolicited + gaps + counted > 0,
        };
        if excused {
            continue;
        }
        let stream = one.record.protocol == SocketProtocol::Tcp;
        datagrams += u64::from(!stream && !one.shared && one.record.query_time.is_none());
        // The ring may have lost the message, or the query of this response, or a piece of its stream.
        if (provoked.ring || summary.missed()? > 0) && lost > 0 && (stream || datagrams <= lost) {
            continue;
        }
        findings.push(Finding::new("missing", one));
    }
    let never = expected.iter().filter(|one| one.faith == Faith::Never);
    let never = never.count() as u64;
    if never > unsolicited + lost {
        let text = format!("{never} responses were not asked for, {unsolicited} are counted");
        findings.push(Finding::new("unsolicited", text));
    }
    Ok(())
}

/// Checks that each response has the time of its query.
fn times(
    expected: &[Expected],
    taken: &[Option<usize>],
    records: &[Record],
    findings: &mut Vec<Finding>,
) {
    let mut queries: HashMap<(usize, &[u8]), Duration> = HashMap::new();
    for (one, at) in expected.iter().zip(taken) {
        if let (Some(at), Some(id)) = (at, one.record.message.get(..2))
            && !one.record.is_response()
        {
            queries.insert((one.scene, id), records[*at].time);
        }
    }
    for (one, at) in expected.iter().zip(taken) {
        let (Some(at), Some(id)) = (at, one.record.message.get(..2)) else {
            continue;
        };
        let Some(query) = queries
            .get(&(one.scene, id))
            .filter(|_| one.paired && one.record.is_response())
        else {
            continue;
        };
        let record = &records[*at];
        if record.query_time != Some(*query) || record.time < *query {
            let text = format!(
                "{one}: the query came at {query:?}, the response at {:?} says {:?}",
                record.time, record.query_time
            );
            findings.push(Finding::new("time", text));
        }
    }
}

/// Checks that only losses are counted that the program has caused.
fn account(
    tapped: &Tapped,
    provoked: Provoked,
    records: usize,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let summary = &tapped.summary;
    let mut drops = summary.kernel_drops()?;
    let truncated = summary.kernel("truncated")?;
    drops -= truncated;
    if provoked.counted {
        drops -= summary.kernel("unsupported_call")?;
    }
    if provoked.ring {
        drops -= summary.kernel("ring_full")?;
    }
    if drops > 0 || summary.output_drops()? > 0 {
        findings.push(Finding::new("drops", summary));
    }
    // A message that the ring had no room for may also have been cut.
    let lost = if provoked.ring {
        summary.kernel("ring_full")?
    } else {
        0
    };
    let most = provoked.cut + provoked.maybe_cut;
    let least = provoked.cut.saturating_sub(lost);
    if !(least..=most).contains(&truncated) && summary.missed()? == 0 {
        let text = format!("{least} to {most} datagrams were cut, {truncated} are counted");
        findings.push(Finding::new("truncated", text));
    }
    let gaps = summary.pipeline("stream_gaps")?;
    let unsupported = provoked.counted && summary.kernel("unsupported_call")? > 0;
    let excused = provoked.broken || provoked.ring || unsupported || summary.missed()? > 0;
    if gaps > 0 && !excused {
        let text = format!("{gaps} of streams, and nothing was lost");
        findings.push(Finding::new("gaps", text));
    }
    if summary.written()? != records as u64 {
        findings.push(Finding::new("written", summary));
    }
    Ok(())
}
