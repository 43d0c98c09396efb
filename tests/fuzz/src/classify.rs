//! Whole messages with any metadata, passed through the stages behind the sockets: types by every profile and by BIND's
//! rules, pairing, filters. Each message comes out once or is counted; its type is a query or a response according to
//! its QR bit; the initiator's address is `query_address`.
//!
//! The input is a byte of choices ([`event::config`](crate::event::config)), then messages: four bytes of metadata, a
//! length in two bytes, the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dnstap_core::{
    model::{Direction, Endpoint, Envelope, Family, Origin, Protocol, Proxied},
    pipeline::{Batch, Pipeline},
};

use crate::{
    event::{PRIVACY, config},
    frames,
    input::{Input, bit},
    laws,
};

/// Runs the target.
///
/// # Panics
///
/// If a check fails.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // Privacy is off, so each message comes out unchanged.
    let mut pipeline = Pipeline::new(config(input.byte() & !PRIVACY));
    let mut batch = Batch::default();
    let (mut pushed, mut now) = (0, 0_u64);
    let mut given = Vec::new();
    while !input.is_empty() {
        let (shape, place) = (input.byte(), input.byte());
        now = now.saturating_add(u64::from(input.word()) << 16);
        let envelope = envelope(shape, place, now);
        let message = input.string();
        pipeline.message(&envelope, message, &mut batch);
        given.push(message);
        pushed += 1;
        if bit(shape, 7) {
            pipeline.tick(now, &mut batch);
        }
        laws::check(&pipeline);
        assert_eq!(pipeline.counters().intake.whole_messages, pushed);
    }
    pipeline.finish(&mut batch);
    laws::check(&pipeline);
    laws::nothing_pending(&pipeline);
    for message in frames::decoded(&batch) {
        let dns = frames::dns(&message);
        assert!(given.contains(&dns), "a message that was never given");
        if let [_, _, flags, ..] = dns {
            assert_eq!(bit(*flags, 7), frames::is_response(&message));
        }
    }
}

fn envelope(shape: u8, place: u8, ktime_ns: u64) -> Envelope {
    let family = if bit(shape, 0) {
        Family::Inet6
    } else {
        Family::Inet
    };
    let end = |known: bool, last: u8, port| {
        let address = match family {
            Family::Inet => IpAddr::from(Ipv4Addr::new(192, 0, 2, last)),
            Family::Inet6 => IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
        };
        let end = Endpoint::from((address, port));
        if known { end } else { end.without_address() }
    };
    let port = |choice: u8| [53, 40_000, 0, 5_300][usize::from(choice & 3)];
    let proxied = bit(shape, 5).then(|| Proxied {
        family: Family::Inet,
        local: Endpoint::from((IpAddr::from([198, 51, 100, 1]), 53)),
        peer: Endpoint::from((IpAddr::from([198, 51, 100, 2]), 4_000)),
    });
    Envelope {
        ktime_ns,
        socket: u64::from(place >> 6),
        protocol: if bit(shape, 1) {
            Protocol::Tcp
        } else {
            Protocol::Udp
        },
        direction: if bit(shape, 2) {
            Direction::Sent
        } else {
            Direction::Received
        },
        family,
        local: end(!bit(shape, 3), 1, port(place)),
        peer: end(!bit(shape, 4), 2 + (place >> 4 & 3), port(place >> 2)),
        origin: Origin {
            tgid: 1,
            tid: 2,
            hook: shape >> 5,
            program_id: 0,
        },
        proxied,
        unconnected: bit(place, 7),
    }
}
