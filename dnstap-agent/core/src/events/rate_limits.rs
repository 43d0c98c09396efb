//! Response rate limiting, told from the messages on the sockets.
//!
//! A server that limits does not say so. Clients of one block (IPv4: 24 bits, IPv6: 56) that ask the same question get no
//! response or an empty truncated one (a slip). Both happen for other reasons, too: a server may be slow, it may have lost a
//! query, and an answer may not fit. A resolver may wait long for one name and answer all others. So the caller leaves out the
//! queries for which the server recurses, and the responses to them are left out here. A limit is reported only if within one
//! second all of this is true:
//! - At least [`LEAST`] queries of the block with this question got no response, or an empty truncated one; some got none.
//! - The same question from the same block was answered in full at most a minute before.
//! - The server works: there was a slip, or nine of ten other queries were answered, at least [`OTHERS`].
//! - The tap has lost nothing.
//!
//! A second is judged [`PATIENCE`] seconds later, when the responses must have come. A limit ends when none of these queries
//! stayed without a full response for [`QUIET`] seconds. Only UDP is limited.
//!
//! The memory is bounded: the question that was not asked for longest is forgotten and counted.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, Hasher as _},
};

use dnstap_proto::{
    RateLimit,
    event::{Kind as Content, Phase},
    prost::bytes::Bytes,
};
use foldhash::fast::RandomState;

use super::Output;
use crate::{
    dns::Dns,
    lru::Lru,
    model::{Endpoint, Origin},
};

/// Least number of queries in a second that are not answered in full.
const LEAST: u32 = 5;

/// Least number of other queries in a second that show that the server works.
const OTHERS: u32 = 10;

/// Seconds after which the responses to the queries of a second must have come.
const PATIENCE: u64 = 3;

/// Seconds without a limited query after which a limit has ended. BIND's default for `window` is 15.
const QUIET: u64 = 15;

/// Seconds for which a full answer counts.
const RECENT: u64 = 60;

/// Most questions that are remembered, each of one block of clients.
const QUESTIONS: usize = 16_384;

/// Most servers whose queries are counted.
const SERVERS: usize = 64;

/// Seconds that are remembered: at least those that are not yet judged.
const SECONDS: usize = 8;

/// Longest question: a name, type and class.
const QUESTION: usize = 259;

const SECOND_NS: u64 = 1_000_000_000;

/// Questions of blocks of clients, and their responses.
#[derive(Debug)]
pub(crate) struct RateLimits {
    questions: Lru<Question>,
    /// All queries of a server, by program id and second.
    all: Lru<[Second; SECONDS]>,
    /// Seconds with queries, and the keys of the questions, that are not yet judged.
    unjudged: VecDeque<(u64, u64)>,
    /// Keys of the questions that are limited.
    limited: Vec<u64>,
    /// Second in which the tap has lost something last.
    blind: Option<u64>,
    hasher: RandomState,
    evicted: u64,
}

/// A question of a block of clients.
#[derive(Debug)]
struct Question {
    block: Block,
    /// Name, type and class.
    asked: Box<[u8]>,
    /// Server that was asked.
    origin: Origin,
    seconds: [Second; SECONDS],
    /// Second of the last full answer.
    answered: Option<u64>,
    limit: Option<Limit>,
}

/// Queries of one second, and the responses to them.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    at: u64,
    queries: u32,
    answered: u32,
    slipped: u32,
    /// Whether the second is in [`RateLimits::unjudged`], or was.
    is_queued: bool,
}

/// A limit that was reported.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// First and last second.
    from: u64,
    to: u64,
    dropped: u64,
    slipped: u64,
}

/// A block of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Block {
    address: [u8; 16],
    length: u8,
    bits: u8,
}

impl Block {
    fn of(client: Endpoint) -> Option<Self> {
        let bytes = client.address()?;
        let bits: u8 = if bytes.len() == 4 { 24 } else { 56 };
        let kept = usize::from(bits / 8);
        let mut address = [0; 16];
        address[..kept].copy_from_slice(&bytes[..kept]);
        Some(Self {
            address,
            length: u8::try_from(bytes.len()).ok()?,
            bits,
        })
    }
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            questions: Lru::new(QUESTIONS),
            all: Lru::new(SERVERS),
            unjudged: VecDeque::new(),
            limited: Vec::new(),
            blind: None,
            hasher: RandomState::default(),
            evicted: 0,
        }
    }
}

