//! Tests how probes come and go: when servers restart, when the agent ends, under load, and that
//! they leave no trace. Other tests compare the zones.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dnstap_proto::message::Type;
use libtest_mimic::Trial;

use super::for_each_hook;
use crate::{
    environment::{self, Combination, Skip},
    lab::{self, Lab, Wanted, named},
    load::{
        client::UdpClient,
        dnsperf::{self, Load},
        tools::dig,
    },
    process::{PATIENCE, Running, Watch, output},
    record::Record,
    soak::server::{self, Server},
    tap::{Summary, Tap, Tapped},
    wire,
};

const PROBE: &[&str] = &["--probe", "zone"];

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_hook(
            "a probe of an agent that is killed goes without a trace",
            killed,
        ),
        for_each_hook("a server that is restarted is probed again", restarted),
        for_each_hook(
            "a server whose library was replaced is probed all the same",
            replaced,
        ),
        for_each_hook(
            "a server whose system calls are confined lives through probes",
            confined,
        ),
        for_each_hook("what cannot be probed is tapped, and why is said", other),
        for_each_hook("probes that end under load account for each call", loaded),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Returns the code of libdns in the memory of a process.
fn code(pid: u32) -> Result<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let is_code = |line: &&str| line.contains(" r-xp ") && line.contains("/libdns-");
    let line = maps.lines().find(is_code).context("no libdns")?;
    let range = line.split(' ').next().unwrap_or_default();
    let (start, end) = range.split_once('-').context("no range")?;
    let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16));
    let (start, end) = (start?, end?);
    let mut bytes = vec![0; usize::try_from(end - start)?];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

fn killed(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let pid = lab.tapped.pid();
    let before = code(pid)?;
    let events = format!("json:{}", lab.folder().join("events.json").display());
    let options = [
        "--probe",
        "zone,encrypted",
        "--events",
        "cache",
        "--events-output",
        &events,
    ];
    let tap = Tap::attach(lab.folder(), pid, how, &options)?;
    let probed = code(pid)?;
    let changed: Vec<_> = (0..before.len())
        .filter(|&at| before[at] != probed[at])
        .map(|at| probed[at])
        .collect();
    // Messages, RRsets, and both ways to flush.
    ensure!(
        changed == [0xcc; 4],
        "not four breakpoints, but {changed:x?}"
    );
    tap.signal(libc::SIGKILL)?;
    let ended = tap.finish()?;
    ensure!(ended.status.code().is_none(), "it ended by itself");
    let deadline = Instant::now() + PATIENCE;
    while code(pid)? != before {
        ensure!(Instant::now() < deadline, "the breakpoint stays");
        thread::sleep(Duration::from_millis(10)); // until the kernel has taken it out
    }
    ask(lab.server(false), "h1.auth.lab", 1)
}

fn confined(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted {
        upstream: true,
        confined: true,
        ..Wanted::default()
    })?;
    let pid = lab.tapped.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("\nSeccomp:\t2\n"), "{status}");
    let events = lab.folder().join("events.json");
    let output = format!("json:{}", events.display());
    let options = [
        "--probe",
        "zone,encrypted",
        "--events",
        "all",
        "--events-output",
        &output,
    ];
    for number in 0..3 {
        let tap = Tap::attach(lab.folder(), pid, how, &options)?;
        let name = format!("w{number}.up.lab");
        dig(lab.server(false), &[&name, "A"])?;
        lab.tapped.rndc(&["flushname", &name, "_default"])?;
        tap.stop()?.summary.expect_nothing_dropped()?;
        let events = fs::read_to_string(&events)?;
        for kind in ["cache", "purge"] {
            let kind = format!("\"kind\":\"{kind}\"");
            let is_there = |line: &str| line.contains(&kind) && line.contains(&name);
            ensure!(
                events.lines().any(is_there),
                "no {kind} of {name}: {events}"
            );
        }
        ask(lab.server(false), "h1.auth.lab", number)?;
    }
    Ok(())
}

/// Sends a query without RD and receives the response. named gives both the type AUTH.
fn ask(server: std::net::SocketAddr, name: &str, id: u16) -> Result<()> {
    let mut client = UdpClient::connect(server)?;
    client.send(&wire::query(id, name, wire::TYPE_A, false))?;
    client.receive()?;
    Ok(())
}

/// Returns the zones of the responses of type AUTH.
fn zones(tapped: &Tapped) -> Result<Vec<Option<Vec<u8>>>> {
    let records = tapped.records()?;
    let answers = records
        .into_iter()
        .filter(|record| record.kind == Type::AuthResponse);
    Ok(answers.map(|Record { zone, .. }| zone).collect())
}

fn attached(tap: &mut Tap) -> Result<String> {
    tap.wait_for("a probe", |line| {
        line.contains("probe zone of process") && line.contains(": on, at dns_dt_send+")
    })
}

