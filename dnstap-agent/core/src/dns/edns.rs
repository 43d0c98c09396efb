//! The OPT record (RFC 6891 section 6.1) and its options. Each option is read into a name and into
//! members with values.
//!
//! An option without members has data that is cut or does not follow its code's format.
//! [`OptOption::malformed`] then says what is wrong, and the bytes are still available.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{message::Record, name::Name};

/// An OPT record: the sender's EDNS parameters and options.
#[derive(Clone, Copy, Debug)]
pub struct Opt<'a> {
    record: Record<'a>,
}

impl<'a> Opt<'a> {
    /// Wraps an OPT record, whose class and time to live have special meanings.
    #[must_use]
    pub fn of(record: Record<'a>) -> Self {
        Self { record }
    }

    /// Returns the owner name, which has to be the root.
    #[must_use]
    pub fn name(&self) -> Name<'a> {
        self.record.name
    }

    /// Returns the largest UDP payload that the sender accepts, in bytes.
    #[must_use]
    pub fn udp_size(&self) -> u16 {
        self.record.class.0
    }

    /// Returns the upper eight bits of the response code.
    #[must_use]
    pub fn extended_rcode(&self) -> u8 {
        self.record.ttl.to_be_bytes()[0]
    }

    /// Returns the EDNS version; 0 is the only one defined.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.record.ttl.to_be_bytes()[1]
    }

    /// Returns the DO bit: the sender wants DNSSEC records (RFC 3225).
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.record.ttl & 0x8000 != 0
    }

    /// Returns the CO bit: the sender accepts compact answers about names that do not exist (RFC
    /// 9824 section 5.1).
    #[must_use]
    pub fn compact_ok(&self) -> bool {
        self.record.ttl & 0x4000 != 0
    }

    /// Returns the other flags, which have no meaning yet.
    #[must_use]
    pub fn z(&self) -> u16 {
        (self.record.ttl & 0x3fff) as u16
    }

    /// Returns the options in their order. An option that is cut is the last.
    pub fn options(&self) -> impl Iterator<Item = OptOption<'a>> + use<'a> {
        let bytes = self.record.bytes();
        option_places(bytes).map(|place| OptOption::at(place, bytes))
    }
}

/// Position of an option in the data of an OPT record.
pub(crate) struct OptionPlace {
    /// Option code, unless it is cut.
    pub(crate) code: Option<u16>,
    /// Range of the option's data. If the option is cut: the bytes that are left.
    pub(crate) data: Range<usize>,
    /// Reason why the option is cut.
    cut: Option<&'static str>,
}

/// Returns the options in the data of an OPT record, in their order. An option that is cut is the
/// last.
pub(crate) fn option_places(record: &[u8]) -> impl Iterator<Item = OptionPlace> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = record.get(at..).filter(|rest| !rest.is_empty())?;
        let mut place = OptionPlace {
            code: None,
            data: at..record.len(),
            cut: Some("cut within code and length"),
        };
        if let Some([a, b, c, d]) = rest.first_chunk() {
            let begin = at + 4;
            let end = begin + usize::from(u16::from_be_bytes([*c, *d]));
            let is_longer = end > record.len();
            place = OptionPlace {
                code: Some(u16::from_be_bytes([*a, *b])),
                data: begin..end.min(record.len()),
                cut: is_longer.then_some("longer than the record"),
            };
        }
        at = place.data.end;
        Some(place)
    })
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub struct OptOption<'a> {
    /// Option code, unless it is cut.
    pub code: Option<u16>,
    /// Data of the option. If the option is cut: the bytes that are left.
    pub data: &'a [u8],
    /// Description of the format error, if there is one.
    pub malformed: Option<&'static str>,
    members: [Option<Member<'a>>; 5],
}

/// A part of an option: its name, and its value.
pub type Member<'a> = (&'static str, Value<'a>);

