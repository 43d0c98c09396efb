//! What is known about the servers whose messages pass, each by the number of what it runs
//! ([`dnstap_ebpf::EventHeader::program_id`]): its version, its rules of naming, its network namespace, its DNS ports.
//!
//! Bounded: where there are [`SERVERS`], the one that was silent for longest makes room. The owner is asked again for it, should it
//! come back ([`Pipeline::is_unknown_server`](crate::pipeline::Pipeline::is_unknown_server)).

use crate::{classify::Naming, pipeline::sockets::Ports};

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
    /// RA bit of the last answer to a client.
    pub(super) recursion_available: bool,
    /// Kernel time of its first message.
    pub(super) since_ktime_ns: Option<u64>,
    /// When it was last heard, in messages of all.
    heard: u64,
}

impl Known {
    fn new(program_id: u32, server: Server) -> Self {
        Self {
            program_id,
            ports: Ports::new(&server.dns_ports),
            server,
            recursion_available: true,
            since_ktime_ns: None,
            heard: 0,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Servers {
    /// Stands in for servers that nothing is known about.
    default: Known,
    known: Vec<Known>,
    /// Messages heard.
    heard: u64,
}

impl Servers {
    /// None yet; `default` stands in.
    pub(super) fn new(default: Server) -> Self {
        Self {
            default: Known::new(0, default),
            known: Vec::new(),
            heard: 0,
        }
    }

    /// A message of the server that runs `program_id` has come. Whether something is known of it.
    pub(super) fn touch(&mut self, program_id: u32) -> bool {
        self.heard += 1;
        let known = self
            .known
            .iter_mut()
            .find(|known| known.program_id == program_id);
        known.map(|known| known.heard = self.heard).is_some()
    }

    /// Takes in what is known of the server that runs `program_id`, in place of what was.
    pub(super) fn insert(&mut self, program_id: u32, server: Server) {
        self.known.retain(|known| known.program_id != program_id);
        if self.known.len() >= SERVERS {
            let silent = (0..SERVERS).min_by_key(|&at| self.known[at].heard);
            self.known.swap_remove(silent.unwrap_or_default());
        }
        self.known.push(Known::new(program_id, server));
    }

    /// All that the pipeline was told about; the one that stands in for others, if there are none.
    pub(super) fn all(&self) -> impl Iterator<Item = &Server> + Clone {
        let default = self.known.is_empty().then_some(&self.default);
        self.known.iter().chain(default).map(|known| &known.server)
    }

    /// What is known of the server that runs `program_id`.
    pub(super) fn of(&self, program_id: u32) -> &Known {
        let known = self
            .known
            .iter()
            .find(|known| known.program_id == program_id);
        known.unwrap_or(&self.default)
    }

    /// As [`Self::of`], to learn.
    pub(super) fn learn(&mut self, program_id: u32) -> &mut Known {
        let known = self
            .known
            .iter_mut()
            .find(|known| known.program_id == program_id);
        known.unwrap_or(&mut self.default)
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
        let mut servers = Servers::new(server("unknown"));
        for program_id in 1..=64 {
            servers.insert(program_id, server("old"));
        }
        for program_id in (1..=64).rev() {
            assert!(servers.touch(program_id));
        }
        servers.insert(65, server("new"));
        assert!(!servers.touch(64));
        assert_eq!(servers.of(64).server.version, b"unknown");
        assert_eq!(servers.of(63).server.version, b"old");
        assert_eq!(servers.of(65).server.version, b"new");
    }

    #[test]
    fn ports_learned_from_one_server_are_not_known_of_another() {
        let mut servers = Servers::new(Server::default());
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
        let contains = |program_id, port| servers.of(program_id).ports.contains(port);
        assert!(contains(1, 5_301) && contains(2, 5_300) && contains(3, 53));
        assert!(!contains(1, 5_300) && !contains(2, 5_301) && !contains(3, 5_300));
    }
}