fn restarted(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let name = server::name();
    // The server's executable has a name of its own here, so the profile must be given.
    let options = [PROBE, &["--follow", "--profile", "named"]].concat();
    let mut tap = Tap::attach_to(folder, &["--name", &name], how, &options)?;
    let mut server = Server::start(folder)?;
    for life in 0..3 {
        if life > 0 {
            server.restart()?;
        }
        attached(&mut tap)?;
        ask(server.address, &format!("h{life}.soak.lab"), life)?;
    }
    server.stop()?;
    let tapped = tap.stop()?;
    let zone = Some(b"\x04soak\x03lab\x00".to_vec());
    let found = zones(&tapped)?;
    ensure!(
        found == [zone.clone(), zone.clone(), zone],
        "{found:?}\n{}",
        tapped.summary
    );
    Ok(())
}

/// Copies the libraries that named needs, starts it with the copies, and removes these. The same
/// happens when a package is upgraded under a running server.
fn replaced(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let libraries = folder.join("lib");
    fs::create_dir(&libraries)?;
    for library in libraries_of_named()? {
        let from = Path::new(&library);
        fs::copy(from, libraries.join(from.file_name().context("no name")?))?;
    }
    let port = lab::free_port()?;
    let zone = lab::write(
        folder,
        "zone",
        "@ 60 SOA . . 1 1 1 1 1\n@ NS .\na A 192.0.2.1\n",
    )?;
    let text = format!(
        "controls {{ }};\noptions {{ {} listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; }};\n\
         zone \"old.lab\" {{ type primary; file \"{}\"; }};\n",
        named::basics(folder)?,
        zone.display()
    );
    let file = lab::write(folder, "named.conf", &text)?;
    let mut command = Command::new(environment::named()?);
    command
        .args(["-g", "-n", "1", "-c"])
        .arg(file)
        .env("LD_LIBRARY_PATH", &libraries);
    let mut server = Running::start("named", command, Watch::Stderr)?;
    let (what, running) = named::RUNNING;
    server.wait_for(what, running)?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid()))?;
    if !maps.contains(&libraries.display().to_string()) {
        return Err(Skip("this named has its libraries from one place alone".into()).into());
    }
    fs::remove_dir_all(&libraries)?;
    let tap = Tap::attach(folder, server.pid(), how, PROBE)?;
    ask(([127, 0, 0, 1], port).into(), "a.old.lab", 1)?;
    let tapped = tap.stop()?;
    let found = zones(&tapped)?;
    ensure!(
        found == [Some(b"\x03old\x03lab\x00".to_vec())],
        "{found:?}\n{}",
        tapped.summary
    );
    server.stop(libc::SIGTERM)?;
    Ok(())
}

/// Returns the paths of BIND's own libraries, as the dynamic linker finds them.
fn libraries_of_named() -> Result<Vec<String>> {
    let mut command = Command::new("ldd");
    command.arg(environment::named()?);
    let Ok((said, _)) = output(command) else {
        return Err(Skip("named is no program of the dynamic linker".into()).into());
    };
    let paths = said.split_whitespace().filter(|word| {
        let file = word.rsplit('/').next().unwrap_or_default();
        word.starts_with('/')
            && ["libdns-", "libisc", "libns-"]
                .iter()
                .any(|own| file.starts_with(own))
    });
    Ok(paths.map(str::to_owned).collect())
}

/// Attaches and ends taps under load. [`Tap::stop`] checks that all calls are accounted for.
fn loaded(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let load = Load {
        queries: 16_000,
        rate: Some(2_000),
        tcp: false,
        recursive: true,
    };
    let client = dnsperf::start(lab.folder(), lab.server(false), &load)?;
    let options = [PROBE, &["--mimic", "bind"]].concat();
    let mut remarks = 0;
    for _ in 0..3 {
        let tapped = Tap::attach(lab.folder(), lab.tapped.pid(), how, &options)?.stop()?;
        remarks += tapped.summary.pipeline("remark_records")?;
    }
    client.finish(load.queries)?;
    ensure!(remarks > 0, "no call of the probe while it was attached");
    Ok(())
}

fn other(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut sleep = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()?;
    let options = [PROBE, &["--allow-no-sockets"]].concat();
    let tap = Tap::attach(scratch.path(), sleep.id(), how, &options);
    let tapped = tap.and_then(Tap::stop);
    sleep.kill()?;
    sleep.wait()?;
    expect_reason(&tapped?.summary)
}

fn expect_reason(summary: &Summary) -> Result<()> {
    let probes = summary.member("probes");
    let reason = probes[0]["reason"].as_str();
    if probes[0]["attached"] != false {
        bail!("attached: {summary}");
    }
    ensure!(
        reason.is_some_and(|reason| reason.contains("not loaded BIND's libdns")),
        "{summary}"
    );
    Ok(())
}
