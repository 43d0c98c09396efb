//! The upstream of the other servers, which is also the primary of `moving.lab`. It closes each TCP connection in the
//! packet of its last byte.
//!
//! It answers any query from the name alone: `h7` has an address, `t3500` a text of about that many bytes, which is
//! truncated over UDP. A PROXY header is skipped.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::SockRef;

use super::message::last_words;
use crate::wire;

/// Largest response in a datagram, in bytes.
const DATAGRAM: usize = 1_232;
/// Number of records in each message of a transfer, and number of such messages.
const RECORDS: usize = 100;
const MESSAGES: usize = 4;
/// Time that it waits for more bytes on a connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Zone that secondaries transfer from here.
pub(super) const MOVING: &str = "moving.lab";
/// In the middle of the response for this host, urgent data is sent.
pub(super) const URGENT: &str = "t3501";
/// After the response for this host, the connection is reset.
pub(super) const RESET: &str = "t3502";

const FLAGS: usize = 2;
const QR_AA: u8 = 0x84;
const TC: u8 = 0x02;
const NXDOMAIN: u8 = 3;

/// The running server. It ends when dropped.
pub(super) struct Upstream {
    stop: Arc<AtomicBool>,
    serial: Arc<AtomicU32>,
}

impl Upstream {
    /// Listens on both loopback addresses. A patient one keeps connections open as long as its clients do.
    pub(super) fn start(port: u16, patient: bool) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let serial = Arc::new(AtomicU32::new(1));
        for address in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ] {
            let socket = UdpSocket::bind(address).context("the upstream's socket")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let listener = TcpListener::bind(address).context("the upstream's listener")?;
            listener.set_nonblocking(true)?;
            let (told, number) = (Arc::clone(&stop), Arc::clone(&serial));
            thread::spawn(move || datagrams(&socket, &told, &number));
            let (told, number) = (Arc::clone(&stop), Arc::clone(&serial));
            thread::spawn(move || connections(&listener, &told, &number, patient));
        }
        Ok(Self { stop, serial })
    }

    /// Makes a new version of `moving.lab`, and notifies the secondary.
    pub(super) fn announce(&self, secondary: SocketAddr) -> Result<()> {
        self.serial.fetch_add(1, Ordering::Relaxed);
        let mut notify = wire::query(0x4e4f, MOVING, wire::TYPE_SOA, false);
        notify[FLAGS] = wire::OPCODE_NOTIFY << 3 | 4; // AA
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(&notify, secondary)?;
        socket.recv(&mut [0; 512]).ok();
        Ok(())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn datagrams(socket: &UdpSocket, stop: &AtomicBool, serial: &AtomicU32) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let query = behind_proxy_header(&buffer[..length]);
        let Some(mut answer) = answers(query, serial).into_iter().next() else {
            continue;
        };
        if answer.len() > DATAGRAM {
            answer = shortened(query);
        }
        socket.send_to(&answer, client).ok();
    }
}

fn connections(listener: &TcpListener, stop: &AtomicBool, serial: &Arc<AtomicU32>, patient: bool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let serial = Arc::clone(serial);
                thread::spawn(move || connection(stream, &serial, patient));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Answers one query, and closes the connection with the response, unless the server is patient.
fn connection(mut stream: TcpStream, serial: &AtomicU32, patient: bool) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut received = Vec::new();
    loop {
        let query = next(&mut stream, &mut received)?;
        let bytes: Vec<u8> = answers(&query, serial)
            .iter()
            .flat_map(|answer| wire::framed(answer))
            .collect();
        let name = wire::question(&query).map(|(name, _)| name)?;
        let mut rest = bytes.as_slice();
        match name.split('.').next()? {
            URGENT => {
                stream.write_all(&bytes[..700]).ok()?;
                SockRef::from(&stream).send_out_of_band(b"!").ok()?;
                rest = &bytes[700..];
            }
            RESET => {
                stream.write_all(&bytes).ok()?;
                SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .ok()?;
                return Some(());
            }
            _ if patient => {
                stream.write_all(&bytes).ok()?;
                continue;
            }
            _ => {}
        }
        last_words(&stream, rest).ok()?;
        // The client closes its side when it has read the response; the connection exists until then.
        while stream.read(&mut [0; 512]).is_ok_and(|length| length > 0) {}
        return Some(());
    }
}

