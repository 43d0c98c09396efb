//! Set of tapped processes: forked workers, several servers, servers that are restarted, control groups.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::message::Type;
use libtest_mimic::Trial;

use super::{expect_records, for_each_combination, for_each_hook, for_each_hook_in_turn};
use crate::{
    environment::{self, Combination, Skip},
    lab::{self, Lab, Wanted},
    load::client::{Cut, TcpClient, UdpClient},
    process::{Running, Watch, output},
    record::Record,
    tap::{self, Tap},
    toy::{Workers, link},
    wire,
};

/// "The process to tap does not exist" (`EX_UNAVAILABLE`).
const EXIT_NO_TARGET: i32 = 69;

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_combination("workers forked before and after attach are tapped", workers),
        for_each_combination("a worker that executes another program is let go", exec),
        for_each_combination("two servers are tapped at once, by pid and by name", two),
        for_each_combination(
            "a server is awaited and followed through its restart",
            follow,
        ),
        for_each_combination(
            "a control group's processes are tapped, also later ones",
            group,
        ),
        for_each_combination(
            "what a followed unit's process executes is tapped from its first message on",
            executed,
        ),
        for_each_hook_in_turn(
            "a connection of a process that joins later is read from the next message on",
            joined,
        ),
        for_each_hook(
            "programs that have ended before anybody looked are named by what they were",
            ended,
        ),
        for_each_combination("a name that nobody has ends with its own code", nobody),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Sends a query to the server, which worker `number` answers. Returns the two messages.
fn ask(server: &mut Workers, number: usize) -> Result<Vec<Record>> {
    let mut client = UdpClient::connect(server.address)?;
    client.send(&wire::query(1, "toy.lab", wire::TYPE_A, true))?;
    server.answer(number)?;
    client.receive()?;
    Ok(client.passed)
}

fn workers(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut server = Workers::start()?;
    let before = server.fork()?;
    let tap = Tap::attach(scratch.path(), server.pid(), how, &[])?;
    ensure!(
        tap.said().contains(&before.to_string()),
        "no worker {before} in: {}",
        tap.said()
    );
    let mut passed = Vec::new();
    for number in 0..30 {
        passed.extend(ask(&mut server, number)?);
        server.fork()?;
        passed.extend(ask(&mut server, number + 1)?);
    }
    expect_records(&tap.stop()?, &passed)?;
    server.stop()
}

fn exec(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let (own, other) = (
        link(scratch.path(), "toy-server")?,
        link(scratch.path(), "toy-other")?,
    );
    let mut server = Workers::start_as(&own)?;
    let tap = Tap::attach(scratch.path(), server.pid(), how, &[])?;
    server.fork()?;
    server.fork()?;
    let mut passed = ask(&mut server, 0)?;
    server.exec(0, &own)?;
    passed.extend(ask(&mut server, 0)?);
    server.exec(1, &other)?;
    ask(&mut server, 1)?;
    passed.extend(ask(&mut server, 0)?);
    expect_records(&tap.stop()?, &passed)?;
    server.stop()
}

fn two(how: &Combination) -> Result<()> {
    for by_name in [false, true] {
        let scratch = lab::scratch()?;
        let mut servers = ["toy-one", "toy-two", "toy-three"]
            .map(|name| -> Result<_> { Workers::start_as(&link(scratch.path(), name)?) })
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let pids: Vec<_> = servers
            .iter()
            .map(|server| server.pid().to_string())
            .collect();
        let targets = if by_name {
            ["--name", "toy-one", "--name", "toy-two"]
        } else {
            ["--pid", &pids[0], "--pid", &pids[1]]
        };
        let tap = Tap::attach_to(scratch.path(), &targets, how, &[])?;
        let mut passed = Vec::new();
        for (at, server) in servers.iter_mut().enumerate() {
            server.fork()?;
            let records = ask(server, 0)?;
            if at < 2 {
                passed.extend(records);
            }
        }
        // The agent does not end when one of the servers ends.
        servers.remove(0).stop()?;
        passed.extend(ask(&mut servers[0], 0)?);
        expect_records(&tap.stop()?, &passed)?;
        for server in servers {
            server.stop()?;
        }
    }
    Ok(())
}

fn follow(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let program = link(scratch.path(), "toy-followed")?;
    let targets = ["--name", "toy-followed"];
    let tap = Tap::attach_to(scratch.path(), &targets, how, &["--follow"])?;
    ensure!(
        tap.said().contains("waiting for toy-followed"),
        "{}",
        tap.said()
    );
    let mut passed = Vec::new();
    for _ in 0..5 {
        // Its worker may send immediately, without waiting for the agent.
        let mut server = Workers::start_as(&program)?;
        server.fork()?;
        passed.extend(ask(&mut server, 0)?);
        server.stop()?;
    }
    expect_records(&tap.stop()?, &passed)
}

/// A tool ends as soon as it has its response. No other test uses the tool's name.
fn ended(how: &Combination) -> Result<()> {
    const ROUNDS: usize = 20;
    let lab = Lab::start(Wanted::default())?;
    let program = lab.folder().join("resperf");
    symlink(environment::tool("dig")?, &program)?;
    let tap = Tap::attach_to(lab.folder(), &["--name", "resperf"], how, &["--follow"])?;
    for round in 0..ROUNDS {
        let server = lab.server(false);
        let mut dig = Command::new(&program);
        dig.args([
            "-r",
            "+norecurse",
            if round % 2 == 0 { "+tcp" } else { "+notcp" },
        ])
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "h1.auth.lab"]);
        output(dig)?;
    }
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    // A process that ends quickly may be reported with the name of the program that it ran before.
    let own = records.iter().filter(|record| {
        matches!(
            record.kind,
            Type::ToolQuery | Type::ToolResponse | Type::StubQuery | Type::StubResponse
        )
    });
    ensure!(
        (records.len(), own.count()) == (2 * ROUNDS, 2 * ROUNDS),
        "{}",
        tapped.summary
    );
    Ok(())
}

