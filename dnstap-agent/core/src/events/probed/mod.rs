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

use std::mem::offset_of;

use dnstap_ebpf::{Function, LOG_QUERY_ERRORS, LOG_TRANSFER, NoticeHead};
use dnstap_proto::event::{Kind as Content, Phase, Source};

use self::{
    cache::Caches, flush::Flush, log::Line, rate_limit::RateLimits, rrset::Rrset,
    transfer::Transfers,
};
use super::{Circumstances, Events};
use crate::{
    counters::counters,
    model::{Frames, Origin},
};

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
    counters: ProbedCounters,
    reports: Vec<Report>,
}

impl Probed {
    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> ProbedCounters {
        ProbedCounters {
            probed_rrsets_forgotten: self.caches.forgotten(),
            ..self.counters
        }
    }

    /// Takes the payload of a notice. `wall_ns` converts kernel time.
    pub fn take(
        &mut self,
        ktime_ns: u64,
        origin: Origin,
        payload: &[u8],
        wall_ns: impl Fn(u64) -> u64,
        events: &mut Events,
        frames: &mut Frames,
    ) {
        if self.decode(ktime_ns, origin, payload).is_none() {
            self.counters.probed_malformed += 1;
        }
        self.send(wall_ns, events, frames);
    }

    /// Forgets the caches of a process.
    pub fn process_ended(&mut self, process_id: u32) {
        self.caches.process_ended(process_id);
    }

    /// Advances the time: what ends by time has ended at kernel time `now_ktime_ns`.
    pub fn tick(
        &mut self,
        now_ktime_ns: u64,
        wall_ns: impl Fn(u64) -> u64,
        events: &mut Events,
        frames: &mut Frames,
    ) {
        self.caches.tick(now_ktime_ns, &mut self.reports);
        self.transfers.tick(now_ktime_ns, &mut self.reports);
        self.send(wall_ns, events, frames);
    }

    fn send(&mut self, wall_ns: impl Fn(u64) -> u64, events: &mut Events, frames: &mut Frames) {
        for report in self.reports.drain(..) {
            let at = Circumstances {
                wall_ns: wall_ns(report.ktime_ns),
                phase: report.phase,
                source: Source::Probe,
                process_id: report.process_id,
            };
            events.emit_of_view(at, report.view, report.content, frames);
        }
    }

    fn decode(&mut self, ktime_ns: u64, origin: Origin, payload: &[u8]) -> Option<()> {
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
                    _ => self.rate_limits.line(ktime_ns, pid, &line.text, reports),
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
                self.caches.add(ktime_ns, pid, &rrset, reports);
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
