//! Random record data of every type: a second table of types, which lists the fields of each in words.

use crate::chance::Chance;

/// Type, its number, and its fields: a number is the size of an integer in bytes; words are listed in [`Maker::field`].
pub(super) const TYPES: [(&str, u16, &str); 75] = [
    ("A", 1, "4"),
    ("NS", 2, "name"),
    ("MD", 3, "name"),
    ("MF", 4, "name"),
    ("CNAME", 5, "name"),
    ("SOA", 6, "name name 4 4 4 4 4"),
    ("MB", 7, "name"),
    ("MG", 8, "name"),
    ("MR", 9, "name"),
    ("NULL", 10, "bytes"),
    ("WKS", 11, "4 1 bits"),
    ("PTR", 12, "name"),
    ("HINFO", 13, "text text"),
    ("MINFO", 14, "name name"),
    ("MX", 15, "2 name"),
    ("TXT", 16, "texts"),
    ("RP", 17, "name name"),
    ("AFSDB", 18, "2 name"),
    ("X25", 19, "digits"),
    ("ISDN", 20, "text text"),
    ("RT", 21, "2 name"),
    ("NSAP", 22, "bytes"),
    ("NSAP-PTR", 23, "name"),
    ("SIG", 24, "type algorithm 1 4 time time 2 name bytes"),
    ("KEY", 25, "flags 1 algorithm bytes"),
    ("PX", 26, "2 name name"),
    ("GPOS", 27, "digits digits digits"),
    ("AAAA", 28, "16"),
    ("LOC", 29, "loc"),
    ("NXT", 30, "name old-types"),
    ("EID", 31, "bytes"),
    ("NIMLOC", 32, "bytes"),
    ("SRV", 33, "2 2 2 name"),
    ("ATMA", 34, "atm"),
    ("NAPTR", 35, "2 2 text text expression name"),
    ("KX", 36, "2 name"),
    ("CERT", 37, "2 2 algorithm bytes"),
    ("A6", 38, "a6"),
    ("DNAME", 39, "name"),
    ("SINK", 40, "1 1 1 bytes"),
    ("APL", 42, "prefixes"),
    ("DS", 43, "2 1 digest"),
    ("SSHFP", 44, "1 fingerprint"),
    ("IPSECKEY", 45, "1 gateway"),
    (
        "RRSIG",
        46,
        "type algorithm labels 4 time time 2 name bytes",
    ),
    ("NSEC", 47, "name types"),
    ("DNSKEY", 48, "flags 1 algorithm bytes"),
    ("DHCID", 49, "bytes"),
    ("NSEC3", 50, "1 1 2 salt hash types"),
    ("NSEC3PARAM", 51, "1 1 2 salt"),
    ("TLSA", 52, "1 1 1 bytes"),
    ("SMIMEA", 53, "1 1 1 bytes"),
    ("HIP", 55, "hip"),
    ("NINFO", 56, "texts"),
    ("RKEY", 57, "no-flags 1 algorithm bytes"),
    ("TALINK", 58, "name name"),
    ("CDS", 59, "2 1 digest"),
    ("CDNSKEY", 60, "flags 1 algorithm bytes"),
    ("OPENPGPKEY", 61, "bytes"),
    ("CSYNC", 62, "4 2 types"),
    ("ZONEMD", 63, "4 zone-digest"),
    ("SVCB", 64, "2 name params"),
    ("HTTPS", 65, "2 name params"),
    ("SPF", 99, "texts"),
    ("NID", 104, "2 8"),
    ("L32", 105, "2 4"),
    ("L64", 106, "2 8"),
    ("LP", 107, "2 name"),
    ("EUI48", 108, "6"),
    ("EUI64", 109, "8"),
    ("URI", 256, "2 2 bytes"),
    ("CAA", 257, "1 tag bytes"),
    ("DOA", 259, "4 4 1 text bytes"),
    ("AMTRELAY", 260, "1 relay"),
    ("DLV", 32769, "2 1 digest"),
];

/// More types with their fields: types that BIND may know by another name, and types that only newer programs know.
pub(super) const NEWER: [(&str, u16, &str); 7] = [
    ("DSYNC", 66, "type 1 2 name"),
    ("HHIT", 67, "bytes"),
    ("BRID", 68, "bytes"),
    ("AVC", 258, "texts"),
    ("RESINFO", 261, "texts"),
    ("WALLET", 262, "texts"),
    ("TA", 32768, "2 1 digest"),
];

