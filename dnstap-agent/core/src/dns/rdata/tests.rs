//! Compares data of each type with its text: examples from RFCs, limits of the fields, and
//! properties that hold for any bytes.

use proptest::prelude::*;
use rstest::rstest;

use super::{fields, *};
use crate::dns::mnemonics::Class;

/// Offset of the data, behind a header of 12 bytes and the name `a.`, to which pointers (`c00c`)
/// may lead.
const DATA: usize = 15;

/// Prints data of that class and type.
fn print(class: u16, kind: u16, data: &[u8]) -> String {
    printed(class, kind, data, |data| data.to_string())
}

fn printed(class: u16, kind: u16, data: &[u8], how: fn(&Rdata<'_>) -> String) -> String {
    let message = [b"header......\x01a\0", data].concat();
    let (name, _) = Name::parse(&message, 12).expect("a name");
    let record = Record {
        name,
        kind: Type(kind),
        class: Class(class),
        ttl: 0,
        data: DATA,
        length: u16::try_from(data.len()).expect("small"),
    };
    how(&Rdata::of(&record))
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    HEXUPPER.decode(hex.to_uppercase().as_bytes()).expect("hex")
}

#[rstest]
// NS and the other types that are a name, with and without a pointer; RFC 4343 section 2.1
#[case(2, "026e73c00c", "ns.a.")]
#[case(3, "00", ".")]
#[case(4, "c00c", "a.")]
#[case(5, "0161c00c", "a.a.")]
#[case(7, "c00c", "a.")]
#[case(8, "c00c", "a.")]
#[case(9, "c00c", "a.")]
#[case(12, "042e5c2240 00", r#"\.\\\"\@."#)]
#[case(23, "c00c", "a.")]
#[case(39, "0320007f00", r"\032\000\127.")]
#[case(1, "c0000207", "192.0.2.7")]
#[case(28, "20010db8000000000000000000000001", "2001:db8::1")]
#[case(28, "00000000000000000000ffffc0000201", "::ffff:192.0.2.1")]
// As inet_ntop has it
#[case(28, "000000000000000000000000c0000201", "::192.0.2.1")]
#[case(28, "00000000000000000000000000000102", "::102")]
#[case(
    6,
    "c00c c00c 00000001 00000e10 00000384 00093a80 ffffffff",
    "a. a. 1 3600 900 604800 4294967295"
)]
// RFC 1035 section 3.4.2: ports 25 and 80 of TCP
#[case(11, "c0000201 06 0000004000000000 000080", "192.0.2.1 6 25 80")]
#[case(11, "c0000201 11", "192.0.2.1 17")]
#[case(13, "0378 2079 00", r#""x y" """#)]
#[case(14, "c00cc00c", "a. a.")]
#[case(15, "000ac00c", "10 a.")]
#[case(16, r"0461222f5c 00 02c3bc", r#""a\"/\\" "" "\195\188""#)]
#[case(17, "c00c00", "a. .")]
#[case(18, "0001c00c", "1 a.")]
#[case(19, "06313233343536", r#""123456""#)]
#[case(20, "0131", r#""1""#)]
#[case(20, "0131 0132", r#""1" "2""#)]
#[case(21, "0002c00c", "2 a.")]
// RFC 1706 section 5
#[case(
    22,
    "47000580005a0000000001e133ffffff00016100",
    "0x47000580005a0000000001e133ffffff00016100"
)]
#[case(
    24,
    "0000 0d 01 00000000 5e0be100 5c2aad80 3039 c00c 0102",
    "0 13 1 0 20200101000000 20190101000000 12345 a. AQI="
)]
#[case(
    24,
    "ff00 05 01 00000000 00000000 ffffffff 0001 00 01",
    "65280 5 1 0 19700101000000 21060207062815 1 . AQ=="
)]
#[case(
    46,
    "0001 fe 02 00000e10 5e0be100 5c2aad80 3039 c00c 0102",
    "A 254 2 3600 20200101000000 20190101000000 12345 a. AQI="
)]
#[case(
    46,
    "ff00 05 01 00000000 00000000 ffffffff 0001 00 01",
    "TYPE65280 5 1 0 19700101000000 21060207062815 1 . AQ=="
)]
#[case(25, "c000 03 05", "49152 3 5")]
#[case(25, "0100 03 05 ff", "256 3 5 /w==")]
#[case(48, "0101 03 0d 010203", "257 3 13 AQID")]
#[case(57, "0000 01 02 010203", "0 1 2 AQID")]
// RFC 8078 section 4: no key
#[case(60, "0000 03 00 00", "0 3 0 AA==")]
#[case(26, "000a c00c 00", "10 a. .")]
#[case(
    27,
    "08 2d33322e36383832 08 3131362e38363532 04 31302e30",
    r#""-32.6882" "116.8652" "10.0""#
)]
// RFC 1876 section 4: cambridge-net.kei.com; and the ends of the world
#[case(
    29,
    "00 33 16 13 8917 2dd0 70be 15f0 0098 8d20",
    "42 21 54.000 N 71 6 18.000 W -24.00m 30m 10000m 10m"
)]
#[case(
    29,
    "00 00 10 91 6cb0 2700 a69f b200 0000 0000",
    "90 0 0.000 S 180 0 0.000 E -100000.00m 0.00m 0.01m 0.90m"
)]
#[case(
    29,
    "00 99 20 11 80000000 80000000 ffffffff",
    "0 0 0.000 N 0 0 0.000 E 42849672.95m 90000000m 0.02m 0.10m"
)]
#[case(30, "c00c 40 00 00 02", "a. A NXT")]
#[case(30, "00 00 00 00 00 00 00 00 00 00 08", ". 76")]
#[case(31, "12ab", "12AB")]
#[case(33, "0001 0002 0035 c00c", "1 2 53 a.")]
#[case(34, "00 39246f", "39246f")]
#[case(34, "01 3631", "+61")]
#[case(35, "0064 000a 01 75 00 04 215c2b21 00", r#"100 10 "u" "" "!\\+!" ."#)]
#[case(36, "0001c00c", "1 a.")]
#[case(37, "0001 3039 08 010203", "PKIX 12345 RSASHA256 AQID")]
#[case(37, "0009 3039 09 010203", "9 12345 9 AQID")]
// RFC 2874 section 3.1.1
#[case(38, "40 0000000000000001 c00c", "64 ::1 a.")]
#[case(38, "00 20010db8000000000000000000000001", "0 2001:db8::1")]
#[case(38, "80 c00c", "128 a.")]
#[case(38, "07 01000000000000000000000000000000 00", "7 100:: .")]
#[case(40, "08 00 02 ff", "8 0 2 /w==")]
#[case(40, "08 00 02", "8 0 2")]
// RFC 3123 section 5
#[case(
    42,
    "0001 15 03 c0a820 0001 1c 83 c0a826",
    "1:192.168.32.0/21 !1:192.168.38.0/28"
)]
#[case(42, "0002 08 01 ff 0001 00 00", "2:ff00::/8 1:0.0.0.0/0")]
#[case(43, "ec45 05 01 2bb183af", "60485 5 1 2BB183AF")]
#[case(59, "0000 00 00 00", "0 0 0 00")]
#[case(32768, "0001 08 02 ab", "1 8 2 AB")]
#[case(32769, "0001 08 02 ab", "1 8 2 AB")]
#[case(44, "02 01 123456", "2 1 123456")]
// RFC 4025 section 3.2
#[case(45, "0a 01 02 c0000226 0103", "10 1 2 192.0.2.38 AQM=")]
#[case(45, "0a 00 02 0103", "10 0 2 . AQM=")]
#[case(45, "0a 02 00 20010db8000000000000000000000001", "10 2 0 2001:db8::1")]
#[case(45, "0a 03 02 01 78 c00c 0103", "10 3 2 x.a. AQM=")]
// RFC 4034 section 4.3
#[case(
    47,
    "c00c 0006 400100000003 041b 000000000000000000000000000000000000000000000000000020",
    "a. A MX RRSIG NSEC TYPE1234"
)]
#[case(47, "c00c", "a.")]
#[case(
    47,
    "00 ff20 00000000000000000000000000000000 00000000000000000000000000000001",
    ". TYPE65535"
)]
// RFC 4701 section 3.6.1
#[case(
    49,
    "000201636fc0b8271c82825bb1ac5c41cf5351aa69b4febd94e8f17cdb95000da48c40",
    "AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA="
)]
// RFC 5155 appendix A
#[case(
    50,
    "01 01 000c 04 aabbccdd 14 174eb2409fe28bcb4887a1836f957f0a8425e27b 0007 22010000000290",
    "1 1 12 AABBCCDD 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR NS SOA MX RRSIG DNSKEY NSEC3PARAM"
)]
#[case(50, "01 00 0000 00 01 ff", "1 0 0 - VS")]
#[case(51, "01 00 000c 04 aabbccdd", "1 0 12 AABBCCDD")]
#[case(51, "01 00 0000 00", "1 0 0 -")]
#[case(52, "03 01 01 92003b", "3 1 1 92003B")]
#[case(53, "03 01 01 92003b", "3 1 1 92003B")]
// RFC 8005 section 6
#[case(55, "03 02 0002 200100 0103 01780161 00", "2 200100 AQM= x.a.")]
#[case(55, "03 02 0002 200100 0103", "2 200100 AQM=")]
#[case(55, "03 02 0002 200100 0103 017800 00", "2 200100 AQM= x. .")]
#[case(56, "0161", r#""a""#)]
#[case(58, "c00c00", "a. .")]
#[case(61, "0102", "AQI=")]
// RFC 7477 section 2.1.2
#[case(62, "00000042 0003 0004 60000008", "66 3 A NS AAAA")]
#[case(62, "00000042 0003", "66 3")]
#[case(63, "78a95bcc 01 01 abcd", "2024365004 1 1 ABCD")]
// RFC 9859 section 2.3
#[case(66, "003b 01 14b4 c00c", "CDS NOTIFY 5300 a.")]
#[case(66, "ff00 63 0001 00", "TYPE65280 99 1 .")]
#[case(67, "0102", "AQI=")]
#[case(68, "0102", "AQI=")]
#[case(99, "0161", r#""a""#)]
// RFC 6742 section 2
#[case(104, "000a 00144fffff20ee64", "10 14:4fff:ff20:ee64")]
#[case(105, "000a 0a010200", "10 10.1.2.0")]
#[case(106, "000a 20010db811401000", "10 2001:db8:1140:1000")]
#[case(107, "000ac00c", "10 a.")]
// RFC 7043
#[case(108, "00005e00532a", "00-00-5e-00-53-2a")]
#[case(109, "00005eef1000002a", "00-00-5e-ef-10-00-00-2a")]
#[case(
    249,
    "c00c 00000001 00000002 0003 0000 0002 0102 0000",
    "a. 1 2 3 NOERROR 2 AQI= 0"
)]
// RFC 8945 section 5.4.2: BADTIME tells the time of the server
#[case(
    250,
    "c00c 0000 5e0be100 012c 0002 0102 1234 0012 0006 00005e0be100",
    "a. 1577836800 300 2 AQI= 4660 BADTIME 6 AABeC+EA"
)]
#[case(
    250,
    "c00c ffffffffffff 012c 0000 1234 0010 0000",
    "a. 281474976710655 300 0 4660 BADSIG 0"
)]
#[case(250, "c00c 000000000000 0000 0000 0000 0063 0000", "a. 0 0 0 0 99 0")]
// RFC 7553 section 4.5
#[case(256, "000a 0001 6674703a2f2f22", r#"10 1 "ftp://\"""#)]
#[case(257, "80 05 6973737565 613b2062ff", r#"128 issue "a; b\255""#)]
#[case(257, "00 05 6973737565", r#"0 issue """#)]
#[case(258, "0161", r#""a""#)]
#[case(259, "00000000 00000001 02 03 612f62 0102", r#"0 1 2 "a/b" AQI="#)]
#[case(259, "00000000 00000001 02 00", r#"0 1 2 "" -"#)]
// RFC 8777 section 4.3.1
#[case(260, "0a 00", "10 0 0 .")]
#[case(260, "0a 81 cb00710f", "10 1 1 203.0.113.15")]
#[case(260, "80 02 20010db8000000000000000000000015", "128 0 2 2001:db8::15")]
#[case(260, "80 83 0178c00c", "128 1 3 x.a.")]
#[case(261, "0161", r#""a""#)]
#[case(262, "0161 0162", r#""a" "b""#)]
fn data_is_printed_as_its_type_says(#[case] kind: u16, #[case] data: &str, #[case] text: &str) {
    assert_eq!(print(1, kind, &bytes(data)), text);
}