fn group(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let group = Group::new()?;
    let mut inside = Workers::start()?;
    group.take(inside.pid())?;
    let mut outside = Workers::start()?;
    outside.fork()?;
    let targets = ["--unit", group.name()];
    let mut tap = Tap::attach_to(scratch.path(), &targets, how, &["--follow"])?;
    inside.fork()?;
    let mut passed = ask(&mut inside, 0)?;
    ask(&mut outside, 0)?;
    let mut later = Workers::start()?;
    group.take(later.pid())?;
    let pid = later.pid().to_string();
    tap.wait_for("the new process", |line| {
        line.contains("tapping") && line.contains(&pid)
    })?;
    later.fork()?;
    passed.extend(ask(&mut later, 0)?);
    ask(&mut outside, 0)?;
    expect_records(&tap.stop()?, &passed)?;
    for server in [inside, outside, later] {
        server.stop()?;
    }
    Ok(())
}

/// A shell in the unit runs a tool again and again. The tool ends before the agent can look for it.
fn executed(how: &Combination) -> Result<()> {
    const ROUNDS: usize = 10;
    let group = Group::new()?;
    let lab = Lab::start(Wanted::default())?;
    let dig = environment::tool("dig")?;
    let server = lab.server(false);
    let script = format!(
        "read start; for n in $(seq {ROUNDS}); do {} -r +norecurse @{} -p {} h1.auth.lab; done; echo over",
        dig.display(),
        server.ip(),
        server.port(),
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::piped());
    let mut shell = Running::start("sh", shell, Watch::Stdout)?;
    group.take(shell.pid())?;
    let targets = ["--unit", group.name()];
    let tap = Tap::attach_to(lab.folder(), &targets, how, &["--follow"])?;
    shell.tell("go")?;
    shell.wait_for("the end of the script", |line| line == "over")?;
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    // A process that ends quickly may be reported with the name of the program that it ran before.
    let own = records.iter().filter(|record| {
        matches!(
            record.kind,
            Type::ToolQuery | Type::ToolResponse | Type::StubQuery | Type::StubResponse
        )
    });
    ensure!(
        (records.len(), own.count()) == (2 * ROUNDS, 2 * ROUNDS),
        "{}",
        tapped.summary
    );
    Ok(())
}

fn joined(how: &Combination) -> Result<()> {
    // The cgroup is declared first, so that it is dropped after the lab and its processes.
    let group = Group::new()?;
    let lab = Lab::start(Wanted::default())?;
    let query = |id: u16| wire::query(id, &format!("h{id}.auth.lab"), wire::TYPE_A, false);
    let exchange = |client: &mut TcpClient, id| -> Result<()> {
        client.send(&query(id), Cut::Whole)?;
        client.receive().map(drop)
    };
    let mut client = TcpClient::connect(lab.server(false))?;
    let half = wire::framed(&query(7));
    let (read, rest) = half.split_at(half.len() / 2);
    client.send_raw(read)?;
    // The server must have read this before it joins.
    let mut other = TcpClient::connect(lab.server(false))?;
    for id in 0..200 {
        exchange(&mut other, id)?;
    }
    let targets = ["--unit", group.name()];
    let mut tap = Tap::attach_to(lab.folder(), &targets, how, &["--follow"])?;
    let pid = lab.tapped.pid();
    group.take(pid)?;
    tap.wait_for("the server", |line| {
        line.contains("tapping") && line.contains(&pid.to_string())
    })?;
    client.send_raw(rest)?;
    client.receive()?;
    for id in 10..30 {
        exchange(&mut client, id)?;
    }
    expect_records(&tap.stop()?, &client.passed)
}

fn nobody(how: &Combination) -> Result<()> {
    let targets = ["--name", "toy-nobody"];
    let command = tap::command_for(&environment::agent()?, &targets, how);
    let finished =
        Running::start("dnstap-agent", command, Watch::Stderr)?.finish(crate::process::PATIENCE)?;
    let said = finished.lines.join("\n");
    ensure!(
        finished.status.code() == Some(EXIT_NO_TARGET)
            && said.contains("toy-nobody")
            && said.contains("--follow"),
        "{}: {said}",
        finished.status
    );
    Ok(())
}

/// A control group that belongs to the test.
pub(super) struct Group(PathBuf);

impl Group {
    /// Makes a control group; a [`Skip`] if that is not possible.
    pub(super) fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then_some(path)
        });
        let Some(root) = root else {
            return Err(Skip("no cgroup2 file system is mounted".into()).into());
        };
        let path = PathBuf::from(root).join(format!("dnstap-{}.service", std::process::id()));
        fs::create_dir(&path).map_err(|error| Skip(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }

    /// Returns the name of the group, like that of a unit.
    pub(super) fn name(&self) -> &str {
        self.0
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// Moves a process into the group.
    pub(super) fn take(&self, pid: u32) -> Result<()> {
        let path = self.0.join("cgroup.procs");
        fs::write(&path, pid.to_string()).with_context(|| format!("{}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // This fails only if a failed test has left processes in the group; the test's report tells about that.
        fs::remove_dir(&self.0).ok();
    }
}
