//! The servers: how each is started, which queries it gets, and which types the documentation gives its messages.
//!
//! Each trial runs in a network of its own, so the ports are always the same.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{dns::Profile, start};

/// Function that returns the command that starts a server. The server's files go to the folder.
pub(super) type Start = fn(&Path) -> Result<Command>;

/// A server.
pub(crate) struct Entry {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// Description for the table.
    pub(crate) about: &'static str,
    pub(super) profile: Profile,
    pub(super) start: Start,
    /// Zones of the queries that it gets.
    pub(super) asked: &'static [Asked],
    pub(super) habits: &'static [Habit],
}

impl Entry {
    pub(super) fn has(&self, habit: Habit) -> bool {
        self.habits.contains(&habit)
    }
}

/// Special property of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// It has a copy of `moving.lab`.
    Secondary,
    /// Its clients come through a proxy.
    Proxied,
    /// It gives up if the upstream closes connections, so the upstream keeps them open.
    NeedsPatience,
    /// It gives up, and leaves queries of its clients unread.
    GivesUp,
    /// It gets very many queries on one connection.
    Flooded,
    /// It is ended and started again, and followed by its name.
    Restarts,
    /// It also has listeners for DNS over TLS and HTTPS.
    Encrypts,
}

/// Zone of the queries that a server gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// `auth.lab`, its own, and a transfer of `big.lab`.
    Authority,
    /// `auth.lab`, without transfers.
    Own,
    /// `up.lab`, which it asks the upstream for.
    Upstream,
    /// `moving.lab`, which it forwards.
    Forwarded,
}

impl Asked {
    pub(super) const fn zone(self) -> &'static str {
        match self {
            Self::Authority | Self::Own => "auth.lab",
            Self::Upstream => "up.lab",
            Self::Forwarded => "moving.lab",
        }
    }
}

const PLAIN: Entry = Entry {
    name: "",
    about: "",
    profile: Profile::Generic,
    start: |_| Ok(Command::new("false")),
    asked: &[Asked::Own],
    habits: &[],
};

