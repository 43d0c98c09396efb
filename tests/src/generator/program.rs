//! What a generated program consists of: scenes, each a connection or a UDP socket, and the steps that happen to them.
//!
//! A step says what to try; what it comes to depends on what was done before, so that any steps may be left out of a program.

use std::fmt;

use super::message::Spec;
use crate::toy::actor::{Put, Take};

/// A program; all follows from its seed.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// What it follows from.
    pub(super) seed: u64,
    /// The ring is so small that it is full soon once the agent is paused.
    pub(super) small_ring: bool,
    /// The scenes.
    pub(super) scenes: Vec<Setup>,
    /// What happens.
    pub(super) steps: Vec<Step>,
}

/// A connection or a UDP socket of an actor, and its peer.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is chosen by itself, and any go together"
)]
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// TCP, not UDP.
    pub(super) tcp: bool,
    /// The actor answers, and does not ask.
    pub(super) server: bool,
    /// By IPv6.
    pub(super) v6: bool,
    /// TCP: urgent bytes are in line (`SO_OOBINLINE`).
    pub(super) inline: bool,
    /// TCP: the actor's send buffer and the peer's receive buffer are small.
    pub(super) narrow: bool,
    /// TCP: a client's first query is in its first segment.
    pub(super) fast_open: bool,
    /// UDP: the socket is connected.
    pub(super) connected: bool,
    /// UDP: several datagrams may be received at once.
    pub(super) gro: bool,
    /// Which actor opens it.
    pub(super) actor: usize,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The agent attaches.
    Attach,
    /// The agent is stopped, so that its ring may run full.
    Pause,
    /// It goes on.
    Resume,
    /// An actor forks; the child shares its sockets.
    Fork(usize),
    /// Something happens in a scene.
    In(usize, Op),
}

/// What happens in a scene. `way` chooses among the descriptors that the scene's socket has, in whatever process.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// It begins.
    Open,
    /// The peer has a message: a query for a server, an answer to a client's question if there is one. A datagram is sent at once.
    Peer(Spec),
    /// UDP: the peer sends datagrams of one size in one call, which the kernel cuts.
    PeerSegments(Spec, usize),
    /// UDP: somebody sends a response that nobody asked for.
    Unasked(Spec),
    /// TCP: the peer sends so many bytes of what it has.
    Push(usize),
    /// TCP: the peer sends an urgent byte.
    Urgent,
    /// The actor receives.
    Take {
        way: usize,
        call: Take,
        sizes: Sizes,
        flags: i32,
        named: bool,
    },
    /// TCP: the actor receives the urgent byte, out of line.
    TakeUrgent { way: usize },
    /// TCP: the actor has the kernel throw bytes away (`MSG_TRUNC`).
    Discard { way: usize, size: usize },
    /// TCP: the actor has a message to send: a client's query, or the answer to a query that it has read.
    Say(Spec),
    /// TCP: the actor sends so many bytes of what it has.
    Put {
        way: usize,
        call: Put,
        cuts: Vec<usize>,
        most: usize,
        flags: i32,
    },
    /// UDP: the actor sends a datagram.
    Tell {
        way: usize,
        call: Put,
        cuts: Vec<usize>,
        manner: Manner,
        spec: Spec,
    },
    /// TCP: several threads, maybe of two processes, send messages without a lock, each by one call.
    Many {
        call: Put,
        specs: Vec<Spec>,
        threads: usize,
        processes: usize,
    },
    /// TCP: the peer sends no more.
    PeerFin,
    /// The peer closes.
    PeerClose,
    /// TCP: the peer resets the connection.
    PeerReset,
    /// TCP: the actor sends no more.
    Fin,
    /// The actor closes, everywhere.
    Close,
    /// TCP: the actor resets the connection.
    Reset,
    /// The actor duplicates its descriptor.
    Dup { way: usize },
    /// The actor hands its descriptor to another actor, tapped or not.
    Give { way: usize, to: usize },
    /// The peer reads what has come.
    Drain,
    /// All that both ends have is sent, and read.
    Finish,
}

/// Room for a receive.
#[derive(Clone, Debug)]
pub(super) enum Sizes {
    /// Segments.
    Fixed(Vec<usize>),
    /// TCP: two bytes for the length, or what is left of the message.
    Wanted,
}

/// How a datagram is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// In one call.
    Whole,
    /// In so many calls with `MSG_MORE`.
    More(usize),
    /// In so many calls while the socket is corked.
    Cork(usize),
    /// So many of one size in one call.
    Segments(usize),
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = if self.small_ring {
            "small"
        } else {
            "as it comes"
        };
        writeln!(formatter, "seed {}, ring: {ring}", self.seed)?;
        for (number, scene) in self.scenes.iter().enumerate() {
            let used = |step: &Step| matches!(step, Step::In(scene, _) if *scene == number);
            if self.steps.iter().any(used) {
                writeln!(formatter, "scene {number}: {scene:?}")?;
            }
        }
        for step in &self.steps {
            writeln!(formatter, "  {step:?}")?;
        }
        Ok(())
    }
}
