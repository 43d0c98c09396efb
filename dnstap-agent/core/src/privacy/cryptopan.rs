//! Crypto-PAn: keyed replacement of addresses that preserves prefixes, after Xu, Fan, Ammar and
//! Moon, "Prefix-Preserving IP Address Anonymization" (ICNP 2002). It uses AES-128, the paper's
//! cipher, and treats all 128 bits of IPv6 in the same way.
//!
//! The n bits before bit n of the address are filled up with a secret pad and encrypted. Bit n is
//! inverted if the first bit of the result is set. So two addresses with n common first bits have n
//! common first bits afterwards. Without the key nothing else can be learnt. (The attacks in the
//! paper apply here, too: an attacker who can make the server see chosen addresses learns the
//! replacements of their prefixes.)

use std::fmt;

use aes::{
    Aes128,
    cipher::{Block, BlockEncrypt as _, KeyInit as _},
};

/// Bytes of a key: 16 for the cipher, 16 for the pad.
pub const KEY: usize = 32;

/// A key, ready for use.
#[derive(Clone)]
pub struct CryptoPan {
    cipher: Aes128,
    pad: u128,
}

impl fmt::Debug for CryptoPan {
    /// Prints nothing of the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CryptoPan")
    }
}

impl CryptoPan {
    /// Creates the cipher and the pad from a key.
    #[must_use]
    pub fn new(key: &[u8; KEY]) -> Self {
        let (cipher, pad) = key.split_at(16);
        let cipher = Aes128::new(cipher.into());
        let mut block = Block::<Aes128>::clone_from_slice(pad);
        cipher.encrypt_block(&mut block);
        Self {
            pad: u128::from_be_bytes(block.into()),
            cipher,
        }
    }

    /// Reads a key from a file's content: 32 bytes, or 64 hexadecimal digits.
    pub fn from_file(bytes: &[u8]) -> Result<Self, String> {
        if let Ok(key) = bytes.try_into() {
            return Ok(Self::new(key));
        }
        let mut key = [0; KEY];
        let digits = bytes.trim_ascii();
        let pairs = digits.chunks_exact(2).map(|pair| {
            let pair = pair.is_ascii().then(|| str::from_utf8(pair).ok())??;
            u8::from_str_radix(pair, 16).ok()
        });
        let whole = digits.len() == 2 * KEY
            && digits.iter().all(u8::is_ascii_hexdigit)
            && key
                .iter_mut()
                .zip(pairs)
                .all(|(byte, pair)| pair.map(|pair| *byte = pair).is_some());
        if whole {
            Ok(Self::new(&key))
        } else {
            Err(format!(
                "a key is {KEY} bytes or {} hexadecimal digits",
                2 * KEY
            ))
        }
    }

    /// Replaces an address of at most 16 bytes.
    pub(super) fn hide(&self, address: &mut [u8]) {
        let bits = 8 * address.len().min(16);
        let mut whole = [0; 16];
        whole[..bits / 8].copy_from_slice(&address[..bits / 8]);
        let whole = u128::from_be_bytes(whole);
        // All inputs are encrypted together, because the cipher processes several blocks in
        // parallel.
        let mut blocks = [Block::<Aes128>::default(); 128];
        for (before, block) in blocks[..bits].iter_mut().enumerate() {
            // The bits before this one come from the address, the others from the pad.
            let rest = u128::MAX >> before;
            *block = ((whole & !rest) | (self.pad & rest)).to_be_bytes().into();
        }
        self.cipher.encrypt_blocks(&mut blocks[..bits]);
        for (at, block) in blocks[..bits].iter().enumerate() {
            address[at / 8] ^= (block[0] >> 7) << (7 - at % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// Key of the sample in the authors' implementation.
    const SAMPLE: [u8; KEY] = [
        21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16, 216, 152, 143, 131,
        121, 121, 101, 39, 98, 87, 76, 45, 42, 132, 34, 2,
    ];

    fn hidden(address: IpAddr) -> IpAddr {
        let keyed = CryptoPan::new(&SAMPLE);
        match address {
            IpAddr::V4(address) => {
                let mut octets = address.octets();
                keyed.hide(&mut octets);
                octets.into()
            }
            IpAddr::V6(address) => {
                let mut octets = address.octets();
                keyed.hide(&mut octets);
                octets.into()
            }
        }
    }

    /// IPv4 cases come from the authors' sample trace, IPv6 cases from other implementations' tests
    /// with the same key.
    #[rstest]
    #[case("128.11.68.132", "135.242.180.132")]
    #[case("129.118.74.4", "134.136.186.123")]
    #[case("130.132.252.244", "133.68.164.234")]
    #[case("141.223.7.43", "141.167.8.160")]
    #[case("141.233.145.108", "141.129.237.235")]
    #[case("152.163.225.39", "151.140.114.167")]
    #[case("156.29.3.236", "147.225.12.42")]
    #[case("165.247.96.84", "162.9.99.234")]
    #[case("166.107.77.190", "160.132.178.185")]
    #[case("192.102.249.13", "252.138.62.131")]
    #[case("192.215.32.125", "252.43.47.189")]
    #[case("192.233.80.103", "252.25.108.8")]
    #[case("::1", "78ff:f001:9fc0:20df:8380:b1f1:704:ed")]
    #[case("::2", "78ff:f001:9fc0:20df:8380:b1f1:704:ef")]
    #[case("::ffff", "78ff:f001:9fc0:20df:8380:b1f1:704:f838")]
    #[case("2001:db8::1", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e")]
    #[case("2001:db8::2", "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1c")]
    fn addresses_become_what_others_make_of_them(#[case] from: IpAddr, #[case] to: IpAddr) {
        assert_eq!(hidden(from), to);
    }

    #[test]
    fn a_key_is_bytes_or_digits() {
        let digits = SAMPLE.map(|byte| format!("{byte:02x}")).concat();
        let of = |bytes: &[u8]| {
            let mut address = [192, 0, 2, 1];
            CryptoPan::from_file(bytes).map(|keyed| {
                keyed.hide(&mut address);
                address
            })
        };
        assert!(of(&SAMPLE).is_ok());
        assert_eq!(of(format!("{digits}\n").as_bytes()), of(&SAMPLE));
        for wrong in [
            &b""[..],
            &SAMPLE[1..],
            &digits.as_bytes()[1..],
            digits.replace('a', "g").as_bytes(),
            format!("+{}", &digits[1..]).as_bytes(),
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(format!("{:?}", CryptoPan::new(&SAMPLE)), "CryptoPan");
    }

    proptest! {
        #[test]
        fn addresses_share_as_many_bits_as_before(key: [u8; KEY], one: [u8; 16], other: [u8; 16], common in 0..=128_u32) {
            let keyed = CryptoPan::new(&key);
            // The second address shares some bits with the first.
            let mask = u128::MAX.checked_shr(common).unwrap_or(0);
            let other = (u128::from_be_bytes(one) & !mask | u128::from_be_bytes(other) & mask).to_be_bytes();
            for length in [4, 16] {
                let (mut a, mut b) = (one, other);
                keyed.hide(&mut a[..length]);
                keyed.hide(&mut b[..length]);
                let shared = |a: &[u8], b: &[u8]| {
                    let bits = |bytes: &[u8]| bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
                    (bits(a) ^ bits(b)).leading_zeros()
                };
                prop_assert_eq!(shared(&a[..length], &b[..length]), shared(&one[..length], &other[..length]));
                let mut again = one;
                keyed.hide(&mut again[..length]);
                prop_assert_eq!(a, again);
            }
        }
    }
}
