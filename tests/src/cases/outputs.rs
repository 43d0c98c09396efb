//! Files and dead collectors under load: whatever happens to an output, each message is in it once or counted, and the
//! other outputs miss none. The agent under test is `receive`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::trial;
use crate::{
    environment::{Skip, agent, tool},
    lab::scratch,
    process::{PATIENCE, Running, Watch, output, resident},
    receive::{Agent, Sender, Stream, number_of, payloads, payloads_up_to_the_end},
    system::SmallDisk,
};

/// Messages per millisecond.
const RATE: u64 = 10;
/// Longest time until the agent has found a collector again and sent a whole queue to it.
const SOON: Duration = Duration::from_secs(15);

type Test = fn() -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    named([
        (
            "a compressed file is one for zstd, and for read the same as the plain one",
            compression,
        ),
        (
            "after kill -9 at any moment every file is readable up to the cut",
            killed,
        ),
        (
            "memory that a queue took while its collector was away is given back",
            given_back,
        ),
    ])
}

/// Returns the trials that may run at the same time as others: they send little, for a fixed time.
pub(super) fn beside() -> Vec<Trial> {
    named([
        (
            "of five outputs two are dead, and the others have every message",
            dead_outputs,
        ),
        (
            "fstrm_capture restarted 20 times under 10,000 messages/s: what is missing is counted",
            restarts,
        ),
        (
            "files that are rotated by size, time and SIGHUP under load have every message once",
            rotation,
        ),
        (
            "read -f gives every message once while the file grows and is rotated",
            followed,
        ),
        (
            "a full disk that gets room again goes on, and every message is in the file or counted",
            room_again,
        ),
    ])
}

fn named<const COUNT: usize>(tests: [(&str, Test); COUNT]) -> Vec<Trial> {
    tests
        .map(|(name, test)| trial(name.to_owned(), test))
        .into()
}

fn rotation() -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let live = folder.join("live.fstrm");
    let output = format!("file:{},rotate-size=200K,rotate-time=1s", live.display());
    let agent = Agent::start(folder, "agent", &[], &output)?;
    let mut sender = Sender::connect(agent.socket()?)?;
    let mut moved = Vec::new();
    let mut next = Duration::from_millis(300);
    at_rate(&mut sender, Duration::from_millis(3_500), |now| {
        if now >= next {
            next += Duration::from_millis(300);
            let to = folder.join(format!("moved-{}.fstrm", moved.len()));
            fs::rename(&live, &to)?;
            moved.push(to);
            agent.process.signal(libc::SIGHUP)?;
        }
        Ok(())
    })?;
    let sent = sender.finish()?;
    let summary = agent.stop()?;
    let files = files(folder, "fstrm")?;
    let mut numbers = Vec::new();
    for file in &files {
        let of_one = numbers_in(&payloads(file)?)?;
        ensure!(of_one.is_sorted(), "{}", file.display());
        numbers.extend(of_one);
    }
    numbers.sort_unstable();
    ensure!(
        numbers.iter().copied().eq(0..sent),
        "{} messages in {} files, {sent} sent: {summary}",
        numbers.len(),
        files.len()
    );
    let account = &summary["outputs"][0];
    let (rotations, reopened) = (&account["rotations"], &account["reopened"]);
    ensure!(account["written"] == sent, "{summary}");
    // Two signals may arrive before the agent handles one.
    ensure!(
        rotations.as_u64() > Some(10) && reopened.as_u64() > Some(5),
        "{summary}"
    );
    super::note(format!(
        "rotation: {sent} messages in {} files, {rotations} rotations, {reopened} after SIGHUP",
        files.len()
    ));
    Ok(())
}

