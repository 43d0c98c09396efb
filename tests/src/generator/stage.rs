//! The stage on which programs are played: the actors, their peers and the agent.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use dnstap_proto::SocketProtocol;
use socket2::SockRef;

use super::{
    program::Op,
    truth::{Provoked, Seen},
};
use crate::{
    environment::Combination,
    process::PATIENCE,
    tap::{Tap, Tapped},
    toy::actor::Actor,
};

/// Number of actors at the start; the last one (`STRANGER`) is not tapped.
pub(super) const ACTORS: usize = 3;
pub(super) const STRANGER: usize = ACTORS - 1;
/// Size of a ring that has room for a few large messages.
const SMALL_RING: &str = "256K";

/// All participants of a program.
pub(super) struct Stage<'a> {
    folder: &'a Path,
    how: &'a Combination,
    /// The processes.
    pub(super) actors: Vec<Actor>,
    /// Peers of streams, one for each scene.
    pub(super) peers: Vec<Option<Peer>>,
    tap: Option<Tap>,
    /// Whether the stranger had a socket of another actor when the agent attached, so that it belongs to the tapped
    /// processes (docs/operations.md).
    pub(super) stranger_is_kin: bool,
    paused: bool,
    /// What the program has done that may make messages missing.
    pub(super) provoked: Provoked,
    keys: u32,
    forks: u32,
}

/// Descriptors of a scene's socket: actors and keys.
#[derive(Clone, Default)]
pub(super) struct Ways(Vec<(usize, u32)>);

/// The other end of a stream.
pub(super) struct Peer {
    stream: TcpStream,
    /// Everything that it has received.
    pub(super) received: Vec<u8>,
}

impl<'a> Stage<'a> {
    /// Starts the actors, and makes room for the peers of this many scenes.
    pub(super) fn new(scenes: usize, folder: &'a Path, how: &'a Combination) -> Result<Self> {
        let actors: Result<_> = (0..ACTORS).map(|_| Actor::start()).collect();
        Ok(Self {
            folder,
            how,
            actors: actors?,
            peers: (0..scenes).map(|_| None).collect(),
            tap: None,
            stranger_is_kin: false,
            paused: false,
            provoked: Provoked::default(),
            keys: 0,
            forks: 0,
        })
    }

    /// Attaches the agent to all actors except the stranger.
    pub(super) fn attach(&mut self, small_ring: bool) -> Result<()> {
        let other = self.actors[1].pid().to_string();
        let mut more = vec!["--pid", &other, "--allow-no-sockets"];
        if small_ring {
            more.extend(["--ring-size", SMALL_RING]);
            // On a busy machine a small ring also fills up without a pause.
            self.provoked.ring = true;
        }
        let tap = Tap::attach(self.folder, self.actors[0].pid(), self.how, &more)?;
        self.tap = Some(tap);
        Ok(())
    }

    /// Ends the agent.
    pub(super) fn detach(&mut self) -> Result<Tapped> {
        let tap = self.tap.take().context("a program without an agent")?;
        tap.stop()
    }

    /// Forks an actor. Returns the number of the child.
    pub(super) fn fork(&mut self, actor: usize) -> Result<usize> {
        let path = self.path();
        let child = self.actors[actor].fork(&path)?;
        self.actors.push(child);
        Ok(self.actors.len() - 1)
    }

    /// Stops the agent, or lets it continue.
    pub(super) fn pause(&mut self, paused: bool) -> Result<()> {
        if let Some(tap) = &self.tap
            && self.paused != paused
        {
            tap.signal(if paused { libc::SIGSTOP } else { libc::SIGCONT })?;
            self.paused = paused;
            self.provoked.ring = true;
        }
        Ok(())
    }

    /// Returns whether the agent sees what this actor does now.
    pub(super) fn sees(&self, actor: usize) -> bool {
        self.tap.is_some() && (actor != STRANGER || self.stranger_is_kin)
    }

    /// Returns whether the agent is attached and does not see what this actor does.
    pub(super) fn hides(&self, actor: usize) -> bool {
        self.tap.is_some() && !self.sees(actor)
    }

    /// Returns whether the hook learns about several datagrams in one message (`UDP_GRO`) only from the control
    /// messages of the process.
    pub(super) fn reads_controls(&self) -> bool {
        self.how.hook == "syscall"
    }

    /// Like [`Self::sees`], for a call on a stream. `may_be_counted`: the agent may count the call and not record it.
    pub(super) fn sees_stream(&mut self, actor: usize, may_be_counted: bool) -> Seen {
        if !self.sees(actor) {
            return Seen::No;
        }
        self.provoked.counted |= may_be_counted;
        if may_be_counted {
            Seen::OrCounted
        } else {
            Seen::Yes
        }
    }

    /// Returns a new key for a descriptor.
    pub(super) fn key(&mut self) -> u32 {
        self.keys += 1;
        self.keys
    }

    /// Returns a new path for a socket.
    fn path(&mut self) -> std::path::PathBuf {
        self.forks += 1;
        self.folder.join(format!("door-{}", self.forks))
    }

