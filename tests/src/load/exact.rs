//! A load with exact records: the messages that our own clients have sent and received, byte for byte; the output of
//! `dig` for each of its responses; and the queries of `dnsperf` and their responses, each once.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::SocketProtocol;

use super::{
    client::{Cut, TcpClient, UdpClient},
    dnsperf::{self, Load},
    tools::{dig, nsupdate},
};
use crate::{
    compare::{Rules, compare},
    lab::{
        self, AUTH_HOSTS, UP_HOSTS,
        foreign::{Foreign, Make},
    },
    record::Record,
    wire,
};

/// Queries of `dnsperf` per second.
const RATE: u32 = 2_000;

/// Queries that `dnsperf` sends over UDP and TCP, IPv4 and IPv6.
const BULK: [(bool, bool, usize); 4] = [
    (false, false, 2_000),
    (false, true, 1_000),
    (true, false, 1_000),
    (true, true, 500),
];

/// Number of our own queries that are in flight at once.
const BURST: u16 = 40;

/// A question: name and type.
type Question = (String, u16);

/// Messages that passed through a server.
pub(crate) struct Account {
    /// The server's port.
    port: u16,
    /// Messages of our own clients, with plain kinds.
    passed: Vec<Record>,
    /// Number of times that `dnsperf` has sent each query.
    asked: BTreeMap<Question, usize>,
    digs: Vec<Dig>,
    transfers: Vec<Transfer>,
    updates: usize,
}

/// An exchange with `dig`.
struct Dig {
    id: u16,
    name: String,
    /// Size of the response in bytes.
    size: usize,
}

/// A zone transfer to `dig`.
#[derive(Debug, PartialEq, Eq)]
struct Transfer {
    messages: usize,
    bytes: usize,
}

impl Account {
    /// Makes an empty account.
    pub(crate) fn new(lab: &Foreign) -> Self {
        Self {
            port: lab.server(false).port(),
            passed: Vec::new(),
            asked: BTreeMap::new(),
            digs: Vec::new(),
            transfers: Vec::new(),
            updates: 0,
        }
    }

    /// Sends queries to the server, and changes the zone that it has a copy of.
    pub(crate) fn load(&mut self, lab: &mut Foreign) -> Result<()> {
        for (tcp, ipv6, queries) in BULK {
            self.bulk(lab, tcp, ipv6, queries)?;
        }
        for ipv6 in [false, true] {
            let server = lab.server(ipv6);
            self.own(server, lab.make)?;
            self.singles(server)?;
        }
        if lab.make != Make::Unbound {
            let upstream = lab.upstream_server();
            let change = format!("update add c{}.moving.lab 60 A 192.0.2.2", self.digs.len());
            nsupdate(upstream, false, "moving.lab", &change, &[])?;
            lab.wait_for_transfer()?;
        }
        Ok(())
    }

    fn bulk(&mut self, lab: &Foreign, tcp: bool, ipv6: bool, queries: usize) -> Result<()> {
        let mut text = String::new();
        for query in 0..queries {
            let (name, kind, qtype) = match query % 10 {
                8 if lab.make == Make::Unbound => {
                    (format!("w{}.up.lab", query % UP_HOSTS), "A", wire::TYPE_A)
                }
                3 => (
                    format!("h{}.auth.lab", query % AUTH_HOSTS),
                    "TXT",
                    wire::TYPE_TXT,
                ),
                5 => (format!("none{query}.auth.lab"), "A", wire::TYPE_A),
                _ => (
                    format!("h{}.auth.lab", query % AUTH_HOSTS),
                    "A",
                    wire::TYPE_A,
                ),
            };
            writeln!(text, "{name} {kind}")?;
            *self.asked.entry((name, qtype)).or_default() += 1;
        }
        let names = lab::write(lab.folder(), "names", &text)?;
        let load = Load {
            queries,
            rate: Some(RATE),
            tcp,
            recursive: false,
        };
        dnsperf::send(&names, lab.server(ipv6), &load)?.finish(queries)
    }

