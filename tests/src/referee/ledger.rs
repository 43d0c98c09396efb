//! Determines from the packets alone what a tap of the process must have written.
//!
//! Each message that went to or from the process is *due*: it must be in the file. It is *open* if the packets do not
//! show whether the process has read or written it: it may be in the file or not. It is *barred* if it must not be in
//! the file because the documentation says so. Open and barred messages have a reason.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use dnstap_proto::SocketProtocol;

use super::{
    capture::{Body, Packet},
    dns,
    streams::{Stream, streams},
};

/// Ports of the process and of its peers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports<'a> {
    /// Ports on which the process waits for queries.
    pub(super) own: &'a [u16],
    /// Ports of the servers that the process asks.
    pub(super) asked: &'a [u16],
    /// Ports with encrypted traffic.
    pub(super) encrypted: &'a [u16],
}

/// Times at which the tap was running.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times<'a> {
    /// Time when the agent reported that it was attached.
    pub(super) attached: Duration,
    /// Time when the agent was told to end.
    pub(super) ended: Duration,
    /// Periods in which the process was not running or about to end. It may not have read messages that it did not
    /// answer then.
    pub(super) gone: &'a [(Duration, Duration)],
    /// Whether the server may close connections with unread queries.
    pub(super) gives_up: bool,
}

/// One message on the wire.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) protocol: SocketProtocol,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) message: Vec<u8>,
    /// Time of its last byte.
    pub(super) time: Duration,
    /// Time of its first byte.
    begun: Duration,
    /// Whether the process has sent it.
    pub(super) sent: bool,
    /// Whether the message must be in the file.
    pub(super) standing: Standing,
    /// Special circumstance of the message, which helps to find the cause of a fault.
    pub(super) circumstance: &'static str,
    /// Number of the TCP connection; 0 for datagrams.
    connection: usize,
    /// Addresses of the packets; they differ from `from` and `to` if there is a PROXY header.
    ends: (SocketAddr, SocketAddr),
}

/// Whether a message must be in the file. The texts are the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Due,
    Open(&'static str),
    Barred(&'static str),
}

/// The relevant content of a capture.
pub(super) struct Ledger {
    pub(super) messages: Vec<Heard>,
    /// Addresses of connections that were reset: bytes that the process wrote may never have left.
    pub(super) broken: Vec<(SocketAddr, SocketAddr)>,
    /// Number of bytes of encrypted traffic.
    pub(super) encrypted: usize,
}

const OUTSIDE: &str = "that began before the tap was attached or after it was told to stop";
const RESET: &str = "without an answer on a connection that was reset; the packets do not show whether the server read them";
const LEFT: &str = "without an answer on a connection that was open when the server stopped";
const HUNG_UP: &str = "without an answer on a connection that the server closed first; the packets do not show whether it read them";
const GAVE_UP: &str = "without an answer on a connection that the server gave up; the packets do not show whether it read them";
const GONE: &str = "without an answer when the server stopped";
const REFUSED: &str = "to a port without a socket, refused by ICMP";
const UNASKED: &str = "that are responses to no query; the tap leaves them out, as documented";
const SHORT: &str = "without a DNS header; the tap leaves them out and counts them, as documented";

/// Reads the packets.
pub(super) fn ledger(packets: &[Packet], ports: Ports<'_>, times: Times<'_>) -> Result<Ledger> {
    let streams = streams(packets)?;
    let mut ledger = Ledger {
        messages: Vec::new(),
        broken: Vec::new(),
        encrypted: 0,
    };
    ledger.datagrams(packets, ports);
    ledger.connections(&streams, ports, times.attached);
    ledger.messages.sort_by_key(|heard| heard.time);
    ledger.refusals(packets);
    ledger.unasked();
    ledger.unread(&streams, times);
    for heard in &mut ledger.messages {
        if heard.begun <= times.attached || heard.time >= times.ended {
            heard.standing = Standing::Open(OUTSIDE);
        }
    }
    Ok(ledger)
}

impl Ports<'_> {
    /// Returns whether the process is the sender of packets in this direction; `None` if the traffic is not the
    /// process's.
    fn sent(&self, from: SocketAddr, to: SocketAddr) -> Option<bool> {
        if self.own.contains(&from.port()) || self.asked.contains(&to.port()) {
            Some(true)
        } else if self.own.contains(&to.port()) || self.asked.contains(&from.port()) {
            Some(false)
        } else {
            None
        }
    }

    fn are_encrypted(&self, from: SocketAddr, to: SocketAddr) -> bool {
        [from, to]
            .iter()
            .any(|end| self.encrypted.contains(&end.port()))
    }
}

