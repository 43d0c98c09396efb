//! The referee: it runs servers in a network of their own, captures the packets while the tap runs, and judges the tap
//! by the packets on the wire.
//!
//! ```text
//!  traffic ──► server ──► upstream            in a network namespace of their own
//!     │          ▲ taps (each hook)
//!     └─ packets ┼───────────► capture ─► streams ─► ledger ─┐
//!                └─► files ─► records ───────────────────────┴─► judge ─► table
//! ```
//!
//! The packets are decoded here, without any code of the agent: `capture` reads headers, `streams` reassembles TCP,
//! `ledger` determines what is due, `judge` compares. `cargo xtask referee` runs all servers; the integration tests run
//! some ([`SHORT`]).

mod capture;
mod dns;
mod judge;
mod ledger;
mod message;
mod places;
mod report;
mod servers;
mod start;
mod streams;
mod toys;
mod traffic;
mod upstream;

use std::{
    fs::File,
    net::UdpSocket,
    panic,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use dnstap_proto::{
    Dnstap,
    frame_streams::{DNSTAP_CONTENT_TYPE, Reader},
};
use prost::Message as _;

use self::{
    capture::{Capture, Packet},
    judge::Judgement,
    ledger::{Ports, Times},
    places::{HTTPS, OWN, TLS, UPSTREAM, address, name_of_restarts},
    servers::{Asked, Habit},
    traffic::{Before, Load},
    upstream::Upstream,
};
pub(crate) use self::{
    report::{run, ways},
    servers::{Entry, SERVERS},
    toys::{ARGUMENT as TOY, serve as be_a_toy},
};
use crate::{
    environment::{self, Combination, Skip},
    lab,
    process::{Running, Watch},
    system::network::isolated,
    tap::{Tap, Tapped},
    wire,
};

/// First argument that makes this program the referee.
pub(crate) const ARGUMENT: &str = "referee";

/// The servers that the integration tests judge.
pub(crate) const SHORT: [&str; 6] = [
    "named",
    "unbound",
    "knot",
    "nsd",
    "toy-writers",
    "toy-buffers",
];

/// Time that a server may take for its first response.
const START: Duration = Duration::from_secs(15);
/// After this time without a packet, all traffic is done.
const QUIET: Duration = Duration::from_millis(400);
/// Longest time to wait for that, because servers may continue to send queries by themselves.
const LONGEST: Duration = Duration::from_secs(4);

/// Time that a datagram may have been unread when the server ends.
const MAY_BE_UNREAD: Duration = Duration::from_millis(500);

/// Result of one server: a judgement for each hook.
pub(crate) struct Outcome {
    /// Version that the tap reports for the server.
    version: Option<String>,
    pub(crate) judgements: Vec<(Combination, Judgement)>,
    /// Number of bytes of encrypted traffic. Nothing of it may be in the file.
    encrypted: usize,
}

/// Judges one server with each of the hooks, all at the same time. A [`Skip`] tells why the server could not be
/// started.
pub(crate) fn judge(entry: &Entry, hooks: &[Combination]) -> Result<Outcome> {
    isolated(&[], || match_of(entry, hooks)).context("a network namespace")?
}

fn match_of(entry: &Entry, hooks: &[Combination]) -> Result<Outcome> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let upstream = Upstream::start(UPSTREAM, entry.has(Habit::NeedsPatience))?;
    let capture = Capture::start()?;
    let server = begin(entry, folder)?;
    capture.wait_for_quiet(QUIET / 2, LONGEST);
    let asked = *entry.asked.first().context("nothing to ask")?;
    let early = load(entry, asked, false);
    let open = Before::open(early)?;
    let mut taps = Vec::new();
    for how in hooks {
        taps.push(if entry.has(Habit::Restarts) {
            let targets = ["--name", &name_of_restarts(), "--follow"];
            Tap::attach_to(folder, &targets, how, &["--profile", "generic"])?
        } else {
            Tap::attach(folder, server.pid(), how, &[])?
        });
    }
    let attached = now()?;
    let before = receive_errors()?;
    open.go_on(early)?;
    play(entry, &upstream)?;
    let (server, gone) = if entry.has(Habit::Restarts) {
        restarts(entry, folder, server)?
    } else {
        (server, Vec::new())
    };
    capture.wait_for_quiet(QUIET, LONGEST);
    let overflows = receive_errors()? - before;
    let ended = now()?;
    let tapped: Vec<Tapped> = taps.into_iter().map(Tap::stop).collect::<Result<_>>()?;
    drop(server);
    let packets = capture.finish()?;
    let times = Times {
        attached,
        ended,
        gone: &gone,
        gives_up: entry.has(Habit::GivesUp),
    };
    decide(entry, hooks, &packets, &tapped, times, overflows)
}

