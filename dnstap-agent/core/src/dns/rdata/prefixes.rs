//! Lists of address prefixes (RFC 3123): `1:192.0.2.0/24 !2:2001:db8::/32`.

use std::fmt;

use super::address::{v4, v6};

/// A list of prefixes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefixes<'a>(&'a [u8]);

/// One prefix.
struct Item<'a> {
    is_negated: bool,
    is_v4: bool,
    prefix: u8,
    /// Address without trailing zeros.
    address: &'a [u8],
}

impl<'a> Prefixes<'a> {
    /// Reads the list. Returns `None` if a prefix is cut, has an unknown family, is longer than an
    /// address, or has trailing zeros.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Prefixes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        while let Some((item, behind)) = split(rest) {
            let negation = if item.is_negated { "!" } else { "" };
            let mut address = [0; 16];
            address[..item.address.len()].copy_from_slice(item.address);
            if item.is_v4 {
                write!(f, "{separator}{negation}1:")?;
                v4(address.first_chunk().copied().unwrap_or_default(), f)?;
            } else {
                write!(f, "{separator}{negation}2:")?;
                v6(address, f)?;
            }
            write!(f, "/{}", item.prefix)?;
            (separator, rest) = (" ", behind);
        }
        Ok(())
    }
}

/// Splits off the first prefix. Returns it and the rest.
fn split(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let ([0, family @ 1..=2, prefix, length], rest) = bytes.split_first_chunk()? else {
        return None;
    };
    let is_v4 = *family == 1;
    let (longest, bits) = if is_v4 { (4, 32) } else { (16, 128) };
    let (address, behind) = rest.split_at_checked(usize::from(length & 0x7f))?;
    let fits = address.len() <= longest && *prefix <= bits && address.last() != Some(&0);
    let item = Item {
        is_negated: length & 0x80 != 0,
        is_v4,
        prefix: *prefix,
        address,
    };
    fits.then_some((item, behind))
}