/// A part of an option.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// 16-bit numbers.
    Numbers(&'a [[u8; 2]]),
    /// 8-bit numbers.
    Octets(&'a [u8]),
    /// Bytes.
    Hex(&'a [u8]),
    /// Text from the network.
    Text(&'a str),
    /// A fixed English text.
    Word(&'static str),
    /// Address and prefix length.
    Subnet(IpAddr, u8),
    /// A name.
    Name(Name<'a>),
}

impl<'a> OptOption<'a> {
    /// Returns the option's name, if its code has one.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        option_name(self.code?)
    }

    /// Returns the parts of the option, in the order of its data. A malformed option has none, nor
    /// has one whose format is not known.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        self.members.into_iter().flatten()
    }

    /// Returns whether the data says more than the members do.
    #[must_use]
    pub fn needs_hex(&self) -> bool {
        match self.code {
            // Padding consists of zeros (RFC 7830 section 3); then its length says all.
            Some(12) => self.data.iter().any(|byte| *byte != 0),
            _ => self.members[0].is_none() && !self.data.is_empty(),
        }
    }

    /// Reads the option at this position of an OPT record's data.
    fn at(place: OptionPlace, record: &'a [u8]) -> Self {
        let mut option = Self {
            code: place.code,
            data: record.get(place.data).unwrap_or_default(),
            malformed: place.cut,
            members: [None; 5],
        };
        if option.malformed.is_none() {
            match option.decode() {
                Some(members) => option.members = members,
                None => option.malformed = Some("not as its code says"),
            }
        }
        option
    }

    /// Decodes the members. Returns `None` if the data does not follow the code's format.
    fn decode(&self) -> Option<[Option<Member<'a>>; 5]> {
        let data = self.data;
        Some(match self.code? {
            // RFC 8764 section 3.2
            1 => {
                let ([version, opcode, error], rest) = words(data)?;
                let (id, lease) = rest.split_at_checked(8)?;
                [
                    Some(("version", version)),
                    Some(("opcode", opcode)),
                    Some(("error", error)),
                    Some(("id", Value::Hex(id))),
                    Some(("lease", long(lease)?)),
                ]
            }
            // RFC 9664 section 4: with or without the lease of KEY records
            2 => {
                let (lease, key_lease) = data.split_at_checked(4)?;
                let key_lease = match key_lease {
                    [] => None,
                    lease => Some(("key_lease", long(lease)?)),
                };
                [Some(("lease", long(lease)?)), key_lease, None, None, None]
            }
            // NSID (RFC 5001). Vendors also put identities of devices here.
            3 if !data.is_empty() => {
                let text = as_text(data).map(|text| ("text", Value::Text(text)));
                [Some(("hex", Value::Hex(data))), text, None, None, None]
            }
            // RFC 6975
            5..=7 => one("algorithms", Value::Octets(data)),
            8 => subnet(data)?,
            // In queries these options have no value.
            9 | 11 | 19 if data.is_empty() => [None; 5],
            // RFC 7314
            9 => one("expire", long(data)?),
            // RFC 7873 section 4
            10 => {
                let (client, server) = data.split_at_checked(8)?;
                let server = match server.len() {
                    0 => None,
                    8..=32 => Some(("server", Value::Hex(server))),
                    _ => return None,
                };
                [
                    Some(("client", Value::Hex(client))),
                    server,
                    None,
                    None,
                    None,
                ]
            }
            // RFC 7828 section 3.1: units of 100 ms
            11 => {
                let units = u64::from(u16::from_be_bytes(data.try_into().ok()?));
                one("timeout_ms", Value::Number(units * 100))
            }
            12 => one("length", Value::Number(data.len() as u64)),
            // RFC 7901 section 4
            13 => one("trust_point", whole_name(data)?),
            // RFC 8145 section 4.1
            14 => match data.as_chunks() {
                (tags @ [_, ..], []) => one("tags", Value::Numbers(tags)),
                _ => return None,
            },
            15 => error(data)?,
            // draft-bellis-dnsop-edns-tags
            16 | 17 => one(
                "tag",
                Value::Number(u16::from_be_bytes(data.try_into().ok()?).into()),
            ),
            // RFC 9567 section 5
            18 => one("agent_domain", whole_name(data)?),
            // RFC 9660 section 2
            19 => {
                let ([labels, kind], version) = data.split_first_chunk()?;
                let labels = Some(("labels", Value::Number((*labels).into())));
                let version_type = Some(("version_type", Value::Number((*kind).into())));
                let version = match kind {
                    0 => ("serial", long(version)?),
                    _ => ("version_hex", Value::Hex(version)),
                };
                [labels, version_type, Some(version), None, None]
            }
            _ => [None; 5],
        })
    }
}

fn one<'a>(name: &'static str, value: Value<'a>) -> [Option<Member<'a>>; 5] {
    [Some((name, value)), None, None, None, None]
}

/// Decodes RFC 7871 section 6: address family, source prefix length, scope prefix length, and as
/// many address bytes as the source prefix length needs.
fn subnet(data: &[u8]) -> Option<[Option<Member<'_>>; 5]> {
    let ([high, low, source, scope], address) = data.split_first_chunk()?;
    let family = u16::from_be_bytes([*high, *low]);
    let most = match family {
        // `dig +subnet=0` sends family 0 and no address.
        0 => 0,
        1 => 32,
        2 => 128,
        _ => return None,
    };
    let fits = *source <= most
        && *scope <= most
        && address.len() == usize::from(*source).div_ceil(8)
        && (source % 8 == 0 || address.last().is_some_and(|last| last << (source % 8) == 0));
    if !fits {
        return None;
    }
    let mut whole = [0; 16];
    whole[..address.len()].copy_from_slice(address);
    let address: Option<IpAddr> = match (family, whole) {
        (0, _) => None,
        (1, [a, b, c, d, ..]) => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => Some(Ipv6Addr::from(whole).into()),
    };
    Some([
        Some(("family", Value::Number(family.into()))),
        Some(("source", Value::Number((*source).into()))),
        Some(("scope", Value::Number((*scope).into()))),
        address.map(|address| ("subnet", Value::Subnet(address, *source))),
        None,
    ])
}

/// Decodes RFC 8914 section 2: a code, and text in UTF-8.
fn error(data: &[u8]) -> Option<[Option<Member<'_>>; 5]> {
    let (code, text) = data.split_first_chunk()?;
    let code = u16::from_be_bytes(*code);
    let text = match text {
        [] => None,
        // Some senders end the text with a zero byte.
        text => Some(
            match str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)) {
                Ok(text) => ("text", Value::Text(text)),
                Err(_) => ("hex", Value::Hex(text)),
            },
        ),
    };
    let purpose = error_purpose(code).map(|purpose| ("purpose", Value::Word(purpose)));
    Some([
        Some(("info_code", Value::Number(code.into()))),
        purpose,
        text,
        None,
        None,
    ])
}