    /// Duplicates a descriptor, or passes it to another actor.
    pub(super) fn copy(&mut self, ways: &mut Ways, op: &Op) -> Result<()> {
        match *op {
            Op::Dup { way } => {
                let (actor, key) = ways.choose(way);
                let copy = self.key();
                self.actors[actor].call(&format!("dup {key} {copy}"), &[])?;
                ways.0.push((actor, copy));
            }
            Op::Give { way, to } => {
                let (from, key) = ways.choose(way);
                if ways.0.contains(&(to, key)) {
                    return Ok(());
                }
                let path = self.path();
                let [giver, taker] = self.actors.get_disjoint_mut([from, to])?;
                giver.give(key, taker, &path)?;
                ways.0.push((to, key));
            }
            _ => bail!("no way to copy a descriptor: {op:?}"),
        }
        Ok(())
    }

    /// Closes all descriptors of a socket.
    pub(super) fn close(&mut self, ways: &Ways) -> Result<()> {
        for (actor, key) in &ways.0 {
            self.actors[*actor].call(&format!("close {key}"), &[])?;
        }
        Ok(())
    }

    /// Reads what has arrived for the peers, until the peer of `scene` has `enough` bytes or no more can arrive.
    pub(super) fn drain_until(&mut self, scene: usize, enough: usize) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(peer) = &mut self.peers[scene] else {
                return Ok(0);
            };
            let open = peer.drain()?;
            if !open || peer.received.len() >= enough {
                return Ok(peer.received.len());
            }
            ensure!(Instant::now() < deadline, "what was sent does not arrive");
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

impl Ways {
    /// Makes a set of one descriptor.
    pub(super) fn new(actor: usize, key: u32) -> Self {
        Self(vec![(actor, key)])
    }

    /// Returns whether this actor has a descriptor.
    pub(super) fn reach(&self, actor: usize) -> bool {
        self.0.iter().any(|(other, _)| *other == actor)
    }

    /// Returns one of the descriptors: its actor and its key.
    pub(super) fn choose(&self, way: usize) -> (usize, u32) {
        self.0[way % self.0.len()]
    }

    /// Returns descriptors of tapped actors, one for each actor, up to `most`.
    pub(super) fn of_actors(&self, most: usize) -> Vec<(usize, u32)> {
        let mut some: Vec<(usize, u32)> = Vec::new();
        for (actor, key) in &self.0 {
            if *actor != STRANGER && some.iter().all(|(other, _)| other != actor) {
                some.push((*actor, *key));
            }
        }
        some.truncate(most);
        some
    }

    /// Adds the descriptors that a child inherits from its parent.
    pub(super) fn inherit(&mut self, parent: usize, child: usize) {
        let own: Vec<_> = self.0.iter().filter(|way| way.0 == parent).collect();
        let copies: Vec<_> = own.into_iter().map(|(_, key)| (child, *key)).collect();
        self.0.extend(copies);
    }
}

impl Peer {
    /// Makes a peer of the other end of a stream.
    pub(super) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Reads what has arrived. Returns `false` if no more can arrive.
    pub(super) fn drain(&mut self) -> Result<bool> {
        let mut space = [0; 16_384];
        loop {
            match self.stream.read(&mut space) {
                Ok(0) => return Ok(false),
                Ok(length) => self.received.extend(&space[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(false),
            }
        }
    }

    /// Sends as many bytes as possible. Returns their number.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        self.stream.write(bytes).unwrap_or(0)
    }

    /// Sends an urgent byte. Returns whether it was sent.
    pub(super) fn push_urgent(&self, byte: u8) -> bool {
        let socket = SockRef::from(&self.stream);
        socket.send_out_of_band(&[byte]).is_ok_and(|sent| sent == 1)
    }

    /// Shuts down the sending direction.
    pub(super) fn finish(&self) {
        // This fails if the connection no longer exists.
        self.stream.shutdown(std::net::Shutdown::Write).ok();
    }

    /// Makes the later close a reset.
    pub(super) fn reset_at_close(&self) -> Result<()> {
        let socket = SockRef::from(&self.stream);
        Ok(socket.set_linger(Some(std::time::Duration::ZERO))?)
    }

    /// Sets a small receive buffer.
    pub(super) fn narrow(&self, size: usize) -> Result<()> {
        Ok(SockRef::from(&self.stream).set_recv_buffer_size(size)?)
    }
}

/// Reads what has arrived for all peers.
pub(super) fn drain_all(peers: &mut [Option<Peer>]) -> Result<()> {
    for peer in peers.iter_mut().flatten() {
        peer.drain()?;
    }
    Ok(())
}

/// Returns the loopback address with port 0.
pub(super) fn loopback(v6: bool) -> SocketAddr {
    if v6 {
        ([0, 0, 0, 0, 0, 0, 0, 1], 0).into()
    } else {
        ([127, 0, 0, 1], 0).into()
    }
}

/// Opens a listener for a peer.
pub(super) fn listener(v6: bool) -> Result<TcpListener> {
    Ok(TcpListener::bind(loopback(v6))?)
}

/// Opens a datagram socket for a peer.
pub(super) fn datagrams(v6: bool) -> Result<UdpSocket> {
    Ok(UdpSocket::bind(loopback(v6))?)
}

/// Makes the record of a message between an actor and its peer.
pub(super) fn record(
    protocol: SocketProtocol,
    [actor, peer]: [SocketAddr; 2],
    sent: bool,
    message: Vec<u8>,
) -> crate::record::Record {
    // The client is the side that sends a query or receives a response.
    let asks = sent != crate::wire::is_response(&message);
    let (client, server) = if asks { (actor, peer) } else { (peer, actor) };
    crate::record::Record::expected(protocol, client, server, message)
}
