//! Frame Streams over sockets with third-party programs, in both directions, and a collector that disconnects again and
//! again.
//!
//! The agent under test is `receive`, which has both roles: it receives from senders and sends to collectors. No root
//! is needed.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use dnstap_proto::{
    frame_streams::{Client, DNSTAP_CONTENT_TYPE},
    message::Type,
};
use libtest_mimic::Trial;
use serde_json::Value;

use super::trial;
use crate::{
    environment::{named, tool},
    lab::{scratch, write},
    process::{PATIENCE, Running, Watch, output},
    receive::{Agent, Sender, Socket, Stream, number_of, numbered, payloads, source},
    record,
};

/// Number of messages sent through third-party programs.
const MESSAGES: u64 = 20_000;

pub(super) fn trials() -> Vec<Trial> {
    let collectors = [Collector::Fstrm, Collector::Golang];
    let mut trials = Vec::new();
    for (peer, tcp) in collectors
        .into_iter()
        .flat_map(|peer| [(peer, false), (peer, true)])
    {
        let over = if tcp { "tcp" } else { "unix" };
        let program = peer.program();
        trials.push(trial(
            format!("{program} collects over {over} the same bytes as we have sent"),
            move || collected(peer, tcp),
        ));
        let sender = peer.sender();
        trials.push(trial(
            format!("receive collects over {over} the same bytes as {sender} has sent"),
            move || received(peer, tcp),
        ));
    }
    trials.push(trial(
        "receive collects what named's own dnstap sends, every message".into(),
        of_named,
    ));
    trials.push(trial(
        "over tls with certificates on both sides everything arrives, and nothing without".into(),
        encrypted,
    ));
    trials.push(trial(
        "receive --wait lets the sender wait for a late collector and drops nothing".into(),
        waits,
    ));
    trials.push(trial(
        "receive takes all that hasty senders send, and streams behind each other".into(),
        hasty,
    ));
    trials.push(trial(
        "receive closes connections beyond --max-connections and goes on with the others".into(),
        too_many,
    ));
    trials
}

/// Returns the trials that may run at the same time as others: the collector is away for half of the time.
pub(super) fn beside() -> Vec<Trial> {
    vec![trial(
        "a collector restarted 20 times under 10,000 messages/s: delivered or counted, exactly"
            .into(),
        restarts,
    )]
}

/// Third-party programs.
#[derive(Clone, Copy)]
enum Collector {
    /// `fstrm_capture` and `fstrm_replay`.
    Fstrm,
    /// `dnstap`, in Go.
    Golang,
}

impl Collector {
    const fn program(self) -> &'static str {
        match self {
            Self::Fstrm => "fstrm_capture",
            Self::Golang => "dnstap",
        }
    }

    const fn sender(self) -> &'static str {
        match self {
            Self::Fstrm => "fstrm_replay",
            Self::Golang => "dnstap",
        }
    }

    /// Starts the program as a collector that writes to `file`.
    fn collect(self, at: &Socket, file: &Path) -> Result<Running> {
        let mut command = Command::new(tool(self.program())?);
        match self {
            Self::Fstrm => {
                command.args(["-ddd", "-t", "protobuf:dnstap.Dnstap"]);
                match at {
                    Socket::Unix(path) => command.arg("-u").arg(path),
                    Socket::Tcp(port) => command.args(["-a", "127.0.0.1", "-p", &port.to_string()]),
                };
            }
            Self::Golang => {
                match at {
                    Socket::Unix(path) => command.arg("-u").arg(path),
                    Socket::Tcp(port) => command.arg("-l").arg(format!("127.0.0.1:{port}")),
                };
            }
        }
        // The test does not wait for it to listen: the agent tries until it does.
        command.arg("-w").arg(file).stdout(Stdio::null());
        Running::start(self.program(), command, Watch::Stderr)
    }

    /// Ends the program after it has written the whole file.
    fn finish(self, mut process: Running, file: &Path) -> Result<()> {
        if let Self::Golang = self {
            process.wait_for("the end of the connection", |line| {
                line.contains("closed connection")
            })?;
            // A signal would end it without its last frames. When it is told to begin a new file, it completes the old
            // one, which has been renamed by then.
            let old = file.with_extension("old");
            fs::rename(file, &old)?;
            process.signal(libc::SIGHUP)?;
            let deadline = Instant::now() + PATIENCE;
            while !file.exists() {
                ensure!(Instant::now() < deadline, "no new file");
                thread::yield_now();
            }
            process.stop(libc::SIGTERM)?;
            fs::rename(&old, file)?;
            return Ok(());
        }
        let finished = process.stop(libc::SIGTERM)?;
        ensure!(finished.status.success(), "{}", finished.lines.join("\n"));
        Ok(())
    }

    /// Sends all frames of `file`.
    fn send(self, to: &Socket, file: &Path) -> Result<()> {
        let mut command = Command::new(tool(self.sender())?);
        match self {
            Self::Fstrm => {
                command
                    .args(["-t", "protobuf:dnstap.Dnstap", "-r"])
                    .arg(file);
                match to {
                    Socket::Unix(path) => command.arg("-u").arg(path),
                    Socket::Tcp(port) => command.args(["-a", "127.0.0.1", "-p", &port.to_string()]),
                };
            }
            Self::Golang => {
                command.arg("-q").arg("-r").arg(file);
                match to {
                    Socket::Unix(path) => command.arg("-U").arg(path),
                    Socket::Tcp(port) => command.arg("-T").arg(format!("127.0.0.1:{port}")),
                };
            }
        }
        output(command)?;
        Ok(())
    }
}