fn generic_of(hex: &str) -> String {
    let bytes = bytes(hex);
    format!("\\# {} {}", bytes.len(), HEXUPPER.encode(&bytes))
}

/// Examples of RFC 9460 appendix D, and keys that were registered later.
#[rstest]
#[case("0000 c00c", "0 a.")]
#[case("0001 00", "1 .")]
#[case("0010 c00c 0003 0002 0035", "16 a. port=53")]
#[case("0001 c00c 029b 0005 68656c6c6f", r#"1 a. key667="hello""#)]
#[case(
    "0001 c00c 029b 0009 68656c6c6fd2716f6f",
    r#"1 a. key667="hello\210qoo""#
)]
#[case(
    "0001 00 0006 0020 20010db8000000000000000000000001 20010db8000000000000000000530001",
    "1 . ipv6hint=2001:db8::1,2001:db8::53:1"
)]
#[case(
    "0010 00 0000 0004 0001 0004 0001 0009 02 6832 05 68332d3139 0004 0004 c0000201",
    r#"16 . mandatory=alpn,ipv4hint alpn="h2,h3-19" ipv4hint=192.0.2.1"#
)]
#[case(
    "0010 00 0001 000c 08 665c6f6f2c626172 02 6832",
    r#"16 . alpn="f\\\\oo\\,bar,h2""#
)]
#[case("0001 00 0001 0005 04 61222062", r#"1 . alpn="a\"\032b""#)]
#[case(
    "0001 00 0001 0003 02 6832 0002 0000",
    r#"1 . alpn="h2" no-default-alpn"#
)]
#[case(
    "0001 00 0004 0008 c0000201 c0000202 0005 0002 0005",
    "1 . ipv4hint=192.0.2.1,192.0.2.2 ech=AAU="
)]
#[case(
    "0001 00 0007 0008 2f717b3f646e737d 0008 0000 0009 0004 001d 11ec",
    r#"1 . dohpath="/q{?dns}" ohttp tls-supported-groups=29,4588"#
)]
#[case("0001 00 000a 0004 01 61 01 2c", r#"1 . docpath="a,\\,""#)]
#[case("0001 00 03e8 0000", "1 . key1000")]
// Keys out of order or given twice; parameters that are cut; a `mandatory` list that names itself, or
// is not in order; values that do not fit their keys.
#[case("0001 00 0003 0002 0035 0002 0000", "")]
#[case("0001 00 0003 0002 0035 0003 0002 0035", "")]
#[case("0001 00 0003 0002 00", "")]
#[case("0001 00 0003 00", "")]
#[case("0001 00 0000 0002 0000", "")]
#[case("0001 00 0000 0004 0004 0001", "")]
#[case("0001 00 0000 0000", "")]
#[case("0001 00 0001 0000", "")]
#[case("0001 00 0001 0001 00", "")]
#[case("0001 00 0001 0002 03 61", "")]
#[case("0001 00 0002 0001 00", "")]
#[case("0001 00 0003 0001 35", "")]
#[case("0001 00 0004 0005 c000020101", "")]
#[case("0001 00 0005 0000", "")]
#[case("0001 00 0006 0004 c0000201", "")]
fn service_parameters_are_printed_or_the_data_is_generic(#[case] data: &str, #[case] text: &str) {
    let text = if text.is_empty() {
        generic_of(data)
    } else {
        text.to_owned()
    };
    for kind in [64, 65] {
        assert_eq!(print(1, kind, &bytes(data)), text);
    }
}

