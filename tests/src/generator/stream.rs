//! A scene of TCP: one connection of an actor, its peer, and the messages of both.

use std::{
    collections::{HashMap, VecDeque},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::SocketProtocol;

use super::{
    message::{Sort, Spec, can_be_answered},
    program::{Op, Setup, Sizes},
    stage::{Peer, Stage, Ways, drain_all, listener, loopback, record},
    truth::{Expected, Faith, Flow, Seen},
};
use crate::{
    toy::actor::{Put, Sending, Take},
    wire,
};

/// Size of small buffers, in bytes; the kernel rounds it up.
const NARROW: i32 = 4_096;
/// Size of a send buffer that has room for all messages of [`Op::Many`], so that each call is done without a pause.
const WIDE: i32 = 8 << 20;

/// A connection.
pub(super) struct Stream {
    scene: usize,
    setup: Setup,
    /// Addresses of the actor and of the peer.
    ends: [SocketAddr; 2],
    /// Descriptors of the socket in the actors.
    pub(super) ways: Ways,
    /// Bytes that actors have read.
    read: Flow,
    /// Bytes that actors have written.
    written: Flow,
    /// Bytes that the peer has sent, without urgent ones out of line, and bytes that it has still to send.
    sent: Vec<u8>,
    to_send: VecDeque<u8>,
    /// Bytes that an actor has still to write.
    to_write: Vec<u8>,
    /// Queries without a response, read or written by an actor.
    asked: VecDeque<Vec<u8>>,
    /// Position in the stream of the last urgent byte that was out of line.
    urgent_at: Option<usize>,
    /// Whether the peer has shut down its sending direction; `finished`: whether an actor has.
    peer_finished: bool,
    finished: bool,
    pub(super) closed: bool,
    id: u16,
}

impl Stream {
    /// Opens the connection.
    pub(super) fn open(stage: &mut Stage<'_>, scene: usize, setup: &Setup) -> Result<Self> {
        let (actor, key) = (setup.actor, stage.key());
        let mut written = Flow::default();
        let mut asked = VecDeque::new();
        let id = u16::try_from(scene * 1_000)?;
        let (local, peer) = if setup.server {
            let door = stage.key();
            let at = stage.actors[actor].make(&format!("listen {door} {}", loopback(setup.v6)))?;
            let peer = TcpStream::connect(at)?;
            let local = stage.actors[actor].make(&format!("accept {key} {door}"))?;
            stage.actors[actor].call(&format!("close {door}"), &[])?;
            (local, peer)
        } else {
            let door = listener(setup.v6)?;
            let at = door.local_addr()?;
            let local = if setup.fast_open {
                let first = Spec {
                    sort: Sort::Plain,
                    size: 80,
                    salt: u32::from(id),
                };
                let query = first.query(id);
                let bytes = wire::framed(&query);
                let (local, sent) = stage.actors[actor].fast_open(key, at, &bytes)?;
                ensure!(sent == bytes.len(), "{sent} bytes with the first segment");
                written.push(&bytes, stage.sees_stream(actor, false));
                asked.push_back(query);
                written.next();
                local
            } else {
                stage.actors[actor].make(&format!("connect {key} {at}"))?
            };
            (local, door.accept()?.0)
        };
        let ends = [local, peer.local_addr()?];
        let mut option = |level: i32, name: i32, value: i32| {
            let command = format!("option {key} {level} {name} {value}");
            stage.actors[actor].call(&command, &[])
        };
        if setup.inline {
            option(libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
        }
        let buffer = if setup.narrow { NARROW } else { WIDE };
        option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, buffer)?;
        option(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        let peer = Peer::new(peer)?;
        if setup.narrow {
            peer.narrow(NARROW.unsigned_abs() as usize)?;
        }
        stage.peers[scene] = Some(peer);
        Ok(Self {
            scene,
            setup: setup.clone(),
            ends,
            ways: Ways::new(actor, key),
            read: Flow::default(),
            written,
            sent: Vec::new(),
            to_send: VecDeque::new(),
            to_write: Vec::new(),
            asked,
            urgent_at: None,
            peer_finished: false,
            finished: false,
            closed: false,
            id,
        })
    }

    /// Records that the agent has not seen the beginning.
    pub(super) fn was_before(&mut self) {
        self.read.midway = true;
        self.written.midway = true;
    }

    /// Returns whether bytes are missing that the agent cannot know.
    pub(super) fn is_broken(&self) -> bool {
        self.read.is_broken() || self.written.is_broken()
    }

    /// Returns the bytes of each direction in which something is missing. `anywhere`: of both directions.
    pub(super) fn torn(&self, anywhere: bool) -> impl Iterator<Item = Vec<u8>> {
        let flows = [&self.read, &self.written].into_iter();
        flows
            .filter(move |flow| anywhere || flow.is_broken())
            .map(|flow| flow.bytes.clone())
    }

    /// Adds the messages that should be in the file.
    pub(super) fn expect(&self, expected: &mut Vec<Expected>) {
        let mut queries: HashMap<&[u8], Faith> = HashMap::new();
        let mut add = |flow: &Flow, sent: bool, queries: &HashMap<&[u8], Faith>| {
            for (message, mut faith) in flow.messages() {
                let response = wire::is_response(message);
                let query = queries.get(message.get(..2).unwrap_or_default());
                let paired = response && query == Some(&Faith::Sure);
                if response && !sent && !paired && faith == Faith::Sure {
                    faith = Faith::Unasked;
                }
                expected.push(Expected {
                    scene: self.scene,
                    record: record(SocketProtocol::Tcp, self.ends, sent, message.to_vec()),
                    faith,
                    nameless: false,
                    shared: false,
                    paired: paired && faith == Faith::Sure,
                });
            }
        };
        let (asking, answering) = if self.setup.server {
            (&self.read, &self.written)
        } else {
            (&self.written, &self.read)
        };
        add(asking, !self.setup.server, &queries);
        for (message, faith) in asking.messages() {
            if can_be_answered(message) {
                queries.insert(&message[..2], faith);
            }
        }
        add(answering, self.setup.server, &queries);
    }

    /// Plays one operation.
    pub(super) fn play(&mut self, stage: &mut Stage<'_>, op: &Op) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match op {
            Op::Peer(spec) => self.peer_says(spec),
            Op::Push(most) => self.push(stage, *most),
            Op::Urgent => self.urgent(stage),
            Op::Take {
                way,
                call,
                sizes,
                flags,
                ..
            } => self.take(stage, *way, *call, sizes, *flags)?,
            Op::TakeUrgent { way } => {
                let (actor, key) = self.ways.choose(*way);
                let flags = libc::MSG_OOB | libc::MSG_DONTWAIT;
                // This fails if there is no urgent byte.
                let _urgent = stage.actors[actor].take(key, Take::Recvfrom, flags, false, &[1])?;
            }
            Op::Discard { way, size } => self.discard(stage, *way, *size)?,
            Op::Say(spec) => self.say(spec),
            Op::Put {
                way,
                call,
                cuts,
                most,
                flags,
            } => {
                self.put(stage, *way, *call, cuts, *most, *flags)?;
            }
            Op::Many {
                call,
                specs,
                threads,
                processes,
            } => self.many(stage, *call, specs, *threads, *processes)?,
            Op::PeerFin => {
                self.peer_finished = true;
                if let Some(peer) = &stage.peers[self.scene] {
                    peer.finish();
                }
            }
            Op::PeerClose | Op::PeerReset => {
                self.peer_finished = true;
                if let Some(peer) = stage.peers[self.scene].take()
                    && matches!(op, Op::PeerReset)
                {
                    peer.reset_at_close()?;
                }
            }
            Op::Fin => {
                self.finished = true;
                let (actor, key) = self.ways.choose(0);
                // This fails if the peer has reset the connection.
                let _gone = stage.actors[actor].call(&format!("shutdown {key}"), &[]);
            }
            Op::Close | Op::Reset => {
                self.closed = true;
                let (actor, key) = self.ways.choose(0);
                if matches!(op, Op::Reset) {
                    stage.actors[actor].call(&format!("linger {key}"), &[])?;
                }
                stage.close(&self.ways)?;
            }
            Op::Dup { .. } | Op::Give { .. } => stage.copy(&mut self.ways, op)?,
            Op::Drain => drain_all(&mut stage.peers)?,
            Op::Finish => self.finish(stage)?,
            Op::Open | Op::PeerSegments(..) | Op::Unasked(_) | Op::Tell { .. } => {}
        }
        Ok(())
    }

    fn next_id(&mut self) -> u16 {
        self.id = self.id.wrapping_add(1);
        self.id
    }

    fn peer_says(&mut self, spec: &Spec) {
        if self.peer_finished {
            return;
        }
        let message = if self.setup.server {
            spec.query(self.next_id())
        } else {
            match self.asked.pop_front() {
                Some(query) => spec.answer(&query),
                None => return,
            }
        };
        self.to_send.extend(wire::framed(&message));
    }

    fn push(&mut self, stage: &mut Stage<'_>, most: usize) {
        let Some(peer) = &mut stage.peers[self.scene] else {
            return;
        };
        if self.peer_finished {
            return;
        }
        let most = most.min(self.to_send.len());
        let bytes = &self.to_send.make_contiguous()[..most];
        let pushed = peer.push(bytes);
        self.sent.extend(self.to_send.drain(..pushed));
    }

    /// Sends an urgent byte from the peer. Out of line it is an extra byte, and only one may be unread. In line it is
    /// the next byte of the stream.
    fn urgent(&mut self, stage: &mut Stage<'_>) {
        let Some(peer) = &stage.peers[self.scene] else {
            return;
        };
        if self.peer_finished {
            return;
        }
        if self.setup.inline {
            if let Some(byte) = self.to_send.front()
                && peer.push_urgent(*byte)
            {
                self.sent.extend(self.to_send.pop_front());
            }
        } else if self.urgent_at.is_none_or(|at| self.read.bytes.len() > at)
            && peer.push_urgent(b'!')
        {
            self.urgent_at = Some(self.sent.len());
        }
    }

    /// Returns the number of bytes that the peer has sent and no actor has read.
    fn waiting(&self) -> usize {
        self.sent.len() - self.read.bytes.len()
    }

    fn take(
        &mut self,
        stage: &mut Stage<'_>,
        way: usize,
        call: Take,
        sizes: &Sizes,
        mut flags: i32,
    ) -> Result<()> {
        let waiting = self.waiting();
        // A read would block for ever.
        if waiting == 0 && !self.peer_finished {
            return Ok(());
        }
        let wanted = [self.read.wanted()];
        let mut sizes = match sizes {
            Sizes::Fixed(sizes) => sizes.as_slice(),
            Sizes::Wanted => &wanted,
        };
        if call.is_flat() {
            sizes = &sizes[..1];
        }
        if sizes.iter().sum::<usize>() > waiting || call == Take::Recvmmsg {
            flags &= !libc::MSG_WAITALL;
        }
        let (actor, key) = self.ways.choose(way);
        // The agent may take bytes before an urgent byte for urgent ones, if a process that is not tapped reads them
        // (docs/architecture.md).
        let is_urgent = self.urgent_at.is_some_and(|at| self.read.bytes.len() <= at);
        if is_urgent && stage.hides(actor) {
            return Ok(());
        }
        let Ok(got) = stage.actors[actor].take(key, call, flags, false, sizes)? else {
            return Ok(());
        };
        if flags & libc::MSG_PEEK != 0 {
            return Ok(());
        }
        let seen = stage.sees_stream(actor, call == Take::Preadv2);
        for one in got {
            self.was_read(&one.bytes, seen)?;
        }
        Ok(())
    }

    fn was_read(&mut self, bytes: &[u8], seen: Seen) -> Result<()> {
        let at = self.read.bytes.len();
        let sent = self.sent.get(at..at + bytes.len());
        ensure!(
            sent == Some(bytes),
            "the actor read at {at} what the peer had not sent: {} bytes of {}",
            bytes.len(),
            self.sent.len()
        );
        self.read.push(bytes, seen);
        while let Some(message) = self.read.next() {
            if self.setup.server && can_be_answered(&message) {
                self.asked.push_back(message);
            }
        }
        Ok(())
    }

    fn discard(&mut self, stage: &mut Stage<'_>, way: usize, size: usize) -> Result<()> {
        let size = size.min(self.waiting());
        let urgent = self.urgent_at.is_some_and(|at| self.read.bytes.len() <= at);
        if size == 0 || urgent {
            return Ok(());
        }
        let (actor, key) = self.ways.choose(way);
        let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        let got = stage.actors[actor].take(key, Take::Recvfrom, flags, false, &[size])?;
        let Ok(got) = got else { return Ok(()) };
        let length = got.first().context("no result")?.length;
        // Bytes that are thrown away count like cut ones.
        let sees = stage.sees_stream(actor, false) == Seen::Yes;
        stage.provoked.cut += u64::from(sees && length > 0);
        let at = self.read.bytes.len();
        let bytes = self.sent[at..at + length].to_vec();
        self.was_read(&bytes, Seen::No)
    }

    fn say(&mut self, spec: &Spec) {
        let message = if self.setup.server {
            match self.asked.pop_front() {
                Some(query) => spec.answer(&query),
                None => return,
            }
        } else {
            spec.query(self.next_id())
        };
        self.to_write.extend(wire::framed(&message));
    }

    /// Writes. Returns whether any bytes were written.
    fn put(
        &mut self,
        stage: &mut Stage<'_>,
        way: usize,
        call: Put,
        cuts: &[usize],
        most: usize,
        flags: i32,
    ) -> Result<bool> {
        let most = most.min(self.to_write.len());
        if most == 0 || self.finished {
            return Ok(false);
        }
        let (actor, key) = self.ways.choose(way);
        let cuts = if call.is_flat() { &[] } else { cuts };
        let sending = Sending {
            others: 0,
            call,
            flags,
            to: None,
            segment: 0,
            cuts,
        };
        let (actors, peers) = (&mut stage.actors, &mut stage.peers);
        let sent = actors[actor].put(key, &sending, &self.to_write[..most], || drain_all(peers))?;
        let Ok(sent) = sent else {
            return Ok(false);
        };
        let bytes: Vec<u8> = self.to_write.drain(..sent).collect();
        let seen = stage.sees_stream(actor, call == Put::Pwritev2);
        self.was_written(&bytes, seen);
        Ok(sent > 0)
    }

    fn was_written(&mut self, bytes: &[u8], seen: Seen) {
        self.written.push(bytes, seen);
        while let Some(message) = self.written.next() {
            if !self.setup.server && can_be_answered(&message) {
                self.asked.push_back(message);
            }
        }
    }

    fn many(
        &mut self,
        stage: &mut Stage<'_>,
        call: Put,
        specs: &[Spec],
        threads: usize,
        processes: usize,
    ) -> Result<()> {
        let ways = self.ways.of_actors(processes);
        let between = self.to_write.is_empty() && self.written.is_between();
        // With a small buffer, another call may write before this one has ended.
        if !between || self.setup.narrow || self.finished || self.peer_finished || ways.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        for spec in specs {
            let message = if self.setup.server {
                let Some(query) = self.asked.pop_front() else {
                    break;
                };
                spec.answer(&query)
            } else {
                spec.query(self.next_id())
            };
            messages.push(wire::framed(&message));
        }
        if messages.is_empty() {
            return Ok(());
        }
        let all: usize = messages.iter().map(Vec::len).sum();
        // The messages are divided among the processes, and then among the threads of each process.
        let share = messages.len().div_ceil(ways.len());
        let mut begun = Vec::new();
        for ((actor, key), share) in ways.iter().zip(messages.chunks(share)) {
            let groups: Vec<_> = share
                .chunks(share.len().div_ceil(threads))
                .map(|group| {
                    let lengths: Vec<_> = group.iter().map(|one| one.len().to_string()).collect();
                    format!("{key}:{}", lengths.join(","))
                })
                .collect();
            let command = format!("many {call:?} {}", groups.join("/"));
            stage.actors[*actor].begin(&command, &share.concat())?;
            begun.push(*actor);
        }
        for actor in begun {
            let (actors, peers) = (&mut stage.actors, &mut stage.peers);
            actors[actor]
                .finish(|| drain_all(peers))
                .context("many writers")?;
        }
        let before = self.written.bytes.len();
        stage.drain_until(self.scene, before + all)?;
        // The received bytes show the order of the messages.
        let peer = stage.peers[self.scene].as_ref();
        let bytes = peer.context("no peer")?.received[before..].to_vec();
        ensure!(bytes.len() == all, "{} bytes of {all} arrived", bytes.len());
        let seen = stage.sees_stream(0, call == Put::Pwritev2);
        self.was_written(&bytes, seen);
        Ok(())
    }

    /// Sends and reads everything that is waiting.
    fn finish(&mut self, stage: &mut Stage<'_>) -> Result<()> {
        loop {
            self.push(stage, usize::MAX);
            let before = (self.waiting(), self.to_send.len());
            if before.0 == 0 {
                break;
            }
            let sizes = Sizes::Fixed(vec![65_536]);
            self.take(stage, 0, Take::Recvfrom, &sizes, 0)?;
            if (self.waiting(), self.to_send.len()) == before {
                // The connection no longer exists.
                break;
            }
        }
        if self.peer_finished {
            // The actor also reads the end of the stream.
            let end = Sizes::Fixed(vec![16]);
            self.take(stage, 0, Take::Read, &end, 0)?;
        }
        while self.put(stage, 0, Put::Sendto, &[], usize::MAX, 0)? {}
        let arrived = stage.drain_until(self.scene, self.written.bytes.len())?;
        if let Some(peer) = &stage.peers[self.scene]
            && arrived == self.written.bytes.len()
        {
            ensure!(
                peer.received == self.written.bytes,
                "the peer received what no actor wrote"
            );
        }
        Ok(())
    }
}
