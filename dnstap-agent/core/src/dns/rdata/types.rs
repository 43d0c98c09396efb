//! Bitmaps of types (RFC 4034 section 4.1.2, RFC 2535 section 5.2) and of ports (RFC 1035 section
//! 3.4.2).

use std::fmt;

use crate::dns::mnemonics::Type;

/// A bitmap with one bit per number, from the highest bit of the first byte on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits<'a> {
    /// Number of the first bit.
    base: u16,
    bytes: &'a [u8],
}

impl<'a> Bits<'a> {
    /// Reads a bitmap of types up to 127, as in NXT. Bit 0 would mean another format, which is not
    /// defined.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let fits = bytes.len() <= 16 && bytes.first()? & 0x80 == 0;
        Self::without_padding(bytes).filter(|_| fits)
    }

    /// Reads a bitmap of ports.
    pub(super) fn of_ports(bytes: &'a [u8]) -> Option<Self> {
        Self::without_padding(bytes).filter(|_| bytes.len() <= 0x1_0000 / 8)
    }

    /// Refuses a bitmap whose last byte is zero: the text could not show how many such bytes there
    /// are.
    fn without_padding(bytes: &'a [u8]) -> Option<Self> {
        (*bytes.last()? != 0).then_some(Self { base: 0, bytes })
    }

    /// Writes each number whose bit is set, by `write`.
    pub(super) fn write(
        self,
        f: &mut fmt::Formatter<'_>,
        write: impl Fn(u16, &mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut separator = "";
        // Zip the bytes first: the range may end right after the last byte.
        for (byte, number) in self.bytes.iter().zip((self.base..=u16::MAX).step_by(8)) {
            for bit in 0..8 {
                if byte & 0x80 >> bit != 0 {
                    f.write_str(separator)?;
                    write(number + bit, f)?;
                    separator = " ";
                }
            }
        }
        Ok(())
    }
}

/// Bitmaps in windows of 256 types each: number, length, bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows<'a>(&'a [u8]);

impl<'a> Windows<'a> {
    /// Reads the windows. Returns `None` if one is empty, cut, padded or out of order.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut last = None;
        while !rest.is_empty() {
            let (bits, behind) = split(rest)?;
            if last.is_some_and(|last| bits.base <= last) {
                return None;
            }
            last = Some(bits.base);
            rest = behind;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Windows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        while let Some((bits, behind)) = split(rest) {
            f.write_str(separator)?;
            bits.write(f, |number, f| Type(number).fmt(f))?;
            (separator, rest) = (" ", behind);
        }
        Ok(())
    }
}

/// Splits off the first window. Returns it and the rest.
fn split(bytes: &[u8]) -> Option<(Bits<'_>, &[u8])> {
    let ([window, length @ 1..=32], rest) = bytes.split_first_chunk()? else {
        return None;
    };
    let (bytes, behind) = rest.split_at_checked((*length).into())?;
    let bits = Bits {
        base: u16::from(*window) << 8,
        ..Bits::without_padding(bytes)?
    };
    Some((bits, behind))
}