#[rstest]
// Unknown types, and known ones without a form
#[case(1, 65280, "0a000001")]
#[case(1, 10, "00")]
#[case(1, 101, "00000001")]
// Short, and long
#[case(1, 1, "c00002")]
#[case(1, 1, "c000020101")]
#[case(1, 5, "016100 ff")]
#[case(1, 5, "0161")]
#[case(1, 16, "0461")]
#[case(1, 20, "016101610161")]
#[case(1, 52, "030101")]
#[case(1, 48, "0100030d")]
#[case(1, 257, "0000")]
#[case(1, 257, "00022d2d61")]
#[case(1, 27, "0131 0132")]
#[case(1, 25, "c000 03 05 ff")]
// A name that leaves its record
#[case(1, 14, "c00c c0")]
// Data that the text could not show: padding of bitmaps, prefixes and numbers, windows out of order,
// empty windows
#[case(1, 47, "c00c 0002 4000")]
#[case(1, 47, "c00c 0000")]
#[case(1, 47, "c00c 0101 40 0001 40")]
#[case(1, 47, "c00c 0001 40 0001 40")]
#[case(1, 30, "c00c 80")]
#[case(1, 30, "c00c")]
#[case(1, 11, "c0000201 06 00")]
#[case(1, 42, "0001 18 04 0a010000")]
#[case(1, 42, "0003 00 02 0a01")]
#[case(1, 42, "0001 21 01 0a")]
#[case(1, 42, "0001 20 05 0a01020304")]
#[case(1, 38, "07 02000000000000000000000000000000 00")]
#[case(1, 38, "81 00")]
// LOC of another version, too far north, with invalid sizes
#[case(1, 29, "01 33 16 13 8917 2dd0 70be 15f0 0098 8d20")]
#[case(1, 29, "00 33 16 13 ffffffff 70be 15f0 0098 8d20")]
#[case(1, 29, "00 a3 16 13 8917 2dd0 70be 15f0 0098 8d20")]
#[case(1, 29, "00 05 16 13 8917 2dd0 70be 15f0 0098 8d20")]
// Gateways and relays of unknown kinds
#[case(1, 45, "0a 04 02 0103")]
#[case(1, 45, "0a 81 02 c0000201 0103")]
#[case(1, 260, "0a 04 0103")]
// A pointer in a list of names
#[case(1, 55, "01 02 0001 20 01 c00c")]
#[case(1, 34, "01 36ff")]
// Types of the Internet in other classes (RFC 3597 section 4)
#[case(3, 28, "20010db8000000000000000000000001")]
#[case(42, 1, "c0000201")]
#[case(4, 33, "0001 0002 0035 00")]
fn data_that_does_not_fit_its_type_is_generic(
    #[case] class: u16,
    #[case] kind: u16,
    #[case] data: &str,
) {
    assert_eq!(print(class, kind, &bytes(data)), generic_of(data));
}

