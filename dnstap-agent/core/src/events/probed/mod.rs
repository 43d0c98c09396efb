//! Events from the notices of probes: the server's own decisions.
//!
//! A notice is what a probed function was called with ([`dnstap_ebpf::Function`]). The bytes come from the memory of
//! the server, so they are not trusted: decoding is total, and what contradicts itself is refused.
//!
//! ```text
//! isc_log_write ───────► log ─► rate_limit, transfer ─► RateLimit, Transfer
//! dns_view_flush* ─────► flush ──────────────────────► Purge
//! dns_db_addrdataset ──► rrset ─► cache ─────────────► Cache, NsChange, Expiry
//! ```

mod cache;
mod flush;
mod log;
mod names;
mod rate_limit;
mod rrset;
mod transfer;

use std::{collections::BTreeSet, mem::offset_of};

use dnstap_ebpf::{Function, LOG_QUERY_ERRORS, LOG_TRANSFER, NoticeHead};
use dnstap_proto::event::{Kind as Content, Phase, Source};

#[cfg(test)]
pub(crate) use self::log::fixture::notice as line_notice;
use self::{
    cache::Caches, flush::Flush, log::Line, rate_limit::RateLimits, rrset::Rrset,
    transfer::Transfers,
};
use super::{Circumstances, Output, Responses};
use crate::{counters::counters, model::Origin};

counters! {
    /// Notices of probes, and what became of them.
    pub struct ProbedCounters {
        /// Lines of a server's log about rate limits and transfers.
        probed_lines,
        /// Calls that empty a cache, or a part of one.
        probed_flushes,
        /// RRsets that were put into a cache.
        probed_rrsets,
        /// Notices that contradict themselves.
        probed_malformed,
        /// Of the lines: those whose text is not known. They give no event.
        probed_lines_unknown,
        /// RRsets that the memory of caches has given up, because it is full. What happens to them next counts as the
        /// first time.
        probed_rrsets_forgotten,
        /// Rate limits that were given up, because too many were in force. Their ends have no counts.
        probed_limits_forgotten,
        /// Transfers in lines of the log that were given up, because too many were under way. Their ends lack what only
        /// the start tells.
        probed_transfers_forgotten,
    }
}

/// A part of what a stage reports: when, which server and which view, and what.
#[derive(Debug)]
struct Report {
    ktime_ns: u64,
    process_id: u32,
    phase: Phase,
    view: Option<String>,
    content: Content,
}

/// Stage that makes events of the notices of probes.
#[derive(Debug, Default)]
pub struct Probed {
    rate_limits: RateLimits,
    transfers: Transfers,
    caches: Caches,
    /// Processes that have told of a rate limit.
    limiting: BTreeSet<u32>,
    counters: ProbedCounters,
    reports: Vec<Report>,
}

impl Probed {
    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> ProbedCounters {
        ProbedCounters {
            probed_rrsets_forgotten: self.caches.forgotten(),
            probed_limits_forgotten: self.rate_limits.forgotten(),
            probed_transfers_forgotten: self.transfers.forgotten(),
            ..self.counters
        }
    }

    /// Takes the payload of a notice. `responses`: the last responses to the server's own queries.
    pub(crate) fn take(
        &mut self,
        ktime_ns: u64,
        origin: Origin,
        payload: &[u8],
        responses: &Responses,
        output: &mut Output<'_>,
    ) {
        if self.decode(ktime_ns, origin, payload, responses).is_none() {
            self.counters.probed_malformed += 1;
        }
        self.send(output);
    }

    /// Returns whether a process itself tells of its rate limits, so that they need not be guessed. Its first line comes
    /// with the first limited response.
    #[must_use]
    pub fn tells_limits(&self, process_id: u32) -> bool {
        self.limiting.contains(&process_id)
    }

    /// Forgets what is known about a process that has ended.
    pub fn process_ended(&mut self, process_id: u32) {
        self.limiting.remove(&process_id);
        self.rate_limits.process_ended(process_id);
        self.transfers.process_ended(process_id);
        self.caches.process_ended(process_id);
    }