fn collected(peer: Collector, tcp: bool) -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let source = source(folder, MESSAGES)?;
    let socket = Socket::new(folder, tcp)?;
    let file = folder.join("collected.fstrm");
    let mut collector = peer.collect(&socket, &file)?;
    let agent = Agent::start(folder, "agent", &[], &socket.argument())?;
    collector.wait_for("a connection", |line| line.contains("accepted "))?;
    Collector::Fstrm.send(&agent.input, &source)?;
    let summary = agent.stop()?;
    peer.finish(collector, &file)?;
    ensure!(
        payloads(&file)? == payloads(&source)?,
        "other frames than sent: {summary}"
    );
    let account = &summary["outputs"][0];
    ensure!(
        account["written"] == MESSAGES && account["unconfirmed"] == 0,
        "{summary}"
    );
    Ok(())
}

fn received(peer: Collector, tcp: bool) -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let source = source(folder, MESSAGES)?;
    let socket = Socket::new(folder, tcp)?;
    let file = folder.join("received.fstrm");
    let output = format!("file:{}", file.display());
    let agent = Agent::start(folder, "agent", &["-l", &socket.argument()], &output)?;
    peer.send(&socket, &source)?;
    let summary = agent.stop()?;
    ensure!(
        fs::read(&file)? == fs::read(&source)?,
        "another file than sent: {summary}"
    );
    ensure!(summary["received"]["unfinished"] == 0, "{summary}");
    Ok(())
}

