//! UDP sockets bound to `0.0.0.0` and `::`. Rule: `fentry` reads the address that a query was sent to from its packet,
//! and the response gets the address of its query. The other hooks see only the socket, which knows its port and no
//! address.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Result;
use dnstap_proto::SocketProtocol;
use libtest_mimic::Trial;

use super::{expect_records, for_each_hook_in_turn};
use crate::{
    environment::Combination,
    lab,
    process::PATIENCE,
    record::Record,
    tap::Tap,
    toy::{By, Puppet},
    wire,
};

/// Address to which the socket is bound, address to which the client sends, and address of the client.
const WAYS: [(&str, &str, &str); 4] = [
    ("0.0.0.0:0", "127.0.0.1", "127.0.0.1:0"),
    // The response comes from 127.0.0.1, because the server did not choose an address. Its record still has the address
    // of the query.
    ("0.0.0.0:0", "127.0.0.2", "127.0.0.1:0"),
    ("[::]:0", "::1", "[::1]:0"),
    ("[::]:0", "127.0.0.2", "127.0.0.1:0"),
];

pub(super) fn trials() -> Vec<Trial> {
    for_each_hook_in_turn(
        "a wildcard socket's messages have the address that was asked, where the hook sees packets",
        true_addresses,
    )
}

fn true_addresses(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let mut sockets = Vec::new();
    for (bound, ..) in WAYS {
        sockets.push(puppet.udp(bound)?);
    }
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut expected = Vec::new();
    for ((socket, bound), (_, asked, from)) in sockets.into_iter().zip(WAYS) {
        let server = SocketAddr::new(asked.parse::<IpAddr>()?, bound.port());
        let client = UdpSocket::bind(from)?;
        client.set_read_timeout(Some(PATIENCE))?;
        for (id, by) in (1..).zip([By::Recvfrom, By::Recvmsg, By::Recvfrom]) {
            let query = wire::query(id, "wildcard.lab", wire::TYPE_A, true);
            client.send_to(&query, server)?;
            puppet.receive(socket, by, 512, 0)?;
            let mut messages = vec![query];
            if by == By::Recvfrom {
                let answer = wire::answer(&messages[0]);
                puppet.send(socket, by, &answer)?;
                client.recv_from(&mut [0; 512])?;
                messages.push(answer);
            }
            for message in messages {
                let client = client.local_addr()?;
                let mut record = Record::expected(SocketProtocol::Udp, client, server, message);
                if how.hook != "fentry" {
                    record.response_address = None;
                }
                if by == By::Recvmsg && how.hook == "syscall" {
                    (record.query_address, record.query_port) = (None, 0);
                }
                expected.push(record);
            }
        }
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    tapped.summary.expect_nothing_dropped()
}