/// All servers, in the order of the table.
pub(crate) const SERVERS: &[Entry] = &[
    Entry {
        name: "named",
        about: "BIND: primary and secondary of zones, and resolver for a zone of the upstream",
        start: start::bind,
        asked: &[Asked::Authority, Asked::Upstream],
        habits: &[Habit::Secondary],
        ..PLAIN
    },
    Entry {
        name: "named-restarts",
        about: "BIND with another process name, tapped by that name; stopped by TERM and KILL under load and started again",
        start: start::renamed_bind,
        habits: &[Habit::Restarts],
        ..PLAIN
    },
    Entry {
        name: "unbound",
        about: "Unbound: resolver and forwarder",
        profile: Profile::Recursive,
        start: start::unbound,
        asked: &[Asked::Upstream, Asked::Forwarded],
        ..PLAIN
    },
    Entry {
        name: "knot",
        about: "Knot DNS: primary and secondary",
        profile: Profile::Authoritative,
        start: start::knot,
        asked: &[Asked::Authority],
        habits: &[Habit::Secondary],
    },
    Entry {
        name: "nsd",
        about: "NSD: primary and secondary, several processes",
        profile: Profile::Authoritative,
        start: start::nsd,
        asked: &[Asked::Authority],
        habits: &[Habit::Secondary],
    },
    Entry {
        name: "pdns",
        about: "PowerDNS Authoritative Server with the BIND backend: primary and secondary",
        profile: Profile::Authoritative,
        start: |folder| start::pdns(folder, &[]),
        asked: &[Asked::Authority],
        habits: &[Habit::Secondary],
    },
    Entry {
        name: "pdns-proxied",
        about: "PowerDNS Authoritative Server behind a proxy that sends PROXY v2 headers",
        profile: Profile::Authoritative,
        start: |folder| start::pdns(folder, &["--proxy-protocol-from=127.0.0.0/8,::1"]),
        asked: &[Asked::Own],
        habits: &[Habit::Proxied],
    },
    Entry {
        name: "pdns-recursor",
        about: "PowerDNS Recursor: resolver and forwarder",
        profile: Profile::Recursive,
        start: start::recursor,
        asked: &[Asked::Upstream, Asked::Forwarded],
        ..PLAIN
    },
    Entry {
        name: "dnsdist",
        about: "dnsdist: UDP and TCP to an upstream, and DNS over TLS and HTTPS, which the tap cannot read",
        profile: Profile::Forwarder,
        start: |folder| start::dnsdist(folder, false),
        asked: &[Asked::Upstream],
        habits: &[Habit::NeedsPatience, Habit::Encrypts],
    },
    Entry {
        name: "dnsdist-proxy",
        about: "dnsdist that sends PROXY v2 headers to the upstream",
        profile: Profile::Forwarder,
        start: |folder| start::dnsdist(folder, true),
        asked: &[Asked::Upstream],
        habits: &[Habit::NeedsPatience],
    },
    Entry {
        name: "dnsdist-hasty",
        about: "dnsdist with an upstream that closes each connection after one answer",
        profile: Profile::Forwarder,
        start: |folder| start::dnsdist(folder, false),
        asked: &[Asked::Upstream],
        habits: &[Habit::GivesUp],
    },
    Entry {
        name: "dnsmasq",
        about: "dnsmasq: forwarder, a process for each TCP connection",
        profile: Profile::Forwarder,
        start: start::dnsmasq,
        asked: &[Asked::Upstream],
        ..PLAIN
    },
    Entry {
        name: "kresd",
        about: "Knot Resolver: forwards to an upstream",
        profile: Profile::Recursive,
        start: start::kresd,
        asked: &[Asked::Upstream],
        ..PLAIN
    },
    Entry {
        name: "gdnsd",
        about: "gdnsd: primary",
        profile: Profile::Authoritative,
        start: start::gdnsd,
        asked: &[Asked::Own],
        ..PLAIN
    },
    Entry {
        name: "yadifa",
        about: "YADIFA: primary",
        profile: Profile::Authoritative,
        start: start::yadifa,
        asked: &[Asked::Authority],
        ..PLAIN
    },
    Entry {
        name: "go",
        about: "a server in Go (miekg/dns, as in CoreDNS): several listeners, and a client of the upstream",
        start: start::go,
        asked: &[Asked::Own, Asked::Upstream],
        ..PLAIN
    },
    Entry {
        name: "python",
        about: "a server in Python (asyncio)",
        start: |folder| {
            start::python(
                folder,
                "asyncio_server.py",
                include_str!("../../referee/asyncio_server.py"),
            )
        },
        ..PLAIN
    },
    Entry {
        name: "python-fork",
        about: "a server in Python that forks for each datagram and each connection",
        start: |folder| {
            start::python(
                folder,
                "forking_server.py",
                include_str!("../../referee/forking_server.py"),
            )
        },
        ..PLAIN
    },
    Entry {
        name: "node",
        about: "a server in Node.js that writes many buffers in one call",
        start: |folder| {
            start::script(
                "referee-node",
                "node",
                folder,
                "server.js",
                include_str!("../../referee/server.js"),
            )
        },
        ..PLAIN
    },
    Entry {
        name: "java",
        about: "a server in Java (NIO)",
        start: |folder| {
            start::script(
                "referee-java",
                "java",
                folder,
                "Server.java",
                include_str!("../../referee/Server.java"),
            )
        },
        ..PLAIN
    },
    Entry {
        name: "toy-writers",
        about: "a test server: eight threads write to one connection without a lock",
        start: |_| Ok(start::toy("writers")),
        habits: &[Habit::Flooded],
        ..PLAIN
    },
    Entry {
        name: "toy-buffers",
        about: "a test server: sends answers in up to 256 buffers in one call",
        start: |_| Ok(start::toy("buffers")),
        habits: &[Habit::Flooded],
        ..PLAIN
    },
];
