//! Measures the speed of the agent's other commands, and of other programs that do the same: `read --count` and
//! `receive`.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    count,
    process::wait_until,
    stats::{Summary, summary},
};
use crate::{
    child::{Child, Log},
    exec, ui,
};

/// Number of messages in the file that is read and sent.
const MESSAGES: u64 = 1_000_000;
/// Commands without filters, and with two filters that need the DNS part of every message.
const READ: &str = "dnstap-agent read --count";
const READ_FILTERED: &str = "dnstap-agent read --count --qtype A --suffix here.test";
const PATIENCE: Duration = Duration::from_secs(20);

/// READY and START of dnstap, STOP (Frame Streams control frames with their escapes).
const READY: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x04\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
const START: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x02\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
const STOP: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x03";
/// Sizes of this receiver's ACCEPT and FINISH in bytes.
const ACCEPT_BYTES: usize = 42;
const FINISH_BYTES: usize = 12;

/// Messages per second.
pub(super) struct Speeds(pub(super) Vec<(&'static str, Summary)>);

/// Measures each in turn, `rounds` times.
pub(super) fn measure(agent: &Path, folder: &Path, sample: &Path, rounds: u32) -> Result<Speeds> {
    ui::step("reading and receiving");
    let file = folder.join("million.fstrm");
    fs::write(&file, many(sample)?).with_context(|| format!("cannot write {}", file.display()))?;
    let read = |line: &str| {
        let mut command = Command::new(agent);
        command.args(line.split(' ').skip(1)).arg(&file);
        command
    };
    let selected = count::counted(&mut read(READ_FILTERED))?;
    ensure!(
        (1..MESSAGES).contains(&selected),
        "`{READ_FILTERED}` counts {selected} of {MESSAGES} messages, which is no choice"
    );
    let mut figures = vec![
        (READ, Vec::new()),
        (READ_FILTERED, Vec::new()),
        ("dnstap -q -r (golang-dnstap)", Vec::new()),
        ("dnstap-agent receive, unix socket to file", Vec::new()),
        ("fstrm_capture, unix socket to file", Vec::new()),
    ];
    for round in 1..=rounds {
        let mut golang = Command::new("dnstap");
        golang.args(["-q", "-r"]).arg(&file);
        let (socket, output) = (folder.join("tools.sock"), folder.join("tools.fstrm"));
        let mut receive = Command::new(agent);
        receive
            .args(["receive", "--wait", "--listen"])
            .arg(format!("unix:{}", socket.display()))
            .arg("-o")
            .arg(format!("file:{}", output.display()));
        let mut capture = Command::new("fstrm_capture");
        capture
            .args(["-t", "protobuf:dnstap.Dnstap", "-u"])
            .arg(&socket)
            .arg("-w")
            .arg(&output);
        let times = [
            run(&mut read(READ))?,
            run(&mut read(READ_FILTERED))?,
            run(&mut golang)?,
            send(&receive, &socket, &file)?,
            send(&capture, &socket, &file)?,
        ];
        for ((name, speeds), time) in figures.iter_mut().zip(times) {
            let speed = MESSAGES as f64 / time.as_secs_f64();
            ui::note(format_args!(
                "{round}/{rounds} {name}: {speed:.0} messages/s"
            ));
            speeds.push(speed);
        }
    }
    Ok(Speeds(
        figures
            .into_iter()
            .filter_map(|(name, speeds)| Some((name, summary(speeds)?)))
            .collect(),
    ))
}

/// Repeats the frames of a dnstap file to make a file of [`MESSAGES`].
fn many(sample: &Path) -> Result<Vec<u8>> {
    let sample = fs::read(sample).context("no dnstap file to begin with")?;
    let frames = sample
        .get(START.len()..)
        .filter(|rest| rest.len() > STOP.len())
        .context("an empty dnstap file")?;
    let frames = &frames[..frames.len() - STOP.len()];
    let mut file = START.to_vec();
    let mut rest = frames;
    for _ in 0..MESSAGES {
        if rest.is_empty() {
            rest = frames;
        }
        let (length, behind) = rest.split_first_chunk::<4>().context("a cut frame")?;
        let end = u32::from_be_bytes(*length) as usize;
        ensure!(end > 0 && end <= behind.len(), "a cut frame");
        file.extend_from_slice(&rest[..4 + end]);
        rest = &behind[end..];
    }
    file.extend_from_slice(STOP);
    Ok(file)
}

/// Measures the run time of a program.
fn run(command: &mut Command) -> Result<Duration> {
    let line = exec::display(command);
    let started = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(started.elapsed())
}

/// Measures the time that a receiver needs for all frames of the file, from the first byte to FINISH.
fn send(receiver: &Command, socket: &PathBuf, file: &Path) -> Result<Duration> {
    let child = Child::spawn(receiver, Log::Kept)?;
    wait_until("the receiver listens", PATIENCE, || {
        UnixStream::connect(socket).is_ok()
    })?;
    let frames = fs::read(file)?;
    let mut stream = UnixStream::connect(socket).context("the receiver does not listen")?;
    let started = Instant::now();
    stream.write_all(READY)?;
    stream.read_exact(&mut [0; ACCEPT_BYTES])?;
    stream.write_all(&frames)?;
    stream
        .read_exact(&mut [0; FINISH_BYTES])
        .context("the receiver did not finish")?;
    let took = started.elapsed();
    child.signal("INT")?;
    child.finish(PATIENCE)?;
    // fstrm_capture does not remove its socket.
    if socket.exists() {
        fs::remove_file(socket)?;
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_repeated_whole() {
        let path = std::env::temp_dir().join(format!("sample-{}", std::process::id()));
        let frames = b"\0\0\0\x01a\0\0\0\x02bc";
        fs::write(&path, [START, frames, STOP].concat()).expect("written");
        let file = many(&path);
        fs::remove_file(&path).expect("removed");
        let file = file.expect("sound");
        let frames = usize::try_from(MESSAGES / 2).expect("small") * frames.len();
        assert_eq!(file.len(), START.len() + frames + STOP.len());
        assert!(file.ends_with(&[&b"\0\0\0\x02bc"[..], STOP].concat()));
    }
}