/// Tests TLS with an authority, and a server and a client with its certificates; then a client without one, and a
/// server with another name.
fn encrypted() -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let source = source(folder, MESSAGES)?;
    certificates(folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let Socket::Tcp(port) = Socket::new(folder, true)? else {
        bail!("a port")
    };
    let file = folder.join("received.fstrm");
    let output = format!("file:{}", file.display());
    let listen = format!(
        "tls:127.0.0.1:{port},ca={},cert={},key={}",
        at("ca.pem"),
        at("server.pem"),
        at("server.key")
    );
    let collector = Agent::start(folder, "collector", &["-l", &listen], &output)?;
    let ca = at("ca.pem");
    let (cert, key) = (at("client.pem"), at("client.key"));
    let refused = [
        (
            "no-certificate",
            format!("tls:127.0.0.1:{port},ca={ca},name=collector.test"),
        ),
        (
            "other-authority",
            format!("tls:127.0.0.1:{port},ca={cert},cert={cert},key={key},name=collector.test"),
        ),
        (
            "other-name",
            format!("tls:127.0.0.1:{port},ca={ca},cert={cert},key={key},name=other.test"),
        ),
    ];
    for (name, output) in refused {
        let agent = Agent::start(folder, name, &[], &output)?;
        let Socket::Unix(input) = &agent.input else {
            bail!("a unix socket")
        };
        let mut sender = Sender::connect(input)?;
        sender.send_up_to(10)?;
        sender.finish()?;
        let summary = agent.stop_with_failure()?;
        let account = &summary["outputs"][0];
        ensure!(
            account["written"] == 0 && account["dropped"]["shutdown"] == 10,
            "{name}: {summary}"
        );
    }
    let output = format!("tls:127.0.0.1:{port},cert={cert},key={key},name=collector.test");
    let with_file = format!("{output},ca={ca}");
    // Use it as an authority of the system.
    let system: &[_] = &[("SSL_CERT_FILE", &ca[..])];
    for (name, variables, output) in [("agent", &[][..], with_file), ("system", system, output)] {
        let agent = Agent::start_in(variables, folder, name, &[], &output)?;
        Collector::Fstrm.send(&agent.input, &source)?;
        let sent = agent.stop()?;
        let account = &sent["outputs"][0];
        ensure!(
            account["written"] == MESSAGES && account["unconfirmed"] == 0,
            "{name}: {sent}"
        );
    }
    let received = collector.stop()?;
    let (file, source) = (payloads(&file)?, payloads(&source)?);
    ensure!(
        file == [&source[..], &source].concat(),
        "another file than sent twice: {received}"
    );
    Ok(())
}

/// Makes `ca.pem`, and `.pem` and `.key` files of `server` and `client`.
pub(super) fn certificates(folder: &Path) -> Result<()> {
    let openssl = |arguments: &str| -> Result<()> {
        let mut command = Command::new(tool("openssl")?);
        command.args(arguments.split(' ')).current_dir(folder);
        output(command).map(drop)
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"
    ))?;
    for (who, name) in [("server", "collector.test"), ("client", "agent.test")] {
        write(
            folder,
            "extensions",
            &format!("subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n"),
        )?;
        openssl(&format!(
            "req {key} -keyout {who}.key -out {who}.csr -subj /CN={name}"
        ))?;
        openssl(&format!(
            "x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {who}.pem"
        ))?;
    }
    Ok(())
}

/// The sender has far more than the queue holds when the collector is started.
fn waits() -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let source = source(folder, MESSAGES)?;
    let socket = Socket::new(folder, false)?;
    let file = folder.join("collected.fstrm");
    let more = ["--wait", "--queue-size", "100K"];
    let agent = Agent::start(folder, "agent", &more, &socket.argument())?;
    let Socket::Unix(input) = &agent.input else {
        bail!("a unix socket")
    };
    let input = Socket::Unix(input.clone());
    let sent = source.clone();
    let sending = thread::spawn(move || Collector::Fstrm.send(&input, &sent));
    thread::sleep(Duration::from_millis(300)); // without a collector
    ensure!(!sending.is_finished(), "the sender did not wait");
    let mut collector = Collector::Fstrm.collect(&socket, &file)?;
    collector.wait_for("a connection", |line| line.contains("accepted "))?;
    sending
        .join()
        .map_err(|_panic| anyhow!("the sender panicked"))??;
    let summary = agent.stop()?;
    Collector::Fstrm.finish(collector, &file)?;
    ensure!(
        payloads(&file)? == payloads(&source)?,
        "other frames than sent: {summary}"
    );
    Ok(())
}

fn too_many() -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let file = folder.join("received.fstrm");
    let output = format!("file:{}", file.display());
    let agent = Agent::start(folder, "agent", &["--max-connections", "2"], &output)?;
    let Socket::Unix(input) = &agent.input else {
        bail!("a unix socket")
    };
    let mut senders = [Sender::connect(input)?, Sender::connect(input)?];
    ensure!(Sender::connect(input).is_err(), "a third was taken");
    for sender in &mut senders {
        sender.send_up_to(100)?;
    }
    let [first, second] = senders;
    first.finish()?;
    // This sender ends without STOP. Everything that it has sent is still accepted.
    drop(second);
    let summary = agent.stop()?;
    let received = &summary["received"];
    ensure!(
        received["refused"] == 1 && received["unfinished"] == 1 && received["messages"] == 200,
        "{summary}"
    );
    ensure!(payloads(&file)?.len() == 200, "{summary}");
    Ok(())
}

