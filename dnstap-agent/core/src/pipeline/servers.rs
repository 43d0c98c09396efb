//! The servers whose messages pass, by program id ([`dnstap_ebpf::EventHeader::program_id`]):
//! version, classification rules, network namespace and DNS ports.
//!
//! The table is bounded. If there are [`SERVERS`], the one that was silent for longest is dropped.
//! If it comes back, the owner is asked for it again
//! ([`Pipeline::is_unknown_server`](crate::pipeline::Pipeline::is_unknown_server)).

use std::{
    collections::BTreeSet,
    ops::{Index, IndexMut},
};

use crate::{classify::Naming, encode::Encoder, pipeline::sockets::Ports};

/// Most servers known at a time. Each restart adds a new one.
const SERVERS: usize = 64;

/// Facts about a server.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// dnstap `version`; empty: left out.
    pub version: Vec<u8>,
    /// Rules by which its messages are classified and selected.
    pub naming: Naming,
    /// Inode number of its network namespace, if known.
    pub netns: Option<u64>,
    /// Ports besides 53 that are known to carry DNS, such as those on which it is configured to
    /// listen. Others are learned from its answers to queries on them.
    pub dns_ports: Vec<u16>,
}

/// A server with what was learned about it.
#[derive(Debug)]
pub(super) struct Known {
    program_id: u32,
    pub(super) server: Server,
    pub(super) ports: Ports,
    pub(super) encoder: Encoder,
    /// RA bit of its last response to a client.
    pub(super) recursion_available: bool,
    /// Whether the server is probed, so that there are remarks about its messages.
    pub(super) is_probed: bool,
    /// Kernel time of its first message.
    pub(super) since_ktime_ns: Option<u64>,
    /// Time of its last message, counted in messages of all servers.
    heard: u64,
}

impl Known {
    fn new(program_id: u32, server: Server, identity: &[u8]) -> Self {
        Self {
            program_id,
            encoder: Encoder::new(identity, &server.version),
            ports: Ports::new(&server.dns_ports),
            server,
            recursion_available: true,
            is_probed: false,
            since_ktime_ns: None,
            heard: 0,
        }
    }
}

/// All known servers.
#[derive(Debug)]
pub(super) struct Servers {
    /// dnstap `identity` of all servers; empty: left out.
    identity: Vec<u8>,
    /// The first entry stands in for servers that are not registered.
    known: Vec<Known>,
    /// Program id of the last look-up, and its index.
    last: (u32, usize),
    /// Number of messages seen.
    heard: u64,
    /// Program ids of the probed processes.
    probed: BTreeSet<u32>,
}

/// Index of the entry that stands in for others.
const DEFAULT: usize = 0;

impl Servers {
    /// Creates an empty table; `default` stands in for unknown servers.
    pub(super) fn new(identity: Vec<u8>, default: Server) -> Self {
        Self {
            known: vec![Known::new(0, default, &identity)],
            identity,
            last: (0, DEFAULT),
            heard: 0,
            probed: BTreeSet::new(),
        }
    }

    /// Notes a message of the server that runs `program_id`. Returns whether the server is
    /// registered.
    #[inline]
    pub(super) fn touch(&mut self, program_id: u32) -> bool {
        self.heard += 1;
        let heard = self.heard;
        let at = self.find(program_id);
        self[at].heard = heard;
        at != DEFAULT
    }

    /// Adds or replaces the server that runs `program_id`. All indices change.
    pub(super) fn insert(&mut self, program_id: u32, server: Server) {
        let mut told = self.known.split_off(DEFAULT + 1);
        told.retain(|known| known.program_id != program_id);
        if told.len() >= SERVERS {
            let silent = (0..SERVERS).min_by_key(|&at| told[at].heard);
            told.swap_remove(silent.unwrap_or_default());
        }
        told.push(Known {
            is_probed: self.probed.contains(&program_id),
            ..Known::new(program_id, server, &self.identity)
        });
        self.known.append(&mut told);
        self.last = (program_id, self.known.len() - 1);
    }

    /// Sets whether the server that runs `program_id` is probed. The server need not be registered.
    pub(super) fn probe(&mut self, program_id: u32, is_probed: bool) {
        if is_probed {
            self.probed.insert(program_id);
        } else {
            self.probed.remove(&program_id);
        }
        for known in &mut self.known[DEFAULT + 1..] {
            known.is_probed = self.probed.contains(&known.program_id);
        }
    }

    /// Returns whether any server is probed.
    #[inline]
    pub(super) fn any_is_probed(&self) -> bool {
        !self.probed.is_empty()
    }

    /// Returns the registered servers, or the stand-in if there are none.
    pub(super) fn all(&self) -> impl Iterator<Item = &Server> + Clone {
        let from = usize::from(self.known.len() > DEFAULT + 1);
        self.known[from..].iter().map(|known| &known.server)
    }

    /// Returns the index of the server that runs `program_id`, or of the stand-in. Most messages
    /// belong to the same server as the previous one.
    #[inline]
    pub(super) fn find(&mut self, program_id: u32) -> usize {
        if self.last.0 != program_id {
            self.last = (program_id, self.search(program_id));
        }
        self.last.1
    }

    fn search(&self, program_id: u32) -> usize {
        let mut told = self.known.iter().skip(DEFAULT + 1);
        let at = told.position(|known| known.program_id == program_id);
        at.map_or(DEFAULT, |at| DEFAULT + 1 + at)
    }
}

impl Index<usize> for Servers {
    type Output = Known;

    #[inline]
    fn index(&self, at: usize) -> &Known {
        &self.known[at]
    }
}

impl IndexMut<usize> for Servers {
    #[inline]
    fn index_mut(&mut self, at: usize) -> &mut Known {
        &mut self.known[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version: &str) -> Server {
        Server {
            version: version.into(),
            ..Server::default()
        }
    }

    #[test]
    fn server_that_was_silent_for_longest_makes_room() {
        let mut servers = Servers::new(Vec::new(), server("unknown"));
        for program_id in 1..=64 {
            servers.insert(program_id, server("old"));
        }
        for program_id in (1..=64).rev() {
            assert!(servers.touch(program_id));
        }
        servers.insert(65, server("new"));
        assert!(!servers.touch(64));
        for (program_id, version) in [(64, "unknown"), (63, "old"), (65, "new")] {
            let at = servers.find(program_id);
            assert_eq!(servers[at].server.version, version.as_bytes());
        }
    }

    #[test]
    fn ports_learned_from_one_server_are_not_known_of_another() {
        let mut servers = Servers::new(Vec::new(), Server::default());
        servers.insert(1, server("a"));
        servers.insert(
            2,
            Server {
                dns_ports: vec![5_300],
                ..server("b")
            },
        );
        servers.insert(
            1,
            Server {
                dns_ports: vec![5_301],
                ..server("a")
            },
        );
        let mut contains = |program_id, port| {
            let at = servers.find(program_id);
            servers[at].ports.contains(port)
        };
        assert!(contains(1, 5_301) && contains(2, 5_300) && contains(3, 53));
        assert!(!contains(1, 5_300) && !contains(2, 5_301) && !contains(3, 5_300));
    }
}