impl Ledger {
    fn datagrams(&mut self, packets: &[Packet], ports: Ports<'_>) {
        // Client and server of a PROXY header, by the ends of the packet and the id. They apply to the response, too.
        let mut named: HashMap<(SocketAddr, SocketAddr, [u8; 2]), (SocketAddr, SocketAddr)> =
            HashMap::new();
        for packet in packets {
            let (from, to) = (packet.from, packet.to);
            let (Body::Datagram(bytes), Some(sent)) = (&packet.body, ports.sent(from, to)) else {
                continue;
            };
            if bytes.is_empty() {
                continue;
            }
            let (proxy_header, message) = split(bytes);
            let id = message.first_chunk().copied().unwrap_or_default();
            let ends = match proxy_header {
                // The process tells the server that it asks about its client. The process is still the one that asks.
                Some(_) if sent => (from, to),
                Some(ends) => {
                    named.insert((from, to, id), ends);
                    ends
                }
                None => match named.get(&(to, from, id)) {
                    Some((client, server)) => (*server, *client),
                    None => (from, to),
                },
            };
            let standing = if dns::has_header(message) {
                Standing::Due
            } else {
                Standing::Open(SHORT)
            };
            self.messages.push(Heard {
                protocol: SocketProtocol::Udp,
                from: ends.0,
                to: ends.1,
                message: message.to_vec(),
                time: packet.time,
                begun: packet.time,
                sent,
                standing,
                circumstance: "",
                connection: 0,
                ends: (from, to),
            });
        }
    }

    fn connections(&mut self, streams: &[Stream], ports: Ports<'_>, attached: Duration) {
        let mut named: HashMap<usize, (SocketAddr, SocketAddr)> = HashMap::new();
        // The client's direction comes first in the list, and the PROXY header is in it.
        for stream in streams {
            let (from, to) = (stream.from, stream.to);
            let readable = stream.readable();
            if ports.are_encrypted(from, to) {
                self.encrypted += readable.bytes.len();
                continue;
            }
            let Some(sent) = ports.sent(from, to) else {
                continue;
            };
            if stream.reset.is_some() {
                self.broken.extend([(from, to), (to, from)]);
            }
            let (proxy_header, rest) = split(&readable.bytes);
            let ends = match (proxy_header, named.get(&stream.connection)) {
                // The tap has not seen a PROXY header that was sent before it attached. The records of such a stream
                // show the proxy, as docs/types.md says.
                (Some(ends), _) if !sent && readable.time(1) > attached => {
                    named.insert(stream.connection, ends);
                    ends
                }
                (None, Some((client, server))) => (*server, *client),
                _ => (from, to),
            };
            let mut at = readable.bytes.len() - rest.len();
            while let Some(&[high, low]) = readable.bytes.get(at..at + 2) {
                let start = at + 2;
                let end = start + usize::from(u16::from_be_bytes([high, low]));
                let Some(message) = readable.bytes.get(start..end) else {
                    break; // the sender never finished this message
                };
                at = end;
                if message.is_empty() {
                    continue;
                }
                self.messages.push(Heard {
                    protocol: SocketProtocol::Tcp,
                    from: ends.0,
                    to: ends.1,
                    message: message.to_vec(),
                    time: readable.time(end),
                    begun: readable.time(start - 1),
                    sent,
                    standing: if dns::has_header(message) {
                        Standing::Due
                    } else {
                        Standing::Open(SHORT)
                    },
                    circumstance: stream.circumstance(end, &readable),
                    connection: stream.connection,
                    ends: (from, to),
                });
            }
        }
    }

    /// Marks datagrams that arrived where no socket listened.
    fn refusals(&mut self, packets: &[Packet]) {
        for packet in packets {
            let Body::Refused(start) = &packet.body else {
                continue;
            };
            let heard = self.messages.iter_mut().rev().find(|heard| {
                heard.ends == (packet.from, packet.to)
                    && heard.time <= packet.time
                    && !heard.sent
                    && (heard.message.starts_with(start) || start.starts_with(&heard.message))
            });
            if let Some(heard) = heard {
                heard.standing = Standing::Open(REFUSED);
            }
        }
    }

