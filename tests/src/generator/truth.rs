//! What the actors say they have read and written, as the records that the agent should have made of it, and the comparison.
//!
//! Nothing may be in the file that no actor read or wrote as a message. What they did is in it once; where something made it impossible to
//! know, an account of that is enough, and [`Faith`] says which.

use std::{collections::HashMap, fmt, time::Duration};

use anyhow::Result;
use dnstap_proto::SocketProtocol;

use crate::{record::Record, tap::Tapped, wire};

/// Whether the agent saw what an actor did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It must have.
    Yes,
    /// It was by a call that may be counted instead.
    OrCounted,
    /// It was not there, or the actor is not tapped.
    No,
}

/// One direction of a connection, as the actors had it.
#[derive(Default)]
pub(super) struct Flow {
    /// All bytes in order.
    pub(super) bytes: Vec<u8>,
    /// Where spans end, and whether the agent saw them.
    spans: Vec<(usize, Seen)>,
    /// It was there before the agent.
    pub(super) midway: bool,
    /// Messages up to here have been noticed by [`Self::next`].
    noticed: usize,
}

impl Flow {
    /// Bytes that an actor has read or written.
    pub(super) fn push(&mut self, bytes: &[u8], seen: Seen) {
        self.bytes.extend(bytes);
        match self.spans.last_mut() {
            Some((end, same)) if *same == seen => *end = self.bytes.len(),
            _ => self.spans.push((self.bytes.len(), seen)),
        }
    }

    /// The next message that is complete, if it has not been returned before.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let (end, message) = frame(&self.bytes, self.noticed)?;
        let message = message.to_vec();
        self.noticed = end;
        Some(message)
    }

    /// How many bytes are missing to the length, or else to the message; never 0.
    pub(super) fn wanted(&self) -> usize {
        match &self.bytes[self.boundary()..] {
            [] => 2,
            [_] => 1,
            [high, low, rest @ ..] => usize::from(u16::from_be_bytes([*high, *low])) - rest.len(),
        }
    }

    /// Where the message begins that is not complete, or the next one.
    fn boundary(&self) -> usize {
        let mut at = 0;
        while let Some((end, _)) = frame(&self.bytes, at) {
            at = end;
        }
        at
    }

    /// Whether no message is under way.
    pub(super) fn is_between(&self) -> bool {
        self.boundary() == self.bytes.len()
    }

    /// Whether all between these places was seen, counted calls or not.
    fn is_seen(&self, from: usize, to: usize, counted: bool) -> bool {
        let mut start = 0;
        self.spans.iter().all(|(end, seen)| {
            let outside = *end <= from || start >= to;
            start = *end;
            outside || *seen == Seen::Yes || counted && *seen == Seen::OrCounted
        })
    }

    /// All complete messages of which the body was seen.
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

    /// Whether bytes are missing before the end, or the beginning was not seen.
    pub(super) fn is_broken(&self) -> bool {
        self.midway || !self.is_seen(0, self.bytes.len(), true)
    }
}

/// The message at `at` and where it ends, if it is complete.
fn frame(bytes: &[u8], at: usize) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some((at + 2 + length, rest.get(..length)?))
}

/// How sure it is that a message is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Faith {
    /// It is.
    Sure,
    /// Unless the account has gaps of streams, or counted calls: its stream was not seen from the beginning, or has a gap, or may have one
    /// because of a call that may be counted.
    Broken,
    /// Unless the account has `unsupported_call`: the call is one that may be counted.
    Counted,
    /// Unless the account has `truncated`: others that came with it were cut.
    Cut,
    /// Unless the account has `unsolicited`, or a reason for it: its query was not seen. Or `udp_not_dns`: it is odd, and nothing has
    /// shown that this is DNS.
    Unasked,
    /// It must not be, and the account has it as `unsolicited`.
    Never,
}

/// One message that an actor read or wrote.
pub(super) struct Expected {
    /// In which scene.
    pub(super) scene: usize,
    /// Its record.
    pub(super) record: Record,
    /// How sure it is.
    pub(super) faith: Faith,
    /// The call did not ask who had sent it, and only the answer to a question can tell.
    pub(super) nameless: bool,
    /// A response whose query was seen.
    pub(super) paired: bool,
    /// A datagram of a call that moved another one before it. The kernel counts calls.
    pub(super) shared: bool,
}

/// What was provoked, beside what the messages tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Provoked {
    /// The ring may have been full.
    pub(super) ring: bool,
    /// Datagrams that a buffer was too small for.
    pub(super) cut: u64,
    /// Those of calls that may be counted for another reason.
    pub(super) maybe_cut: u64,
    /// Streams with gaps, or joined midway.
    pub(super) broken: bool,
    /// Datagrams of calls that may be counted.
    pub(super) counted: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// What sort of finding.
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

/// What came of a program.
pub(super) struct Played {
    pub(super) expected: Vec<Expected>,
    /// What the agent left behind.
    pub(super) tapped: Tapped,
    pub(super) provoked: Provoked,
    /// The bytes of streams in which the beginning of a message may be missing.
    pub(super) torn: Vec<Vec<u8>>,
}

/// Compares; everything that is wrong.
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

/// For each expected message the record that is it; what is left of the records is a finding.
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
            // What lies in a message of which the beginning is missing cannot be told from a message (docs/architecture.md).
            None if is_hidden(record, torn) => {}
            None => findings.push(Finding::new("extra", extra(expected, candidates, record))),
        }
    }
    taken
}

/// Whether a record is a message with its length that lies in a torn stream.
fn is_hidden(record: &Record, torn: &[Vec<u8>]) -> bool {
    let framed = wire::framed(&record.message);
    record.protocol == SocketProtocol::Tcp
        && torn
            .iter()
            .any(|bytes| bytes.windows(framed.len()).any(|window| window == framed))
}

/// The same message with the same ends, as far as they can be known.
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
            // A response of which the query was not seen.
            || expected.nameless && wanted_ends.0 == ends.0 && ends.1 == (None, 0))
}

/// What a record is that nobody expects.
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

/// Where a record begins to differ from an expected message that begins in the same way.
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

/// What is missing needs a counter that says so.
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
        // The ring may have lost a message, or with it the query of one, or a piece of its stream.
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

/// Each response has the time of its query.
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

/// Nothing is counted as lost that nobody has provoked.
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
    // What the ring had no room for may have been cut as well.
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
