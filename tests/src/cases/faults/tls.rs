//! Collectors with a wrong identity, or without TLS. The log gives the reason for each failed attempt, and all messages
//! arrive when the right collector is there.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;

use crate::{
    cases::{collectors::certificates, trial},
    environment::tool,
    lab::scratch,
    process::output,
    receive::{Agent, Sender, number_of, payloads},
};

/// Number of messages sent while no collector is the right one, and in total.
const BEFORE: u64 = 500;
const ALL: u64 = 1_000;

/// Collectors, the certificates that they present, and what the log must say about them.
const IMPOSTORS: [(&str, &str); 3] = [
    ("expired", "certificate: Expired"),
    ("stranger", "UnknownIssuer"),
    ("other", "not valid for name"),
];

/// Collectors without TLS, what they do, and what the log must say about them.
const DEAF: [(&str, Deafness, &str); 2] = [
    (
        "garbage",
        Deafness::Says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
        "corrupt message",
    ),
    ("nothing", Deafness::Says(b""), "eof"),
];

/// A collector that accepts the connection and does nothing more.
const SILENT: [(&str, Deafness, &str); 1] = [(
    "silence",
    Deafness::Hangs,
    "no answer to the handshake within",
)];

/// Returns the trials that may run at the same time as others: the agent waits before it tries again.
pub(super) fn beside() -> Vec<Trial> {
    vec![
        trial(
            "over tls, certificates that are expired, unknown or another's, and noise: a reason in the log, and in the end every message"
                .into(),
            || reasons_then_messages(&IMPOSTORS, &DEAF),
        ),
        // This one is a trial of its own, because the others would wait longer and longer until it is given up.
        trial(
            "over tls, silence amid the handshake: a reason in the log, and in the end every message".into(),
            || reasons_then_messages(&[], &SILENT),
        ),
    ]
}

fn reasons_then_messages(
    wrong: &[(&'static str, &'static str)],
    mute: &[(&'static str, Deafness, &'static str)],
) -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    certificates(folder)?;
    worse_certificates(folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let listen = |port: u16, who: &str| {
        let (cert, key) = (at(&format!("{who}.pem")), at(&format!("{who}.key")));
        format!("tls:127.0.0.1:{port},cert={cert},key={key}")
    };
    let mut ports = Vec::new();
    let mut impostors = Vec::new();
    for (who, _) in wrong {
        let port = crate::lab::free_port()?;
        let socket = listen(port, who);
        let nowhere = format!("file:{}", at(&format!("{who}.fstrm")));
        impostors.push(Agent::start(folder, who, &["-l", &socket], &nowhere)?);
        ports.push(port);
    }
    let deaf = mute
        .iter()
        .map(|(_, how, _)| Deaf::start(*how))
        .collect::<Result<Vec<_>>>()?;
    ports.extend(deaf.iter().map(|deaf| deaf.port));

    let outputs: Vec<_> = ports
        .iter()
        .map(|port| {
            format!(
                "tls:127.0.0.1:{port},ca={},name=collector.test",
                at("ca.pem")
            )
        })
        .collect();
    let more: Vec<_> = outputs[1..]
        .iter()
        .flat_map(|output| ["-o", output])
        .collect();
    let mut agent = Agent::start(folder, "agent", &more, &outputs[0])?;
    let mut sender = Sender::connect(agent.socket()?)?;
    sender.send_up_to(BEFORE)?;
    let reasons = wrong
        .iter()
        .copied()
        .chain(mute.iter().map(|(who, _, reason)| (*who, *reason)));
    let mut missing: Vec<(u16, &str, &str)> = ports
        .iter()
        .zip(reasons)
        .map(|(port, (who, reason))| (*port, who, reason))
        .collect();
    while !missing.is_empty() {
        let line = agent
            .process
            .wait_for(&format!("why: {missing:?}"), |line| {
                line.contains("no connection; trying again")
            })?;
        missing.retain(|(port, _, reason)| {
            !(line.contains(&format!(":{port}")) && line.contains(reason))
        });
    }
    // The agent tries again, although the log does not mention it any more.
    for deaf in &deaf {
        deaf.wait_for(2)?;
    }
    for impostor in impostors {
        let summary = impostor.stop()?;
        ensure!(summary["received"]["messages"] == 0, "{summary}");
    }
    for deaf in deaf {
        deaf.stop()?;
    }
    let mut collectors = Vec::new();
    for port in &ports {
        let file = folder.join(format!("{port}.fstrm"));
        let socket = listen(*port, "server");
        let output = format!("file:{}", file.display());
        let name = format!("collector-{port}");
        let mut collector = Agent::start(folder, &name, &["-l", &socket], &output)?;
        collector
            .process
            .wait_for("the agent", |line| line.contains("connected connection="))?;
        collectors.push((collector, file));
    }
    sender.send_up_to(ALL)?;
    let sent = sender.finish()?;
    let summary = agent.stop()?;
    ensure!(summary["unaccounted"] == 0, "{summary}");
    for (at, (collector, file)) in collectors.into_iter().enumerate() {
        collector.stop()?;
        let numbers = payloads(&file)?
            .iter()
            .map(|payload| number_of(payload))
            .collect::<Result<Vec<_>>>()?;
        ensure!(numbers.into_iter().eq(0..sent), "other messages: {summary}");
        let account = &summary["outputs"][at];
        ensure!(
            account["written"] == sent && account["connections"] == 1,
            "{account}"
        );
    }
    Ok(())
}