/// Receives every query and every response of a server, through its own fstrm library.
fn of_named() -> Result<()> {
    const QUERIES: usize = 1_000;
    let folder = scratch()?;
    let folder = folder.path();
    let file = folder.join("received.fstrm");
    let output = format!("file:{}", file.display());
    let agent = Agent::start(folder, "agent", &[], &output)?;
    let Socket::Unix(socket) = &agent.input else {
        bail!("a unix socket")
    };
    let Socket::Tcp(port) = Socket::new(folder, true)? else {
        bail!("a port")
    };
    let zone = write(
        folder,
        "zone",
        "$TTL 60\n@ SOA ns host 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n* A 192.0.2.1\n",
    )?;
    let configuration = write(
        folder,
        "named.conf",
        &format!(
            "controls {{ }};\noptions {{ directory \"{}\"; pid-file none; session-keyfile none; recursion no; dnssec-validation no;\n\
             listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; notify no;\n\
             dnstap {{ all; }}; dnstap-output unix \"{}\"; fstrm-set-flush-timeout 1;\n\
             fstrm-set-input-queue-size 16384; }};\n\
             zone \"test\" {{ type primary; file \"{}\"; }};\n",
            folder.display(),
            socket.display(),
            zone.display()
        ),
    )?;
    let mut command = Command::new(named()?);
    command.args(["-g", "-n", "1", "-c"]).arg(configuration);
    let mut server = Running::start("named", command, Watch::Stderr)?;
    server.wait_for("running", |line| line.ends_with(" running"))?;
    let names: Vec<_> = (0..QUERIES)
        .map(|number| format!("n{number}.test A"))
        .collect();
    let names = write(folder, "names", &(names.join("\n") + "\n"))?;
    let mut dnsperf = Command::new(tool("dnsperf")?);
    dnsperf
        .args(["-s", "127.0.0.1", "-p", &port.to_string(), "-n", "1", "-d"])
        .arg(names);
    let (report, _) = crate::process::output(dnsperf)?;
    ensure!(
        report.contains(&format!("Queries completed:    {QUERIES}")),
        "{report}"
    );
    let ended = server.stop(libc::SIGTERM)?;
    ensure!(ended.status.success(), "named: {}", ended.status);
    let summary = agent.stop()?;
    // The server's own queries for the root servers are not part of this test.
    let records: Vec<_> = record::read(&file)?
        .into_iter()
        .filter(|record| !matches!(record.kind, Type::ResolverQuery | Type::ResolverResponse))
        .collect();
    let responses = records.iter().filter(|record| record.is_response()).count();
    ensure!(
        (records.len(), responses) == (2 * QUERIES, QUERIES),
        "{} frames, {responses} responses: {summary}",
        records.len()
    );
    ensure!(summary["received"]["unfinished"] == 0, "{summary}");
    Ok(())
}

/// Tests senders that close without reading anything, that begin a new stream on the same connection, or that send
/// unknown control frames.
fn hasty() -> Result<()> {
    let folder = scratch()?;
    let file = folder.path().join("received.fstrm");
    let agent = Agent::start(
        folder.path(),
        "agent",
        &[],
        &format!("file:{}", file.display()),
    )?;
    let mut ready = Vec::new();
    Client::connect(DNSTAP_CONTENT_TYPE, &mut ready)?;
    let mut stream = Vec::new();
    let mut client = Client::unidirectional(DNSTAP_CONTENT_TYPE, &mut stream)?;
    let start = stream.clone();
    numbered(0, &mut stream);
    let frame = &stream[start.len()..].to_vec();
    client.stop(&mut stream);
    let stop = &stream[start.len() + frame.len()..].to_vec();
    let unknown = [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 99, 1, 2];
    let finish = [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5];

    // Bytes that are sent in one write, and the number of their frames that must be accepted.
    let sent = [
        ([&ready[..], &stream].concat(), 1),
        ([&stream[..], &stream, &stream].concat(), 3),
        ([&ready[..], &stream, &ready, &stream].concat(), 2),
        ([&start[..], frame, &start, frame, stop].concat(), 2),
        (
            [
                &unknown[..],
                &ready,
                &start,
                frame,
                &unknown,
                &finish,
                frame,
                stop,
            ]
            .concat(),
            2,
        ),
        ([&ready[..], &stream, b"no stream"].concat(), 1),
    ];
    for (bytes, _) in &sent {
        UnixStream::connect(agent.socket()?)?.write_all(bytes)?;
    }
    // This sender reads up to the end of the connection, which comes after FINISH.
    let mut patient = UnixStream::connect(agent.socket()?)?;
    patient.set_read_timeout(Some(PATIENCE))?;
    patient.write_all(&[&ready[..], &stream].concat())?;
    let mut heard = Vec::new();
    patient.read_to_end(&mut heard)?;
    ensure!(heard.ends_with(&finish), "{}", heard.escape_ascii());
    let summary = agent.stop()?;
    let frames: usize = 1 + sent.iter().map(|(_, frames)| frames).sum::<usize>();
    ensure!(
        payloads(&file)?.len() == frames,
        "{frames} frames: {summary}"
    );
    // This is the sender that sends other bytes after STOP.
    ensure!(summary["received"]["unfinished"] == 1, "{summary}");
    Ok(())
}