/// The text is that of BIND's `dnstap-read -y`.
#[rstest]
#[case::base64_of_56(48, [&[1, 0, 3, 8][..], &[0; 42]].concat(), format!("256 3 8 {}", "A".repeat(56)))]
#[case::base64_of_60(48, [&[1, 0, 3, 8][..], &[0; 43]].concat(), format!("256 3 8 {} AA==", "A".repeat(56)))]
#[case::hexadecimal(43, [&[0, 7, 8, 2][..], &[0; 60]].concat(), format!("7 8 2 {0} {0} 00000000", "0".repeat(56)))]
#[case::generic(65280, vec![0; 29], format!("\\# 29 {} 00", "0".repeat(56)))]
#[case::salt(51, [&[1, 0, 0, 5, 40][..], &[0; 40]].concat(), format!("1 0 5 {}", "0".repeat(80)))]
#[case::object(259, [&[0; 10][..], &[0; 60]].concat(), format!("0 0 0 \"\" {}", "A".repeat(80)))]
fn the_alternate_form_is_in_pieces(#[case] kind: u16, #[case] data: Vec<u8>, #[case] text: String) {
    assert_eq!(printed(1, kind, &data, |data| format!("{data:#}")), text);
}

#[test]
fn classes_have_addresses_of_their_own() {
    assert_eq!(print(3, 1, &bytes("c00c 007f")), "a. 177");
    assert_eq!(print(4, 1, &bytes("c0000201")), "192.0.2.1");
    // A dynamic update removes a record, or all records of a type.
    assert_eq!(print(254, 1, &bytes("c0000201")), "192.0.2.1");
    for class in [1, 254, 255] {
        assert_eq!(print(class, 1, b""), r"\# 0");
        assert_eq!(print(class, 42, b""), r"\# 0");
    }
}

