use clap::Parser;
use dnstap_proto::{DnstapRef, MessageRef, SocketProtocol, Timestamp, message};
use rstest::rstest;

use super::*;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    select: Select,
}

/// Time of a response, 2026-11-24T04:00:00.02Z, 20 ms after its query.
const RESPONSE: Timestamp = Timestamp {
    seconds: 1_795_492_800,
    nanoseconds: 20_000_000,
};

#[rstest]
#[case::nothing("", true)]
#[case::family("--only client", true)]
#[case::type_of_several("--only auth,CR", true)]
#[case::other_half("--only client-query", false)]
#[case::transport("--protocol tcp,udp", true)]
#[case::other_transport("--protocol tcp", false)]
#[case::their_port("--port 40000", true)]
#[case::our_port("--port 53", true)]
#[case::other_port("--port 5353", false)]
#[case::either_end("--net 10.0.0.0/8,192.0.2.0/24", true)]
#[case::server_end("--net 192.0.2.53", true)]
#[case::neither_end("--net 10.0.0.0/8", false)]
#[case::client("--client 192.0.2.1", true)]
#[case::not_the_client("--client 192.0.2.53", false)]
#[case::server("--server 192.0.2.53 --client 192.0.2.0/24", true)]
#[case::not_the_server("--server 192.0.2.1", false)]
#[case::since_just_then("--since 2026-11-24T04:00:00.02Z", true)]
#[case::since_later("--since 2026-11-24T04:00:00.020000001Z", false)]
#[case::until_later("--until 2026-11-24T04:00:00.020000001Z", true)]
#[case::until_just_then("--until 2026-11-24T04:00:00.02Z", false)]
#[case::slower_than("--slower 20ms", true)]
#[case::not_so_slow("--slower 20.001ms", false)]
#[case::faster_than("--faster 21ms", true)]
#[case::not_so_fast("--faster 20ms", false)]
#[case::code("--rcode servfail,nxdomain", true)]
#[case::other_code("--rcode NOERROR", false)]
#[case::code_beyond_the_header("--rcode 19", false)]
#[case::asked("--qtype a,aaaa", true)]
#[case::not_asked("--qtype MX", false)]
#[case::name("--name Www.Example.COM", true)]
#[case::other_name("--name example.com", false)]
#[case::suffix("--suffix example.com.", true)]
#[case::name_or_suffix("--name nowhere --suffix com", true)]
#[case::other_suffix("--suffix ample.com", false)]
#[case::all_of_them("--only CR --net 192.0.2.1 --rcode 3 --qtype 28 --suffix com", true)]
#[case::all_but_one("--only CR --net 192.0.2.1 --rcode 3 --qtype 28 --suffix org", false)]
fn a_response_is_meant_if_all_filters_match(#[case] options: &str, #[case] meant: bool) {
    let dns = b"\0\x07\x81\x83\0\x01\0\0\0\0\0\0\x03wWw\x07example\x03com\0\0\x1c\0\x01";
    let message = MessageRef {
        socket_protocol: Some(SocketProtocol::Udp),
        query_address: Some(&[192, 0, 2, 1]),
        response_address: Some(&[192, 0, 2, 53]),
        query_port: Some(40_000),
        response_port: Some(53),
        query_time: Some(Timestamp {
            nanoseconds: 0,
            ..RESPONSE
        }),
        response_time: Some(RESPONSE),
        response_message: Some(dns),
        ..MessageRef::new(message::Type::ClientResponse)
    };
    assert_eq!(matches(options, message), meant);
}

#[rstest]
#[case("", true)]
#[case("--only CQ", true)]
#[case("--protocol udp", false)]
#[case("--net ::/0,0.0.0.0/0", false)]
#[case("--port 0", false)]
#[case("--since 1970-01-01", false)]
#[case("--slower 0s", false)]
#[case("--rcode NOERROR", false)]
#[case("--qtype A", false)]
#[case("--suffix .", false)]
fn what_a_message_does_not_tell_is_not_meant(#[case] options: &str, #[case] meant: bool) {
    let message = MessageRef::new(message::Type::ClientQuery);
    assert_eq!(matches(options, message), meant);
}

#[rstest]
#[case::query(
    "--rcode NOERROR",
    b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01",
    false
)]
#[case::extended(
    "--rcode BADVERS",
    b"\0\x01\x80\0\0\0\0\0\0\0\0\x01\0\0\x29\x04\xd0\x01\0\0\0\0\0",
    true
)]
#[case::not_the_header_alone(
    "--rcode NOERROR",
    b"\0\x01\x80\0\0\0\0\0\0\0\0\x01\0\0\x29\x04\xd0\x01\0\0\0\0\0",
    false
)]
fn codes_are_those_of_responses_with_their_upper_bits(
    #[case] options: &str,
    #[case] dns: &[u8],
    #[case] meant: bool,
) {
    let message = MessageRef {
        response_message: Some(dns),
        ..MessageRef::new(message::Type::AuthResponse)
    };
    assert_eq!(matches(options, message), meant);
}

#[rstest]
#[case("--only clients")]
#[case("--rcode 4096")]
#[case("--rcode NOPE")]
#[case("--qtype NOPE")]
#[case("--name a..b")]
#[case("--slower 5")]
#[case("--since then")]
#[case("--net 192.0.2.1/24")]
fn mistakes_are_told(#[case] options: &str) {
    assert!(parse(options).is_err());
}

fn matches(options: &str, message: MessageRef<'_>) -> bool {
    let mut payload = Vec::new();
    DnstapRef {
        identity: None,
        version: None,
        extra: None,
        message,
    }
    .encode(&mut payload);
    let select = parse(options).expect("valid").select;
    let view = View::parse(&payload).expect("ours");
    select.compile().matches(&view)
}

fn parse(options: &str) -> Result<CommandLine, clap::Error> {
    CommandLine::try_parse_from(["read"].into_iter().chain(options.split_whitespace()))
}