/// Starts the server and waits until it answers.
fn begin(entry: &Entry, folder: &Path) -> Result<Running> {
    let mut command = (entry.start)(folder)?;
    command.current_dir(folder).stdin(Stdio::null());
    command.stdout(Stdio::null());
    answers(entry, Running::start(entry.name, command, Watch::Stderr)?)
}

fn load(entry: &Entry, asked: Asked, ipv6: bool) -> Load<'static> {
    Load {
        server: address(ipv6),
        zone: asked.zone(),
        transfers: asked == Asked::Authority,
        asks: matches!(asked, Asked::Upstream | Asked::Forwarded),
        proxied: entry.has(Habit::Proxied),
    }
}

/// Runs the traffic.
fn play(entry: &Entry, upstream: &Upstream) -> Result<()> {
    let ways = entry
        .asked
        .iter()
        .flat_map(|asked| [(*asked, false), (*asked, true)]);
    thread::scope(|scope| {
        let clients: Vec<_> = ways
            .map(|(asked, ipv6)| {
                let load = load(entry, asked, ipv6);
                scope.spawn(move || {
                    traffic::all(load).with_context(|| format!("traffic to {}", load.server))
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .unwrap_or_else(|cause| panic::resume_unwind(cause))
        })
    })?;
    if entry.has(Habit::Flooded) {
        traffic::flood(load(entry, Asked::Own, false)).context("a flood")?;
    }
    if entry.has(Habit::Secondary) {
        for _ in 0..3 {
            upstream.announce(address(false))?;
            thread::sleep(Duration::from_millis(300));
        }
    }
    if entry.has(Habit::Encrypts) {
        for option in ["+tls", "+https"] {
            let mut dig = Command::new(environment::tool("dig")?);
            let port = if option == "+tls" { TLS } else { HTTPS };
            dig.args(["@127.0.0.1", "-p", &port.to_string(), option, "h1.up.lab"]);
            crate::process::output(dig).context("encrypted DNS")?;
        }
    }
    Ok(())
}

/// Periods in which the server was about to end or not running.
type Gone = Vec<(Duration, Duration)>;

/// Ends the server under load and starts it again, several times. Returns the last server and the periods without one.
fn restarts(entry: &Entry, folder: &Path, mut server: Running) -> Result<(Running, Gone)> {
    let mut gone = Vec::new();
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGTERM, libc::SIGKILL] {
        let running = server;
        server = thread::scope(|scope| {
            // Errors are expected here: the server ends while its clients send.
            for ipv6 in [false, true] {
                scope.spawn(move || traffic::little(load(entry, Asked::Own, ipv6)).ok());
            }
            thread::sleep(Duration::from_millis(15));
            let from = now()?;
            running.stop(signal)?;
            let started = begin(entry, folder)?;
            gone.push((from.saturating_sub(MAY_BE_UNREAD), now()?));
            anyhow::Ok(started)
        })?;
        for ipv6 in [false, true] {
            traffic::little(load(entry, Asked::Own, ipv6))?;
        }
    }
    Ok((server, gone))
}

fn decide(
    entry: &Entry,
    hooks: &[Combination],
    packets: &[Packet],
    tapped: &[Tapped],
    times: Times<'_>,
    overflows: u64,
) -> Result<Outcome> {
    let encrypted: &[u16] = if entry.has(Habit::Encrypts) {
        &[TLS, HTTPS]
    } else {
        &[]
    };
    let ports = Ports {
        own: &[OWN],
        asked: &[UPSTREAM],
        encrypted,
    };
    let ledger = ledger::ledger(packets, ports, times)?;
    let mut judgements = Vec::new();
    for (how, tapped) in hooks.iter().zip(tapped) {
        let mut judgement = judge::judge(&ledger, &tapped.records()?, entry.profile);
        judgement.explain(
            overflows,
            "that were never received: the socket's buffer was full, as the kernel counts",
            "received UDP",
        );
        judgement.explain(
            tapped.summary.kernel("truncated")?,
            "cut by the server's buffer; the tap counts them as truncated",
            "received UDP",
        );
        judgements.push((how.clone(), judgement));
    }
    let version = match tapped.first() {
        Some(tapped) => version(&tapped.file)?,
        None => None,
    };
    Ok(Outcome {
        version,
        judgements,
        encrypted: ledger.encrypted,
    })
}

/// Returns the server's version, as the tap has read it from the executable.
fn version(file: &Path) -> Result<Option<String>> {
    let mut reader = Reader::new(File::open(file)?, DNSTAP_CONTENT_TYPE)?;
    let Some(frame) = reader.next_frame()? else {
        return Ok(None);
    };
    let version = Dnstap::decode(&*frame.payload)?.version;
    let version = version.map(|version| String::from_utf8_lossy(&version).into_owned());
    // If the tap has not found the server's version, it uses its own.
    Ok(version.filter(|version| !version.starts_with("dnstap-agent")))
}

/// Waits until the server answers a query. Otherwise returns a [`Skip`] with the server's output.
fn answers(entry: &Entry, server: Running) -> Result<Running> {
    let start = Instant::now();
    let zone = entry.asked.first().context("nothing to ask")?.zone();
    let query = wire::query(0x7777, &format!("h0.{zone}"), wire::TYPE_A, true);
    let proxy_header = if entry.has(Habit::Proxied) {
        message::proxy_header(address(false), address(false), false)
    } else {
        Vec::new()
    };
    let query = [proxy_header, query].concat();
    for ipv6 in [false, true] {
        let local = if ipv6 { "[::1]:0" } else { "127.0.0.1:0" };
        loop {
            let socket = UdpSocket::bind(local)?;
            socket.connect(address(ipv6))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.send(&query)?;
            if socket.recv(&mut [0; 512]).is_ok() {
                break;
            }
            if start.elapsed() > START || !is_alive(server.pid()) {
                let finished = server.stop(libc::SIGTERM);
                let said = match finished {
                    Ok(finished) => finished.lines.join("\n"),
                    Err(error) => format!("{error:#}"),
                };
                return Err(Skip(format!("it does not answer:\n{}", tail(&said))).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(server)
}

fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}

/// Returns the number of datagrams of this namespace for which a socket had no room.
fn receive_errors() -> Result<u64> {
    let mut sum = 0;
    let text = std::fs::read_to_string(Path::new("/proc/thread-self/net/snmp"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        bail!("no counters of UDP")
    };
    for (name, value) in names.split(' ').zip(values.split(' ')) {
        if name == "RcvbufErrors" {
            sum += value.parse::<u64>()?;
        }
    }
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp6")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Udp6RcvbufErrors"));
    let value = line.and_then(|line| line.split_whitespace().next_back());
    sum += value
        .context("no counters of UDP over IPv6")?
        .parse::<u64>()?;
    Ok(sum)
}

/// Returns the entry with this name.
pub(crate) fn entry(name: &str) -> Result<&'static Entry> {
    let entry = SERVERS.iter().find(|entry| entry.name == name);
    ensure!(
        entry.is_some(),
        "no server {name}; there are {}",
        SERVERS
            .iter()
            .map(|entry| entry.name)
            .collect::<Vec<_>>()
            .join(" ")
    );
    entry.context("no such server")
}
