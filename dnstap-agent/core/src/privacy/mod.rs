//! Privacy: hides clients' addresses, or names, before a message is encoded.
//!
//! Two kinds of addresses are hidden:
//! - The address of the querier, if the tapped process is the responder (AUTH, CLIENT, UPDATE): the
//!   peer, or the client that a PROXY header names. If the process is the initiator (RESOLVER,
//!   FORWARDER, STUB, TOOL), it is the querier itself, and nothing is hidden.
//! - The subnet of EDNS Client Subnet (RFC 7871) in every message, because a resolver passes its
//!   clients' subnets on.
//!
//! Ports stay. All other bytes of a message stay the same, and no length changes. The message is no
//! longer verbatim: a signature over it (TSIG, SIG(0)) no longer verifies. If names are hidden,
//! only the header is left of a message ([`Privacy::no_names`]).
//!
//! This module is pure and allocates nothing in steady state: a message is copied, to a reused
//! buffer, only if it changes.

mod cryptopan;
mod subnet;

use std::str::FromStr;

pub use self::cryptopan::{CryptoPan, KEY};
use crate::{
    dns,
    model::{Envelope, Role},
};

/// What to hide.
#[derive(Clone, Debug, Default)]
pub struct Privacy {
    /// How clients' addresses are replaced.
    pub addresses: Option<Method>,
    /// Whether only the header is left of each message, with all counts zero: no names, no data.
    pub no_names: bool,
}

/// Method by which an address is replaced.
#[derive(Clone, Debug)]
pub enum Method {
    /// Keeps the first bits and sets the others to zero.
    Truncate(Prefixes),
    /// Encrypts with a key so that two addresses have as long a common prefix as before.
    CryptoPan(Box<CryptoPan>),
}

/// Numbers of bits to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// Bits of IPv4 addresses, at most 32.
    pub v4: u8,
    /// Bits of IPv6 addresses, at most 128.
    pub v6: u8,
}

impl Method {
    /// Replaces an address of 4 or 16 bytes.
    pub(crate) fn hide(&self, address: &mut [u8]) {
        match self {
            Self::Truncate(keep) => {
                let bits = if address.len() == 4 { keep.v4 } else { keep.v6 };
                clear_from(address, bits.into());
            }
            Self::CryptoPan(keyed) => keyed.hide(address),
        }
    }
}

/// Clears all bits from this one on, counted from the first.
fn clear_from(address: &mut [u8], bit: usize) {
    for (at, byte) in address.iter_mut().enumerate() {
        let kept = bit.saturating_sub(8 * at).min(8);
        // Keep the highest `kept` bits of the byte.
        *byte &= !(0xff_u16 >> kept).to_be_bytes()[1];
    }
}

/// The stage that hides addresses and names.
#[derive(Debug, Default)]
pub struct Anonymiser {
    privacy: Privacy,
    scratch: Vec<u8>,
}

impl Anonymiser {
    /// Creates the stage.
    #[must_use]
    pub fn new(privacy: Privacy) -> Self {
        Self {
            privacy,
            scratch: Vec::new(),
        }
    }

    /// Returns whether anything is hidden.
    #[must_use]
    #[inline]
    pub fn hides(&self) -> bool {
        self.privacy.addresses.is_some() || self.privacy.no_names
    }

    /// Whether names are to be hidden.
    #[must_use]
    pub fn hides_names(&self) -> bool {
        self.privacy.no_names
    }

    /// Hides addresses in the envelope. Returns the message with the hidden parts replaced.
    pub fn apply<'a>(
        &'a mut self,
        role: Role,
        envelope: &mut Envelope,
        message: &'a [u8],
    ) -> &'a [u8] {
        if let Some(method) = &self.privacy.addresses {
            if role == Role::Responder {
                method.hide(envelope.peer.address_mut());
                if let Some(proxied) = &mut envelope.proxied {
                    method.hide(proxied.peer.address_mut());
                }
            }
            if !self.privacy.no_names {
                return subnet::hide(method, message, &mut self.scratch);
            }
        }
        if self.privacy.no_names {
            return header(message, &mut self.scratch);
        }
        message
    }
}

/// Returns the header alone, with all counts zero. Returns nothing for a message without a whole
/// header.
fn header<'a>(message: &[u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    scratch.clear();
    if let Some(header) = message.get(..dns::HEADER) {
        scratch.extend_from_slice(&header[..4]);
        scratch.resize(dns::HEADER, 0);
    }
    scratch
}

/// Method of hiding addresses, as on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodName {
    /// `truncate:V4,V6`
    Truncate(Prefixes),
    /// `cryptopan`
    CryptoPan,
}

