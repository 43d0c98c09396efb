//! The packet capture: a thread that reads every packet of the namespace's loopback, and the decoding of packets.
//!
//! It decodes Ethernet's type, IPv4, IPv6, UDP, TCP and the ICMP messages for "port unreachable". Fragments and
//! extension headers are an error: the traffic does not make them, and ignoring them would hide a packet.

use std::{
    net::{IpAddr, SocketAddr},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::system::packets::Packets;

/// More than the largest packet of the loopback.
const LARGEST: usize = 256 << 10;
/// Size of two hardware addresses, which come before Ethernet's type.
const HARDWARE: usize = 12;

/// Number of low bits of an IPv4 header's flags and offset that are 0 in a packet that is not a fragment: all except DF
/// and the reserved bit.
const UNFRAGMENTED: u32 = 14;

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// One packet.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// Time when the kernel received it, since 1970.
    pub(super) time: Duration,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) body: Body,
}

/// Content of a packet.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Datagram(Vec<u8>),
    Segment(Segment),
    /// No socket listens at the destination of this datagram; `from` and `to` are the datagram's.
    Refused(Vec<u8>),
}

/// A segment of TCP (RFC 9293 section 3.1).
#[derive(Clone, Debug, Default)]
pub(super) struct Segment {
    pub(super) sequence: u32,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) reset: bool,
    /// The urgent pointer, if its flag is set: the urgent byte is the one before it (RFC 6093 section 3.1 describes
    /// that systems do this).
    pub(super) urgent: Option<u16>,
    pub(super) bytes: Vec<u8>,
}

/// A running capture.
pub(super) struct Capture {
    thread: JoinHandle<Result<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Capture {
    /// Starts the capture in this thread's network namespace.
    pub(super) fn start() -> Result<Self> {
        let packets = Packets::open().context("a packet socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (told, counter) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = thread::spawn(move || take(&packets, &told, &counter));
        Ok(Self {
            thread,
            stop,
            count,
        })
    }

    /// Waits until there was no packet for `quiet`, but at most for `longest`.
    pub(super) fn wait_for_quiet(&self, quiet: Duration, longest: Duration) {
        let start = Instant::now();
        let mut last = (self.count.load(Ordering::Relaxed), start);
        while last.1.elapsed() < quiet && start.elapsed() < longest {
            thread::sleep(Duration::from_millis(10));
            let count = self.count.load(Ordering::Relaxed);
            if count != last.0 {
                last = (count, Instant::now());
            }
        }
    }

    /// Ends the capture. Returns all packets in their order; an error if one was dropped.
    pub(super) fn finish(self) -> Result<Vec<Packet>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause))
    }
}

fn take(packets: &Packets, stop: &AtomicBool, count: &AtomicU64) -> Result<Vec<Packet>> {
    let mut buffer = vec![0; LARGEST];
    let mut taken = Vec::new();
    loop {
        match packets.next(&mut buffer)? {
            Some((time, length)) => {
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(packet) = packet(time, &buffer[..length])? {
                    taken.push(packet);
                }
            }
            // All packets from before the stop have been read.
            None if stop.load(Ordering::Relaxed) => break,
            None => {}
        }
    }
    let dropped = packets.dropped()?;
    ensure!(
        dropped == 0,
        "the capture has lost {dropped} packets: there is no judgement"
    );
    Ok(taken)
}

/// Decodes a frame; `None` for packets that do not matter here.
fn packet(time: Duration, frame: &[u8]) -> Result<Option<Packet>> {
    let head = frame.get(HARDWARE..HARDWARE + 2).context("a short frame")?;
    let rest = &frame[HARDWARE + 2..];
    let inside = match head {
        [0x08, 0x00] => Inside::of_ipv4(rest),
        [0x86, 0xdd] => Inside::of_ipv6(rest),
        _ => return Ok(None),
    };
    let Some(inside) = inside? else {
        return Ok(None);
    };
    inside.packet(time)
}

/// Content of an IP packet.
struct Inside<'a> {
    protocol: u8,
    from: IpAddr,
    to: IpAddr,
    bytes: &'a [u8],
}