fn followed() -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let live = folder.join("live.fstrm");
    let output = format!("file:{},rotate-time=1s", live.display());
    let agent = Agent::start(folder, "agent", &[], &output)?;
    let mut sender = Sender::connect(agent.socket()?)?;
    let copy = folder.join("copy");
    let mut command = Command::new(crate::environment::agent()?);
    command
        .args(["read", "-f", "--format", "dnstap"])
        .arg(&live)
        .stdout(File::create(&copy)?);
    let follower = Running::start("read -f", command, Watch::Stderr)?;
    at_rate(&mut sender, Duration::from_millis(3_500), |_| Ok(()))?;
    let sent = sender.finish()?;
    let summary = agent.stop()?;
    let rotations = summary["outputs"][0]["rotations"].as_u64();
    ensure!(rotations >= Some(3), "{summary}");
    let deadline = Instant::now() + PATIENCE;
    // The reader has printed everything after one more look at the file; the file holds whole frames.
    while (payloads_up_to_the_end(File::open(&copy)?)?.0.len() as u64) < sent {
        ensure!(Instant::now() < deadline, "not all of {sent} messages");
        thread::sleep(Duration::from_millis(50)); // until the reader looks again
    }
    let ended = follower.stop(libc::SIGINT)?;
    ensure!(
        ended.status.success(),
        "{}\n{}",
        ended.status,
        ended.lines.join("\n")
    );
    let numbers = numbers_in(&payloads(&copy)?)?;
    ensure!(
        numbers.into_iter().eq(0..sent),
        "other messages than {sent}"
    );
    Ok(())
}

fn compression() -> Result<()> {
    const MESSAGES: u64 = 30_000;
    let folder = scratch()?;
    let folder = folder.path();
    let (plain, compressed) = (folder.join("plain.fstrm"), folder.join("file.fstrm.zst"));
    let more = format!("file:{},compress=zstd", compressed.display());
    let output_plain = format!("file:{}", plain.display());
    let agent = Agent::start(folder, "agent", &["-o", &more], &output_plain)?;
    let mut sender = Sender::connect(agent.socket()?)?;
    sender.send_up_to(MESSAGES)?;
    sender.finish()?;
    agent.stop()?;
    let mut zstd = Command::new(tool("zstd")?);
    let unpacked = folder.join("unpacked");
    zstd.args(["-q", "-d", "-o"])
        .arg(&unpacked)
        .arg(&compressed);
    output(zstd)?;
    ensure!(
        fs::read(&unpacked)? == fs::read(&plain)?,
        "not the bytes of the plain file"
    );
    ensure!(
        10 * fs::metadata(&compressed)?.len() < fs::metadata(&plain)?.len(),
        "hardly smaller"
    );
    ensure!(read(&["--format", "json"], &compressed)? == read(&["--format", "json"], &plain)?);
    ensure!(read(&["-c"], &compressed)?.ends_with(&format!("total {MESSAGES}\n")));
    Ok(())
}

fn room_again() -> Result<()> {
    const DISK: usize = 256 * 1024;
    let folder = scratch()?;
    let folder = folder.path();
    let disk = folder.join("small");
    fs::create_dir(&disk)?;
    let _disk = SmallDisk::mount(&disk, DISK)
        .map_err(|error| Skip(format!("cannot mount a tmpfs: {error}")))?;
    let other = disk.join("other");
    fs::write(&other, vec![0; DISK - 32 * 1024])?;
    let file = disk.join("file.fstrm");
    let mut agent = Agent::start(folder, "agent", &[], &format!("file:{}", file.display()))?;
    let mut sender = Sender::connect(agent.socket()?)?;
    sender.send_up_to(500)?;
    agent
        .process
        .wait_for("a full disk", |line| line.contains("until there is room"))?;
    let full_at = payloads(&file)?.len();
    ensure!(full_at > 100, "{full_at} messages on the full disk");
    fs::remove_file(&other)?;
    // The agent tries again with the next message after a pause.
    let mut due = 500;
    let deadline = Instant::now() + PATIENCE;
    while payloads(&file)?.len() == full_at {
        ensure!(Instant::now() < deadline, "it does not go on");
        due += 1;
        sender.send_up_to(due)?;
        thread::sleep(Duration::from_millis(20)); // less than fills the disk
    }
    sender.send_up_to(due + 100)?;
    let sent = sender.finish()?;
    let summary = agent.stop_with_failure()?;
    let numbers = numbers_in(&payloads(&file)?)?;
    ensure!(numbers.is_sorted_by(|a, b| a < b), "twice, or out of order");
    let account = &summary["outputs"][0];
    let dropped = account["dropped"]["disk_full"]
        .as_u64()
        .context("a number")?;
    let written = numbers.len() as u64;
    ensure!(
        account["written"] == written
            && written + dropped == sent
            && written > 100 + full_at as u64,
        "sent {sent}, in the file {written}, at first {full_at}: {summary}"
    );
    ensure!(numbers.last() == Some(&(sent - 1)), "{summary}");
    Ok(())
}

