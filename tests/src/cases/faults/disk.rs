//! A disk that hangs, and a slow reader: one output waits, and nothing else does.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{expect_balance, objects, once, under_load};
use crate::{
    cases::{note, trial},
    disk::Disk,
    environment::{Combination, Skip},
    kernel,
    lab::{self, Lab, Wanted},
    receive::{Agent, Sender, Stream, number_of, payloads},
    record, system,
    tap::Tap,
};

/// Times for which the disk hangs and works, alternating several times.
const HANGS: Duration = Duration::from_millis(700);
const WORKS: Duration = Duration::from_millis(300);
const TIMES: usize = 3;
/// Messages per millisecond.
const RATE: u64 = 10;
/// Size of a queue for about 750 ms of messages, and the time for which the disk then hangs.
const LONG_QUEUE: &str = "1M";
const HANGS_LONG: Duration = Duration::from_millis(1_500);
/// Size of a queue for about 75 ms of messages.
const QUEUE: &str = "100K";
/// Time for which the pipe is read slowly, and the number of bytes per read: far less than what is sent.
const SLOWLY: Duration = Duration::from_secs(1);
const SIP: usize = 4_096;
const BETWEEN: Duration = Duration::from_millis(20);

pub(super) fn trials() -> Vec<Trial> {
    once(
        "a disk that hangs, also at the end, delays its own output alone",
        hangs,
    )
}

/// Returns the trials that may run at the same time as others: each has its own disk or pipe.
pub(super) fn beside() -> Vec<Trial> {
    vec![
        trial(
            "a disk that hangs for longer than the queue holds: written or counted, exactly".into(),
            hangs_long,
        ),
        trial(
            "a pipe whose reader is slow: written or counted, exactly".into(),
            slow_reader,
        ),
    ]
}

fn hangs(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let disk = disk(lab.folder())?;
    let file = disk.path().join("hanging.fstrm");
    let output = format!("file:{}", file.display());
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &["-o", &output])?;
    let objects = objects(&tap)?;
    let (frozen, answered) = under_load(lab.server(false), || {
        for _ in 0..TIMES {
            let frozen = disk.freeze()?;
            thread::sleep(HANGS);
            drop(frozen);
            thread::sleep(WORKS);
        }
        disk.freeze()
    })?;
    // The disk hangs when the agent is told to end, and works again before the outputs' deadline.
    let thaw = thread::spawn(move || {
        thread::sleep(HANGS);
        drop(frozen);
    });
    let tapped = tap.stop()?;
    thaw.join().map_err(|_panic| anyhow!("not thawed"))?;
    kernel::expect_gone(&objects)?;
    let written = expect_balance(&tapped, answered)?;
    let there = record::read(&file)?.len() as u64;
    ensure!(
        written == 2 * answered && there == written && tapped.summary.output(1)["written"] == there,
        "{answered} questions answered, {there} on the disk that hung: {}",
        tapped.summary
    );
    note(format!(
        "{how}: a disk that hung {} times: {answered} questions answered, {there} messages on it",
        TIMES + 1
    ));
    Ok(())
}

fn hangs_long() -> Result<()> {
    let folder = lab::scratch()?;
    let folder = folder.path();
    let disk = disk(folder)?;
    let [hanging, other] = [disk.path(), folder].map(|folder| folder.join("file.fstrm"));
    let outputs = [&hanging, &other].map(|file| format!("file:{}", file.display()));
    let more = ["-o", &outputs[1], "--queue-size", LONG_QUEUE];
    let agent = Agent::start(folder, "agent", &more, &outputs[0])?;
    let stream = Stream::start(Sender::connect(agent.socket()?)?, RATE);
    thread::sleep(WORKS);
    let frozen = disk.freeze()?;
    thread::sleep(HANGS_LONG);
    drop(frozen);
    thread::sleep(WORKS);
    let sent = stream.end()?;
    let summary = agent.stop()?;
    ensure!(numbers(&other)?.into_iter().eq(0..sent), "{summary}");
    let (written, dropped) = expect_delayed(&summary, &numbers(&hanging)?, sent)?;
    note(format!(
        "a disk that hung for {HANGS_LONG:?}: {sent} messages sent, {written} written, {dropped} dropped"
    ));
    Ok(())
}

fn slow_reader() -> Result<()> {
    let folder = lab::scratch()?;
    let folder = folder.path();
    let [pipe, copy] = ["pipe", "copy"].map(|name| folder.join(name));
    system::make_pipe(&CString::new(pipe.as_os_str().as_bytes())?)?;
    let (from, to) = (pipe.clone(), copy.clone());
    let reader = thread::spawn(move || sip(&from, &to));
    let output = format!("file:{}", pipe.display());
    let agent = Agent::start(folder, "agent", &["--queue-size", QUEUE], &output)?;
    let stream = Stream::start(Sender::connect(agent.socket()?)?, RATE);
    thread::sleep(SLOWLY);
    let sent = stream.end()?;
    let summary = agent.stop()?;
    reader
        .join()
        .map_err(|_panic| anyhow!("the reader panicked"))??;
    let (written, dropped) = expect_delayed(&summary, &numbers(&copy)?, sent)?;
    note(format!(
        "a slow reader: {sent} messages sent, {written} written, {dropped} dropped"
    ));
    Ok(())
}

/// Checks that the first output has these messages, and that the others are counted as too many for its queue.
fn expect_delayed(summary: &Value, there: &[u64], sent: u64) -> Result<(u64, u64)> {
    let account = &summary["outputs"][0];
    let number = |value: &Value| value.as_u64().context("a number");
    let written = number(&account["written"])?;
    let dropped = number(&account["dropped"]["queue_full"])?;
    ensure!(
        there.is_sorted_by(|a, b| a < b) && there.len() as u64 == written,
        "{} messages there: {account}",
        there.len()
    );
    ensure!(
        written > 0 && dropped > 0 && written + dropped == sent && summary["unaccounted"] == 0,
        "{sent} sent: {summary}"
    );
    Ok((written, dropped))
}

fn disk(folder: &Path) -> Result<Disk> {
    Disk::mount(folder, 64).map_err(|error| Skip(format!("no disk in a file: {error:#}")).into())
}

fn numbers(file: &Path) -> Result<Vec<u64>> {
    payloads(file)?
        .iter()
        .map(|payload| number_of(payload))
        .collect()
}

/// Reads the pipe to its end, slowly.
fn sip(pipe: &Path, copy: &Path) -> Result<()> {
    let mut pipe = File::open(pipe)?;
    let mut all = Vec::new();
    let mut bytes = [0; SIP];
    loop {
        let read = pipe.read(&mut bytes)?;
        if read == 0 {
            return Ok(fs::write(copy, all)?);
        }
        all.extend_from_slice(&bytes[..read]);
        thread::sleep(BETWEEN);
    }
}
