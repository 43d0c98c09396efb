//! Owns bitmaps: of types (RFC 4034 section 4.1.2, RFC 2535 section 5.2) and of ports (RFC 1035 section 3.4.2).

use std::fmt;

use crate::dns::mnemonics::Type;

/// A bit for each number, from the highest bit of the first byte on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits<'a> {
    /// Of the first bit.
    base: u16,
    bytes: &'a [u8],
}

impl<'a> Bits<'a> {
    /// Types up to 127, as NXT has them. Bit 0 stands for a format that is not defined.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let fits = bytes.len() <= 16 && bytes.first()? & 0x80 == 0;
        Self::without_padding(bytes).filter(|_| fits)
    }

    /// Ports.
    pub(super) fn of_ports(bytes: &'a [u8]) -> Option<Self> {
        Self::without_padding(bytes).filter(|_| bytes.len() <= 0x1_0000 / 8)
    }

    /// The last byte has to say something: no text would tell how many there are that do not.
    fn without_padding(bytes: &'a [u8]) -> Option<Self> {
        (*bytes.last()? != 0).then_some(Self { base: 0, bytes })
    }

    /// Writes each number that has its bit, by `write`.
    pub(super) fn write(
        self,
        f: &mut fmt::Formatter<'_>,
        write: impl Fn(u16, &mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut separator = "";
        // Bytes first: behind the last there may be no number.
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

/// Windows of 256 types each: number, length, bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows<'a>(&'a [u8]);

impl<'a> Windows<'a> {
    /// `None` if a window is empty, cut, padded or out of order.
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

/// The first window, and what is behind it.
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
