//! Traffic for the servers of a [`Tree`]: recursion with all its outcomes, authority, updates at several servers,
//! transfers of both kinds. The outcome of each query is checked, so that the load really is what it should be.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};

use super::{
    dnsperf::{self, Load},
    proxied,
    tools::{dig, nsupdate},
};
use crate::{
    environment,
    lab::{self, named::Named},
    tree::{HTTPS_PORT, KEY, Role, TLS_PORT, Tree},
};

/// Queries and the outcomes that they must have.
type Questions = &'static [(&'static [&'static str], &'static str)];

/// Queries that `dnsperf` sends to the forwarder.
pub(crate) const BULK: usize = 1_000;
/// Records that one update adds to the large zone, to be transferred by IXFR.
const ADDED: usize = 500;
/// Number of records of an IXFR of that update: the added records, the new SOA at both ends, and the old and the new
/// SOA before the changes.
pub(crate) const CHANGES: usize = ADDED + 4;

const OF_RESOLVERS: Questions = &[
    (&["chain.plain.lab", "A"], "NOERROR"),
    (&["chain.plain.lab", "AAAA", "+dnssec"], "NOERROR"),
    (&["loop.plain.lab", "A"], "SERVFAIL"),
    (&["h2.signed.lab", "A", "+dnssec"], "NOERROR"),
    (&["H3.SIGNED.lab", "A", "+tcp"], "NOERROR"),
    (
        &["changed.signed.lab", "A", "+cdflag", "+dnssec"],
        "NOERROR",
    ),
    (&["none.signed.lab", "A", "+dnssec"], "NXDOMAIN"),
    (&["none.plain.lab", "A", "+nocookie"], "NXDOMAIN"),
    (&["nowhere.test", "A"], "NXDOMAIN"),
    (&["t3500.plain.lab", "TXT", "+bufsize=512"], "NOERROR"),
    (
        &["t3500.signed.lab", "TXT", "+dnssec", "+bufsize=4096"],
        "NOERROR",
    ),
    (
        &["t6000.plain.lab", "TXT", "+bufsize=4096", "+ignore"],
        "NOERROR",
    ),
    (&["t60000.plain.lab", "TXT", "+tcp"], "NOERROR"),
    (&["h4.plain.lab", "A", "+noedns"], "NOERROR"),
    (&["h5.plain.lab", "A", "+norecurse"], "NOERROR"),
    (
        &["h6.plain.lab", "A", "+cookie=0123456789abcdef"],
        "NOERROR",
    ),
    (&["lab", "DNSKEY", "+dnssec"], "NOERROR"),
    (&["version.bind", "TXT", "CH"], "NOERROR"),
    (&["h7.plain.lab", "A", "+opcode=status"], "NOTIMP"),
    (
        &["h7.plain.lab", "A", "+edns=7", "+noednsnegotiation"],
        "BADVERS",
    ),
    (&["h1.plain.lab", "AXFR"], "; Transfer failed."),
];

const OF_AUTHORITIES: Questions = &[
    (&["h8.plain.lab", "A", "+norecurse"], "NOERROR"),
    (&["h8.plain.lab", "A"], "NOERROR"),
    (&["none.plain.lab", "A", "+norecurse"], "NXDOMAIN"),
    (&["elsewhere.test", "A"], "REFUSED"),
    (&["elsewhere.test", "A", "+norecurse", "+tcp"], "REFUSED"),
    (
        &["signed.lab", "DNSKEY", "+dnssec", "+norecurse"],
        "NOERROR",
    ),
    (
        &["t6000.plain.lab", "TXT", "+bufsize=1232", "+norecurse"],
        "NOERROR",
    ),
    (&["h9.plain.lab", "A", "+norecurse", "-y", KEY], "NOERROR"),
    (&["h9.plain.lab", "A", "+tcp", "-y", KEY], "NOERROR"),
    (&["h9.plain.lab", "A", "-y", STRANGER], "NOTAUTH"),
    (&["plain.lab", "SOA", "+norecurse"], "NOERROR"),
    (&["plain.lab", "IXFR=1"], "XFR size: 1 records"),
    (&["elsewhere.test", "AXFR"], "; Transfer failed."),
];

/// A key that no server of the tree knows.
const STRANGER: &str = "hmac-sha256:stranger:c3RyYW5nZXJzdHJhbmdlcnN0cmFuZ2Vyc3RyYW5nZXI=";

/// Counts of the load itself.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Number of records of `big.lab` at the end, with the SOA twice, as `dig` counted them in a transfer.
    pub(crate) records: usize,
    changes: Vec<(Role, usize)>,
    /// Number of queries of each client behind a proxy.
    pub(crate) proxied: usize,
}

impl Sent {
    /// Returns the number of records of `big.lab` that this server sent to `dig` by IXFR.
    pub(crate) fn changes(&self, role: Role) -> usize {
        let of_role = self.changes.iter().find(|(of, _)| *of == role);
        of_role.map_or(0, |(_, records)| *records)
    }
}

