//! Traffic of the clients to a server: ordinary queries, and odd ones that a hostile client may send.
//!
//! This code does not check responses, because the packets on the wire are judged. A client waits for a response only
//! to give the server time, and waits only briefly if none may come.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    message,
    upstream::{RESET, URGENT},
};
use crate::wire;

/// Longest time for a response.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time to wait for a response that may not come.
const MOMENT: Duration = Duration::from_millis(150);
/// A receive window so small that a server writes a large answer bit by bit.
const NARROW: usize = 4_096;
/// Number of queries in a flood.
const FLOOD: u16 = 12_000;
/// Hosts with large responses; the number is about the size in bytes.
const LARGE: [&str; 3] = ["t3500", "t20000", "t60000"];
/// The same for the upstream, which sends urgent data in the middle of the first response, and resets the connection
/// after the second one.
const LARGE_OF_UPSTREAM: [&str; 5] = ["t3500", URGENT, RESET, "t20000", "t60000"];

/// Traffic that a server gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    pub(super) server: SocketAddr,
    /// Zone of the queries.
    pub(super) zone: &'a str,
    /// Whether the server has the zone itself and allows transfers of it.
    pub(super) transfers: bool,
    /// Whether the server asks the upstream.
    pub(super) asks: bool,
    /// Whether all queries come with a PROXY header.
    pub(super) proxied: bool,
}

/// Runs all traffic.
pub(super) fn all(load: Load<'_>) -> Result<()> {
    ordinary(load)?;
    load.strangers().context("strangers")
}

/// Connections that exist before the tap attaches: the server has read some bytes of them, including half of a query.
pub(super) struct Before {
    streams: Vec<(TcpStream, Vec<u8>)>,
}

impl Before {
    /// Opens connections, each with a query that is answered, and for some a part of the next one.
    pub(super) fn open(load: Load<'_>) -> Result<Self> {
        let mut streams = Vec::new();
        for part in [0, 1, 11] {
            let mut stream = load.connect()?;
            let query = |id, host| wire::framed(&load.query(id, host, wire::TYPE_A));
            say(&mut stream, &query(1, "h490"))?;
            answer(&mut stream);
            let next = query(2, "h491");
            say(&mut stream, &next[..part])?;
            streams.push((stream, next[part..].to_vec()));
        }
        Ok(Self { streams })
    }

    /// Sends the rest of the queries.
    pub(super) fn go_on(self, load: Load<'_>) -> Result<()> {
        for (mut stream, rest) in self.streams {
            say(&mut stream, &rest)?;
            answer(&mut stream);
            for id in 3..8 {
                let query = load.query(id, &Load::host(490 + id), wire::TYPE_A);
                say(&mut stream, &wire::framed(&query))?;
                answer(&mut stream);
            }
        }
        Ok(())
    }
}

/// Sends as many queries on one connection as the server accepts, while its responses are read.
pub(super) fn flood(load: Load<'_>) -> Result<()> {
    let mut stream = load.connect()?;
    let mut reader = stream.try_clone()?;
    thread::scope(|scope| {
        let answers = scope.spawn(move || (0..FLOOD).all(|_| answer(&mut reader)));
        for first in (0..FLOOD).step_by(400) {
            let queries = (first..first + 400)
                .map(|id| wire::framed(&load.query(id, &Load::host(id), wire::TYPE_A)));
            say(&mut stream, &queries.collect::<Vec<_>>().concat())?;
        }
        ensure!(answers.join().unwrap_or(false), "answers are missing");
        Ok(())
    })
}

/// Sends a little traffic to a server that may end at any moment.
pub(super) fn little(load: Load<'_>) -> Result<()> {
    load.datagrams().context("datagrams")?;
    load.crowd().context("many streams")
}