fn next(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        let length = behind_proxy_header(received).len();
        let skipped = received.len() - length;
        if let [high, low, rest @ ..] = &received[skipped..] {
            let size = usize::from(u16::from_be_bytes([*high, *low]));
            if let Some(query) = rest.get(..size).map(<[u8]>::to_vec) {
                received.drain(..skipped + 2 + size);
                return Some(query);
            }
        }
        let mut buffer = [0; 4_096];
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => received.extend(&buffer[..length]),
            _ => return None,
        }
    }
}

/// Returns the bytes after a complete PROXY header.
fn behind_proxy_header(bytes: &[u8]) -> &[u8] {
    let behind = || {
        let rest = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
        let [_, _, high, low, body @ ..] = rest else {
            return None;
        };
        body.get(usize::from(u16::from_be_bytes([*high, *low]))..)
    };
    behind().unwrap_or(bytes)
}

/// Makes the response; a transfer has several messages. There is no response to an unreadable query.
fn answers(query: &[u8], serial: &AtomicU32) -> Vec<Vec<u8>> {
    let Some((name, qtype)) = wire::question(query).filter(|_| !wire::is_response(query)) else {
        return Vec::new();
    };
    let soa = || soa(serial.load(Ordering::Relaxed));
    let host = name.split('.').next().unwrap_or_default();
    let size = host.strip_prefix('t').and_then(|size| size.parse().ok());
    match (qtype, size) {
        (wire::TYPE_AXFR | wire::TYPE_IXFR, _) => (0..MESSAGES)
            .map(|number| {
                let mut records = Vec::new();
                records.extend((number == 0).then(soa));
                if number == 0 {
                    records.push(record(2, b"\x02ns\xc0\x0c"));
                }
                let hosts = number * RECORDS..(number + 1) * RECORDS;
                records.extend(hosts.map(|host| labelled(&format!("m{host}"))));
                records.extend((number == MESSAGES - 1).then(soa));
                reply(query, 0, &records)
            })
            .collect(),
        (wire::TYPE_TXT, Some(size)) => vec![reply(query, 0, &texts(size))],
        (wire::TYPE_A, _) if host.starts_with('h') || host == "ns" => {
            vec![reply(query, 0, &[record(wire::TYPE_A, &[192, 0, 2, 7])])]
        }
        (wire::TYPE_SOA, _) if name.matches('.').count() <= 1 => vec![reply(query, 0, &[soa()])],
        (2, _) if name.matches('.').count() <= 1 => vec![reply(query, 0, &[name_server()])],
        _ if host == "none" => vec![reply(query, NXDOMAIN, &[])],
        _ => vec![reply(query, 0, &[])],
    }
}

/// Makes a response from the query's header and question, with these records.
fn reply(query: &[u8], code: u8, records: &[Vec<u8>]) -> Vec<u8> {
    let end = question_end(query);
    let mut message = query[..end].to_vec();
    message[FLAGS] = (message[FLAGS] & 0x79) | QR_AA;
    message[FLAGS + 1] = 0x80 | code; // RA
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message[8..12].fill(0);
    message.extend(records.concat());
    message
}

fn shortened(query: &[u8]) -> Vec<u8> {
    let mut message = reply(query, 0, &[]);
    message[FLAGS] |= TC;
    message
}

/// Returns the end of the question. The question must be readable.
fn question_end(query: &[u8]) -> usize {
    let name = query[12..].iter().position(|byte| *byte == 0);
    12 + name.unwrap_or(0) + 5
}

/// Makes a record for the name of the question.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 60]);
    record.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    record.extend(data);
    record
}

/// Makes an address record for a host below the name of the question.
fn labelled(label: &str) -> Vec<u8> {
    let mut labelled = vec![u8::try_from(label.len()).unwrap_or(0)];
    labelled.extend(label.as_bytes());
    labelled.extend(record(wire::TYPE_A, &[192, 0, 2, 8]));
    labelled
}

fn soa(serial: u32) -> Vec<u8> {
    let mut data = b"\x02ns\xc0\x0c\x04root\xc0\x0c".to_vec();
    for number in [serial, 3_600, 900, 86_400, 60] {
        data.extend(number.to_be_bytes());
    }
    record(wire::TYPE_SOA, &data)
}

/// Makes an NS record with this server's name.
fn name_server() -> Vec<u8> {
    record(2, b"\x02ns\x02up\x03lab\0")
}

/// Makes text records with about this many bytes together.
fn texts(size: usize) -> Vec<Vec<u8>> {
    (0..size.div_ceil(250).max(1))
        .map(|number| {
            let text = format!("{number:0240}");
            let mut data = vec![240];
            data.extend(text.as_bytes());
            record(wire::TYPE_TXT, &data)
        })
        .collect()
}
