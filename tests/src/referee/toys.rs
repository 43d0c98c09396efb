//! Our own servers that do what no other server here does: several threads write to one connection without a lock, or
//! responses are sent in one call with very many buffers. The server is this program, started with the hidden argument
//! [`ARGUMENT`].

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, mpsc::channel},
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::wire;

/// First argument that makes this program such a server; its manner and its port follow.
pub(crate) const ARGUMENT: &str = "referee-toy";

/// Number of threads that write to one connection.
const WRITERS: usize = 8;
/// Number of buffers into which a message is cut.
const BUFFERS: usize = 8;

/// Way in which it answers on streams.
#[derive(Clone, Copy)]
enum Manner {
    /// The next one of several threads sends each response.
    Writers,
    /// One call sends all responses that are ready, each in several buffers.
    Buffers,
}

/// Runs until it is ended.
pub(crate) fn serve(words: &[String]) -> Result<()> {
    let [manner, port] = words else {
        bail!("which manner, which port?")
    };
    let manner = match manner.as_str() {
        "writers" => Manner::Writers,
        "buffers" => Manner::Buffers,
        other => bail!("no manner {other}"),
    };
    let port: u16 = port.parse().context("the port")?;
    let mut threads = Vec::new();
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        let socket = UdpSocket::bind(address)?;
        let listener = TcpListener::bind(address)?;
        threads.push(thread::spawn(move || datagrams(&socket)));
        threads.push(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || match manner {
                    Manner::Writers => writers(stream),
                    Manner::Buffers => buffers(&stream),
                });
            }
        }));
    }
    for thread in threads {
        thread.join().ok();
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_535];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        if length >= 12 && !wire::is_response(&buffer[..length]) {
            socket
                .send_to(&wire::answer(&buffer[..length]), client)
                .ok();
        }
    }
}

fn writers(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = Arc::new(stream);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..WRITERS).map(|_| channel::<Vec<Vec<u8>>>()).unzip();
    let mut threads = Vec::new();
    for queries in receivers {
        let stream = Arc::clone(&stream);
        threads.push(thread::spawn(move || {
            for query in queries.iter().flatten() {
                // One call sends one message, so the kernel keeps its bytes together.
                (&*stream)
                    .write_all(&wire::framed(&wire::answer(&query)))
                    .ok();
            }
        }));
    }
    let mut received = Vec::new();
    while fill(&stream, &mut received)? {
        let queries: Vec<_> = messages(&mut received).collect();
        let share = queries.len().div_ceil(WRITERS).max(1);
        for (sender, queries) in senders.iter().zip(queries.chunks(share)) {
            sender.send(queries.to_vec()).ok();
        }
    }
    drop(senders);
    for thread in threads {
        thread.join().ok();
    }
    Ok(())
}

fn buffers(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    while fill(stream, &mut received)? {
        let answers: Vec<Vec<u8>> = messages(&mut received)
            .map(|query| wire::framed(&wire::answer(&query)))
            .collect();
        let pieces: Vec<IoSlice<'_>> = answers
            .iter()
            .flat_map(|answer| answer.chunks(answer.len().div_ceil(BUFFERS).max(1)))
            .map(IoSlice::new)
            .collect();
        // A call has up to 256 buffers, as many as the documentation promises to support.
        for call in pieces.chunks(256) {
            let length: usize = call.iter().map(|piece| piece.len()).sum();
            let sent = { stream }.write_vectored(call)?;
            if sent < length {
                return Err(io::ErrorKind::WriteZero.into()); // small answers always fit
            }
        }
    }
    Ok(())
}

/// Reads the available bytes. Returns `false` at the end.
fn fill(mut stream: &TcpStream, received: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 8_192];
    let length = stream.read(&mut buffer)?;
    received.extend(&buffer[..length]);
    Ok(length > 0)
}

/// Returns the whole messages that have arrived, without those that have no header, which get no response.
fn messages(received: &mut Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    let mut queries = Vec::new();
    while let [high, low, rest @ ..] = received.as_slice() {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(query) = rest.get(..size).map(<[u8]>::to_vec) else {
            break;
        };
        received.drain(..2 + size);
        if size >= 12 {
            queries.push(query);
        }
    }
    queries.into_iter()
}
