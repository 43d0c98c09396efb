//! Reassembles TCP connections from the packets of a capture.
//!
//! Each direction is a sequence of bytes from the sequence number of its SYN on. Repeated bytes are ignored, and early
//! bytes are stored until the ones before them arrive. A process does not read a byte that is marked as urgent with the
//! usual calls (RFC 6093), so it is removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::capture::{Body, Packet, Segment};

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Number of the connection; both directions have the same.
    pub(super) connection: usize,
    /// Sequence number of the first byte.
    first: u32,
    bytes: Vec<u8>,
    /// Number of bytes that had arrived at each time.
    arrivals: Vec<(usize, Duration)>,
    /// Bytes that arrived early, by their position.
    early: BTreeMap<usize, (Vec<u8>, Duration)>,
    urgent: BTreeSet<usize>,
    /// Time when its sender closed it with FIN.
    pub(super) fin: Option<Duration>,
    /// Time when its sender reset the connection.
    pub(super) reset: Option<Duration>,
}

/// Bytes of a stream that a process reads, and the time when each had arrived.
pub(super) struct Readable {
    pub(super) bytes: Vec<u8>,
    times: Vec<(usize, Duration)>,
}

/// Returns all streams of a capture.
pub(super) fn streams(packets: &[Packet]) -> Result<Vec<Stream>> {
    let mut all: Vec<Stream> = Vec::new();
    let mut current: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    let mut connections = 0;
    for packet in packets {
        let Body::Segment(segment) = &packet.body else {
            continue;
        };
        let ends = (packet.from, packet.to);
        if segment.syn && !is_again(&all, &current, ends, segment) {
            let connection = match current.get(&(packet.to, packet.from)) {
                // The answer to a SYN, if the other direction is new and this one does not exist yet.
                Some(&other) if !current.contains_key(&ends) => all[other].connection,
                _ => {
                    connections += 1;
                    current.remove(&(packet.to, packet.from));
                    connections
                }
            };
            current.insert(ends, all.len());
            all.push(Stream {
                from: packet.from,
                to: packet.to,
                connection,
                first: segment.sequence.wrapping_add(1),
                bytes: Vec::new(),
                arrivals: Vec::new(),
                early: BTreeMap::new(),
                urgent: BTreeSet::new(),
                fin: None,
                reset: None,
            });
            continue;
        }
        // A segment that belongs to no stream refuses a connection, or belongs to an old one.
        if let Some(&stream) = current.get(&ends) {
            all[stream].take(segment, packet.time);
        }
    }
    for stream in &all {
        ensure!(
            stream.early.is_empty(),
            "the capture misses bytes from {} to {}",
            stream.from,
            stream.to
        );
    }
    Ok(all)
}

/// Returns whether a SYN is a repetition of the SYN of the current stream.
fn is_again(
    all: &[Stream],
    current: &HashMap<(SocketAddr, SocketAddr), usize>,
    ends: (SocketAddr, SocketAddr),
    segment: &Segment,
) -> bool {
    current
        .get(&ends)
        .is_some_and(|&stream| all[stream].first == segment.sequence.wrapping_add(1))
}

impl Stream {
    fn take(&mut self, segment: &Segment, time: Duration) {
        if segment.reset {
            self.reset.get_or_insert(time);
            return;
        }
        // Streams here are so short that sequence numbers are unambiguous.
        let offset = segment.sequence.wrapping_sub(self.first).cast_signed();
        if let (Some(pointer), Ok(start)) = (segment.urgent, usize::try_from(offset))
            && let Some(place) = (start + usize::from(pointer)).checked_sub(1)
        {
            self.urgent.insert(place);
        }
        if segment.fin {
            self.fin.get_or_insert(time);
        }
        let skip = usize::try_from(-i64::from(offset)).unwrap_or(0);
        let start = usize::try_from(offset).unwrap_or(0);
        if let Some(fresh) = segment.bytes.get(skip..)
            && !fresh.is_empty()
        {
            self.early.insert(start, (fresh.to_vec(), time));
        }
        self.settle();
    }

    /// Moves bytes that are in order now.
    fn settle(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            let have = self.bytes.len();
            if *entry.key() > have {
                return;
            }
            let (start, (bytes, time)) = entry.remove_entry();
            if let Some(fresh) = bytes.get(have - start..)
                && !fresh.is_empty()
            {
                self.bytes.extend(fresh);
                self.arrivals.push((self.bytes.len(), time));
            }
        }
    }

    /// Returns the special circumstance of the message that ends at this byte of the read bytes.
    pub(super) fn circumstance(&self, end: usize, readable: &Readable) -> &'static str {
        if !self.urgent.is_empty() {
            "a stream with urgent data"
        } else if self.fin.is_some() && end == readable.bytes.len() {
            "the last one before a FIN"
        } else {
            ""
        }
    }

    /// Returns the bytes that a process reads.
    pub(super) fn readable(&self) -> Readable {
        let plain = |(place, _): &(usize, &u8)| !self.urgent.contains(place);
        let bytes = self.bytes.iter().enumerate().filter(plain);
        let shift = |end: usize| end - self.urgent.range(..end).count();
        let times = self.arrivals.iter().map(|(end, time)| (shift(*end), *time));
        Readable {
            bytes: bytes.map(|(_, byte)| *byte).collect(),
            times: times.collect(),
        }
    }
}

impl Readable {
    /// Returns the time when the byte before `end` had arrived.
    pub(super) fn time(&self, end: usize) -> Duration {
        let at = self.times.partition_point(|(have, _)| *have < end);
        self.times
            .get(at)
            .or(self.times.last())
            .map_or(Duration::ZERO, |(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_once_in_their_order_whatever_the_order_of_segments() -> Result<()> {
        let packets = [
            packet(99, true, b""),
            packet(103, false, b"def"),
            packet(100, false, b"abc"),
            packet(102, false, b"cdefgh"),
        ];
        let streams = streams(&packets)?;
        assert_eq!(streams.len(), 1);
        assert_eq!(streams[0].readable().bytes, b"abcdefgh");
        Ok(())
    }

    #[test]
    fn an_urgent_byte_is_taken_out() -> Result<()> {
        let mut urgent = packet(102, false, b"!");
        if let Body::Segment(segment) = &mut urgent.body {
            segment.urgent = Some(1);
        }
        let packets = [
            packet(99, true, b""),
            packet(100, false, b"ab"),
            urgent,
            packet(103, false, b"cd"),
        ];
        assert_eq!(streams(&packets)?[0].readable().bytes, b"abcd");
        Ok(())
    }

    #[test]
    fn a_capture_with_a_hole_is_refused() {
        let packets = [packet(99, true, b""), packet(101, false, b"b")];
        assert!(streams(&packets).is_err());
    }

    #[test]
    fn ports_that_are_used_again_make_another_connection() -> Result<()> {
        let packets = [
            packet(99, true, b""),
            packet(100, false, b"a"),
            packet(499, true, b""),
            packet(500, false, b"b"),
        ];
        let streams = streams(&packets)?;
        assert_eq!(streams[1].readable().bytes, b"b");
        assert_ne!(streams[0].connection, streams[1].connection);
        Ok(())
    }

    fn packet(sequence: u32, syn: bool, bytes: &[u8]) -> Packet {
        Packet {
            time: Duration::from_secs(u64::from(sequence)),
            from: ([127, 0, 0, 1], 1_000).into(),
            to: ([127, 0, 0, 1], 53).into(),
            body: Body::Segment(Segment {
                sequence,
                syn,
                bytes: bytes.to_vec(),
                ..Segment::default()
            }),
        }
    }
}
