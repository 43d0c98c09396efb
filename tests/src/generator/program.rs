//! Parts of a generated program: scenes, each a connection or a UDP socket, and the steps that happen in them.
//!
//! A step says what to try. Its effect depends on the steps before it, so any step may be left out of a program.

use std::fmt;

use super::message::Spec;
use crate::toy::actor::{Put, Take};

/// A program. Its seed determines all of it.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Seed of the program.
    pub(super) seed: u64,
    /// Whether the ring is so small that it soon fills up when the agent is paused.
    pub(super) small_ring: bool,
    /// The scenes.
    pub(super) scenes: Vec<Setup>,
    /// The steps, in their order.
    pub(super) steps: Vec<Step>,
}

/// A connection or a UDP socket of an actor, and its peer.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is chosen by itself, and any go together"
)]
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// Whether the scene uses TCP and not UDP.
    pub(super) tcp: bool,
    /// Whether the actor sends responses and not queries.
    pub(super) server: bool,
    /// Whether the scene uses IPv6.
    pub(super) v6: bool,
    /// TCP: whether urgent bytes are read in line (`SO_OOBINLINE`).
    pub(super) inline: bool,
    /// TCP: whether the actor's send buffer and the peer's receive buffer are small.
    pub(super) narrow: bool,
    /// TCP: whether a client's first query is in its first segment.
    pub(super) fast_open: bool,
    /// UDP: whether the socket is connected.
    pub(super) connected: bool,
    /// UDP: whether several datagrams may be received at once (`UDP_GRO`).
    pub(super) gro: bool,
    /// Actor that opens the socket.
    pub(super) actor: usize,
}

/// One step of a program.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The agent attaches.
    Attach,
    /// The agent is stopped, so that its ring may fill up.
    Pause,
    /// The agent continues.
    Resume,
    /// An actor forks; the child shares its sockets.
    Fork(usize),
    /// Something happens in a scene.
    In(usize, Op),
}

/// Operation in a scene. `way` selects one of the descriptors of the scene's socket, in any process.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// The scene begins.
    Open,
    /// The peer makes a message: a query for a server, or the response to a client's query if there is one. A datagram
    /// is sent immediately.
    Peer(Spec),
    /// UDP: the peer sends datagrams of one size in one call, which the kernel splits.
    PeerSegments(Spec, usize),
    /// UDP: the peer sends a response to no query.
    Unasked(Spec),
    /// TCP: the peer sends this many of its waiting bytes.
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
    /// TCP: the actor makes the kernel throw bytes away (`MSG_TRUNC`).
    Discard { way: usize, size: usize },
    /// TCP: the actor makes a message: a client's query, or the response to a query that it has read.
    Say(Spec),
    /// TCP: the actor sends this many of its waiting bytes.
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
    /// TCP: several threads, possibly of two processes, send messages without a lock, one call per message.
    Many {
        call: Put,
        specs: Vec<Spec>,
        threads: usize,
        processes: usize,
    },
    /// TCP: the peer shuts down its sending direction.
    PeerFin,
    /// The peer closes.
    PeerClose,
    /// TCP: the peer resets the connection.
    PeerReset,
    /// TCP: the actor shuts down its sending direction.
    Fin,
    /// All actors close the socket.
    Close,
    /// TCP: the actor resets the connection.
    Reset,
    /// The actor duplicates its descriptor.
    Dup { way: usize },
    /// The actor passes its descriptor to another actor, tapped or not.
    Give { way: usize, to: usize },
    /// The peer reads everything that has arrived.
    Drain,
    /// Both ends send and read everything that is waiting.
    Finish,
}

/// Buffer sizes of a receive.
#[derive(Clone, Debug)]
pub(super) enum Sizes {
    /// Segments.
    Fixed(Vec<usize>),
    /// TCP: two bytes for the length, or the rest of the message.
    Wanted,
}

/// Way of sending a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// In one call.
    Whole,
    /// In this many calls with `MSG_MORE`.
    More(usize),
    /// In this many calls while the socket is corked (`UDP_CORK`).
    Cork(usize),
    /// This many datagrams of one size in one call.
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
