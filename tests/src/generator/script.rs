//! Generates programs.

use super::{
    message::{Sort, Spec},
    program::{Manner, Op, Program, Setup, Sizes, Step},
};
use crate::{
    chance::Chance,
    toy::actor::{Put, Take},
};

/// Size of the largest message in a datagram over IPv4.
const DATAGRAM: usize = 65_507;
const LARGEST: usize = 65_535;
/// More segments than the agent supports in one call.
const MOST_SEGMENTS: u64 = 200;

impl Program {
    /// Generates the program of this seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut writer = Writer(Chance::new(seed));
        writer.program(seed)
    }
}

struct Writer(Chance);

/// Reasons for which messages of a scene may be missing.
#[derive(Clone, Copy)]
struct Perils {
    /// The ring may be full.
    ring: bool,
    /// The kernel may throw bytes away, or an actor that is not tapped may read them.
    gaps: bool,
    /// The scene may begin before the agent attaches.
    midway: bool,
}

impl Perils {
    /// Returns whether anything may be missing. Then a message cannot be distinguished from framed queries inside of
    /// it.
    fn any(self) -> bool {
        self.ring || self.gaps || self.midway
    }
}

impl Writer {
    fn program(&mut self, seed: u64) -> Program {
        let small_ring = self.one_in(4);
        // The agent mostly attaches before everything, sometimes in the middle.
        let midway = self.one_in(3);
        let number = 2 + self.below(6);
        let scenes: Vec<_> = (0..number).map(|_| self.setup()).collect();
        // The order within each scene is kept; the scenes are mixed.
        let mut parts: Vec<_> = scenes
            .iter()
            .map(|setup| {
                let manner = Perils {
                    ring: small_ring,
                    gaps: small_ring || self.one_in(4),
                    midway,
                };
                self.scene(setup, manner).into_iter().peekable()
            })
            .collect();
        let mut steps = Vec::new();
        loop {
            let open: Vec<_> = (0..parts.len())
                .filter(|at| parts[*at].peek().is_some())
                .collect();
            if open.is_empty() {
                break;
            }
            let at = *self.0.of(&open);
            for _ in 0..=self.below(6) {
                steps.extend(parts[at].next().map(|op| Step::In(at, op)));
            }
        }
        let attach = if midway {
            self.below(1 + steps.len() / 2)
        } else {
            0
        };
        for _ in 0..self.below(3) {
            let at = self.below(1 + steps.len());
            let actor = self.below(2);
            steps.insert(at, Step::Fork(actor));
        }
        if small_ring {
            for _ in 0..=self.below(2) {
                let from = attach + self.below(1 + steps.len() - attach);
                let to = from + self.below(1 + steps.len() - from);
                steps.insert(to, Step::Resume);
                steps.insert(from, Step::Pause);
            }
        }
        steps.insert(attach, Step::Attach);
        Program {
            seed,
            small_ring,
            scenes,
            steps,
        }
    }

    fn setup(&mut self) -> Setup {
        let tcp = !self.one_in(4);
        let server = !self.one_in(3);
        Setup {
            tcp,
            server,
            v6: self.one_in(3),
            inline: self.one_in(3),
            narrow: self.one_in(4),
            fast_open: !server && self.one_in(4),
            connected: self.one_in(2),
            gro: self.one_in(6),
            actor: self.below(2),
        }
    }

    fn scene(&mut self, setup: &Setup, perils: Perils) -> Vec<Op> {
        let mut ops = vec![Op::Open];
        for round in 0..=self.below(10) {
            if setup.tcp {
                self.round_of_stream(setup, round, perils, &mut ops);
            } else {
                self.round_of_datagrams(setup, round, perils, &mut ops);
            }
            if self.one_in(12) {
                let way = self.way();
                ops.push(if self.one_in(2) {
                    Op::Dup { way }
                } else {
                    Op::Give {
                        way,
                        to: self.below(if perils.gaps { 3 } else { 2 }),
                    }
                });
            }
        }
        if setup.tcp {
            self.end_of_stream(&mut ops);
        } else {
            ops.push(Op::Finish);
            ops.push(Op::Close);
        }
        ops
    }

    /// A few messages arrive, the actor reads and sends responses; or the other way round.
    fn round_of_stream(&mut self, setup: &Setup, round: usize, perils: Perils, ops: &mut Vec<Op>) {
        let messages = 1 + self.below(3);
        let specs: Vec<_> = (0..messages)
            .map(|_| self.spec(round == 0, perils, LARGEST))
            .collect();
        if setup.server {
            ops.extend(specs.into_iter().map(Op::Peer));
            self.transfer_in(perils, ops);
            for _ in 0..messages {
                ops.push(Op::Say(self.answer_spec(perils, LARGEST)));
            }
            self.transfer_out(ops);
        } else {
            ops.extend(specs.into_iter().map(Op::Say));
            self.transfer_out(ops);
            for _ in 0..messages {
                ops.push(Op::Peer(self.answer_spec(perils, LARGEST)));
            }
            self.transfer_in(perils, ops);
        }
        if self.one_in(6) {
            let number = 2 + self.below(if perils.ring { 150 } else { 40 });
            if setup.server {
                for _ in 0..number {
                    ops.push(Op::Peer(self.small_spec()));
                }
            }
            ops.push(Op::Finish);
            ops.push(Op::Many {
                call: *self.0.of(&Put::ALL),
                specs: (0..number).map(|_| self.small_spec()).collect(),
                threads: 1 + self.below(4),
                processes: 1 + self.below(2),
            });
        }
    }

