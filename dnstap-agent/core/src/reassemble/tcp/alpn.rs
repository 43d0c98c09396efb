//! Reads the first message of a TLS client (RFC 8446 section 4.1.2), as far as needed to know which
//! protocols it offers (ALPN, RFC 7301).
//!
//! DNS over HTTPS is HTTP/2, for which TLS clients must use ALPN (RFC 9113 section 3.2). DNS over
//! TLS has the name `dot`, and works without ALPN, too.

/// Handshake record, and its first message of the client.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Number of the extension.
const ALPN: u16 = 16;
/// Name of HTTP/2 over TLS.
const HTTP2: &[u8] = b"h2";
/// Name of DNS over TLS (RFC 7858 section 3.1, RFC 8310).
const DOT: &[u8] = b"dot";

/// Returns whether a client that begins with these bytes offers HTTP/2 and not `dot`. `None` if they are not the
/// first message of a TLS client, or if a part of it is missing.
pub(super) fn asks_for_http(bytes: &[u8]) -> Option<bool> {
    let message = handshake(bytes)?;
    let mut rest = Rest(&message);
    if rest.number(1)? != usize::from(CLIENT_HELLO) {
        return None;
    }
    let mut hello = Rest(rest.counted(3)?);
    // Version and random bytes; session, cipher suites, compression methods.
    hello.take(2 + 32)?;
    for width in [1, 2, 1] {
        hello.counted(width)?;
    }
    if hello.0.is_empty() {
        return Some(false);
    }
    let mut extensions = Rest(hello.counted(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.counted(2)?;
        if kind != usize::from(ALPN) {
            continue;
        }
        let mut names = Rest(Rest(content).counted(2)?);
        let mut offers_http = false;
        while !names.0.is_empty() {
            match names.counted(1)? {
                DOT => return Some(false),
                name => offers_http |= name == HTTP2,
            }
        }
        return Some(offers_http);
    }
    Some(false)
}

/// Joins the content of the handshake records at the start.
fn handshake(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Rest(bytes);
    let mut message = Vec::new();
    while let Some([HANDSHAKE, 3, _]) = rest.take(3) {
        // The last record may go on in bytes that have not come.
        let Some(content) = rest.counted(2) else {
            break;
        };
        message.extend_from_slice(content);
    }
    (!message.is_empty()).then_some(message)
}

/// Bytes that have not been read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a number of at most three bytes.
    fn number(&mut self, width: usize) -> Option<usize> {
        let bytes = self.take(width)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, &byte| sum << 8 | usize::from(byte)),
        )
    }

    /// Reads bytes that follow their count.
    fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        let before = self.0;
        let count = self.number(width)?;
        let taken = self.take(count);
        if taken.is_none() {
            self.0 = before;
        }
        taken
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(width: usize, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[4 - width..], bytes].concat()
    }

    /// Builds the first message of a client that offers these protocols.
    pub(crate) fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let names: Vec<_> = protocols.iter().flat_map(|name| counted(1, name)).collect();
        let server_name = [&[0, 0][..], &counted(2, b"xxxx")].concat();
        let mut extensions = server_name;
        if !protocols.is_empty() {
            extensions.extend([0, 16]);
            extensions.extend(counted(2, &counted(2, &names)));
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &counted(1, &[9; 32]),
            &counted(2, &[0x13, 1]),
            &counted(1, &[0]),
            &counted(2, &extensions),
        ]
        .concat();
        let message = [&[1][..], &counted(3, &body)].concat();
        [&[22, 3, 1][..], &counted(2, &message)].concat()
    }

    #[test]
    fn http_is_what_the_client_offers() {
        assert_eq!(asks_for_http(&hello(&[b"h2"])), Some(true));
        assert_eq!(asks_for_http(&hello(&[b"http/1.1", b"h2"])), Some(true));
        assert_eq!(asks_for_http(&hello(&[b"dot"])), Some(false));
        assert_eq!(asks_for_http(&hello(&[])), Some(false));
        assert_eq!(asks_for_http(&hello(&[b"dot", b"h2"])), Some(false));
        assert_eq!(asks_for_http(&hello(&[b"h2", b"dot"])), Some(false));
        let whole = hello(&[b"h2"]);
        for length in 0..whole.len() {
            assert_eq!(asks_for_http(&whole[..length]), None, "{length}");
        }
        assert_eq!(
            asks_for_http(&[&whole, &b"\x14\x03\x03"[..]].concat()),
            Some(true)
        );
        assert_eq!(asks_for_http(b"\x17\x03\x03\x00\x02xx"), None, "midway");
    }

    #[test]
    fn a_message_may_be_split_over_records() {
        let whole = hello(&[b"h2"]);
        let (first, second) = whole[5..].split_at(20);
        let mut split = vec![22, 3, 1];
        split.extend(counted(2, first));
        split.extend([22, 3, 1]);
        split.extend(counted(2, second));
        assert_eq!(asks_for_http(&split), Some(true));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = asks_for_http(&bytes);
            let _ = asks_for_http(&[&hello(&[b"h2"])[..43], &bytes].concat());
        }
    }
}