impl<'a> Inside<'a> {
    fn of_ipv4(bytes: &'a [u8]) -> Result<Option<Self>> {
        let head = bytes.first_chunk::<20>().context("a short IPv4 header")?;
        let length = usize::from(head[0] & 0xf) * 4;
        let total = match usize::from(u16::from_be_bytes([head[2], head[3]])) {
            0 => bytes.len(), // too large for the field
            total => total,
        };
        ensure!(
            u16::from_be_bytes([head[6], head[7]]).trailing_zeros() >= UNFRAGMENTED,
            "a fragment: the traffic shall not make any"
        );
        let address = |at: usize| -> Option<IpAddr> {
            Some(IpAddr::from(
                <[u8; 4]>::try_from(head.get(at..at + 4)?).ok()?,
            ))
        };
        let (Some(from), Some(to)) = (address(12), address(16)) else {
            bail!("an IPv4 header without addresses")
        };
        Ok(bytes.get(length..total.min(bytes.len())).map(|bytes| Self {
            protocol: head[9],
            from,
            to,
            bytes,
        }))
    }

    fn of_ipv6(bytes: &'a [u8]) -> Result<Option<Self>> {
        let head = bytes.first_chunk::<40>().context("a short IPv6 header")?;
        let address = |at: usize| -> Option<IpAddr> {
            Some(IpAddr::from(
                <[u8; 16]>::try_from(head.get(at..at + 16)?).ok()?,
            ))
        };
        let (Some(from), Some(to)) = (address(8), address(24)) else {
            bail!("an IPv6 header without addresses")
        };
        ensure!(head[6] != 44, "a fragment: the traffic shall not make any");
        Ok(Some(Self {
            protocol: head[6],
            from,
            to,
            bytes: &bytes[40..],
        }))
    }

    fn packet(&self, time: Duration) -> Result<Option<Packet>> {
        let body = match self.protocol {
            UDP => Body::Datagram(self.bytes.get(8..).context("a short UDP header")?.to_vec()),
            TCP => Body::Segment(segment(self.bytes)?),
            // Port unreachable. The packet that could not be delivered comes after eight bytes.
            ICMP if self.bytes.starts_with(&[3, 3]) => return self.refused(time, Self::of_ipv4),
            ICMPV6 if self.bytes.starts_with(&[1, 4]) => return self.refused(time, Self::of_ipv6),
            _ => return Ok(None),
        };
        let (from, to) = self.ends().context("no ports")?;
        Ok(Some(Packet {
            time,
            from,
            to,
            body,
        }))
    }

    fn refused(
        &self,
        time: Duration,
        of: fn(&'a [u8]) -> Result<Option<Self>>,
    ) -> Result<Option<Packet>> {
        let inner = match of(self.bytes.get(8..).unwrap_or_default()) {
            Ok(Some(inner)) if inner.protocol == UDP => inner,
            _ => return Ok(None),
        };
        let (from, to) = inner.ends().context("no ports")?;
        // The quoted datagram may be cut.
        let bytes = inner.bytes.get(8..).unwrap_or_default().to_vec();
        Ok(Some(Packet {
            time,
            from,
            to,
            body: Body::Refused(bytes),
        }))
    }

    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let ports = self.bytes.first_chunk::<4>()?;
        Some((
            SocketAddr::new(self.from, u16::from_be_bytes([ports[0], ports[1]])),
            SocketAddr::new(self.to, u16::from_be_bytes([ports[2], ports[3]])),
        ))
    }
}

fn segment(bytes: &[u8]) -> Result<Segment> {
    let head = bytes.first_chunk::<20>().context("a short TCP header")?;
    let flag = |bit: u8| head[13] & bit != 0;
    let data = usize::from(head[12] >> 4) * 4;
    Ok(Segment {
        sequence: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        fin: flag(0x01),
        syn: flag(0x02),
        reset: flag(0x04),
        urgent: flag(0x20).then(|| u16::from_be_bytes([head[18], head[19]])),
        bytes: bytes.get(data..).context("a short segment")?.to_vec(),
    })
}
