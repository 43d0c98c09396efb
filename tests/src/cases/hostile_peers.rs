//! Hostile senders to `receive`: other protocols, wrong lengths, silence, thousands of connections. An honest sender is
//! served all the time, to the last frame; the memory is bounded; refused input is counted.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use dnstap_proto::frame_streams::{Client, DNSTAP_CONTENT_TYPE};
use libtest_mimic::Trial;
use serde_json::Value;

use super::trial;
use crate::{
    lab::scratch,
    process::PATIENCE,
    receive::{Agent, Sender, Socket, payloads},
    system,
};

/// Number of frames that the honest sender sends each time.
const FRAMES: u64 = 200;
/// Number of simultaneous connections, which is far more than the limit `ALLOWED`.
const CROWD: u64 = 2_000;
const ALLOWED: u64 = 300;
/// Descriptor limit of an agent that runs out of them.
const FEW: u64 = 40;
/// Limit on the agent's memory with `ALLOWED` connections, when each holds almost a whole frame of maximal length.
const MEMORY: u64 = 300 << 20;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "receive refuses what is no Frame Streams and serves honest senders meanwhile".into(),
            garbage,
        ),
        trial(
            "receive stays within its memory with 2,000 connections that send half a frame".into(),
            crowd,
        ),
        trial(
            "receive without descriptors left serves those that it has, and others again later"
                .into(),
            no_descriptors,
        ),
    ]
}

/// Returns the trials that may run at the same time as others: it waits for ten seconds.
pub(super) fn beside() -> Vec<Trial> {
    vec![trial(
        "receive gives a sender that says nothing, or a byte at a time, ten seconds for START"
            .into(),
        slow,
    )]
}

fn garbage() -> Result<()> {
    let folder = scratch()?;
    let (agent, input, file) = start(folder.path(), &[])?;
    let mut honest = Sender::connect(&input)?;
    let hostile = hostile()?;
    for (number, bytes) in (1..).zip(&hostile) {
        let mut stream = connect(&input)?;
        // The agent may have refused it before all was written.
        let _refused = stream.write_all(bytes);
        // Input that needs more bytes finds the end here; other input is refused before.
        stream.shutdown(Shutdown::Write).ok();
        closed_within_patience(&mut stream)
            .with_context(|| format!("after {}", bytes.escape_ascii()))?;
        honest.send_up_to(FRAMES * number)?;
    }
    let sent = honest.finish()?;
    let summary = agent.stop()?;
    let received = &summary["received"];
    ensure!(
        received["unfinished"] == hostile.len() && received["connections"] == hostile.len() + 1,
        "{summary}"
    );
    // Of the hostile input, one frame was whole and not dnstap.
    ensure!(received["malformed"] == 1, "{summary}");
    expect_all(&summary, &file, sent)
}

/// Returns inputs that cannot become a valid stream. Most end the connection immediately; others wait in vain for more
/// bytes.
fn hostile() -> Result<Vec<Vec<u8>>> {
    let mut ready = Vec::new();
    Client::connect(DNSTAP_CONTENT_TYPE, &mut ready)?;
    let mut start = Vec::new();
    Client::unidirectional(DNSTAP_CONTENT_TYPE, &mut start)?;
    let opened = [&ready[..], &start].concat();
    let stop = [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3];
    let with = |rest: &[u8]| [&opened[..], rest].concat();
    let mut other_type = ready.clone();
    if let Some(last) = other_type.last_mut() {
        *last = b'?';
    }
    Ok(vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0xff; 100_000],
        vec![0; 100_000],
        // A data frame where the handshake should be.
        [0, 0, 0, 4, 1, 2, 3, 4].to_vec(),
        // Control frames of the largest length that the field allows, and just over the limit.
        [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff].to_vec(),
        [&[0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 4][..], &[0; 600]].concat(),
        // A field that is longer than its frame, an unknown field, an unknown frame.
        [0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 1, 0].to_vec(),
        [0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0].to_vec(),
        [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 77].to_vec(),
        stop.to_vec(),
        other_type,
        [&ready[..], &ready].concat(),
        with(&start),
        with(&ready),
        // Data frames of gigabytes, and just over the limit.
        with(&[0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        with(&[0, 4, 0, 1]),
        // STOP inside of a frame is a part of that frame, and nothing follows.
        [&with(&[0, 0, 0, 100, 1, 2, 3])[..], &stop].concat(),
        // A frame that is not dnstap, and then another protocol.
        [&with(&[0, 0, 0, 2, 0x0a, 0xff])[..], b"\xde\xad\xbe\xef"].concat(),
    ])
}

