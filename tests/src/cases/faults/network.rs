//! A collector whose host disappears: the end of the connection never arrives. The link is the test's own.
//!
//! ```text
//!  namespace of the test               another namespace
//!  named ◄─ agent ──── 10.99.0.1 ═══════ 10.99.0.2 ──── collector
//!                              (a veth pair, cut at the far end)
//! ```

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;

use super::{objects, once, under_load};
use crate::{
    cases::note,
    environment::{self, Combination, Skip, tool},
    kernel,
    lab::{Lab, Wanted},
    process::{Finished, PATIENCE, Running, Watch, output},
    record,
    system::network::isolated,
    tap::{self, Tap},
    toy,
};

/// Address of the collector, and of the agent's end of the link.
const COLLECTOR: &str = "10.99.0.2";
const AGENT: &str = "10.99.0.1";
const PORT: u16 = 6_000;
/// Times for which the link works and is cut.
const WHOLE: Duration = Duration::from_millis(300);
const CUT: Duration = Duration::from_secs(1);
/// "An output failed while it was written" (`EX_IOERR`).
const EXIT_OUTPUT: i32 = 74;

pub(super) fn trials() -> Vec<Trial> {
    once(
        "a collector whose host vanishes delays its own output alone, comes back, and vanishes for good",
        vanishes,
    )
}

fn vanishes(how: &Combination) -> Result<()> {
    let how = how.clone();
    isolated(&[], || vanishes_here(&how))
        .map_err(|error| Skip(format!("no network namespace: {error}")))?
}

fn vanishes_here(how: &Combination) -> Result<()> {
    let far = Far::start()?;
    let lab = Lab::start(Wanted::default())?;
    let folder = lab.folder();
    let address: SocketAddr = format!("{COLLECTOR}:{PORT}").parse()?;
    let output = format!("tcp:{address}");
    let more = ["-o", &output];
    let first = far.collect(folder, "first")?;
    let tap = Tap::attach(folder, lab.tapped.pid(), how, &more)?;
    let objects = objects(&tap)?;
    let (second, answered) = under_load(lab.server(false), || {
        thread::sleep(WHOLE);
        // The host disappears. When it is back it does not know the connection.
        far.cut()?;
        thread::sleep(CUT);
        let file = first.file.clone();
        first.process.stop(libc::SIGKILL)?;
        let mut second = far.collect(folder, "second")?;
        far.mend()?;
        second.process.wait_for("the agent again", |line| {
            line.contains("connected connection=")
        })?;
        thread::sleep(WHOLE);
        far.cut()?;
        thread::sleep(WHOLE);
        Ok([(file, None), (second.file, Some(second.process))])
    })?;
    // The agent must end while the connection is half open.
    let (file, summary) = (tap.file().to_owned(), tap.summary().to_owned());
    tap.signal(libc::SIGINT)?;
    let Finished { status, lines } = tap.finish()?;
    let said = lines.join("\n");
    ensure!(
        matches!(status.code(), Some(0 | EXIT_OUTPUT)),
        "{status}\n{said}"
    );
    ensure!(
        said.contains("no connection; trying again") && !said.contains("panicked"),
        "{said}"
    );
    kernel::expect_gone(&objects)?;
    let summary = tap::Summary::read(&summary)?;
    summary.expect_accounted()?;
    let whole = record::read(&file)?.len() as u64;
    ensure!(
        whole == 2 * answered && summary.kernel("seen")? == whole,
        "{answered} questions answered, {whole} in the file: {summary}"
    );
    let mut delivered = 0;
    for (file, collector) in second {
        if let Some(collector) = collector {
            collector.stop(libc::SIGKILL)?;
        }
        delivered += record::read_up_to_the_end(&file)?.0.len() as u64;
    }
    let account = summary.output(1);
    let number = |value: &serde_json::Value| value.as_u64().context("a number");
    let (written, unconfirmed) = (
        number(&account["written"])?,
        number(&account["unconfirmed"])?,
    );
    let reasons = account["dropped"].as_object().context("reasons")?;
    let dropped = reasons.values().map(number).sum::<Result<u64>>()?;
    ensure!(
        written + dropped == whole
            && (written.saturating_sub(unconfirmed)..=written).contains(&delivered)
            && unconfirmed > 0
            && delivered > 0
            && account["connections"] == 2,
        "{delivered} delivered: {account}"
    );
    note(format!(
        "{how}: a host that vanishes: {answered} questions answered, {delivered} messages delivered, {dropped} dropped, {unconfirmed} unconfirmed"
    ));
    Ok(())
}

/// The other namespace. A process that does nothing keeps it alive.
struct Far(Running);

/// A collector in that namespace.
struct Collector {
    process: Running,
    file: PathBuf,
}

impl Far {
    fn start() -> Result<Self> {
        let mut command = Command::new(tool("unshare")?);
        command.arg("--net").arg("--").arg(std::env::current_exe()?);
        command.arg(toy::IDLE).stdin(Stdio::piped());
        let holder = Running::start("the far end", command, Watch::Stdout)?;
        let far = Self(holder);
        far.wait_until_apart()?;
        let pid = far.0.pid().to_string();
        run(&format!(
            "ip link add near type veth peer name far netns {pid}"
        ))
        .map_err(|error| Skip(format!("no veth pair: {error:#}")))?;
        run(&format!("ip addr add {AGENT}/24 dev near"))?;
        run("ip link set near up")?;
        far.run(&format!("ip addr add {COLLECTOR}/24 dev far"))?;
        far.mend()?;
        Ok(far)
    }

    /// Waits until the process has a namespace of its own.
    fn wait_until_apart(&self) -> Result<()> {
        let name = |path: String| std::fs::read_link(path);
        let here = name("/proc/thread-self/ns/net".into())?;
        let deadline = std::time::Instant::now() + PATIENCE;
        while name(format!("/proc/{}/ns/net", self.0.pid()))? == here {
            ensure!(std::time::Instant::now() < deadline, "no namespace");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Cuts the link, without a message to either side.
    fn cut(&self) -> Result<()> {
        self.run("ip link set far down")
    }

    fn mend(&self) -> Result<()> {
        self.run("ip link set far up")
    }

    fn run(&self, command: &str) -> Result<()> {
        run(&format!("nsenter -t {} -n {command}", self.0.pid()))
    }

    fn collect(&self, folder: &Path, name: &str) -> Result<Collector> {
        let file = folder.join(format!("{name}-collected.fstrm"));
        let mut command = Command::new(tool("nsenter")?);
        command.args(["-t", &self.0.pid().to_string(), "-n"]);
        command.arg(environment::agent()?).arg("receive");
        command.args(["-l", &format!("tcp:0.0.0.0:{PORT}"), "-o"]);
        command.arg(format!("file:{}", file.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Running::start(name, command, Watch::Stderr)?;
        process.wait_for("listening", |line| line.contains("listening on"))?;
        Ok(Collector { process, file })
    }
}

fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let Some(program) = words.next() else {
        bail!("no command")
    };
    let mut command = Command::new(tool(program)?);
    command.args(words);
    output(command).map(drop)
}
