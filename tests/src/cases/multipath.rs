//! Multipath TCP (RFC 8684): a server that listens with `IPPROTO_MPTCP`, and clients that speak it or plain TCP. Every
//! message is in the file once, and none is dropped.
//!
//! A listener of Multipath TCP gives a socket of its own protocol for a client that speaks it, and a socket of plain TCP
//! for another client. Positions in the first kind are counted by the tap, those in the second are the kernel's.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{expect_records, for_each_combination};
use crate::{
    environment::{Combination, Skip, tool},
    lab,
    load::client::{Cut, TcpClient},
    process::{Running, Watch},
    tap::Tap,
    toy::{By, Puppet},
    wire,
};

/// Room for any query of these tests.
const ROOM: usize = 2_048;
/// Number of queries on each connection.
const QUERIES: u16 = 5;
/// Program of Go's own packages, which `PATH` may leave out.
const GO: &str = "/usr/local/go/bin/go";
/// A server in Go with nothing but the standard library, and its module file. From Go 1.24 on, `net.Listen` uses
/// Multipath TCP if the kernel has it.
const SERVER: &str = include_str!("multipath.go");
const MODULE: &str = "module multipath\n\ngo 1.24\n";

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_combination(
        "connections of Multipath TCP are recorded like those of TCP",
        by_read_and_by_header,
    );
    trials.extend(for_each_combination(
        "a Go server, which listens with Multipath TCP by itself, is recorded with both kinds of clients",
        in_go,
    ));
    trials.extend(for_each_combination(
        "a connection of Multipath TCP that is older than the tap is recorded from then on",
        older,
    ));
    trials
}

fn by_read_and_by_header(how: &Combination) -> Result<()> {
    needs_multipath()?;
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let listeners = [
        puppet.listen_multipath("127.0.0.1:0")?,
        puppet.listen_multipath("[::1]:0")?,
    ];
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut passed = Vec::new();
    for (listener, address) in listeners {
        for by in [By::Read, By::Recvfrom, By::Recvmsg] {
            let connections = [
                (TcpClient::connect_multipath(address)?, Cut::Whole),
                (TcpClient::connect(address)?, Cut::Bytes),
                (TcpClient::connect_multipath(address)?, Cut::Halves),
            ];
            for (mut client, cut) in connections {
                let stream = puppet.accept(listener)?;
                for id in 1..4 {
                    let query = wire::query(id, "multipath.lab", wire::TYPE_A, true);
                    talk(&mut puppet, stream, by, &mut client, &query, cut)?;
                }
                passed.extend(client.passed);
            }
        }
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &passed)?;
    tapped.summary.expect_nothing_dropped()
}

fn in_go(how: &Combination) -> Result<()> {
    needs_multipath()?;
    let scratch = lab::scratch()?;
    let program = build(scratch.path())?;
    let mut command = Command::new(program);
    command.stdin(Stdio::piped());
    let mut server = Running::start("the Go server", command, Watch::Stdout)?;
    let address: SocketAddr = server.wait_for("its address", |_| true)?.parse()?;
    let tap = Tap::attach(scratch.path(), server.pid(), how, &[])?;
    let mut passed = Vec::new();
    for (speaks, cut) in [
        (true, Cut::Whole),
        (false, Cut::Whole),
        (true, Cut::Bytes),
        (false, Cut::Prefix),
    ] {
        let mut client = if speaks {
            TcpClient::connect_multipath(address)?
        } else {
            TcpClient::connect(address)?
        };
        for id in 0..QUERIES {
            let size = 60 + usize::from(id) * 3_000;
            client.send(&wire::query_of_size(id, "go.lab", size), cut)?;
            client.receive()?;
        }
        let said = server.wait_for("the connection's kind", |_| true)?;
        ensure!(
            said == format!("multipath {speaks}"),
            "with a client that speaks it or not ({speaks}), Go's server said: {said}"
        );
        passed.append(&mut client.passed);
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &passed)?;
    tapped.summary.expect_nothing_dropped()
}

/// The first messages that the tap sees stand in the midst of the stream, at a position that it does not know.
fn older(how: &Combination) -> Result<()> {
    needs_multipath()?;
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (listener, address) = puppet.listen_multipath("127.0.0.1:0")?;
    let mut client = TcpClient::connect_multipath(address)?;
    let stream = puppet.accept(listener)?;
    let query = |id| wire::query(id, "older.lab", wire::TYPE_A, true);
    talk(
        &mut puppet,
        stream,
        By::Read,
        &mut client,
        &query(1),
        Cut::Whole,
    )?;
    client.passed.clear();
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    for id in 2..7 {
        talk(
            &mut puppet,
            stream,
            By::Read,
            &mut client,
            &query(id),
            Cut::Whole,
        )?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    tapped.summary.expect_nothing_dropped()
}

/// Sends a query, and lets the puppet take it, however it arrives, and answer.
fn talk(
    puppet: &mut Puppet,
    stream: usize,
    by: By,
    client: &mut TcpClient,
    query: &[u8],
    cut: Cut,
) -> Result<()> {
    client.send(query, cut)?;
    let mut length = 0;
    while length < 2 + query.len() {
        length += puppet.receive(stream, by, ROOM, 0)?;
    }
    puppet.send(stream, by, &wire::framed(&wire::answer(query)))?;
    client.receive().map(drop)
}

/// Returns a [`Skip`] if the kernel has no Multipath TCP, or has it turned off.
fn needs_multipath() -> Result<()> {
    const ENABLED: &str = "/proc/sys/net/mptcp/enabled";
    if fs::read_to_string(ENABLED).map_or(true, |enabled| enabled.trim() != "1") {
        return Err(Skip(format!("no Multipath TCP here ({ENABLED})")).into());
    }
    Ok(())
}

/// Builds the server in Go. A [`Skip`] if there is no Go that listens with Multipath TCP by itself.
fn build(folder: &Path) -> Result<PathBuf> {
    let go = match tool("go") {
        Ok(go) => go,
        Err(_) if Path::new(GO).is_file() => GO.into(),
        Err(missing) => return Err(missing),
    };
    let source = folder.join("server");
    fs::create_dir(&source)?;
    fs::write(source.join("main.go"), SERVER)?;
    fs::write(source.join("go.mod"), MODULE)?;
    let output = Command::new(&go)
        .args(["build", "-o", "server", "."])
        .current_dir(&source)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .output()
        .with_context(|| format!("running {}", go.display()))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("requires go >= ") {
        return Err(Skip(format!("Go is older than 1.24: {}", complaint.trim())).into());
    }
    ensure!(output.status.success(), "go build: {complaint}");
    Ok(source.join("server"))
}