/// Sends ordinary traffic.
pub(super) fn ordinary(load: Load<'_>) -> Result<()> {
    load.datagrams().context("datagrams")?;
    load.pieces().context("streams in pieces")?;
    load.half_closed().context("half-closed streams")?;
    load.crowd().context("many streams")?;
    load.large().context("large answers")?;
    if load.transfers {
        load.transfer().context("a transfer")?;
    }
    Ok(())
}

impl Load<'_> {
    fn query(&self, id: u16, host: &str, qtype: u16) -> Vec<u8> {
        wire::query(
            id,
            &format!("{host}.{}", self.zone),
            qtype,
            id.is_multiple_of(2),
        )
    }

    /// Returns a host name that seldom repeats, so that a cache does not answer in place of the upstream.
    fn host(number: u16) -> String {
        format!("h{}", number % 500)
    }

    fn socket(&self) -> Result<UdpSocket> {
        let socket = if self.server.is_ipv6() {
            UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))
        } else {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        }?;
        socket.connect(self.server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    fn send(&self, socket: &UdpSocket, message: &[u8]) -> Result<()> {
        if self.proxied {
            let client = socket.local_addr()?;
            let proxy_header =
                message::proxy_header(named(client, 9), named(self.server, 53), false);
            socket.send(&[&proxy_header, message].concat())?;
        } else {
            socket.send(message)?;
        }
        Ok(())
    }

    /// Opens a connection, and sends the PROXY header if there is one.
    fn connect(&self) -> Result<TcpStream> {
        self.begin(TcpStream::connect(self.server)?)
    }

    fn begin(&self, mut stream: TcpStream) -> Result<TcpStream> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        if self.proxied {
            let client = stream.local_addr()?;
            let proxy_header =
                message::proxy_header(named(client, 9), named(self.server, 53), true);
            stream.write_all(&proxy_header)?;
        }
        Ok(stream)
    }

    /// Sends 200 datagrams from four clients, up to ten in flight from each; then unusual but valid ones.
    fn datagrams(&self) -> Result<()> {
        let sockets: Vec<_> = (0..4).map(|_| self.socket()).collect::<Result<_>>()?;
        for round in 0..5_u16 {
            for (place, socket) in (0..).zip(&sockets) {
                for at in 0..10 {
                    let number = round * 40 + place * 10 + at;
                    self.send(
                        socket,
                        &self.query(number, &Self::host(number), wire::TYPE_A),
                    )?;
                }
            }
            for socket in &sockets {
                for _ in 0..10 {
                    receive(socket);
                }
            }
        }
        let socket = self.socket()?;
        for (id, (host, qtype)) in (1_000..).zip([
            ("none", wire::TYPE_A),
            ("h1", wire::TYPE_TXT),
            ("H2", wire::TYPE_A),
            ("h3", 28),
            ("t3500", wire::TYPE_TXT),
        ]) {
            let plain = self.query(id, host, qtype);
            for query in [plain.clone(), message::with_edns(&plain, 1_232, &[])] {
                self.send(&socket, &query)?;
                receive(&socket);
            }
        }
        let soa = wire::query(1_100, self.zone, wire::TYPE_SOA, false);
        self.send(&socket, &soa)?;
        receive(&socket);
        // The options have up to 500 bytes: a cookie, and padding.
        let padded = message::with_edns(&self.query(1_101, "h4", wire::TYPE_A), 1_232, &[0; 400]);
        self.send(&socket, &padded)?;
        receive(&socket);
        Ok(())
    }

    /// Sends queries over connections in all kinds of pieces; some are answered before others are sent.
    fn pieces(&self) -> Result<()> {
        let mut together = self.connect()?;
        let mut bytes = Vec::new();
        for id in 0..30 {
            let host = Self::host(200 + id);
            bytes.extend(wire::framed(&self.query(id, &host, wire::TYPE_A)));
        }
        say(&mut together, &bytes)?;
        for _ in 0..30 {
            answer(&mut together);
        }
        for (number, size) in (0..).zip([1, 2, 7, 30]) {
            let mut stream = self.connect()?;
            for id in 0..3 {
                let host = Self::host(230 + number * 3 + id);
                let framed = wire::framed(&self.query(id, &host, wire::TYPE_A));
                for piece in framed.chunks(size) {
                    say(&mut stream, piece)?;
                }
                answer(&mut stream);
            }
        }
        Ok(())
    }

    /// Sends the last bytes of the queries and the end of the stream in one packet.
    fn half_closed(&self) -> Result<()> {
        for count in 1..=6_u16 {
            let mut stream = self.connect()?;
            let before = count / 2;
            for id in 0..before {
                let host = Self::host(250 + count * 6 + id);
                let query = self.query(id, &host, wire::TYPE_A);
                say(&mut stream, &wire::framed(&query))?;
                answer(&mut stream);
            }
            let mut last = Vec::new();
            for id in before..count {
                let host = Self::host(250 + count * 6 + id);
                last.extend(wire::framed(&self.query(id, &host, wire::TYPE_A)));
            }
            message::last_words(&stream, &last).ok();
            to_the_end(&mut stream);
        }
        Ok(())
    }

    /// Opens six connections at a time, each with 50 queries in flight.
    fn crowd(&self) -> Result<()> {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..6)
                .map(|client| scope.spawn(move || self.pipelined(client * 50)))
                .collect();
            clients
                .into_iter()
                .try_for_each(|client| client.join().unwrap_or(Ok(())))
        })
    }

    /// Sends each query in a write of its own, or all in one.
    fn pipelined(&self, first: u16) -> Result<()> {
        let mut stream = self.connect()?;
        let mut together = Vec::new();
        for id in first..first + 50 {
            let query = self.query(id, &Self::host(300 + id % 200), wire::TYPE_A);
            if first.is_multiple_of(100) {
                say(&mut stream, &wire::framed(&query))?;
            } else {
                together.extend(wire::framed(&query));
            }
        }
        say(&mut stream, &together)?;
        for _ in 0..50 {
            answer(&mut stream);
        }
        Ok(())
    }

    fn large(&self) -> Result<()> {
        for narrow in [false, true] {
            let mut stream = if narrow {
                let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
                socket.set_recv_buffer_size(NARROW)?;
                socket.connect(&self.server.into())?;
                self.begin(socket.into())?
            } else {
                self.connect()?
            };
            for (id, host) in (1..).zip(self.large_hosts()) {
                let query = self.query(id, host, wire::TYPE_TXT);
                say(&mut stream, &wire::framed(&query))?;
                answer(&mut stream);
            }
        }
        Ok(())
    }

    fn large_hosts(&self) -> &'static [&'static str] {
        if self.asks {
            &LARGE_OF_UPSTREAM
        } else {
            &LARGE
        }
    }

    fn transfer(&self) -> Result<()> {
        let mut stream = self.connect()?;
        let query = wire::query(77, "big.lab", wire::TYPE_AXFR, false);
        say(&mut stream, &wire::framed(&query))?;
        stream.set_read_timeout(Some(MOMENT))?;
        while answer(&mut stream) {}
        Ok(())
    }

    /// Sends traffic that only a hostile client sends.
    fn strangers(&self) -> Result<()> {
        self.odd_datagrams().context("odd datagrams")?;
        self.urgent().context("urgent data")?;
        self.broken_off().context("connections that break off")?;
        self.resets().context("resets")?;
        // The server must still answer, and the tap must still see it.
        self.datagrams().context("datagrams afterwards")?;
        self.pieces().context("streams in pieces afterwards")
    }

    fn odd_datagrams(&self) -> Result<()> {
        let socket = self.socket()?;
        socket.set_read_timeout(Some(MOMENT))?;
        let query = self.query(2_000, "h5", wire::TYPE_A);
        let mut two_questions = query.clone();
        two_questions[5] = 2;
        let unasked = wire::answer(&self.query(2_001, "h6", wire::TYPE_A));
        let behind = [&query[..], b"more"].concat();
        let cut = &query[..query.len() - 3];
        let status = [&query[..2], &[0x10], &query[3..]].concat();
        let long = message::with_edns(&query, 1_232, &[0; 840]);
        let odd: [&[u8]; 8] = [
            &query[..12],
            &two_questions,
            &unasked,
            &behind,
            cut,
            &status,
            &long,
            &query[..5],
        ];
        for message in odd {
            self.send(&socket, message)?;
            receive(&socket);
        }
        Ok(())
    }

    /// Sends one byte of urgent data within a query, then between two; then further queries on the same connections.
    fn urgent(&self) -> Result<()> {
        for place in [0, 1, 2, 15] {
            let mut stream = self.connect()?;
            let query = |id| wire::framed(&self.query(id, &Self::host(400 + id), wire::TYPE_A));
            let first = query(0);
            say(&mut stream, &first)?;
            answer(&mut stream);
            let amid = query(1);
            say(&mut stream, &amid[..place])?;
            SockRef::from(&stream).send_out_of_band(b"!").ok();
            say(&mut stream, &amid[place..])?;
            answer(&mut stream);
            for id in 2..12 {
                say(&mut stream, &query(id))?;
                answer(&mut stream);
            }
        }
        Ok(())
    }

    fn broken_off(&self) -> Result<()> {
        let framed = |id| wire::framed(&self.query(id, &Self::host(420 + id), wire::TYPE_A));
        for rest in [
            &[0_u8][..],               // half a length
            &[0, 200, 1, 2, 3],        // a length without its message
            &[0, 0],                   // an empty message
            &[0, 5, 1, 2, 3, 4, 5],    // a message without a header
            &[0xff, 0xff, 1, 2, 3, 4], // the beginning of the longest message
        ] {
            let mut stream = self.connect()?;
            stream.set_read_timeout(Some(2 * MOMENT))?;
            say(&mut stream, &framed(0))?;
            answer(&mut stream);
            message::last_words(&stream, &[&framed(1), rest].concat()).ok();
            to_the_end(&mut stream);
        }
        Ok(())
    }

    /// Resets connections after a query, in the middle of a query, and with responses in flight.
    fn resets(&self) -> Result<()> {
        let query = |id, host: &str, qtype| wire::framed(&self.query(id, host, qtype));
        for round in 0..4 {
            let mut stream = self.connect()?;
            say(&mut stream, &query(0, "h7", wire::TYPE_A))?;
            answer(&mut stream);
            match round {
                0 => say(&mut stream, &query(1, "h8", wire::TYPE_A))?,
                1 => say(&mut stream, &query(1, "h8", wire::TYPE_A)[..9])?,
                2 => say(&mut stream, &query(1, "t60000", wire::TYPE_TXT))?,
                _ => {}
            }
            if round == 2 {
                // By then a small response has arrived, too.
                stream.set_read_timeout(Some(MOMENT))?;
                stream.read_exact(&mut [0; 1_000]).ok();
            }
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }
}

/// Returns an address for a PROXY header that no packet has.
fn named(address: SocketAddr, last: u8) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::new([192, 0, 2, last].into(), address.port()),
        SocketAddr::V6(_) => {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into());
            SocketAddr::new(ip.into(), address.port())
        }
    }
}

/// Writes, if the server still reads.
fn say(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    match stream.write_all(bytes) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        result => Ok(result?),
    }
}

fn receive(socket: &UdpSocket) -> bool {
    socket.recv(&mut vec![0; 65_536]).is_ok()
}

/// Reads one response. Returns whether there was one.
fn answer(stream: &mut TcpStream) -> bool {
    let mut length = [0; 2];
    if stream.read_exact(&mut length).is_err() {
        return false;
    }
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).is_ok()
}

fn to_the_end(stream: &mut TcpStream) {
    let mut buffer = [0; 4_096];
    while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
}