impl FromStr for MethodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefixes = |text: &str| {
            let (v4, v6) = text.split_once(',')?;
            let (v4, v6) = (v4.parse().ok()?, v6.parse().ok()?);
            (v4 <= 32 && v6 <= 128).then_some(Prefixes { v4, v6 })
        };
        match text.split_once(':') {
            None if text == "cryptopan" => Ok(Self::CryptoPan),
            Some(("truncate", lengths)) => prefixes(lengths)
                .map(Self::Truncate)
                .ok_or_else(|| format!("{lengths:?} is not two lengths such as 24,48")),
            _ => Err("there are truncate:V4,V6, such as truncate:24,48, and cryptopan".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::{
        dns::fixture::message,
        model::{Direction, Endpoint, Family, Proxied},
        record::fixture,
    };

    fn truncate() -> Anonymiser {
        Anonymiser::new(Privacy {
            addresses: Some(Method::Truncate(Prefixes { v4: 24, v6: 48 })),
            no_names: false,
        })
    }

    fn envelope(peer: &str) -> Envelope {
        let record = fixture::whole(fixture::header(), b"x");
        let mut envelope = fixture::parsed(&record).envelope;
        let ip: IpAddr = peer.parse().unwrap();
        envelope.direction = Direction::Received;
        envelope.peer = Endpoint::from((ip, 4_242));
        envelope
    }

    #[rstest]
    #[case::v4("192.0.2.77", "192.0.2.0")]
    #[case::v6("2001:db8:1:2::3", "2001:db8:1::")]
    fn a_client_loses_its_last_bits_and_keeps_its_port(#[case] peer: &str, #[case] left: &str) {
        let mut hidden = envelope(peer);
        let local = hidden.local;
        truncate().apply(Role::Responder, &mut hidden, b"");
        assert_eq!(hidden.peer.ip(), Some(left.parse().unwrap()));
        assert_eq!((hidden.peer.port, hidden.local), (4_242, local));
    }

    #[test]
    fn the_client_behind_a_proxy_is_hidden_too() {
        let mut hidden = envelope("192.0.2.77");
        let end = |ip: &str| Endpoint::from((ip.parse::<IpAddr>().unwrap(), 9));
        hidden.proxied = Some(Proxied {
            family: Family::Inet,
            local: end("198.51.100.53"),
            peer: end("203.0.113.9"),
        });
        truncate().apply(Role::Responder, &mut hidden, b"");
        let proxied = hidden.proxied.unwrap();
        assert_eq!(proxied.peer, end("203.0.113.0"));
        assert_eq!(proxied.local, end("198.51.100.53"));
    }

    #[test]
    fn where_the_process_asks_both_ends_stay() {
        let mut asked = envelope("192.0.2.77");
        let before = asked;
        truncate().apply(Role::Initiator, &mut asked, b"");
        assert_eq!(asked, before);
    }

    #[test]
    fn an_address_without_any_bits_left_is_not_an_unknown_one() {
        let mut hidden = envelope("192.0.2.77");
        let none = Method::Truncate(Prefixes { v4: 0, v6: 0 });
        let mut stage = Anonymiser::new(Privacy {
            addresses: Some(none),
            no_names: false,
        });
        stage.apply(Role::Responder, &mut hidden, b"");
        assert_eq!(hidden.peer.address(), Some(&[0; 4][..]));
    }

    #[test]
    fn without_names_a_header_is_left_that_promises_nothing() {
        let mut stage = Anonymiser::new(Privacy {
            addresses: None,
            no_names: true,
        });
        let bytes = message(0x1234, 0x8183, "secret", 3);
        let mut envelope = envelope("192.0.2.77");
        let left = stage.apply(Role::Responder, &mut envelope, &bytes);
        assert_eq!(left, [0x12, 0x34, 0x81, 0x83, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(
            stage
                .apply(Role::Responder, &mut envelope, b"short")
                .is_empty()
        );
    }

    #[rstest]
    #[case::truncate("truncate:24,48", Ok(MethodName::Truncate(Prefixes { v4: 24, v6: 48 })))]
    #[case::keyed("cryptopan", Ok(MethodName::CryptoPan))]
    #[case::one_length("truncate:24", Err(()))]
    #[case::too_long("truncate:33,48", Err(()))]
    #[case::unknown("hash", Err(()))]
    fn methods_have_names(#[case] text: &str, #[case] method: Result<MethodName, ()>) {
        assert_eq!(text.parse().map_err(drop::<String>), method);
    }

    proptest! {
        #[test]
        fn clearing_keeps_the_first_bits_and_no_other(address: [u8; 16], bits in 0..=128_usize) {
            let mut cleared = address;
            clear_from(&mut cleared, bits);
            let mask = u128::MAX.checked_shl(128 - u32::try_from(bits).unwrap()).unwrap_or(0);
            prop_assert_eq!(u128::from_be_bytes(cleared), u128::from_be_bytes(address) & mask);
        }
    }
}