fn slow() -> Result<()> {
    let folder = scratch()?;
    let (agent, input, file) = start(folder.path(), &[])?;
    let mut ready = Vec::new();
    Client::connect(DNSTAP_CONTENT_TYPE, &mut ready)?;
    let mut honest = Sender::connect(&input)?;
    let mut silent = connect(&input)?;
    let mut half = connect(&input)?;
    half.write_all(&ready)?; // and then no START
    let mut slow = connect(&input)?;
    // One byte at a time, each after a time in which nothing arrives from the agent.
    slow.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut bytes = 0;
    for byte in ready.iter().cycle().take(120) {
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        bytes += 1;
        match slow.read(&mut [0; 64]) {
            Ok(0) => break,
            Ok(_) => bail!("an answer to a part of READY"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        honest.send_up_to(bytes)?;
    }
    ensure!(
        bytes < ready.len() as u64,
        "it was let go on to the end of READY"
    );
    closed_within_patience(&mut silent)?;
    closed_within_patience(&mut half)?;
    let sent = honest.finish()?;
    let summary = agent.stop()?;
    ensure!(summary["received"]["unfinished"] == 3, "{summary}");
    expect_all(&summary, &file, sent)
}

fn crowd() -> Result<()> {
    system::allow_descriptors(2 * CROWD)?;
    let folder = scratch()?;
    let allowed = ALLOWED.to_string();
    let (agent, input, file) = start(folder.path(), &["--max-connections", &allowed])?;
    let mut honest = Sender::connect(&input)?;
    let mut opened = Vec::new();
    Client::unidirectional(DNSTAP_CONTENT_TYPE, &mut opened)?;
    // The longest accepted frame, except for its last byte.
    opened.extend(262_144_u32.to_be_bytes());
    opened.resize(opened.len() + 262_143, 1);
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stream = connect(&input)?;
        // A connection over the limit is closed before anything is read from it.
        let _refused = stream.write_all(&opened);
        crowd.push(stream);
        if number % 20 == 0 {
            honest.send_up_to(number)?;
        }
    }
    let memory = system::memory_peak(agent.process.pid())?;
    ensure!(memory < MEMORY, "{} MiB", memory >> 20);
    drop(crowd);
    let sent = honest.finish()?;
    let summary = agent.stop()?;
    let received = &summary["received"];
    ensure!(
        received["connections"] == ALLOWED
            && received["refused"] == CROWD + 1 - ALLOWED
            && received["unfinished"] == ALLOWED - 1,
        "{summary}"
    );
    super::note(format!(
        "{CROWD} connections that send half a frame: {ALLOWED} taken, the agent's memory at most {} MiB",
        memory >> 20
    ));
    expect_all(&summary, &file, sent)
}

fn no_descriptors() -> Result<()> {
    let folder = scratch()?;
    let (mut agent, input, file) = start(folder.path(), &["--max-connections", "1000"])?;
    system::limits::limit_descriptors(agent.process.pid(), FEW)?;
    let mut honest = Sender::connect(&input)?;
    // These are more connections than it can accept; the rest waits in the listener's queue.
    let crowd: Result<Vec<_>> = (0..2 * FEW).map(|_| connect(&input)).collect();
    let crowd = crowd?;
    agent.process.wait_for("no descriptors", |line| {
        line.contains("cannot take a connection")
    })?;
    honest.send_up_to(FRAMES)?;
    drop(crowd);
    let mut later = Sender::connect(&input)?;
    later.send_up_to(FRAMES)?;
    let sent = honest.finish()? + later.finish()?;
    let summary = agent.stop()?;
    expect_all(&summary, &file, sent)
}

/// Starts an agent that writes to a file. Returns it with its socket and its file.
fn start(folder: &Path, more: &[&str]) -> Result<(Agent, PathBuf, PathBuf)> {
    let file = folder.join("received.fstrm");
    let agent = Agent::start(folder, "agent", more, &format!("file:{}", file.display()))?;
    let Socket::Unix(input) = &agent.input else {
        bail!("a unix socket")
    };
    let input = input.clone();
    Ok((agent, input, file))
}

fn connect(to: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads everything that the agent sends, up to the end of the connection, or to a reset if the agent had unread bytes.
/// The end must come in time.
fn closed_within_patience(stream: &mut UnixStream) -> Result<()> {
    loop {
        match stream.read(&mut [0; 512]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => bail!("the connection was not closed: {error}"),
        }
    }
}

/// Checks that all frames of the honest senders are in the file.
fn expect_all(summary: &Value, file: &Path, sent: u64) -> Result<()> {
    let frames = payloads(file)?.len() as u64;
    ensure!(frames == sent, "{frames} frames of {sent}: {summary}");
    ensure!(summary["unaccounted"] == 0, "{summary}");
    Ok(())
}
