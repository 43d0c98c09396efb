//! A scene of UDP: one socket of an actor, its peer, and the messages of both.

use std::{
    collections::{HashMap, VecDeque},
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
};

use anyhow::{Result, ensure};
use dnstap_proto::SocketProtocol;

use super::{
    message::{Spec, can_be_answered},
    program::{Manner, Op, Setup, Sizes},
    stage::{self, Stage, Ways, loopback, record},
    truth::{Expected, Faith},
};
use crate::{
    toy::actor::{Put, Sending, Take, UDP_CORK, UDP_GRO, UDP_SEGMENT, set_option},
    wire,
};

/// Receive buffer of the actor's socket in bytes, and how much of it is used at most.
const ROOM: i32 = 8 << 20;
const MOST_WAITING: usize = 400_000;
/// Largest datagram that is sent in pieces or together with others.
const MOST: usize = 1_400;

/// A UDP socket.
pub(super) struct Datagrams {
    scene: usize,
    setup: Setup,
    ends: [SocketAddr; 2],
    /// Descriptors of the socket in the actors.
    pub(super) ways: Ways,
    peer: UdpSocket,
    /// Datagrams that the peer has sent and no actor has received: the bytes, whether the actor has asked for them, and
    /// the number of the packet.
    waiting: VecDeque<(Vec<u8>, bool, usize)>,
    /// Number of packets that the peer has sent.
    packets: usize,
    /// Queries without a response, received or sent by an actor.
    asked: VecDeque<Vec<u8>>,
    /// Ids of queries that the agent has seen, and how certain that is.
    seen: HashMap<u16, Faith>,
    expected: Vec<Expected>,
    /// Whether a sent message, possibly a query, may have been counted and not recorded.
    lost: bool,
    pub(super) closed: bool,
    id: u16,
}

/// The way in which a message passed the process's socket.
struct Passing {
    sent: bool,
    faith: Faith,
    /// Whether the record has no peer.
    nameless: bool,
    /// Whether other messages passed in the same call.
    shared: bool,
}

impl Datagrams {
    /// Opens the socket.
    pub(super) fn open(stage: &mut Stage<'_>, scene: usize, setup: &Setup) -> Result<Self> {
        let (actor, key) = (setup.actor, stage.key());
        let peer = stage::datagrams(setup.v6)?;
        peer.set_nonblocking(true)?;
        let remote = peer.local_addr()?;
        let local = stage.actors[actor].make(&format!("udp {key} {}", loopback(setup.v6)))?;
        peer.connect(local)?;
        let mut tell = |command: String| stage.actors[actor].call(&command, &[]);
        tell(format!(
            "option {key} {} {} {ROOM}",
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE
        ))?;
        if setup.connected {
            tell(format!("join {key} {remote}"))?;
        }
        if setup.gro {
            tell(format!("option {key} {} {UDP_GRO} 1", libc::SOL_UDP))?;
        }
        Ok(Self {
            scene,
            setup: setup.clone(),
            ends: [local, remote],
            ways: Ways::new(actor, key),
            peer,
            waiting: VecDeque::new(),
            packets: 0,
            asked: VecDeque::new(),
            seen: HashMap::new(),
            expected: Vec::new(),
            lost: false,
            closed: false,
            id: u16::try_from(scene * 1_000)?,
        })
    }

    /// Returns the messages that should be in the file.
    pub(super) fn expected(self: Box<Self>) -> Vec<Expected> {
        self.expected
    }