    /// Sends many datagrams at once, and many queries on one connection, cut in every way, and queries with the largest
    /// responses.
    fn own(&mut self, server: SocketAddr, make: Make) -> Result<()> {
        let mut udp = UdpClient::connect(server)?;
        for round in 0..5 {
            for id in 0..BURST {
                let name = format!("h{}.auth.lab", id * 7 + round);
                udp.send(&wire::query(id, &name, wire::TYPE_A, id % 2 == 0))?;
            }
            for _ in 0..BURST {
                udp.receive()?;
            }
        }
        let mut tcp = TcpClient::connect(server)?;
        let pipelined: Vec<_> = (0..30)
            .map(|id| wire::query(id, &format!("h{id}.auth.lab"), wire::TYPE_A, id % 2 == 0))
            .collect();
        tcp.send_together(&pipelined)?;
        for _ in &pipelined {
            tcp.receive()?;
        }
        let mut more = vec![
            ("t3500.auth.lab", wire::TYPE_TXT),
            ("t20000.auth.lab", wire::TYPE_TXT),
            ("t60000.auth.lab", wire::TYPE_TXT),
            ("nothing.auth.lab", wire::TYPE_A),
            ("auth.lab", wire::TYPE_SOA),
        ];
        if make == Make::Unbound {
            // The server resolves these by UDP and, if a response is too large for it, by TCP; others are forwarded.
            more.extend([
                ("chain.up.lab", wire::TYPE_A),
                ("big.up.lab", wire::TYPE_TXT),
                ("nothing.up.lab", wire::TYPE_A),
                ("ns.moving.lab", wire::TYPE_A),
                ("nothing.moving.lab", wire::TYPE_A),
                ("nowhere.test", wire::TYPE_A),
            ]);
        }
        let cuts = [Cut::Prefix, Cut::Bytes, Cut::Halves, Cut::Whole];
        for ((id, (name, qtype)), cut) in (100..).zip(more).zip(cuts.into_iter().cycle()) {
            let query = wire::query(id, name, qtype, true);
            udp.send(&query)?;
            udp.receive()?;
            tcp.send(&query, cut)?;
            tcp.receive()?;
        }
        self.passed.extend(udp.passed);
        self.passed.extend(tcp.passed);
        Ok(())
    }

    fn singles(&mut self, server: SocketAddr) -> Result<()> {
        for question in [
            &["ns.auth.lab", "A"][..],
            &["MAIL.auth.lab", "MX", "+norecurse"],
            &["alias.auth.lab", "A", "+dnssec"],
            &["mail.auth.lab", "MX", "+noedns"],
            &["auth.lab", "NS", "+tcp"],
            &["t3500.auth.lab", "TXT", "+bufsize=4096", "+ignore"],
            &["t60000.auth.lab", "TXT", "+tcp", "+norecurse"],
        ] {
            let said = dig(server, question)?;
            self.digs.push(Dig {
                id: number(&said, "id:")?.try_into()?,
                name: question[0].to_lowercase(),
                size: number(&said, "MSG SIZE  rcvd:")?,
            });
        }
        Ok(())
    }

    /// Sends queries for an authority: AXFR of a zone that needs many messages, and UPDATE if the server accepts it.
    pub(crate) fn load_authority(&mut self, lab: &Foreign) -> Result<()> {
        for ipv6 in [false, true] {
            let server = lab.server(ipv6);
            let said = dig(server, &["big.lab", "AXFR"])?;
            self.transfers.push(Transfer {
                messages: number(&said, "(messages")?,
                bytes: number(&said, "bytes")?,
            });
            if lab.make == Make::Knot {
                self.updates(server, ipv6)?;
            }
        }
        Ok(())
    }