/// Returns the name of an option by its code (IANA "DNS EDNS0 Option Codes (OPT)").
#[must_use]
pub fn option_name(code: u16) -> Option<&'static str> {
    Some(match code {
        1 => "LLQ",
        2 => "UL",
        3 => "NSID",
        5 => "DAU",
        6 => "DHU",
        7 => "N3U",
        8 => "ECS",
        9 => "EXPIRE",
        10 => "COOKIE",
        11 => "KEEPALIVE",
        12 => "PADDING",
        13 => "CHAIN",
        14 => "KEY-TAG",
        15 => "EDE",
        16 => "CLIENT-TAG",
        17 => "SERVER-TAG",
        18 => "REPORT-CHANNEL",
        19 => "ZONEVERSION",
        20292 => "UMBRELLA-IDENT",
        26946 => "DEVICEID",
        _ => return None,
    })
}

/// Returns the meaning of an extended error by its code (RFC 8914; IANA "Extended DNS Error
/// Codes").
#[must_use]
pub fn error_purpose(code: u16) -> Option<&'static str> {
    const PURPOSES: [&str; 31] = [
        "Other Error",
        "Unsupported DNSKEY Algorithm",
        "Unsupported DS Digest Type",
        "Stale Answer",
        "Forged Answer",
        "DNSSEC Indeterminate",
        "DNSSEC Bogus",
        "Signature Expired",
        "Signature Not Yet Valid",
        "DNSKEY Missing",
        "RRSIGs Missing",
        "No Zone Key Bit Set",
        "NSEC Missing",
        "Cached Error",
        "Not Ready",
        "Blocked",
        "Censored",
        "Filtered",
        "Prohibited",
        "Stale NXDOMAIN Answer",
        "Not Authoritative",
        "Not Supported",
        "No Reachable Authority",
        "Network Error",
        "Invalid Data",
        "Signature Expired before Valid",
        "Too Early",
        "Unsupported NSEC3 Iterations Value",
        "Unable to conform to policy",
        "Synthesized",
        "Invalid Query Type",
    ];
    PURPOSES.get(usize::from(code)).copied()
}

/// Returns the bytes as text, if they are printable ASCII.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    text.chars()
        .all(|char| matches!(char, ' '..='~'))
        .then_some(text)
}

/// Returns the name that fills these bytes. It must not be compressed, because an option is in no
/// message that a pointer could refer to.
fn whole_name(bytes: &[u8]) -> Option<Value<'_>> {
    let (name, behind) = Name::parse(bytes, 0).ok()?;
    (behind == bytes.len() && name.length() == behind).then_some(Value::Name(name))
}

