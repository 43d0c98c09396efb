//! The id of a tapped process that has ended is given to another one at once.

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

/// The id that the kernel has given last, in this PID namespace; the next one is the first free one behind it.
const LAST: &str = "/proc/sys/kernel/ns_last_pid";
/// Attempts: others on the machine start processes as well, and may be faster.
const ATTEMPTS: usize = 200;

pub(super) fn trials() -> Vec<Trial> {
    for_each_hook_in_turn(
        "another process with the id of one that was tapped is not tapped",
        reused,
    )
}

/// Two servers are tapped by id. One ends, and while the agent does not look, its id comes to a stranger.
fn reused(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let [first, second, stranger] =
        ["toy-first", "toy-second", "toy-stranger"].map(|name| link(scratch.path(), name));
    let (first, second, stranger) = (first?, second?, stranger?);
    // By its name, which it shares with its worker: the worker answers, so it is the worker's id that counts.
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
    // And what is followed by its name is followed, whatever its id.
    let mut again = with_worker(pid, &first)?;
    passed.extend(ask(&mut again)?);
    expect_records(&stop(tap)?, &passed)?;
    again.stop()?;
    other.stop()
}

/// A server of this program whose worker has the id.
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

/// Has worker 0 answer a query; the two messages.
fn ask(server: &mut Workers) -> Result<Vec<Record>> {
    let mut client = UdpClient::connect(server.address)?;
    client.send(&wire::query(1, "toy.lab", wire::TYPE_A, true))?;
    server.answer(0)?;
    let answer = client.receive()?;
    ensure!(wire::is_response(&answer), "no answer");
    Ok(client.passed)
}
