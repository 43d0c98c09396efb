//! The tests' side of the toy: it starts the toy, sends queries of all sizes to all its endpoints, and returns the
//! records that a tap must have.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{ARGUMENT, Calls, Endpoint, Family, Sort, program};
use crate::{
    load::client::{Cut, TcpClient, UdpClient},
    process::{PATIENCE, Running, Watch},
    record::Record,
    wire,
};

/// Sizes of queries, and so of responses: around the ring's size classes and at the limits.
const SIZES: [usize; 12] = [
    17, 90, 166, 254, 256, 512, 513, 1_280, 1_400, 4_097, 16_385, 40_000,
];
/// Largest UDP payload over IPv4; over IPv6 it is 20 bytes more.
const LARGEST_UDP: usize = 65_507;
/// Largest DNS message over TCP.
const LARGEST_TCP: usize = 65_535;
/// Number of small queries that wait in the socket before the toy reads it.
const BURST: u16 = 20;

/// A running toy server.
pub(crate) struct Toy {
    process: Running,
    /// Endpoints on which it listens.
    pub(crate) endpoints: Vec<Endpoint>,
    next_id: u16,
}

impl Toy {
    /// Starts a toy that uses the given calls.
    pub(crate) fn start(calls: Calls) -> Result<Self> {
        let mut command = Command::new(program());
        command
            .args([ARGUMENT, &calls.to_string()])
            .stdin(Stdio::piped());
        let mut process = Running::start(&format!("toy server ({calls})"), command, Watch::Stdout)?;
        let mut endpoints = Vec::new();
        loop {
            let line = process.wait_for("its endpoints", |_| true)?;
            if line == "ready" {
                return Ok(Self {
                    process,
                    endpoints,
                    next_id: 0,
                });
            }
            endpoints.push(endpoint(&line).with_context(|| line.clone())?);
        }
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        let finished = self.process.finish(PATIENCE)?;
        ensure!(
            finished.status.success(),
            "the toy server ended with {}",
            finished.status
        );
        Ok(())
    }

    /// Talks to all endpoints. Returns the records that a tap must have, and the largest number of messages that one
    /// call received.
    pub(crate) fn talk(&mut self) -> Result<(Vec<Record>, usize)> {
        let mut passed = Vec::new();
        let mut fullest = 0;
        for endpoint in self.endpoints.clone() {
            let (records, batch) = match endpoint.sort {
                Sort::Tcp => self.talk_tcp(endpoint.address)?,
                Sort::Udp | Sort::UdpConnected => self.talk_udp(endpoint)?,
            };
            passed.extend(records);
            fullest = fullest.max(batch);
        }
        Ok((passed, fullest))
    }

    fn talk_udp(&mut self, endpoint: Endpoint) -> Result<(Vec<Record>, usize)> {
        let mut client = UdpClient::connect(endpoint.address)?;
        // Two clients at the same time if the socket answers any client: the elements of a batch have different
        // senders.
        let mut other = match endpoint.sort {
            Sort::Udp => Some(UdpClient::connect(endpoint.address)?),
            _ => None,
        };
        for burst in 0..BURST {
            let query = self.query(40 + usize::from(burst) * 10);
            match &mut other {
                Some(other) if burst % 3 == 1 => other.send(&query)?,
                _ => client.send(&query)?,
            }
            if burst % 8 == 3 {
                client.send_nothing()?;
            }
        }
        let fullest = self.serve(usize::from(BURST))?;
        for burst in 0..BURST {
            match &mut other {
                Some(other) if burst % 3 == 1 => other.receive()?,
                _ => client.receive()?,
            };
        }
        let largest = if endpoint.family == Family::V6 {
            LARGEST_UDP + 20
        } else {
            LARGEST_UDP
        };
        for size in SIZES.into_iter().chain([largest]) {
            client.send(&self.query(size))?;
            self.serve(1)?;
            client.receive()?;
        }
        let mut passed = client.passed;
        passed.extend(other.map(|other| other.passed).unwrap_or_default());
        Ok((passed, fullest))
    }

    fn talk_tcp(&mut self, server: SocketAddr) -> Result<(Vec<Record>, usize)> {
        let mut client = TcpClient::connect(server)?;
        let together: Vec<_> = (0..BURST)
            .map(|burst| self.query(40 + usize::from(burst) * 10))
            .collect();
        client.send_together(&together)?;
        let fullest = self.serve(together.len())?;
        for _ in &together {
            client.receive()?;
        }
        for size in SIZES.into_iter().chain([LARGEST_TCP]) {
            let cuts: &[Cut] = if size < 1_000 {
                &[Cut::Bytes, Cut::Prefix, Cut::Halves]
            } else {
                &[Cut::Whole, Cut::Halves]
            };
            for cut in cuts {
                client.send(&self.query(size), *cut)?;
                self.process.tell("serve 1")?;
                client.receive()?;
                self.served()?;
            }
        }
        Ok((client.passed, fullest))
    }

    /// Makes the toy answer `count` queries. Returns the largest number of messages that one call received.
    pub(crate) fn serve(&mut self, count: usize) -> Result<usize> {
        self.process.tell(&format!("serve {count}"))?;
        self.served()
    }

    /// Makes a query with a unique id.
    fn query(&mut self, size: usize) -> Vec<u8> {
        self.next_id += 1;
        wire::query_of_size(self.next_id, if size < 30 { "" } else { "toy.lab" }, size)
    }

    fn served(&mut self) -> Result<usize> {
        let line = self
            .process
            .wait_for("its answers", |line| line.starts_with("served "))?;
        Ok(line.rsplit(' ').next().context("no count")?.parse()?)
    }
}

fn endpoint(line: &str) -> Result<Endpoint> {
    let words: Vec<_> = line.split(' ').collect();
    let ["endpoint", sort, family, address] = words[..] else {
        bail!("not an endpoint")
    };
    let sort = [Sort::Tcp, Sort::Udp, Sort::UdpConnected]
        .into_iter()
        .find(|known| format!("{known:?}") == sort);
    let family = [Family::V4, Family::V6, Family::Mapped]
        .into_iter()
        .find(|known| format!("{known:?}") == family);
    let mut address: SocketAddr = address.parse()?;
    // Clients reach the mapped address over IPv4.
    address.set_ip(address.ip().to_canonical());
    ensure!(address.port() != 0, "no port");
    Ok(Endpoint {
        sort: sort.context("sort")?,
        family: family.context("family")?,
        address,
    })
}