    /// The peer sends and the actor reads, in any order.
    fn transfer_in(&mut self, perils: Perils, ops: &mut Vec<Op>) {
        let style = self.below(6);
        for _ in 0..=self.below(6) {
            let size = match style {
                0 => 1,
                1 => 1 + self.below(40),
                _ => 1 + self.size(LARGEST),
            };
            ops.push(Op::Push(size));
            if self.one_in(8) {
                ops.push(Op::Urgent);
            }
            if self.one_in(30) {
                ops.push(Op::TakeUrgent { way: self.way() });
            }
            for _ in 0..self.below(4) {
                ops.push(self.take_of_stream(style));
            }
        }
        if !self.one_in(3) {
            ops.push(Op::Push(usize::MAX));
            // The end of the data is left for the peer's close, like an upstream that closes right after its response.
            for _ in 0..self.below(8) {
                ops.push(self.take_of_stream(style));
            }
        }
        if perils.gaps && self.one_in(12) {
            ops.push(Op::Discard {
                way: self.way(),
                size: 1 + self.below(3_000),
            });
        }
    }

    fn take_of_stream(&mut self, style: usize) -> Op {
        let call = *self.0.of(&Take::ALL);
        let sizes = match style {
            0 => Sizes::Fixed(vec![1]),
            2 | 3 => Sizes::Wanted,
            _ => self.segments(),
        };
        let flags = if call.has_flags() {
            *self.0.of(&[
                0,
                0,
                0,
                libc::MSG_PEEK,
                libc::MSG_WAITALL,
                libc::MSG_DONTWAIT,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            ])
        } else {
            0
        };
        Op::Take {
            way: self.way(),
            call,
            sizes,
            flags,
            named: self.one_in(2),
        }
    }

    /// Makes the buffer sizes of a receive: one or many segments.
    fn segments(&mut self) -> Sizes {
        Sizes::Fixed(match self.below(4) {
            0 => vec![2, 12, 500, 65_535],
            1 => {
                let number = 1 + self.below_of(MOST_SEGMENTS);
                (0..number).map(|_| 1 + self.below(400)).collect()
            }
            2 => vec![1 + self.below(300)],
            _ => vec![65_537],
        })
    }

    /// The actor sends its bytes, all of them or not.
    fn transfer_out(&mut self, ops: &mut Vec<Op>) {
        for _ in 0..self.below(5) {
            let most = match self.below(4) {
                0 => 1 + self.below(3),
                1 => 1 + self.below(200),
                _ => 1 + self.size(LARGEST),
            };
            ops.push(self.put_of_stream(most));
            if self.one_in(4) {
                ops.push(Op::Drain);
            }
        }
        if !self.one_in(4) {
            ops.push(self.put_of_stream(usize::MAX));
        }
    }

    fn put_of_stream(&mut self, most: usize) -> Op {
        let call = *self.0.of(&Put::ALL);
        let cuts = match self.below(4) {
            0 => vec![2, 12],
            1 => {
                let number = 1 + self.below_of(MOST_SEGMENTS);
                (0..number).map(|_| 1 + self.below(60)).collect()
            }
            2 => vec![2],
            _ => Vec::new(),
        };
        let flags = if call.has_flags() {
            *self.0.of(&[0, 0, libc::MSG_DONTWAIT, libc::MSG_MORE])
        } else {
            0
        };
        Op::Put {
            way: self.way(),
            call,
            cuts,
            most,
            flags,
        }
    }

    fn end_of_stream(&mut self, ops: &mut Vec<Op>) {
        match self.below(8) {
            0 => ops.push(Op::Reset),
            1 => ops.push(Op::Close),
            2 => ops.extend([Op::Push(usize::MAX), Op::PeerReset, Op::Finish, Op::Close]),
            // All bytes arrive together with the end of the stream.
            3 | 4 => {
                ops.extend([Op::Push(usize::MAX), Op::PeerFin]);
                for _ in 0..self.below(6) {
                    ops.push(self.take_of_stream(2));
                }
                ops.extend([Op::Finish, Op::Close]);
            }
            5 => ops.extend([Op::Push(usize::MAX), Op::PeerClose, Op::Finish, Op::Close]),
            6 => ops.extend([Op::Finish, Op::Fin, Op::PeerClose, Op::Finish, Op::Close]),
            _ => ops.extend([Op::Finish, Op::Close]),
        }
    }