/// Tests restarts of the collector, which is another `receive`. It reads everything that has arrived before it ends. So
/// the agent's count of written messages equals the number in the files of all lives of the collector.
fn restarts() -> Result<()> {
    const LIVES: usize = 20;
    const RATE: u64 = 10_000;
    let folder = scratch()?;
    let folder = folder.path();
    let socket = Socket::Unix(folder.join("collector"));
    // The queue holds about 75 ms of messages, which is less than the collector is away each time.
    let agent = Agent::start(
        folder,
        "agent",
        &["--queue-size", "100K"],
        &socket.argument(),
    )?;
    let stream = Stream::start(Sender::connect(agent.socket()?)?, RATE / 1000);
    let mut files = Vec::new();
    for life in 0..LIVES {
        let file = folder.join(format!("life-{life}.fstrm"));
        let output = format!("file:{}", file.display());
        let name = format!("collector-{life}");
        let listen = socket.argument();
        let mut collector = Agent::start(folder, &name, &["-l", &listen], &output)?;
        collector
            .process
            .wait_for("the agent", |line| line.contains("connected connection="))?;
        thread::sleep(Duration::from_millis(200)); // one life of the collector
        if life + 1 == LIVES {
            // The stream ends while this collector listens, so all queued messages are delivered.
            files.push(file);
            let sent = stream.end()?;
            let summary = agent.stop()?;
            collector.stop()?;
            return restarts_add_up(sent, &summary, &files, LIVES);
        }
        let summary = collector.stop()?;
        ensure!(
            summary["outputs"][0]["dropped"]["queue_full"] == 0,
            "{summary}"
        );
        files.push(file);
        thread::sleep(Duration::from_millis(150)); // longer than the queue holds
    }
    bail!("no last life")
}

/// Checks that sent = delivered + counted, and that nothing is there twice.
fn restarts_add_up(sent: u64, summary: &Value, files: &[PathBuf], lives: usize) -> Result<()> {
    let mut numbers = Vec::new();
    for file in files {
        for payload in payloads(file)? {
            numbers.push(number_of(&payload)?);
        }
    }
    ensure!(numbers.is_sorted_by(|a, b| a < b), "a message came twice");
    let account = &summary["outputs"][0];
    let count = |value: &Value| value.as_u64().context("a number");
    let mut dropped = 0;
    for reason in account["dropped"].as_object().context("reasons")?.values() {
        dropped += count(reason)?;
    }
    let delivered = numbers.len() as u64;
    ensure!(
        (count(&account["sent"])?, count(&account["written"])?) == (sent, delivered)
            && delivered + dropped == sent,
        "sent {sent}, delivered {delivered}, dropped {dropped}: {summary}"
    );
    ensure!(
        dropped > 0 && delivered > 0 && count(&account["connections"])? == lives as u64,
        "{summary}"
    );
    super::note(format!(
        "collector restarts: sent {sent}, delivered {delivered}, dropped {dropped}, connections {}",
        account["connections"]
    ));
    Ok(())
}