fn killed() -> Result<()> {
    const ROUNDS: u64 = 15;
    let (mut with_messages, mut with_compressed) = (0, 0);
    for round in 0..ROUNDS {
        let folder = scratch()?;
        let folder = folder.path();
        let path = |name: &str| folder.join(name);
        let (plain, zst, text, pcap) = (path("f"), path("z"), path("t"), path("p"));
        let spec = |form: &str, path: &Path| format!("{form}:{}", path.display());
        let more = [
            spec("file", &zst) + ",compress=zstd",
            spec("text", &text),
            spec("pcap", &pcap),
        ];
        let more: Vec<_> = more.iter().flat_map(|spec| ["-o", spec]).collect();
        let agent = Agent::start(folder, "agent", &more, &spec("file", &plain))?;
        let mut sender = Sender::connect(agent.socket()?)?;
        // A moment in the middle of it.
        let moment = Duration::from_micros(20_000 + round * round * 7_919 % 200_000);
        let began = Instant::now();
        let mut due = 0;
        while began.elapsed() < moment {
            due += 200;
            sender.send_up_to(due)?;
        }
        agent.process.stop(libc::SIGKILL)?;

        let (found, _cut) = payloads_up_to_the_end(File::open(&plain)?)?;
        let whole = found.len() as u64;
        ensure!(
            numbers_in(&found)?.into_iter().eq(0..whole),
            "round {round}"
        );
        let counted = String::from_utf8(read_cut(&["-c"], &plain)?)?;
        ensure!(counted.ends_with(&format!("total {whole}\n")), "{counted}");
        with_messages += u64::from(whole > 0);

        let counted = String::from_utf8(read_cut(&["-c"], &zst)?)?;
        let compressed: u64 = counted
            .rsplit(' ')
            .next()
            .context("a total")?
            .trim()
            .parse()?;
        ensure!(compressed <= due, "round {round}: {counted}");
        with_compressed += u64::from(compressed > 0);
        let again = read_cut(&["--format", "dnstap"], &zst)?;
        let (found, _) = payloads_up_to_the_end(&again[..])?;
        ensure!(
            numbers_in(&found)?.into_iter().eq(0..compressed),
            "round {round}"
        );

        let lines = fs::read_to_string(&text)?;
        let broken = lines.lines().filter(|line| !line.contains(" CQ ")).count();
        ensure!(broken <= 1, "round {round}: {broken} lines");
        packets(&fs::read(&pcap)?).with_context(|| format!("round {round}"))?;
    }
    ensure!(
        with_messages > ROUNDS / 2 && with_compressed > ROUNDS / 2,
        "{with_messages} and {with_compressed} files with messages"
    );
    Ok(())
}

/// Counts the packets of a pcap file, of which at most the last one may be cut.
fn packets(pcap: &[u8]) -> Result<usize> {
    let mut rest = pcap.get(24..).context("no header")?;
    let mut packets = 0;
    // Seconds, nanoseconds, length in the file, length on the wire.
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let (captured, length) = (be32(&header[8..12])?, be32(&header[12..])?);
        ensure!(
            captured == length && length >= 40,
            "packet {packets} of {length}"
        );
        let Some(next) = behind.get(usize::try_from(length)?..) else {
            break;
        };
        rest = next;
        packets += 1;
    }
    Ok(packets)
}

fn be32(bytes: &[u8]) -> Result<u32> {
    Ok(u32::from_be_bytes(bytes.try_into()?))
}