/// Makes certificates in addition to those of [`certificates`]: `expired`, `stranger` (of an unknown authority) and
/// `other` (for another name), each as `.pem` and `.key`.
fn worse_certificates(folder: &Path) -> Result<()> {
    let openssl = |arguments: &str| -> Result<()> {
        let mut command = Command::new(tool("openssl")?);
        command.args(arguments.split(' ')).current_dir(folder);
        output(command).map(drop)
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let name = "collector.test";
    for (who, name) in [
        ("expired", name),
        ("stranger", name),
        ("other", "other.test"),
    ] {
        let alternative = format!("subjectAltName=DNS:{name}");
        openssl(&format!(
            "req {key} -keyout {who}.key -out {who}.csr -subj /CN={name} -addext {alternative}"
        ))?;
    }
    openssl(&format!(
        "req -x509 {key} -keyout unknown.key -out unknown.pem -days 2 -subj /CN=unknown"
    ))?;
    for (who, authority, days) in [
        ("expired", "ca", -1),
        ("stranger", "unknown", 2),
        ("other", "ca", 2),
    ] {
        openssl(&format!(
            "x509 -req -in {who}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days {days} -copy_extensions copy \
             -out {who}.pem"
        ))?;
    }
    Ok(())
}

/// Behaviour of a collector without TLS.
#[derive(Clone, Copy)]
enum Deafness {
    /// It sends these bytes and closes the connection.
    Says(&'static [u8]),
    /// It keeps the connection open and sends nothing.
    Hangs,
}

/// A server that accepts connections and does not speak TLS.
struct Deaf {
    port: u16,
    /// Number of connections so far.
    taken: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Deaf {
    fn start(how: Deafness) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (taken, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (Arc::clone(&taken), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept()?;
                if end.load(Ordering::Relaxed) {
                    return Ok(());
                }
                // It reads the greeting first. Otherwise the connection would be reset, and its bytes would be lost.
                let _greeting = stream.read(&mut [0; 4_096])?;
                match how {
                    Deafness::Says(words) => stream.write_all(words)?,
                    Deafness::Hangs => held.push(stream),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self {
            port,
            taken,
            over,
            thread,
        })
    }

    /// Waits for this many connections in total.
    fn wait_for(&self, connections: usize) -> Result<()> {
        let deadline = std::time::Instant::now() + crate::process::PATIENCE;
        while self.taken.load(Ordering::Relaxed) < connections {
            ensure!(std::time::Instant::now() < deadline, "not tried again");
            thread::sleep(Duration::from_millis(5)); // until a connection arrives
        }
        Ok(())
    }

    /// Ends the server. Its port is free then.
    fn stop(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let _last = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        self.thread
            .join()
            .map_err(|_panic| anyhow!("it panicked"))?
    }
}