/// Sends everything. Returns when all queries are answered and every zone is the same on all servers.
pub(crate) fn run(tree: &mut Tree) -> Result<Sent> {
    for ipv6 in [false, true] {
        for role in [Role::Forwarder, Role::Recursive] {
            ask(role.server(ipv6), OF_RESOLVERS)?;
        }
        // A forwarder that does not validate sets CD, and so gets a response.
        expect(
            Role::Recursive.server(ipv6),
            &["changed.signed.lab", "A"],
            "SERVFAIL",
        )?;
        for (port, over) in [(TLS_PORT, "+tls"), (HTTPS_PORT, "+https")] {
            let server = SocketAddr::new(Role::Recursive.address(ipv6), port);
            expect(server, &["h10.plain.lab", "A", over], "NOERROR")?;
        }
        ask(Role::Zone.server(ipv6), OF_AUTHORITIES)?;
        expect(
            Role::Root.server(ipv6),
            &["lab", "NS", "+norecurse", "+dnssec"],
            "NOERROR",
        )?;
        expect(
            Role::Tld.server(ipv6),
            &["none.lab", "A", "+dnssec"],
            "NXDOMAIN",
        )?;
    }
    let servers = Role::Zone.proxy_servers()?;
    let asked = [false, true].map(|ipv6| Role::Zone.server(ipv6));
    let proxied = proxied::ask(&servers, asked, "h1.plain.lab")?;
    bulk(tree)?;
    for ipv6 in [false, true] {
        updates(tree, ipv6)?;
    }
    Ok(Sent {
        proxied,
        ..transfers(tree)?
    })
}

fn ask(server: SocketAddr, questions: Questions) -> Result<()> {
    questions
        .iter()
        .try_for_each(|(question, outcome)| expect(server, question, outcome))
}

fn expect(server: SocketAddr, question: &[&str], outcome: &str) -> Result<()> {
    let text = dig(server, question)?;
    ensure!(
        text.contains(outcome),
        "{question:?} of {server}: no {outcome} in\n{text}"
    );
    Ok(())
}

fn bulk(tree: &Tree) -> Result<()> {
    let mut names = String::new();
    for query in 0..BULK {
        writeln!(names, "h{}.plain.lab A", query % 200)?;
    }
    let names = lab::write(tree.scratch(), "bulk-names", &names)?;
    for tcp in [false, true] {
        let load = Load {
            queries: BULK,
            rate: Some(1_000),
            tcp,
            recursive: true,
        };
        dnsperf::send(&names, Role::Forwarder.server(tcp), &load)?.finish(BULK)?;
    }
    Ok(())
}

/// Sends UPDATE (RFC 2136) to the primary and through the secondary. Each is followed by NOTIFY, SOA and IXFR between
/// them.
fn updates(tree: &mut Tree, ipv6: bool) -> Result<()> {
    for role in [Role::Zone, Role::Secondary] {
        for (tcp, more) in [(false, &[][..]), (true, &[]), (false, &["-y", KEY])] {
            let name = format!("{}{}{}.dyn.lab", role.name(), u8::from(tcp), more.len());
            let update = format!("update add {name} 60 A 192.0.2.{}", 1 + u8::from(ipv6));
            nsupdate(role.server(ipv6), tcp, "dyn.lab", &update, more)?;
            moved(tree, "dyn.lab")?;
        }
    }
    let refused = nsupdate(
        Role::Zone.server(ipv6),
        ipv6,
        "plain.lab",
        "update delete h1.plain.lab",
        &[],
    );
    ensure!(refused.is_err(), "an update of plain.lab was not refused");
    Ok(())
}

/// Transfers the large zone by IXFR and AXFR, to the secondary and to `dig`.
fn transfers(tree: &mut Tree) -> Result<Sent> {
    let mut update = String::new();
    for host in 0..ADDED {
        writeln!(update, "update add new{host}.big.lab 60 A 192.0.2.1")?;
    }
    nsupdate(Role::Zone.server(false), true, "big.lab", &update, &[])?;
    moved(tree, "big.lab")?;
    let secondary = tree.named(Role::Secondary);
    secondary.rndc(&["retransfer", "big.lab"])?;
    transferred(secondary, "big.lab")?;
    let mut sent = Sent::default();
    for (role, ipv6) in [(Role::Zone, false), (Role::Secondary, true)] {
        let text = dig(role.server(ipv6), &["big.lab", "AXFR"])?;
        let size = number_after(&text, "XFR size: ")?;
        ensure!(
            size == environment::big_records()? + ADDED + 5,
            "{size} records in big.lab"
        );
        sent.records = size;
        let text = dig(role.server(ipv6), &["big.lab", "IXFR=1"])?;
        sent.changes
            .push((role, number_after(&text, "XFR size: ")?));
        // Over UDP, BIND always responds with only its newest SOA, even if more would fit.
        expect(
            role.server(ipv6),
            &["big.lab", "IXFR=1", "+notcp"],
            "MSG SIZE",
        )?;
    }
    Ok(sent)
}

/// Waits until the secondary has the primary's newest version of a zone.
fn moved(tree: &mut Tree, zone: &str) -> Result<()> {
    let text = dig(Role::Zone.server(false), &[zone, "SOA", "+norecurse"])?;
    let serial = number_after(&text, &format!("root.{zone}. "))?;
    let line = format!("zone {zone}/IN: transferred serial {serial}");
    let secondary = tree.named(Role::Secondary);
    secondary.wait_for(&line, |written| written.contains(&line))?;
    transferred(secondary, zone)
}

/// Waits for the last log line of a secondary about a transfer, so that the next wait is for the next transfer.
fn transferred(secondary: &mut Named, zone: &str) -> Result<()> {
    for word in ["Transfer status: success", "Transfer completed"] {
        secondary.wait_for(&format!("{word}, of {zone}"), |line| {
            line.contains(zone) && line.contains(word)
        })?;
    }
    Ok(())
}

fn number_after(text: &str, label: &str) -> Result<usize> {
    let rest = text.split(label).nth(1);
    let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no number after `{label}` in\n{text}"))
}