/// Makes data of a type with these fields.
pub(super) fn of(fields: &str, chance: &mut Chance) -> Vec<u8> {
    let mut maker = Maker {
        chance,
        data: Vec::new(),
    };
    for field in fields.split(' ') {
        maker.field(field);
    }
    maker.data
}

struct Maker<'c> {
    chance: &'c mut Chance,
    data: Vec<u8>,
}

impl Maker<'_> {
    fn field(&mut self, field: &str) {
        match field {
            "name" => self.name(),
            "bytes" => self.some(1..40),
            "text" => self.text(0..20),
            "texts" => {
                for _ in 0..=self.below(3) {
                    self.text(0..20);
                }
            }
            "digits" => {
                let length = 4 + self.below(8);
                self.data.push(length);
                self.digits(length);
            }
            // A substitution, which BIND checks (RFC 3402 section 3.2), or none.
            "expression" => match self.below(2) {
                0 => self.data.push(0),
                _ => self.data.extend(b"\x0f!^(.*)\\.$!\"\\1!i"),
            },
            // Not the algorithms for private use, whose keys BIND checks.
            "algorithm" => {
                let algorithm = self.below(253);
                self.data.push(algorithm);
            }
            // BIND refuses fewer labels than the signer's name has.
            "labels" => {
                let labels = self.byte() | 0x80;
                self.data.push(labels);
            }
            "no-flags" => self.data.extend([0, 0]),
            "tag" => self.data.extend(b"\x05issue"),
            // There is no key if the upper bits are set (RFC 2535 section 3.1.2).
            "flags" => {
                let flags = [self.below(0xc0), self.byte()];
                self.data.extend(flags);
            }
            // Times before 2038: BIND reads later ones as times of the previous century.
            "time" => {
                let first = self.below(0x80);
                self.data.push(first);
                self.some(3..4);
            }
            "type" => {
                let choices: [u16; 6] = [1, 6, 46, 65, 257, 65_280];
                let kind = *self.chance.of(&choices);
                self.data.extend(kind.to_be_bytes());
            }
            "types" => self.windows(),
            "old-types" => {
                let first = self.below(0x80);
                self.data.push(first);
                self.bits(1..15);
            }
            "bits" => self.bits(1..30),
            "salt" => self.text(0..10),
            "hash" => self.text(1..30),
            field => self.structure(field),
        }
    }

    /// Adds a field that has parts.
    fn structure(&mut self, field: &str) {
        match field {
            "digest" => {
                let (kind, length) = *self.chance.of(&[(1, 20), (2, 32), (4, 48), (200, 7)]);
                self.data.push(kind);
                self.some(length..length + 1);
            }
            "fingerprint" => {
                let (kind, length) = *self.chance.of(&[(1, 20), (2, 32), (77, 9)]);
                self.data.push(kind);
                self.some(length..length + 1);
            }
            "zone-digest" => {
                let (scheme, kind, length) =
                    *self.chance.of(&[(1, 1, 48), (1, 2, 64), (250, 240, 12)]);
                self.data.extend([scheme, kind]);
                self.some(length..length + 1);
            }
            "loc" => self.loc(),
            "atm" => {
                let is_phone = self.below(2);
                self.data.push(is_phone);
                if is_phone == 1 {
                    self.digits(11);
                } else {
                    self.some(20..21);
                }
            }
            "a6" => {
                let prefix = self.below(129);
                self.data.push(prefix);
                let suffix = usize::from(16 - prefix / 8);
                let start = self.data.len();
                self.some(suffix..suffix + 1);
                if let Some(first) = self.data.get_mut(start) {
                    *first &= 0xff >> (prefix % 8);
                }
                if prefix > 0 {
                    self.name();
                }
            }
            "prefixes" => {
                for _ in 0..=self.below(3) {
                    self.prefix();
                }
            }
            "gateway" => {
                let kind = self.below(4);
                let algorithm = self.byte();
                self.data.extend([kind, algorithm]);
                self.address(kind);
                self.some(1..40);
            }
            "relay" => {
                let kind = self.below(4);
                let discovery = 0x80 * self.below(2);
                self.data.push(discovery | kind);
                self.address(kind);
            }
            "hip" => {
                let (hit, key) = (1 + self.below(20), 1 + self.below(40));
                let algorithm = self.byte();
                self.data.extend([hit, algorithm, 0, key]);
                let length = usize::from(hit) + usize::from(key);
                self.some(length..length + 1);
                for _ in 0..self.below(3) {
                    self.name();
                }
            }
            "params" => self.params(),
            bytes => {
                let length = bytes
                    .parse()
                    .expect("a number of bytes, or a word from here");
                self.some(length..length + 1);
            }
        }
    }

    fn below(&mut self, end: u8) -> u8 {
        u8::try_from(self.chance.below(end.into())).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.chance.below(256).to_le_bytes()[0]
    }

    /// Adds this many random bytes, including bytes that must be escaped.
    fn some(&mut self, lengths: std::ops::Range<usize>) {
        let more = self.chance.below((lengths.end - lengths.start) as u64);
        for _ in 0..lengths.start + usize::try_from(more).unwrap_or(0) {
            let byte = match self.below(3) {
                0 => *self.chance.of(br#"azAZ09 ."\;()@$,"#),
                _ => self.byte(),
            };
            self.data.push(byte);
        }
    }

    fn digits(&mut self, length: u8) {
        for _ in 0..length {
            let digit = b'0' + self.below(10);
            self.data.push(digit);
        }
    }

    /// Adds bytes with their length before them.
    fn text(&mut self, lengths: std::ops::Range<usize>) {
        let at = self.data.len();
        self.data.push(0);
        self.some(lengths);
        self.data[at] = u8::try_from(self.data.len() - at - 1).expect("short");
    }

    fn name(&mut self) {
        for _ in 0..self.below(4) {
            self.text(1..10);
        }
        self.data.push(0);
    }

    fn address(&mut self, kind: u8) {
        match kind {
            1 => self.some(4..5),
            2 => self.some(16..17),
            3 => self.name(),
            _ => {}
        }
    }

    /// Adds bytes, the last of which is not zero.
    fn bits(&mut self, lengths: std::ops::Range<usize>) {
        self.some(lengths);
        self.data.push(1 << self.chance.below(8));
    }

    /// Adds a bitmap with types that have a name, and types for private use.
    fn windows(&mut self) {
        self.data.extend([0, 7, 0x62, 0x01, 0x80, 0x08, 0, 0x03]);
        self.data.push(0x80);
        let at = self.data.len();
        self.data.extend([0xff, 0]);
        self.bits(0..20);
        self.data[at + 1] = u8::try_from(self.data.len() - at - 2).expect("short");
    }

    /// Adds a location: version, sizes, and a place on Earth.
    fn loc(&mut self) {
        self.data.push(0);
        for _ in 0..3 {
            let (digit, power) = (1 + self.below(9), self.below(10));
            self.data.push(digit << 4 | power);
        }
        for degrees in [90, 180] {
            let seconds = self.chance.below(2 * degrees * 3_600_000 + 1);
            let place = (1 << 31) - degrees * 3_600_000 + seconds;
            self.data.extend(&place.to_be_bytes()[4..]);
        }
        self.some(4..5);
    }

    fn prefix(&mut self) {
        let (family, bits, longest) = *self.chance.of(&[(1, 32, 4), (2, 128, 16)]);
        let (prefix, negation) = (self.below(bits + 1), 0x80 * self.below(2));
        self.data.extend([0, family, prefix]);
        let at = self.data.len();
        self.data.push(0);
        if self.below(4) > 0 {
            self.bits(0..longest);
        }
        self.data[at] = negation | u8::try_from(self.data.len() - at - 1).expect("short");
    }

    /// Adds some of the keys of RFC 9460, and private ones. BIND does not know the names of keys that were registered
    /// later.
    fn params(&mut self) {
        let mut params: Vec<(u16, Vec<u8>)> = Vec::new();
        for key in [1, 3, 4, 5, 6, 667, 65_280] {
            if self.below(2) == 0 {
                continue;
            }
            let mut maker = Maker {
                chance: self.chance,
                data: Vec::new(),
            };
            match key {
                1 => (0..2).for_each(|_| maker.text(1..9)),
                3 => maker.some(2..3),
                4 => maker.some(8..9),
                6 => maker.some(32..33),
                5 => maker.some(1..20),
                _ => maker.some(0..20),
            }
            params.push((key, maker.data));
        }
        if params.first().is_some_and(|(key, _)| *key == 1) {
            params.insert(1, (2, Vec::new()));
            let keys: Vec<_> = params
                .iter()
                .flat_map(|(key, _)| key.to_be_bytes())
                .collect();
            params.insert(0, (0, keys));
        }
        for (key, value) in params {
            self.data.extend(key.to_be_bytes());
            let length = u16::try_from(value.len()).expect("short");
            self.data.extend(length.to_be_bytes());
            self.data.extend(value);
        }
    }
}