    /// Advances the time: what ends by time has ended at kernel time `now_ktime_ns`.
    pub(crate) fn tick(&mut self, now_ktime_ns: u64, output: &mut Output<'_>) {
        self.caches.tick(now_ktime_ns, &mut self.reports);
        self.transfers.tick(now_ktime_ns, &mut self.reports);
        self.send(output);
    }

    /// Reports what only waited for another line. Nothing follows.
    pub(crate) fn finish(&mut self, output: &mut Output<'_>) {
        self.transfers.tick(u64::MAX, &mut self.reports);
        self.send(output);
    }

    fn send(&mut self, output: &mut Output<'_>) {
        for report in self.reports.drain(..) {
            let at = Circumstances {
                wall_ns: output.clock.wall_ns(report.ktime_ns),
                phase: report.phase,
                source: Source::Probe,
                process_id: report.process_id,
            };
            let Output { events, frames, .. } = output;
            events.emit_of_view(at, report.view, report.content, frames);
        }
    }

    fn decode(
        &mut self,
        ktime_ns: u64,
        origin: Origin,
        payload: &[u8],
        responses: &Responses,
    ) -> Option<()> {
        let (function, rest) = head(payload)?;
        let pid = origin.tgid;
        let reports = &mut self.reports;
        match function {
            Function::LogWrite => {
                let line = Line::parse(rest)?;
                self.counters.probed_lines += 1;
                let is_known = match line.category {
                    LOG_TRANSFER => self.transfers.line(ktime_ns, pid, &line.text, reports),
                    // Other queries may fail, too.
                    LOG_QUERY_ERRORS if !line.text.contains("rate limit ") => Some(()),
                    _ => {
                        let is_known = self.rate_limits.line(ktime_ns, pid, &line.text, reports);
                        if is_known.is_some() {
                            self.limiting.insert(pid);
                        }
                        is_known
                    }
                };
                self.counters.probed_lines_unknown += u64::from(is_known.is_none());
            }
            Function::FlushCache | Function::FlushNode => {
                let flush = Flush::parse(rest, function == Function::FlushNode)?;
                self.counters.probed_flushes += 1;
                self.caches.flush(pid, &flush);
                reports.push(Report {
                    ktime_ns,
                    process_id: pid,
                    phase: Phase::Point,
                    view: flush.view(),
                    content: Content::Purge(flush.purge()),
                });
            }
            Function::AddRdataset => {
                let rrset = Rrset::parse(rest)?;
                self.counters.probed_rrsets += 1;
                let before = reports.len();
                self.caches.add(ktime_ns, pid, &rrset, reports);
                if let Some(response) = responses.find(ktime_ns, pid, rrset.wanted()) {
                    for report in &mut reports[before..] {
                        response.name_sender(&mut report.content);
                    }
                }
            }
        }
        Some(())
    }
}

