//! What is known about the servers whose messages pass, each by the number of what it runs
//! ([`dnstap_ebpf::EventHeader::program_id`]): its version, its rules of naming, its network namespace, its DNS ports.
//!
//! Bounded: where there are [`SERVERS`], the one that was silent for longest makes room. The owner is asked again for it, should it
//! come back ([`Pipeline::is_unknown_server`](crate::pipeline::Pipeline::is_unknown_server)).

use std::{
    collections::BTreeSet,
    ops::{Index, IndexMut},
};

use crate::{classify::Naming, encode::Encoder, pipeline::sockets::Ports};

/// Servers known at a time. Each restart makes a new one.
const SERVERS: usize = 64;

/// What the pipeline is told about a server.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// dnstap `version`; empty: left out.
    pub version: Vec<u8>,
    /// How its messages are named and selected.
    pub naming: Naming,
    /// Inode number of its network namespace, if it is known.
    pub netns: Option<u64>,
    /// Ports known to carry DNS besides 53, such as those on which it is configured to listen. Others are learned from its answers
    /// to queries on them.
    pub dns_ports: Vec<u16>,
}

/// What is known about a server, and was learned of it.
#[derive(Debug)]
pub(super) struct Known {
    program_id: u32,
    pub(super) server: Server,
    pub(super) ports: Ports,
    pub(super) encoder: Encoder,
    /// RA bit of the last answer to a client.
    pub(super) recursion_available: bool,
    /// It says what it knows of its messages.
    pub(super) is_probed: bool,
    /// Kernel time of its first message.
    pub(super) since_ktime_ns: Option<u64>,
    /// When it was last heard, in messages of all.
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

/// All of them.
#[derive(Debug)]
pub(super) struct Servers {
    /// dnstap `identity` of all; empty: left out.
    identity: Vec<u8>,
    /// The first one stands in for servers that nothing is known about.
    known: Vec<Known>,
    /// What was looked for last, and where it was found.
    last: (u32, usize),
    /// Messages heard.
    heard: u64,
    /// What runs in processes that are probed.
    probed: BTreeSet<u32>,
}

/// Where the one that stands in for others is.
const DEFAULT: usize = 0;

impl Servers {
    /// None yet; `default` stands in.
    pub(super) fn new(identity: Vec<u8>, default: Server) -> Self {
        Self {
            known: vec![Known::new(0, default, &identity)],
            identity,
            last: (0, DEFAULT),
            heard: 0,
            probed: BTreeSet::new(),
        }
    }

    /// A message of the server that runs `program_id` has come. Whether something is known of it.
    #[inline]
    pub(super) fn touch(&mut self, program_id: u32) -> bool {
        self.heard += 1;
        let heard = self.heard;
        let at = self.find(program_id);
        self[at].heard = heard;
        at != DEFAULT
    }

    /// Takes in what is known of the server that runs `program_id`, in place of what was. All places are others then.
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

    /// Takes note of whether the server that runs `program_id` is probed, known or not.
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

    /// Whether any server is probed.
    #[inline]
    pub(super) fn any_is_probed(&self) -> bool {
        !self.probed.is_empty()
    }

    /// All that the pipeline was told about; the one that stands in for others, if there are none.
    pub(super) fn all(&self) -> impl Iterator<Item = &Server> + Clone {
        let from = usize::from(self.known.len() > DEFAULT + 1);
        self.known[from..].iter().map(|known| &known.server)
    }

    /// The place of the server that runs `program_id`, or of the one that stands in for it. Most messages are of the same one as that before.
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