    /// Marks datagrams with responses that the process has not asked for.
    fn unasked(&mut self) {
        for at in 0..self.messages.len() {
            let heard = &self.messages[at];
            if heard.sent
                || heard.protocol != SocketProtocol::Udp
                || !dns::is_response(&heard.message)
                || heard.standing != Standing::Due
            {
                continue;
            }
            let asked = self.messages[..at].iter().any(|query| {
                query.sent
                    && (query.to, query.from) == (heard.from, heard.to)
                    && !dns::is_response(&query.message)
                    && query.message.get(..2) == heard.message.get(..2)
            });
            if !asked {
                self.messages[at].standing = Standing::Barred(UNASKED);
            }
        }
    }

    /// Marks messages that the process may not have read: those after the last answered one, if the stream does not end
    /// regularly.
    fn unread(&mut self, streams: &[Stream], times: Times<'_>) {
        let reasons: Vec<_> = (0..self.messages.len())
            .map(|at| self.unread_reason(at, streams, times))
            .collect();
        for (heard, reason) in self.messages.iter_mut().zip(reasons) {
            if let (Some(reason), Standing::Due) = (reason, heard.standing) {
                heard.standing = Standing::Open(reason);
            }
        }
    }

    fn unread_reason(
        &self,
        at: usize,
        streams: &[Stream],
        times: Times<'_>,
    ) -> Option<&'static str> {
        let heard = &self.messages[at];
        if heard.sent {
            return None;
        }
        let gone = times
            .gone
            .iter()
            .any(|(from, until)| (*from..=*until).contains(&heard.time));
        let stays = |other: &Heard| match heard.protocol {
            SocketProtocol::Udp => other.ends == heard.ends,
            _ => other.connection == heard.connection,
        };
        if heard.protocol == SocketProtocol::Udp {
            let answered = || {
                self.messages[at..].iter().any(|other| {
                    other.sent
                        && other.ends == (heard.ends.1, heard.ends.0)
                        && dns::is_response(&other.message)
                        && other.message.get(..2) == heard.message.get(..2)
                })
            };
            return (gone && !answered()).then_some(GONE);
        }
        // A connection that ends after the tap was closed by the end of the server.
        let before_end = |time: Option<Duration>| time.filter(|time| *time < times.ended);
        let stream = |from: SocketAddr| {
            let is_it =
                |stream: &&Stream| stream.connection == heard.connection && stream.from == from;
            streams.iter().find(is_it)
        };
        let (theirs, ours) = (stream(heard.ends.0), stream(heard.ends.1));
        let reset = [theirs, ours]
            .into_iter()
            .flatten()
            .any(|stream| before_end(stream.reset).is_some());
        let ended = |stream: Option<&Stream>| stream.and_then(|stream| before_end(stream.fin));
        // A process reads the responses that it waits for, but may leave queries unread.
        let query = !dns::is_response(&heard.message);
        let reason = match (ended(theirs), ended(ours)) {
            _ if reset => RESET,
            _ if gone => GONE,
            (None, None) if query => LEFT,
            (theirs, Some(ours)) if query && theirs.is_none_or(|theirs| ours < theirs) => HUNG_UP,
            (_, Some(_)) if query && times.gives_up => GAVE_UP,
            _ => return None,
        };
        // Bytes are read in order: if this message or a later one is answered, this one has been read.
        let answered = self.messages[at..]
            .iter()
            .filter(|other| !other.sent && stays(other))
            .any(|other| self.is_answered(other));
        (!answered).then_some(reason)
    }

    fn is_answered(&self, query: &Heard) -> bool {
        self.messages.iter().any(|other| {
            other.sent
                && other.connection == query.connection
                && other.time >= query.time
                && dns::is_response(&other.message)
                && other.message.get(..2) == query.message.get(..2)
        })
    }
}

/// Signature of the PROXY protocol, version 2 (its specification, section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Returns the addresses of the PROXY header, if there is one, and the bytes after it.
fn split(bytes: &[u8]) -> (Option<(SocketAddr, SocketAddr)>, &[u8]) {
    let proxy_header = || {
        let head = bytes.strip_prefix(SIGNATURE)?;
        let [version_and_command, family, high, low, ..] = *head else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (body, rest) = head[4..].split_at_checked(length)?;
        let ends = match (version_and_command, family >> 4) {
            (0x21, 1) => Some(addresses::<4>(body)?),
            (0x21, 2) => Some(addresses::<16>(body)?),
            _ => None,
        };
        Some((ends, rest))
    };
    proxy_header().unwrap_or((None, bytes))
}