/// Builds bytes that fit the fields; some are cut or damaged.
fn data_of(fields: &'static [Field]) -> impl Strategy<Value = Vec<u8>> {
    let name = || {
        prop_oneof![
            Just(vec![0xc0, 12]),
            Just(vec![0]),
            Just(vec![2, b'x', 0xff, 0])
        ]
    };
    let any_bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let sized = move || {
        any_bytes(6).prop_map(|mut bytes| {
            bytes.insert(0, u8::try_from(bytes.len()).expect("short"));
            bytes
        })
    };
    let pieces: Vec<_> = fields
        .iter()
        .map(|field| match field {
            Field::Name => name().boxed(),
            Field::Text | Field::Salt | Field::Hash | Field::Texts => sized().boxed(),
            Field::U8 => any::<[u8; 1]>().prop_map(Vec::from).boxed(),
            Field::U16 | Field::Type => any::<[u8; 2]>().prop_map(Vec::from).boxed(),
            Field::U32 | Field::Time | Field::V4 => any::<[u8; 4]>().prop_map(Vec::from).boxed(),
            _ => any_bytes(40).boxed(),
        })
        .collect();
    pieces.prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn any_data_of_any_type_prints_as_one_line_of_ascii(
        (class, kind, data) in (
            prop_oneof![4 => Just(1), 1 => Just(3_u16), 1 => any::<u16>()],
            prop_oneof![8 => 0..270_u16, 1 => 32_768..32_770_u16],
        )
            .prop_flat_map(|(class, kind)| {
                let fitting = data_of(fields(Type(kind), Class(class)));
                let any_bytes = prop::collection::vec(any::<u8>(), 0..60);
                (Just(class), Just(kind), prop_oneof![3 => fitting, 1 => any_bytes])
            }),
    ) {
        let text = print(class, kind, &data);
        prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
        prop_assert_eq!(text.trim(), &text);
        prop_assert!(!text.is_empty());
        // A bitmap takes up to ten characters per bit. Names are short here.
        prop_assert!(text.len() < 200 + 80 * data.len());
    }
}
