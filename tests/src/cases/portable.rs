//! The program as it is packed: it needs no C library newer than that of 2012, and starts on older releases.
//!
//! `cargo xtask test --only portable` runs these tests for each release, with a `DNSTAP_AGENT` that is the packed program in
//! a root folder with that release's libraries. It sets `DNSTAP_PORTABLE`. Other runs pack a program for this machine.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{expect_records, for_each_hook, rpm, trial};
use crate::{
    environment::{self, Combination, tool},
    lab,
    load::client::{Cut, TcpClient, UdpClient},
    process::output,
    tap::Tap,
    toy::{By, Puppet},
    wire,
};

/// Newest version of the GNU C library that the program may need: that of RHEL 7, Debian 8 and Ubuntu 14.04.
const NEWEST: (u32, u32) = (2, 17);
/// Libraries that are part of the GNU C library.
const LIBRARIES: [&str; 6] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
];
/// Room for any query of these tests.
const ROOM: usize = 2_048;

pub(super) fn trials() -> Vec<Trial> {
    if std::env::var_os("DNSTAP_PORTABLE").is_none() {
        return Vec::new();
    }
    let mut trials = vec![
        trial(
            "portable: the packed program needs no C library newer than 2.17, and no other library"
                .into(),
            symbols,
        ),
        trial(
            "portable: the RPM package asks for no C library newer than 2.17, and for nothing that is unknown"
                .into(),
            rpm::requirements,
        ),
        trial(
            "portable: it says its version, and checks the machine".into(),
            starts,
        ),
    ];
    trials.extend(for_each_hook(
        "portable: it attaches, and its file can be read",
        attaches,
    ));
    trials
}

fn symbols() -> Result<()> {
    let package = environment::package()?;
    let scratch = lab::scratch()?;
    let mut unpack = Command::new(tool("dpkg-deb")?);
    unpack.arg("--extract").arg(&package).arg(scratch.path());
    output(unpack)?;
    let mut readelf = Command::new(tool("readelf")?);
    readelf
        .args(["--wide", "--dynamic", "--version-info"])
        .arg(scratch.path().join("usr/bin/dnstap-agent"));
    let (listed, _) = output(readelf)?;
    let others: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split_once("Shared library: [")?.1.strip_suffix(']'))
        .filter(|library| !LIBRARIES.contains(library))
        .collect();
    ensure!(others.is_empty(), "it needs {others:?}");
    let versions = versions(&listed);
    ensure!(!versions.is_empty(), "no version is listed:\n{listed}");
    let newer: Vec<_> = versions
        .iter()
        .filter(|version| **version > NEWEST)
        .collect();
    ensure!(
        newer.is_empty(),
        "it needs versions {newer:?} of the C library"
    );
    Ok(())
}

/// Returns the versions of the C library's symbols that `readelf` lists: `Name: GLIBC_2.17  Flags: ...`.
fn versions(listed: &str) -> Vec<(u32, u32)> {
    listed
        .split("Name: GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let mut numbers = rest.split_whitespace().next()?.split('.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .collect()
}

fn starts() -> Result<()> {
    let agent = environment::agent()?;
    let mut version = Command::new(&agent);
    version.arg("--version");
    let (said, _) = output(version)?;
    ensure!(said.starts_with("dnstap-agent "), "it says {said}");
    let mut check = Command::new(&agent);
    check.arg("check");
    let (said, _) = output(check).context("`check` finds no way to tap")?;
    ensure!(said.contains("attach would use hook"), "{said}");
    Ok(())
}

fn attaches(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (datagrams, udp) = puppet.udp("127.0.0.1:0")?;
    let (listener, tcp) = puppet.listen("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let query = wire::query(1, "portable.lab", wire::TYPE_A, true);
    let mut client = UdpClient::connect(udp)?;
    client.send(&query)?;
    puppet.receive(datagrams, By::Recvfrom, ROOM, 0)?;
    puppet.send(datagrams, By::Recvfrom, &wire::answer(&query))?;
    client.receive()?;
    let mut passed = client.passed;
    let mut client = TcpClient::connect(tcp)?;
    client.send(&query, Cut::Whole)?;
    let stream = puppet.accept(listener)?;
    puppet.receive(stream, By::Read, ROOM, 0)?;
    puppet.send(stream, By::Read, &wire::framed(&wire::answer(&query)))?;
    client.receive()?;
    passed.append(&mut client.passed);
    let tapped = tap.stop()?;
    expect_records(&tapped, &passed)?;
    tapped.summary.expect_nothing_dropped()?;
    let mut read = Command::new(environment::agent()?);
    read.arg("read").arg(&tapped.file);
    let (lines, _) = output(read)?;
    let count = lines
        .lines()
        .filter(|line| line.contains("portable.lab"))
        .count();
    ensure!(
        count == passed.len(),
        "`read` shows {count} messages:\n{lines}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_readelf_says_of_needs() {
        let listed = "  0x0010:   Name: GLIBC_2.2.5  Flags: none  Version: 8\n  0x0020:   Name: GLIBC_2.17  Flags: none\n\
                      \n  0x0040: Name: GCC_3.0  Flags: none\n";
        assert_eq!(versions(listed), [(2, 2), (2, 17)]);
    }
}