impl RateLimits {
    /// Returns the number of questions, and of seconds of questions, that were forgotten to make room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Notes that messages were lost at this kernel time.
    pub(crate) fn note_loss(&mut self, ktime_ns: u64) {
        self.blind = self.blind.max(Some(ktime_ns / SECOND_NS));
    }

    /// Takes a query of a client to the server at `origin`; `question` is its name, type and class.
    pub(crate) fn query(
        &mut self,
        origin: Origin,
        client: Endpoint,
        question: &[u8],
        ktime_ns: u64,
    ) {
        let at = ktime_ns / SECOND_NS;
        let server = origin.program_id.into();
        if self.all.get(server).is_none() {
            self.all.insert(server, [Second::default(); SECONDS]);
        }
        if let Some(second) = self.all(origin, at) {
            second.queries += 1;
        }
        let (Some(block), true) = (Block::of(client), question.len() <= QUESTION) else {
            return;
        };
        let key = self.key(origin, block, question);
        if self.questions.get(key).is_none() {
            let new = Question {
                block,
                asked: question.into(),
                origin,
                seconds: [Second::default(); SECONDS],
                answered: None,
                limit: None,
            };
            self.evicted += u64::from(self.questions.insert(key, new).is_some());
        }
        let Some(known) = self.questions.peek(key) else {
            return;
        };
        let Some(second) = slot(&mut known.seconds, at) else {
            return;
        };
        second.queries += 1;
        // What is too little to be a limit is not judged.
        if !second.is_queued && (second.queries >= LEAST || known.limit.is_some()) {
            second.is_queued = true;
            self.unjudged.push_back((at, key));
            while self.unjudged.len() > QUESTIONS {
                self.unjudged.pop_front();
                self.evicted += 1;
            }
        }
    }

    /// Takes the response to a query that came at kernel time `asked_ktime_ns`.
    pub(crate) fn response(
        &mut self,
        origin: Origin,
        client: Endpoint,
        question: &[u8],
        bytes: &[u8],
        asked_ktime_ns: u64,
    ) {
        let at = asked_ktime_ns / SECOND_NS;
        let Ok(dns) = Dns::parse(bytes) else {
            return;
        };
        // RD and RA: the server has recursed.
        if dns.has(0x100) && dns.has(0x80) {
            return;
        }
        let is_slip = dns.has(0x200) && dns.count(1) == 0 && dns.count(2) == 0;
        let count = |second: Option<&mut Second>| {
            if let Some(second) = second {
                *if is_slip {
                    &mut second.slipped
                } else {
                    &mut second.answered
                } += 1;
            }
        };
        count(self.all(origin, at));
        let Some(block) = Block::of(client).filter(|_| question.len() <= QUESTION) else {
            return;
        };
        let key = self.key(origin, block, question);
        if let Some(known) = self.questions.peek(key) {
            count(slot(&mut known.seconds, at));
            if !is_slip {
                known.answered = known.answered.max(Some(at));
            }
        }
    }

    /// Judges the seconds whose responses must have come at kernel time `now_ktime_ns`.
    pub(crate) fn tick(&mut self, now_ktime_ns: u64, output: &mut Output<'_>) {
        let now = now_ktime_ns / SECOND_NS;
        let is_due = |(at, _): &mut (u64, u64)| *at + PATIENCE < now;
        while let Some((at, key)) = self.unjudged.pop_front_if(is_due) {
            self.judge(at, key, output);
        }
        let limited = std::mem::take(&mut self.limited);
        for key in limited {
            let Some(known) = self.questions.peek(key) else {
                continue;
            };
            match known.limit {
                Some(limit) if limit.to + QUIET + PATIENCE < now => {
                    known.limit = None;
                    known.emit(limit.to + 1, Phase::End, Some(limit), output);
                }
                Some(_) => self.limited.push(key),
                None => {}
            }
        }
    }