    fn round_of_datagrams(
        &mut self,
        setup: &Setup,
        round: usize,
        perils: Perils,
        ops: &mut Vec<Op>,
    ) {
        let messages = 1 + self.below(if perils.ring { 12 } else { 4 });
        if setup.server {
            for number in 0..messages {
                let spec = self.spec((round, number) == (0, 0), perils, DATAGRAM);
                ops.push(Op::Peer(spec));
                if self.one_in(3) {
                    ops.push(self.take_of_datagrams());
                }
            }
            if self.one_in(8) {
                let count = 2 + self.below(10);
                ops.push(Op::PeerSegments(self.segment_spec(), count));
            }
            for _ in 0..messages {
                ops.push(self.take_of_datagrams());
            }
            for _ in 0..messages {
                let spec = self.answer_spec(perils, DATAGRAM);
                ops.push(self.tell(spec));
            }
        } else {
            for number in 0..messages {
                let spec = self.spec((round, number) == (0, 0), perils, DATAGRAM);
                ops.push(self.tell(spec));
            }
            for _ in 0..messages {
                ops.push(Op::Peer(self.answer_spec(perils, DATAGRAM)));
                ops.push(self.take_of_datagrams());
            }
        }
        if self.one_in(20) {
            ops.push(Op::Unasked(self.small_spec()));
        }
    }

    fn take_of_datagrams(&mut self) -> Op {
        let call = *self.0.of(&Take::ALL);
        let sizes = match (call, self.below(6)) {
            (Take::Recvmmsg, _) => vec![66_000; 1 + self.below(6)],
            (_, 0) => vec![12 + self.below(500)],
            (_, 1) if !call.is_flat() => vec![2, 10, 100, 66_000],
            _ => vec![66_000],
        };
        let flags = if call.has_flags() {
            *self
                .0
                .of(&[0, 0, 0, libc::MSG_PEEK, libc::MSG_TRUNC, libc::MSG_DONTWAIT])
        } else {
            0
        };
        Op::Take {
            way: self.way(),
            call,
            sizes: Sizes::Fixed(sizes),
            flags,
            named: self.one_in(2),
        }
    }

    fn tell(&mut self, spec: Spec) -> Op {
        let manner = match self.below(12) {
            0 => Manner::More(2 + self.below(3)),
            1 => Manner::Cork(2 + self.below(3)),
            2 => Manner::Segments(2 + self.below(6)),
            _ => Manner::Whole,
        };
        let call = *self.0.of(&Put::ALL);
        let cuts = if self.one_in(3) { vec![2, 12] } else { vec![] };
        Op::Tell {
            way: self.way(),
            call,
            cuts,
            manner,
            spec: if let Manner::Segments(_) = manner {
                self.segment_spec()
            } else {
                spec
            },
        }
    }

    /// Makes a message of any sort and size. The first one of a scene shows that this is DNS.
    fn spec(&mut self, first: bool, perils: Perils, largest: usize) -> Spec {
        let sort = match self.below(12) {
            _ if first => Sort::Plain,
            0 | 1 => Sort::Odd,
            2 => Sort::Malformed,
            // After a loss it could not be distinguished from the queries inside of it.
            3 if !perils.any() => Sort::Carrier,
            _ => Sort::Plain,
        };
        Spec {
            sort,
            size: 12 + self.size(largest - 12),
            salt: self.salt(),
        }
    }

    fn answer_spec(&mut self, perils: Perils, largest: usize) -> Spec {
        let mut spec = self.spec(false, perils, largest);
        if spec.sort == Sort::Malformed {
            spec.sort = Sort::Odd;
        }
        spec
    }

    fn small_spec(&mut self) -> Spec {
        Spec {
            sort: Sort::Plain,
            size: 12 + self.below(1_200),
            salt: self.salt(),
        }
    }

    /// Makes a message that has exactly its size.
    fn segment_spec(&mut self) -> Spec {
        Spec {
            sort: Sort::Plain,
            size: 300 + self.below(1_000),
            salt: self.salt(),
        }
    }

    /// Chooses a size: mostly small, sometimes any.
    fn size(&mut self, largest: usize) -> usize {
        let end = match self.below(8) {
            0 => largest,
            1 => 16_000,
            2 | 3 => 1_500,
            _ => 120,
        };
        if end == largest && self.one_in(4) {
            return largest;
        }
        self.below(1 + end.min(largest))
    }

    fn way(&mut self) -> usize {
        self.below(1 << 16)
    }

    fn salt(&mut self) -> u32 {
        u32::try_from(self.0.below(1 << 32)).unwrap_or(0)
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.0.below(number) == 0
    }

    fn below(&mut self, end: usize) -> usize {
        self.below_of(end as u64)
    }

    fn below_of(&mut self, end: u64) -> usize {
        usize::try_from(self.0.below(end)).unwrap_or(0)
    }
}