/// Reads the head of a notice. Returns the function, and the notice with its head.
fn head(payload: &[u8]) -> Option<(Function, &[u8])> {
    let function = Function::of(u32_at(payload, offset_of!(NoticeHead, function))?)?;
    let length = u32_at(payload, offset_of!(NoticeHead, length))?;
    (usize::try_from(length).ok()? == payload.len()).then_some((function, payload))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use dnstap_ebpf::LOG_RATE_LIMIT;
    use proptest::prelude::*;

    use super::{
        log::fixture::notice as line,
        rrset::fixture::{address, notice as rrset},
        *,
    };
    use crate::{
        events::{EventKind, Events},
        model::{Clock, Frames},
    };

    const ORIGIN: Origin = Origin {
        tgid: 7,
        tid: 7,
        hook: 2,
        program_id: 1,
    };

    fn take(probed: &mut Probed, notices: &[Vec<u8>]) -> u64 {
        let kinds = EventKind::ALL.into_iter().collect();
        let mut events = Events::new(kinds, Vec::new(), crate::privacy::Privacy::default());
        let mut frames = Frames::default();
        for notice in notices {
            let output = &mut Output {
                events: &mut events,
                frames: &mut frames,
                clock: Clock { offset_ns: 0 },
            };
            probed.take(5, ORIGIN, notice, &Responses::default(), output);
        }
        frames.count
    }

    #[test]
    fn each_notice_counts_once_and_by_its_function() {
        let mut probed = Probed::default();
        let limit = line(
            LOG_RATE_LIMIT,
            "%s",
            &[Err("limit all responses to 127.0.0.0/24")],
        );
        assert!(!probed.tells_limits(7));
        let count = take(
            &mut probed,
            &[
                limit.clone(),
                line(LOG_RATE_LIMIT, "%s", &[Err("something new")]),
                line(LOG_QUERY_ERRORS, "%s", &[Err("query failed")]),
                flush::fixture::notice("_default", None, false, [1, 2]),
                rrset(&address(b"\0", vec![&[192, 0, 2, 1]])),
                limit[..limit.len() - 1].to_vec(),
                vec![9; 40],
                Vec::new(),
            ],
        );
        let counters = probed.counters();
        assert_eq!(
            (counters.probed_lines, counters.probed_lines_unknown),
            (3, 1)
        );
        assert_eq!((counters.probed_flushes, counters.probed_rrsets), (1, 1));
        assert_eq!((counters.probed_malformed, count), (3, 3));
        assert!(probed.tells_limits(7) && !probed.tells_limits(8));
        probed.process_ended(7);
        assert!(!probed.tells_limits(7));
    }

    #[test]
    fn a_transfer_that_waits_for_its_counts_ends_with_the_tap() {
        let mut probed = Probed::default();
        let status = "transfer of 'example.test/IN' from 127.0.0.1#53: Transfer status: timed out";
        let status = line(LOG_TRANSFER, "%s", &[Err(status)]);
        assert_eq!(take(&mut probed, &[status]), 0);
        for expected in [1, 0] {
            let kinds = EventKind::ALL.into_iter().collect();
            let mut events = Events::new(kinds, Vec::new(), crate::privacy::Privacy::default());
            let mut frames = Frames::default();
            probed.finish(&mut Output {
                events: &mut events,
                frames: &mut frames,
                clock: Clock { offset_ns: 0 },
            });
            assert_eq!(frames.count, expected);
        }
    }

    #[test]
    fn limits_and_transfers_are_forgotten_with_their_process() {
        for is_over in [false, true] {
            let mut probed = Probed::default();
            let said = |probed: &mut Probed, category, text| {
                let notice = line(category, "%s", &[Err(text)]);
                probed
                    .decode(5, ORIGIN, &notice, &Responses::default())
                    .expect("a notice");
                probed.reports.pop().expect("an event").content
            };
            let limit = "limit all responses to 127.0.0.0/24";
            said(&mut probed, LOG_RATE_LIMIT, limit);
            let transfer = "client @0x1 127.0.0.1#1 (a): transfer of 'a/IN'";
            let started = format!("{transfer}: AXFR started (serial 1)");
            said(&mut probed, LOG_TRANSFER, &started);
            if is_over {
                probed.process_ended(ORIGIN.tgid);
            }
            let limit = "stop limiting all responses to 127.0.0.0/24";
            let ended = [
                said(&mut probed, LOG_RATE_LIMIT, limit),
                said(
                    &mut probed,
                    LOG_TRANSFER,
                    &format!("{transfer}: send: closed"),
                ),
            ];
            let durations = ended.map(|content| match content {
                Content::RateLimit(limit) => limit.duration_ns,
                Content::Transfer(transfer) => transfer.duration_ns,
                other => panic!("{other:?}"),
            });
            assert_eq!(durations, [(!is_over).then_some(0); 2]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(function in 0_u32..6, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let length = u32::try_from(8 + bytes.len()).unwrap();
            let notice = [&function.to_ne_bytes()[..], &length.to_ne_bytes(), &bytes].concat();
            let mut probed = Probed::default();
            take(&mut probed, &[notice]);
            let counted: u64 = probed.counters().table().map(|(_, count)| count).sum();
            prop_assert!(counted >= 1);
        }
    }
}