    /// Plays one operation.
    pub(super) fn play(&mut self, stage: &mut Stage<'_>, op: &Op) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match op {
            Op::Peer(spec) => {
                if self.has_room()
                    && let Some(message) = self.peers_message(spec)
                {
                    self.peer_sends(message, true)?;
                }
            }
            Op::PeerSegments(spec, count) => self.peer_sends_segments(spec, *count)?,
            Op::Unasked(spec) => {
                let query = spec.query(self.next_id());
                let message = spec.answer(&query);
                self.peer_sends(message, false)?;
            }
            Op::Take {
                way,
                call,
                sizes: Sizes::Fixed(sizes),
                flags,
                named,
            } => self.take(stage, *way, *call, sizes, *flags, *named)?,
            Op::Tell {
                way,
                call,
                cuts,
                manner,
                spec,
            } => self.tell(stage, *way, *call, cuts, *manner, spec)?,
            Op::Close => {
                self.closed = true;
                stage.close(&self.ways)?;
            }
            Op::Dup { .. } | Op::Give { .. } => stage.copy(&mut self.ways, op)?,
            Op::Finish => {
                while !self.waiting.is_empty() {
                    let before = self.waiting.len();
                    self.take(stage, 0, Take::Recvfrom, &[66_000], 0, true)?;
                    ensure!(self.waiting.len() < before, "a datagram did not arrive");
                }
                self.drain()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn next_id(&mut self) -> u16 {
        self.id = self.id.wrapping_add(1);
        self.id
    }

    /// Returns whether the agent has seen a message that shows that the actor sends queries on this socket.
    fn has_asked(&self) -> bool {
        let mut seen = self.expected.iter();
        seen.any(|one| one.faith == Faith::Sure && is_plain(&one.record.message))
    }

    /// Returns whether the agent has seen a response to a query that it has also seen. This shows that the process
    /// waits for queries.
    fn serves(&self) -> bool {
        self.expected.iter().any(|one| one.paired)
    }

    fn has_room(&self) -> bool {
        let waiting = self.waiting.iter().map(|(bytes, ..)| bytes.len());
        waiting.sum::<usize>() < MOST_WAITING
    }

    /// Makes the peer's next message: a query, or the response to a query.
    fn peers_message(&mut self, spec: &Spec) -> Option<Vec<u8>> {
        if self.setup.server {
            let id = self.next_id();
            Some(spec.query(id))
        } else {
            let query = self.asked.pop_front()?;
            Some(spec.answer(&query))
        }
    }

    fn peer_sends(&mut self, message: Vec<u8>, asked: bool) -> Result<()> {
        self.drain()?;
        self.peer.send(&message)?;
        self.packets += 1;
        self.waiting.push_back((message, asked, self.packets));
        Ok(())
    }

    fn peer_sends_segments(&mut self, spec: &Spec, count: usize) -> Result<()> {
        if !self.setup.server || !self.has_room() {
            return Ok(());
        }
        let size = i32::try_from(spec.size)?;
        set_option(self.peer.as_fd(), libc::SOL_UDP, UDP_SEGMENT, size)?;
        let messages: Vec<_> = (0..count).map(|_| spec.query(self.next_id())).collect();
        let sent = self.peer.send(&messages.concat());
        set_option(self.peer.as_fd(), libc::SOL_UDP, UDP_SEGMENT, 0)?;
        sent?;
        self.packets += 1;
        let packet = self.packets;
        let messages = messages.into_iter();
        self.waiting
            .extend(messages.map(|message| (message, true, packet)));
        Ok(())
    }

    /// Reads what the peer has received. The content does not matter: the actor knows it.
    fn drain(&self) -> Result<()> {
        let mut space = [0; 512];
        loop {
            match self.peer.recv(&mut space) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(
        &mut self,
        stage: &mut Stage<'_>,
        way: usize,
        call: Take,
        sizes: &[usize],
        flags: i32,
        named: bool,
    ) -> Result<()> {
        // A receive would block for ever.
        if self.waiting.is_empty() {
            return Ok(());
        }
        let sizes = if call.is_flat() { &sizes[..1] } else { sizes };
        let (actor, key) = self.ways.choose(way);
        let Ok(got) = stage.actors[actor].take(key, call, flags, named, sizes)? else {
            return Ok(());
        };
        if flags & libc::MSG_PEEK != 0 {
            return Ok(());
        }
        let sees = stage.sees(actor);
        let named = self.setup.connected || named && call.has_flags();
        let room: usize = sizes.iter().sum();
        // True if the agent cannot know whether the message is several datagrams.
        let has_control = matches!(call, Take::Recvmsg | Take::Recvmmsg);
        let is_untold = self.setup.gro && !has_control && stage.reads_controls();
        for (at, one) in got.into_iter().enumerate() {
            let room = if call == Take::Recvmmsg {
                sizes[at]
            } else {
                room
            };
            let mut rest = one.bytes.as_slice();
            loop {
                let Some((message, asked, packet)) = self.waiting.pop_front() else {
                    anyhow::bail!("more was received than was sent")
                };
                let own = &rest[..message.len().min(rest.len())];
                ensure!(
                    message.starts_with(own),
                    "what was received is not what was sent"
                );
                let cut = message.len() > rest.len();
                ensure!(
                    !cut || rest.len() == room || rest.len() < one.bytes.len(),
                    "a datagram came in parts"
                );
                let (length, received) = (own.len(), rest.len());
                if cut {
                    let several = self.setup.gro;
                    stage.provoked.cut += u64::from(sees && !several);
                    stage.provoked.maybe_cut += u64::from(sees && several);
                    stage.provoked.counted |= is_untold;
                } else {
                    let serves = self.setup.server && self.serves();
                    // On a connected socket the datagram comes from the peer that the process talks to. After a loss,
                    // the process may have asked for it.
                    let is_known = serves && !self.setup.connected && !self.lost;
                    let doubt = if !asked && is_known && !stage.provoked.ring {
                        Some(Faith::Never)
                    } else if !asked {
                        Some(Faith::Unasked)
                    } else if is_untold {
                        Some(Faith::Counted)
                    } else if self.setup.server && !serves && !is_plain(&message) {
                        // This is not recognised as DNS, on a socket that has not sent a response yet.
                        Some(Faith::Unasked)
                    } else if self.setup.gro && one.length > one.bytes.len() {
                        Some(Faith::Cut)
                    } else {
                        None
                    };
                    let shared = received < one.bytes.len();
                    self.was_received(stage, &message, sees, named, doubt, shared);
                }
                rest = &rest[length..];
                if cut || rest.is_empty() {
                    // The datagrams of the packet that did not fit are lost.
                    if cut {
                        let skipped = self.skip(packet);
                        stage.provoked.maybe_cut += if sees { skipped } else { 0 };
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes the datagrams of the same packet that were cut off together with the previous one. Returns their number.
    fn skip(&mut self, packet: usize) -> u64 {
        let mut skipped = 0;
        let is_gone = |waiting: &VecDeque<(_, _, usize)>| {
            waiting.front().is_some_and(|(_, _, of)| *of == packet)
        };
        while self.setup.gro && is_gone(&self.waiting) {
            self.waiting.pop_front();
            skipped += 1;
        }
        skipped
    }

    fn was_received(
        &mut self,
        stage: &mut Stage<'_>,
        message: &[u8],
        sees: bool,
        named: bool,
        doubt: Option<Faith>,
        shared: bool,
    ) {
        if self.setup.server && can_be_answered(message) {
            self.asked.push_back(message.to_vec());
        }
        let response = wire::is_response(message);
        let seen = self.seen.get(&id(message)) == Some(&Faith::Sure);
        let faith = doubt.unwrap_or(if response && !seen {
            Faith::Unasked
        } else {
            Faith::Sure
        });
        // The sender of a response is known from its query, if the ring had room for the query.
        let nameless = !named && (!response || faith != Faith::Sure || stage.provoked.ring);
        let passing = Passing {
            sent: false,
            faith,
            nameless,
            shared,
        };
        if sees {
            self.was_there(stage, message, &passing);
        }
    }

    /// Adds a message that was received or sent, and that the agent saw, to the expected ones.
    fn was_there(&mut self, stage: &mut Stage<'_>, message: &[u8], passing: &Passing) {
        let Passing {
            sent,
            faith,
            nameless,
            shared,
        } = *passing;
        stage.provoked.counted |= faith == Faith::Counted;
        let paired = self.seen.get(&id(message)) == Some(&Faith::Sure) && faith == Faith::Sure;
        if can_be_answered(message) {
            self.seen.insert(id(message), faith);
        }
        self.expected.push(Expected {
            scene: self.scene,
            record: record(SocketProtocol::Udp, self.ends, sent, message.to_vec()),
            faith,
            nameless,
            paired,
            shared,
        });
    }

    fn tell(
        &mut self,
        stage: &mut Stage<'_>,
        way: usize,
        mut call: Put,
        cuts: &[usize],
        manner: Manner,
        spec: &Spec,
    ) -> Result<()> {
        let mut spec = *spec;
        if manner != Manner::Whole {
            spec.size = spec.size.min(MOST);
        }
        let mut messages = Vec::new();
        let count = match manner {
            Manner::Segments(count) => count,
            _ => 1,
        };
        for _ in 0..count {
            if self.setup.server {
                messages.extend(self.asked.pop_front().map(|query| spec.answer(&query)));
            } else {
                messages.push(spec.query(self.next_id()));
            }
        }
        if messages.is_empty() || messages.iter().any(|one| one.len() > 65_507) {
            return Ok(());
        }
        if !call.has_flags() && (!self.setup.connected || manner != Manner::Whole) {
            call = Put::Sendmsg;
        }
        if matches!(manner, Manner::Segments(_)) {
            call = Put::Sendmsg;
            // All have the same size, so that the kernel cuts at the end of each.
            messages.retain(|one| one.len() == spec.size);
            if messages.len() < 2 {
                return Ok(());
            }
        }
        self.drain()?;
        let (actor, key) = self.ways.choose(way);
        let whole = messages.concat();
        let parts = match manner {
            Manner::More(parts) | Manner::Cork(parts) => parts,
            Manner::Whole | Manner::Segments(_) => 1,
        };
        let cork = format!("option {key} {} {UDP_CORK}", libc::SOL_UDP);
        if let Manner::Cork(_) = manner {
            stage.actors[actor].call(&format!("{cork} 1"), &[])?;
        }
        let pieces: Vec<_> = whole.chunks(whole.len().div_ceil(parts)).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let more = matches!(manner, Manner::More(_)) && at + 1 < pieces.len();
            let one_segment = call.is_flat() || call == Put::Sendmmsg;
            let sending = Sending {
                others: 0,
                call,
                flags: if more { libc::MSG_MORE } else { 0 },
                to: (!self.setup.connected && call.has_flags()).then_some(self.ends[1]),
                segment: if let Manner::Segments(_) = manner {
                    u16::try_from(spec.size)?
                } else {
                    0
                },
                cuts: if one_segment { &[] } else { cuts },
            };
            let sent = stage.actors[actor].put(key, &sending, piece, || Ok(()))??;
            ensure!(sent == piece.len(), "{sent} bytes of {}", piece.len());
        }
        if let Manner::Cork(_) = manner {
            stage.actors[actor].call(&format!("{cork} 0"), &[])?;
        }
        let (sees, faith) = (
            stage.sees(actor),
            match manner {
                Manner::Whole | Manner::Segments(_) => Faith::Sure,
                Manner::More(_) | Manner::Cork(_) => Faith::Counted,
            },
        );
        self.lost |= sees && faith == Faith::Counted;
        for (at, message) in messages.into_iter().enumerate() {
            // The socket is known to carry DNS if a query has been answered, or if this message has nothing unusual.
            let is_shown = if self.setup.server {
                self.serves() || matches!(wire::opcode(&message), Some(0 | 4 | 5))
            } else {
                self.has_asked() || is_plain(&message)
            };
            let faith = if faith == Faith::Sure && !is_shown {
                Faith::Unasked
            } else {
                faith
            };
            let passing = Passing {
                sent: true,
                faith,
                nameless: false,
                shared: at > 0,
            };
            if sees {
                self.was_there(stage, &message, &passing);
            }
            if !self.setup.server && can_be_answered(&message) {
                self.asked.push_back(message);
            }
        }
        Ok(())
    }
}

/// Returns whether the message is a query with usual flags and counts.
fn is_plain(message: &[u8]) -> bool {
    let bits = matches!(wire::opcode(message), Some(0 | 4 | 5)) && message[3] & 0xcf == 0;
    bits && message[6..10] == [0; 4] && can_be_answered(message)
}

fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}