fn dead_outputs() -> Result<()> {
    let folder = scratch()?;
    let folder = folder.path();
    let path = |name: &str| folder.join(name).display().to_string();
    // This listener accepts connections and does nothing else.
    let deaf = UnixListener::bind(folder.join("deaf"))?;
    let collected = path("collected.fstrm");
    let collector = Agent::start(folder, "collector", &[], &format!("file:{collected}"))?;
    let more = [
        format!("unix:{}", path("deaf")),
        format!("unix:{}", path("nobody")),
        format!("file:{},compress=zstd", path("z")),
        format!("unix:{}", collector.socket()?.display()),
    ];
    let mut options: Vec<_> = more.iter().flat_map(|spec| ["-o", spec]).collect();
    options.extend(["--queue-size", "1M"]);
    let agent = Agent::start(folder, "agent", &options, &format!("file:{}", path("f")))?;
    let (held, _) = deaf.accept()?;
    let mut sender = Sender::connect(agent.socket()?)?;
    at_rate(&mut sender, Duration::from_secs(3), |_| Ok(()))?;
    let sent = sender.finish()?;
    let summary = agent.stop_with_failure()?;
    drop(held);
    collector.stop()?;
    for file in [path("f"), collected] {
        let numbers = numbers_in(&payloads(Path::new(&file))?)?;
        ensure!(numbers.into_iter().eq(0..sent), "{file}: {summary}");
    }
    let counted = read(&["-c"], Path::new(&path("z")))?;
    ensure!(counted.ends_with(&format!("total {sent}\n")), "{counted}");
    for (at, dead) in [(0, false), (1, true), (2, true), (3, false), (4, false)] {
        let account = &summary["outputs"][at];
        let (written, dropped) = (number(&account["written"])?, dropped(account)?);
        ensure!(
            written + dropped == sent && (dropped == sent) == dead && (written == sent) != dead,
            "{account}"
        );
    }
    Ok(())
}

/// Tests restarts of a collector that writes what it has read before it ends, but does not read bytes that have already
/// arrived.
fn restarts() -> Result<()> {
    const LIVES: u64 = 20;
    let folder = scratch()?;
    let folder = folder.path();
    let socket = folder.join("collector");
    let output = format!("unix:{}", socket.display());
    // The queue holds about 75 ms of messages, which is less than the collector is away each time.
    let agent = Agent::start(folder, "agent", &["--queue-size", "100K"], &output)?;
    let stream = Stream::start(Sender::connect(agent.socket()?)?, RATE);
    let mut files = Vec::new();
    let mut last = None;
    for life in 0..LIVES {
        if let Some(collector) = last.take() {
            Running::stop(collector, libc::SIGTERM)?;
            thread::sleep(Duration::from_millis(150)); // longer than the queue holds
        }
        let file = folder.join(format!("life-{life}.fstrm"));
        let mut command = Command::new(tool("fstrm_capture")?);
        command.args(["-ddd", "-t", "protobuf:dnstap.Dnstap", "-u"]);
        command.arg(&socket).arg("-w").arg(&file);
        command.stdout(Stdio::null());
        let mut collector = Running::start("fstrm_capture", command, Watch::Stderr)?;
        collector.wait_for("a connection", |line| line.contains("accepted "))?;
        thread::sleep(Duration::from_millis(200)); // one life of the collector
        files.push(file);
        last = Some(collector);
    }
    let sent = stream.end()?;
    let summary = agent.stop()?;
    if let Some(collector) = last {
        collector.stop(libc::SIGTERM)?;
    }
    let mut numbers = Vec::new();
    for file in &files {
        let (found, _) = payloads_up_to_the_end(File::open(file)?)?;
        numbers.extend(numbers_in(&found)?);
    }
    ensure!(numbers.is_sorted_by(|a, b| a < b), "a message came twice");
    let account = &summary["outputs"][0];
    let delivered = numbers.len() as u64;
    let (written, unconfirmed) = (
        number(&account["written"])?,
        number(&account["unconfirmed"])?,
    );
    let dropped = dropped(account)?;
    ensure!(written + dropped == sent, "sent {sent}: {summary}");
    ensure!(
        (written - unconfirmed..=written).contains(&delivered),
        "delivered {delivered}: {summary}"
    );
    ensure!(
        dropped > 0 && number(&account["connections"])? == LIVES,
        "{summary}"
    );
    super::note(format!(
        "fstrm_capture restarts: sent {sent}, delivered {delivered}, dropped {dropped}, unconfirmed {unconfirmed}"
    ));
    Ok(())
}

