//! The id of a tapped process that has ended is immediately reused by another process.

use std::fs;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;

use super::stop;
use crate::{
    cases::{expect_records, for_each_hook_in_turn},
    environment::{Combination, Skip},
    kernel, lab,
    load::client::UdpClient,
    record::Record,
    tap::Tap,
    toy::{Workers, link},
    wire,
};

/// The last id that the kernel has assigned in this PID namespace. The next process gets the first free id after it.
const LAST: &str = "/proc/sys/kernel/ns_last_pid";
/// Number of attempts, because other processes on the machine also fork and may get the id first.
const ATTEMPTS: usize = 200;

pub(super) fn trials() -> Vec<Trial> {
    for_each_hook_in_turn(
        "another process with the id of one that was tapped is not tapped",
        reused,
    )
}

/// Two servers are tapped by id. One ends, and a process that is not a target gets its id while the agent is stopped.
fn reused(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let [first, second, stranger] =
        ["toy-first", "toy-second", "toy-stranger"].map(|name| link(scratch.path(), name));
    let (first, second, stranger) = (first?, second?, stranger?);
    // The target is selected by its name, which its worker shares. The worker answers, so the worker's id matters.
    let mut one = Workers::start_as(&first)?;
    let mut other = Workers::start_as(&second)?;
    let pid = one.fork()?;
    other.fork()?;
    let targets = ["--name", "toy-first", "--name", "toy-second", "--follow"];
    let mut tap = Tap::attach_to(scratch.path(), &targets, how, &[])?;
    let mut passed = ask(&mut one)?;
    passed.extend(ask(&mut other)?);

    tap.signal(libc::SIGSTOP)?;
    kernel::stopped(tap.pid())?;
    one.stop()?;
    let mut strange = with_worker(pid, &stranger)?;
    ask(&mut strange)?;
    tap.signal(libc::SIGCONT)?;
    tap.wait_for("the end of the first", |line| {
        line.contains("a tapped process has ended") && line.ends_with(&format!("={pid}"))
    })?;
    ask(&mut strange)?;
    passed.extend(ask(&mut other)?);
    strange.stop()?;
    // A process that is followed by its name is followed with any id.
    let mut again = with_worker(pid, &first)?;
    passed.extend(ask(&mut again)?);
    expect_records(&stop(tap)?, &passed)?;
    again.stop()?;
    other.stop()
}

/// Starts a server of this program whose worker has the id.
fn with_worker(pid: u32, program: &std::path::Path) -> Result<Workers> {
    for _ in 0..ATTEMPTS {
        let mut server = Workers::start_as(program)?;
        fs::write(LAST, (pid - 1).to_string()).map_err(|error| Skip(format!("{LAST}: {error}")))?;
        if server.fork()? == pid {
            return Ok(server);
        }
        server.stop()?;
    }
    bail!("{pid} was always taken")
}

/// Lets worker 0 answer a query. Returns the two messages.
fn ask(server: &mut Workers) -> Result<Vec<Record>> {
    let mut client = UdpClient::connect(server.address)?;
    client.send(&wire::query(1, "toy.lab", wire::TYPE_A, true))?;
    server.answer(0)?;
    let answer = client.receive()?;
    ensure!(wire::is_response(&answer), "no answer");
    Ok(client.passed)
}