/// Splits 16-bit numbers off the start of the bytes. Returns them and the rest.
fn words<const N: usize>(mut bytes: &[u8]) -> Option<([Value<'_>; N], &[u8])> {
    let mut words = [Value::Number(0); N];
    for word in &mut words {
        let (number, behind) = bytes.split_first_chunk()?;
        *word = Value::Number(u16::from_be_bytes(*number).into());
        bytes = behind;
    }
    Some((words, bytes))
}

/// Returns the 32-bit number that fills these bytes.
fn long(bytes: &[u8]) -> Option<Value<'_>> {
    let number = u32::from_be_bytes(bytes.try_into().ok()?);
    Some(Value::Number(number.into()))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::{super::message::Dns, *};

    /// Builds a message with an OPT record of this TTL and data.
    fn message(ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\0\x01\x80\0\0\0\0\0\0\0\0\x01\0\0\x29\x04\xd0".to_vec();
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn opt(message: &[u8]) -> Opt<'_> {
        let dns = Dns::parse(message).expect("a header");
        let (_, record) = dns.records().next().expect("a record").expect("whole");
        Opt::of(record)
    }

    fn option(code: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).expect("short");
        [&code.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
    }

    /// Prints options as code, name, members, whether bytes are needed, and format error.
    fn told(data: &[u8]) -> String {
        let mut told = String::new();
        for option in opt(&message(0, data)).options() {
            let name = option.name().unwrap_or("-");
            write!(told, "{}{name}", if told.is_empty() { "" } else { "; " }).expect("a String");
            for (name, value) in option.members() {
                let value = match value {
                    Value::Number(number) => number.to_string(),
                    Value::Numbers(numbers) => format!("{numbers:?}"),
                    Value::Octets(bytes) | Value::Hex(bytes) => format!("{bytes:?}"),
                    Value::Text(text) | Value::Word(text) => format!("{text:?}"),
                    Value::Subnet(address, length) => format!("{address}/{length}"),
                    Value::Name(name) => name.to_string(),
                };
                write!(told, " {name}={value}").expect("a String");
            }
            if option.needs_hex() {
                write!(told, " {:?}", option.data).expect("a String");
            }
            if let Some(error) = option.malformed {
                write!(told, " ({error})").expect("a String");
            }
        }
        told
    }

    #[test]
    fn the_time_to_live_is_rcode_version_and_flags() {
        let bytes = message(0x1702_c001, &[]);
        let opt = opt(&bytes);
        assert_eq!(
            (opt.udp_size(), opt.extended_rcode(), opt.version()),
            (1232, 0x17, 2)
        );
        assert_eq!(
            (opt.dnssec_ok(), opt.compact_ok(), opt.z()),
            (true, true, 1)
        );
        assert_eq!(
            (opt.options().count(), opt.name().to_string().as_str()),
            (0, ".")
        );
    }

    #[rstest]
    #[case(
        1,
        b"\0\x01\0\x02\0\x03\x01\x02\x03\x04\x05\x06\x07\x08\0\0\x0e\x10",
        "LLQ version=1 opcode=2 error=3 id=[1, 2, 3, 4, 5, 6, 7, 8] lease=3600"
    )]
    #[case(2, b"\0\0\x0e\x10", "UL lease=3600")]
    #[case(2, b"\0\0\x0e\x10\0\0\0\x01", "UL lease=3600 key_lease=1")]
    #[case(3, b"", "NSID")]
    #[case(3, b"a1", "NSID hex=[97, 49] text=\"a1\"")]
    #[case(3, b"a\x01", "NSID hex=[97, 1]")]
    #[case(5, b"\x08\x0d", "DAU algorithms=[8, 13]")]
    #[case(6, b"", "DHU algorithms=[]")]
    #[case(7, b"\x01", "N3U algorithms=[1]")]
    #[case(
        8,
        b"\0\x01\x18\0\xc6\x33\x64",
        "ECS family=1 source=24 scope=0 subnet=198.51.100.0/24"
    )]
    #[case(8, b"\0\x01\0\0", "ECS family=1 source=0 scope=0 subnet=0.0.0.0/0")]
    #[case(
        8,
        b"\0\x02\x14\x38\x20\x01\xd0",
        "ECS family=2 source=20 scope=56 subnet=2001:d000::/20"
    )]
    #[case(8, b"\0\0\0\0", "ECS family=0 source=0 scope=0")]
    #[case(9, b"", "EXPIRE")]
    #[case(9, b"\0\0\0\x07", "EXPIRE expire=7")]
    #[case(10, b"cookie88", "COOKIE client=[99, 111, 111, 107, 105, 101, 56, 56]")]
    #[case(
        10,
        b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02",
        "COOKIE client=[0, 0, 0, 0, 0, 0, 0, 1] server=[0, 0, 0, 0, 0, 0, 0, 2]"
    )]
    #[case(11, b"", "KEEPALIVE")]
    #[case(11, b"\0\x64", "KEEPALIVE timeout_ms=10000")]
    #[case(12, b"\0\0\0", "PADDING length=3")]
    #[case(12, b"\0\x01", "PADDING length=2 [0, 1]")]
    #[case(13, b"\x03com\0", "CHAIN trust_point=com.")]
    #[case(14, b"\x4f\x66\0\x01", "KEY-TAG tags=[[79, 102], [0, 1]]")]
    #[case(15, b"\0\x12", "EDE info_code=18 purpose=\"Prohibited\"")]
    #[case(
        15,
        b"\0\x1eno\0",
        "EDE info_code=30 purpose=\"Invalid Query Type\" text=\"no\""
    )]
    #[case(15, b"\xc0\0\xff", "EDE info_code=49152 hex=[255]")]
    #[case(16, b"\x01\0", "CLIENT-TAG tag=256")]
    #[case(17, b"\0\x01", "SERVER-TAG tag=1")]
    #[case(18, b"\x01a\x02er\0", "REPORT-CHANNEL agent_domain=a.er.")]
    #[case(19, b"", "ZONEVERSION")]
    #[case(
        19,
        b"\x02\0\x78\xa9\x5b\xcc",
        "ZONEVERSION labels=2 version_type=0 serial=2024365004"
    )]
    #[case(
        19,
        b"\x02\xf6\xab",
        "ZONEVERSION labels=2 version_type=246 version_hex=[171]"
    )]
    #[case(65001, b"\xde\xad", "- [222, 173]")]
    #[case(65001, b"", "-")]
    fn options_are_told_by_name_and_meaning(
        #[case] code: u16,
        #[case] data: &[u8],
        #[case] expected: &str,
    ) {
        assert_eq!(told(&option(code, data)), expected);
    }

    /// Wrong lengths; fields in conflict with each other; names that are cut, followed by other
    /// bytes, or compressed.
    #[rstest]
    #[case(1, &[0; 17])]
    #[case(2, &[0; 5])]
    #[case(8, &[0, 1, 24])]
    #[case(8, &[0, 1, 24, 0, 198, 51])]
    #[case(8, &[0, 1, 20, 0, 198, 51, 100])]
    #[case(8, &[0, 1, 33, 0, 198, 51, 100, 1, 1])]
    #[case(8, &[0, 1, 24, 33, 198, 51, 100])]
    #[case(8, &[0, 3, 0, 0])]
    #[case(9, &[0; 3])]
    #[case(10, &[0; 7])]
    #[case(10, &[0; 15])]
    #[case(10, &[0; 41])]
    #[case(11, &[0; 1])]
    #[case(13, b"\x03co")]
    #[case(14, &[])]
    #[case(14, &[0; 3])]
    #[case(15, &[0])]
    #[case(16, &[0; 3])]
    #[case(18, b"\x01a\0\0")]
    #[case(18, b"\x01a\xc0\0")]
    #[case(19, &[0, 0, 1])]
    fn a_malformed_option_has_its_bytes_and_no_members(#[case] code: u16, #[case] data: &[u8]) {
        let bytes = message(0, &[option(code, data), option(3, b"")].concat());
        let [bad, next] = opt(&bytes).options().collect::<Vec<_>>()[..] else {
            panic!("two options");
        };
        assert_eq!((bad.code, bad.data), (Some(code), data));
        assert!(bad.malformed.is_some() && bad.members().next().is_none());
        assert_eq!(bad.needs_hex(), !data.is_empty());
        assert_eq!((next.code, next.malformed), (Some(3), None));
    }

    #[test]
    fn options_that_are_cut_are_the_last() {
        let expected = "NSID; - [0, 8, 0] (cut within code and length)";
        assert_eq!(told(&[option(3, b""), vec![0, 8, 0]].concat()), expected);
        let expected = "ECS [1, 2] (longer than the record)";
        assert_eq!(told(&[0, 8, 0, 3, 1, 2]), expected);
    }

    proptest! {
        #[test]
        fn any_options_are_told(
            options in prop::collection::vec((0..22_u16, prop::collection::vec(any::<u8>(), 0..24)), 0..6),
            cut in 0..30_usize,
        ) {
            let mut data: Vec<u8> = options.iter().flat_map(|(code, data)| option(*code, data)).collect();
            data.truncate(data.len().saturating_sub(cut));
            let bytes = message(0, &data);
            let told: usize = opt(&bytes)
                .options()
                .map(|option| option.data.len() + if option.code.is_some() { 4 } else { 0 })
                .sum();
            // Every byte is in one of the options.
            prop_assert_eq!(told, data.len());
        }
    }
}