fn given_back() -> Result<()> {
    /// The default of `--queue-size`, in KiB.
    const QUEUE: u64 = 64 << 10;
    /// Memory that may stay allocated. Once it was four fifths of a queue.
    const MAY_STAY: u64 = QUEUE / 4;
    let folder = scratch()?;
    let folder = folder.path();
    let output = format!("unix:{}", folder.join("collector.in").display());
    let agent = Agent::start(folder, "agent", &[], &output)?;
    let mut sender = Sender::connect(agent.socket()?)?;
    sender.send_up_to(1_000)?;
    let before = resident(agent.process.pid())?;
    let deadline = Instant::now() + PATIENCE;
    let mut due = 1_000;
    while resident(agent.process.pid())? < before + QUEUE {
        ensure!(Instant::now() < deadline, "the queue does not fill");
        due += 10_000;
        sender.send_up_to(due)?;
    }
    let full = resident(agent.process.pid())?;
    // The agent looks at its queues once a second.
    thread::sleep(Duration::from_secs(2));
    let collector = Agent::start(folder, "collector", &[], "file:/dev/null")?;
    let began = Instant::now();
    loop {
        // These are few messages: with many, the allocator returns free memory by itself.
        due += 10;
        sender.send_up_to(due)?;
        let after = resident(agent.process.pid())?;
        if after < before + MAY_STAY {
            super::note(format!(
                "memory of a queue: {} kB before, {} full, {} given back {:?} later",
                before,
                full,
                after,
                began.elapsed()
            ));
            break;
        }
        ensure!(
            began.elapsed() < SOON,
            "resident before {before}, with a full queue {full}, in the end {after}"
        );
        thread::sleep(Duration::from_millis(10)); // until the agent has processed more
    }
    let sent = sender.finish()?;
    let summary = agent.stop()?;
    collector.stop()?;
    let account = &summary["outputs"][0];
    let (written, dropped) = (number(&account["written"])?, dropped(account)?);
    ensure!(
        written + dropped == sent && written > sent / 2,
        "sent {sent}: {summary}"
    );
    Ok(())
}

/// Sends for this time, and runs another action in between.
fn at_rate(
    sender: &mut Sender,
    time: Duration,
    mut between: impl FnMut(Duration) -> Result<()>,
) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        sender.send_up_to(u64::try_from(began.elapsed().as_millis())? * RATE)?;
        between(began.elapsed())?;
        thread::sleep(Duration::from_millis(2)); // the rate
    }
    Ok(())
}

fn numbers_in(payloads: &[bytes::Bytes]) -> Result<Vec<u64>> {
    payloads.iter().map(|payload| number_of(payload)).collect()
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().context("a number")
}

fn dropped(account: &Value) -> Result<u64> {
    let reasons = account["dropped"].as_object().context("reasons")?;
    reasons.values().map(number).sum()
}

/// Returns the output of `read` for a whole file.
fn read(options: &[&str], file: &Path) -> Result<String> {
    let mut command = Command::new(agent()?);
    command.arg("read").args(options).arg(file);
    Ok(output(command)?.0)
}

/// Returns the output of `read` for a file that may be cut.
fn read_cut(options: &[&str], file: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(agent()?);
    let done = command.arg("read").args(options).arg(file).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    let cut = done.status.code() == Some(65) && said.contains("cut off at byte");
    ensure!(cut || done.status.success(), "{}: {said}", done.status);
    Ok(done.stdout)
}

/// Returns the files with this extension anywhere in their names.
fn files(folder: &Path, extension: &str) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().contains(&format!(".{extension}")) {
            files.insert(path);
        }
    }
    Ok(files)
}