    fn updates(&mut self, server: SocketAddr, ipv6: bool) -> Result<()> {
        for (tcp, host) in [(false, "udp"), (true, "tcp")] {
            let name = format!("{host}{}-{}.dyn.lab", u8::from(ipv6), self.updates);
            let update = format!("update add {name} 60 A 192.0.2.1");
            nsupdate(server, tcp, "dyn.lab", &update, &[])?;
            self.updates += 1;
        }
        Ok(())
    }

    /// Finds each message of the load once among the `records`, which have plain kinds. Returns the other records.
    pub(crate) fn settle(&self, records: &[Record]) -> Result<Vec<Record>> {
        let strict = Rules {
            outside: &|_| None,
            unknown: &|_| None,
            only_ours: &|_| None,
        };
        let own = compare(&self.passed, records, &strict);
        ensure!(own.missing.is_empty(), "of our own clients: {own}");
        let mut rest = own.unexplained;
        self.settle_transfers(&mut rest)?;
        for dig in &self.digs {
            for response in [false, true] {
                let is_it = |record: &Record| {
                    record.message.starts_with(&dig.id.to_be_bytes())
                        && wire::question(&record.message).is_some_and(|(name, _)| name == dig.name)
                        && record.is_response() == response
                        && (!response || record.message.len() == dig.size)
                };
                let at = rest.iter().position(is_it);
                let at = at.with_context(|| {
                    format!("dig's id {}, {}, response {response}", dig.id, dig.name)
                })?;
                rest.swap_remove(at);
            }
        }
        let (updates, mut rest): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|record| wire::opcode(&record.message) == Some(wire::OPCODE_UPDATE));
        ensure!(
            updates.len() == 2 * self.updates,
            "{} messages of {} updates",
            updates.len(),
            self.updates
        );
        for response in [false, true] {
            let mut asked = self.asked.clone();
            rest.retain(|record| {
                let question = wire::question(&record.message);
                let question = question.filter(|_| record.response_port == self.port);
                let left = question.and_then(|question| asked.get_mut(&question));
                match left {
                    Some(left) if *left > 0 && record.is_response() == response => {
                        *left -= 1;
                        false
                    }
                    _ => true,
                }
            });
            asked.retain(|_, left| *left > 0);
            ensure!(
                asked.is_empty(),
                "of dnsperf, response {response}: {} questions are missing: {:?}",
                asked.values().sum::<usize>(),
                asked.iter().take(5).collect::<Vec<_>>()
            );
        }
        Ok(rest)
    }

    /// Removes the connections with a transfer.
    fn settle_transfers(&self, rest: &mut Vec<Record>) -> Result<()> {
        let ends = |record: &Record| {
            (
                record.query_address,
                record.query_port,
                record.response_port,
            )
        };
        let mut connections = Vec::new();
        for record in rest.iter() {
            let question = wire::question(&record.message);
            if !record.is_response()
                && record.protocol == SocketProtocol::Tcp
                && question == Some(("big.lab".into(), wire::TYPE_AXFR))
            {
                connections.push(ends(record));
            }
        }
        let mut found = Vec::new();
        for connection in connections {
            let (transfer, others): (Vec<_>, Vec<_>) = rest
                .drain(..)
                .partition(|record| ends(record) == connection);
            *rest = others;
            let data = transfer.iter().filter(|record| record.is_response());
            found.push(Transfer {
                messages: transfer.len() - 1,
                bytes: data.map(|record| record.message.len()).sum(),
            });
        }
        ensure!(
            found == self.transfers,
            "transfers: {found:?}, dig says {:?}",
            self.transfers
        );
        Ok(())
    }
}

/// Returns the number after the last `label`.
fn number(text: &str, label: &str) -> Result<usize> {
    let behind = text.rsplit_once(label).map_or("", |(_, behind)| behind);
    let digits: String = behind
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits
        .parse()
        .with_context(|| format!("no {label} in {text}"))
}