fn addresses<const SIZE: usize>(body: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; SIZE]>,
{
    let (client, rest) = body.split_first_chunk::<SIZE>()?;
    let (server, rest) = rest.split_first_chunk::<SIZE>()?;
    let [a, b, c, d, ..] = *rest else {
        return None;
    };
    Some((
        SocketAddr::new((*client).into(), u16::from_be_bytes([a, b])),
        SocketAddr::new((*server).into(), u16::from_be_bytes([c, d])),
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::{
        referee::{capture::Segment, message::proxy_header},
        wire,
    };

    const fn at(last: u8, port: u16) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), port))
    }

    pub(in crate::referee) const CLIENT: SocketAddr = at(2, 4_000);
    pub(in crate::referee) const SERVER: SocketAddr = at(1, 53);

    pub(in crate::referee) fn of(packets: &[Packet]) -> Ledger {
        let ports = Ports {
            own: &[53],
            asked: &[5_302],
            encrypted: &[],
        };
        let times = Times {
            attached: Duration::ZERO,
            ended: Duration::from_secs(100),
            gone: &[],
            gives_up: false,
        };
        ledger(packets, ports, times).unwrap()
    }

    pub(in crate::referee) fn datagram(
        second: u64,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> Packet {
        Packet {
            time: Duration::from_secs(second),
            from,
            to,
            body: Body::Datagram(bytes.to_vec()),
        }
    }

    #[test]
    fn a_response_that_was_asked_for_is_due_and_another_one_is_barred() {
        let upstream = at(1, 5_302);
        let query = wire::query(1, "a.lab", wire::TYPE_A, true);
        let answer = wire::answer(&query);
        let ledger = of(&[
            datagram(1, at(1, 999), upstream, &query),
            datagram(2, upstream, at(1, 999), &answer),
            datagram(3, CLIENT, SERVER, &answer),
        ]);
        let standings: Vec<_> = ledger.messages.iter().map(|heard| heard.standing).collect();
        assert_eq!(
            standings,
            [Standing::Due, Standing::Due, Standing::Barred(UNASKED)]
        );
    }

    #[test]
    fn a_proxy_header_that_was_received_names_both_ends_and_one_that_was_sent_does_not() {
        let query = wire::query(1, "a.lab", wire::TYPE_A, true);
        let (client, server) = (at(9, 1), at(8, 2));
        let behind = [proxy_header(client, server, false), query.clone()].concat();
        let ledger = of(&[
            datagram(1, CLIENT, SERVER, &behind),
            datagram(2, SERVER, CLIENT, &wire::answer(&query)),
            datagram(3, SERVER, at(1, 5_302), &behind),
        ]);
        let ends: Vec<_> = ledger
            .messages
            .iter()
            .map(|heard| (heard.from, heard.to))
            .collect();
        assert_eq!(
            ends,
            [(client, server), (server, client), (SERVER, at(1, 5_302))]
        );
        assert!(
            ledger
                .messages
                .iter()
                .all(|heard| heard.message.len() == query.len())
        );
    }

    #[test]
    fn a_query_without_an_answer_is_due_unless_the_end_of_its_connection_hides_whether_it_was_read()
    {
        let query = wire::framed(&wire::query(1, "a.lab", wire::TYPE_A, true));
        let (fin, reset) = (true, false);
        for (ends, standing) in [
            (&[(CLIENT, fin), (SERVER, fin)][..], Standing::Due),
            (&[(SERVER, fin), (CLIENT, fin)], Standing::Open(HUNG_UP)),
            (&[(CLIENT, fin), (SERVER, reset)], Standing::Open(RESET)),
            (&[], Standing::Open(LEFT)),
        ] {
            let mut packets = vec![
                segment(1, CLIENT, |segment| segment.syn = true),
                segment(2, SERVER, |segment| segment.syn = true),
                segment(3, CLIENT, |segment| {
                    segment.sequence = 1;
                    segment.bytes.clone_from(&query);
                }),
            ];
            for (second, (from, fin)) in (4..).zip(ends) {
                packets.push(segment(second, *from, |segment| {
                    segment.sequence = 1;
                    segment.fin = *fin;
                    segment.reset = !fin;
                }));
            }
            let ledger = of(&packets);
            assert_eq!(ledger.messages.len(), 1);
            assert_eq!(ledger.messages[0].standing, standing);
        }
    }

    fn segment(second: u64, from: SocketAddr, change: impl FnOnce(&mut Segment)) -> Packet {
        let mut segment = Segment::default();
        change(&mut segment);
        Packet {
            time: Duration::from_secs(second),
            from,
            to: if from == CLIENT { SERVER } else { CLIENT },
            body: Body::Segment(segment),
        }
    }
}