    fn judge(&mut self, at: u64, key: u64, output: &mut Output<'_>) {
        let is_blind = self.blind.is_some_and(|blind| blind + 1 >= at);
        let Some(known) = self.questions.peek(key) else {
            return;
        };
        let Some(&mut second) = slot(&mut known.seconds, at) else {
            return;
        };
        let all = self.all.peek(known.origin.program_id.into());
        let all = all.and_then(|all| slot(all, at)).copied();
        let all = all.unwrap_or_default();
        let missing = second
            .queries
            .saturating_sub(second.answered + second.slipped);
        if missing + second.slipped == 0 {
            return;
        }
        if known.limit.is_none() {
            let others = all.queries.saturating_sub(second.queries);
            let answered = all.answered.saturating_sub(second.answered);
            let works = second.slipped > 0 || others >= OTHERS && answered * 10 >= others * 9;
            let is_recent = known.answered.is_some_and(|last| last + RECENT >= at);
            let is_limit =
                missing > 0 && missing + second.slipped >= LEAST && works && is_recent && !is_blind;
            if !is_limit {
                return;
            }
            known.emit(at, Phase::Start, None, output);
            self.limited.push(key);
            // Later seconds with fewer queries count from now on.
            for later in &mut known.seconds {
                if later.at > at && !later.is_queued {
                    later.is_queued = true;
                    self.unjudged.push_back((later.at, key));
                }
            }
        }
        let limit = known.limit.get_or_insert(Limit {
            from: at,
            to: at,
            dropped: 0,
            slipped: 0,
        });
        limit.to = limit.to.max(at);
        limit.dropped += u64::from(missing);
        limit.slipped += u64::from(second.slipped);
    }

    /// Returns the counts of all queries of a server in this second.
    fn all(&mut self, origin: Origin, at: u64) -> Option<&mut Second> {
        let all = self.all.peek(origin.program_id.into())?;
        slot(all, at)
    }

    fn key(&self, origin: Origin, block: Block, question: &[u8]) -> u64 {
        let mut lower = [0; QUESTION];
        let lower = &mut lower[..question.len()];
        lower.copy_from_slice(question);
        lower.make_ascii_lowercase();
        let mut state = self.hasher.build_hasher();
        state.write(lower);
        self.hasher
            .hash_one((state.finish(), block, origin.program_id))
    }
}

impl Question {
    /// Reports a limit at the begin of a second.
    fn emit(&self, second: u64, phase: Phase, limit: Option<Limit>, output: &mut Output<'_>) {
        let (name, rest) = self.asked.split_at(self.asked.len().saturating_sub(4));
        let word = |at: usize| match rest.get(at..at + 2) {
            Some(&[high, low]) => Some(u16::from_be_bytes([high, low]).into()),
            _ => None,
        };
        let address = &self.block.address[..usize::from(self.block.length)];
        let content = Content::RateLimit(RateLimit {
            client_address: Some(Bytes::copy_from_slice(address)),
            client_prefix_length: Some(self.block.bits.into()),
            name: Some(Bytes::copy_from_slice(name)),
            r#type: word(0),
            class: word(2),
            dropped: limit.map(|limit| limit.dropped),
            slipped: limit.map(|limit| limit.slipped),
            duration_ns: limit.map(|limit| (limit.to + 1 - limit.from) * SECOND_NS),
            ..RateLimit::default()
        });
        output.emit(second * SECOND_NS, phase, self.origin.tgid, content);
    }
}

/// Returns the counts of a second. They take the place of the counts of an earlier second. `None`: a later second has already
/// taken theirs.
fn slot(seconds: &mut [Second; SECONDS], at: u64) -> Option<&mut Second> {
    let index = usize::try_from(at % SECONDS as u64).unwrap_or_default();
    let second = &mut seconds[index];
    if second.at < at {
        *second = Second {
            at,
            ..Second::default()
        };
    }
    (second.at == at).then_some(second)
}
