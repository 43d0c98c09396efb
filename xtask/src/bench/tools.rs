//! Measures the speed of the agent's other commands, `read` and `receive`, and of other programs that do the same.

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

/// Number of messages in the file that is counted and sent.
const MESSAGES: usize = 1_000_000;
/// Number of messages in the file that is printed.
const PRINTED: usize = 200_000;
/// Commands without filters, and with two filters that need the DNS part of every message.
const READ: &str = "dnstap-agent read --count";
const READ_FILTERED: &str = "dnstap-agent read --count --qtype A --suffix here.test";
/// Programs that count; the name of the file is their last argument.
const COUNTERS: [&str; 2] = [READ, READ_FILTERED];
/// Programs that print each message; the name of the file is their last argument. After each of our formats come the
/// programs of others that print as much.
const PRINTERS: [&str; 10] = [
    "dnstap-agent read --format text",
    "dnstap -q -r",
    "dnstap-read",
    "dnstap-agent read --format full",
    "dnstap-read -p",
    "dnstap-agent read --format json",
    "dnstap -j -r",
    "dnstap-agent read --format yaml",
    "dnstap -y -r",
    "dnstap-read -y",
];
/// Number of connections of a busy receiver, each with an equal share of the messages.
const CONNECTIONS: usize = 1_000;
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
    let sample = fs::read(sample).context("no dnstap file to begin with")?;
    let frames = frames_of(&sample)?;
    let written = |name: &str, messages| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, file_of(&frames, 0, messages))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let (counted, printed) = (
        written("counted.fstrm", MESSAGES)?,
        written("printed.fstrm", PRINTED)?,
    );
    let whole = [file_of(&frames, 0, MESSAGES)];
    let share = MESSAGES / CONNECTIONS;
    let shares: Vec<_> = (0..CONNECTIONS)
        .map(|number| file_of(&frames, number * share, share))
        .collect();
    let selected = count::counted(&mut command(READ_FILTERED, agent, &counted))?;
    ensure!(
        (1..MESSAGES as u64).contains(&selected),
        "`{READ_FILTERED}` counts {selected} of {MESSAGES} messages, which is no choice"
    );
    let (socket, output) = (folder.join("tools.sock"), folder.join("tools.fstrm"));
    let mut receive = Command::new(agent);
    receive
        .args(["receive", "--wait", "--max-connections"])
        // One more connection is needed to test whether it listens.
        .arg((CONNECTIONS + 1).to_string())
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .arg("-o")
        .arg(format!("file:{}", output.display()));
    let mut capture = Command::new("fstrm_capture");
    capture
        .args(["-t", "protobuf:dnstap.Dnstap", "-u"])
        .arg(&socket)
        .arg("-w")
        .arg(&output);
    let receivers: [(&str, &Command, &[Vec<u8>]); 3] = [
        (
            "dnstap-agent receive, unix socket to file",
            &receive,
            &whole,
        ),
        (
            "dnstap-agent receive, 1,000 unix sockets to file",
            &receive,
            &shares,
        ),
        ("fstrm_capture, unix socket to file", &capture, &whole),
    ];
    let mut figures: Vec<(&str, Vec<f64>)> = Vec::new();
    for round in 1..=rounds {
        let mut speeds = Vec::new();
        for line in COUNTERS {
            speeds.push((line, MESSAGES, run(&mut command(line, agent, &counted))?));
        }
        for line in PRINTERS {
            speeds.push((line, PRINTED, run(&mut command(line, agent, &printed))?));
        }
        for (name, receiver, files) in receivers {
            speeds.push((name, MESSAGES, send(receiver, &socket, files)?));
        }
        for (place, (name, messages, time)) in speeds.into_iter().enumerate() {
            let speed = messages as f64 / time.as_secs_f64();
            ui::note(format_args!(
                "{round}/{rounds} {name}: {speed:.0} messages/s"
            ));
            if figures.len() == place {
                figures.push((name, Vec::new()));
            }
            figures[place].1.push(speed);
        }
    }
    Ok(Speeds(
        figures
            .into_iter()
            .filter_map(|(name, speeds)| Some((name, summary(speeds)?)))
            .collect(),
    ))
}

/// Returns the command of a line of [`COUNTERS`] or [`PRINTERS`], for a file.
fn command(line: &str, agent: &Path, file: &Path) -> Command {
    let mut words = line.split(' ');
    let mut command = match words.next() {
        Some("dnstap-agent") => Command::new(agent),
        program => Command::new(program.unwrap_or_default()),
    };
    command.args(words).arg(file);
    command
}

/// Returns the data frames of a dnstap file, each with its length before it.
fn frames_of(sample: &[u8]) -> Result<Vec<&[u8]>> {
    let frames = sample
        .get(START.len()..)
        .and_then(|rest| rest.len().checked_sub(STOP.len()).map(|end| &rest[..end]))
        .context("a dnstap file without an end")?;
    let mut all = Vec::new();
    let mut rest = frames;
    while let Some(length) = rest.first_chunk::<4>() {
        let end = 4 + u32::from_be_bytes(*length) as usize;
        ensure!(end > 4 && end <= rest.len(), "a cut frame");
        let (frame, behind) = rest.split_at(end);
        all.push(frame);
        rest = behind;
    }
    ensure!(!all.is_empty(), "an empty dnstap file");
    Ok(all)
}

/// Makes a dnstap file of `messages` frames: it repeats these frames, from `first` on.
fn file_of(frames: &[&[u8]], first: usize, messages: usize) -> Vec<u8> {
    let repeated = frames.iter().cycle().skip(first % frames.len());
    let mut file = START.to_vec();
    for frame in repeated.take(messages) {
        file.extend_from_slice(frame);
    }
    file.extend_from_slice(STOP);
    file
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

/// Measures the time that a receiver needs for some files, each over its own connection, from the first byte of the
/// first file to the last FINISH. All connections are opened before.
fn send(receiver: &Command, socket: &Path, files: &[Vec<u8>]) -> Result<Duration> {
    let child = Child::spawn(receiver, Log::Kept)?;
    wait_until("the receiver listens", PATIENCE, || {
        UnixStream::connect(socket).is_ok()
    })?;
    let mut streams = Vec::new();
    for _file in files {
        let mut stream = UnixStream::connect(socket).context("the receiver does not listen")?;
        stream.write_all(READY)?;
        stream.read_exact(&mut [0; ACCEPT_BYTES])?;
        streams.push(stream);
    }
    let started = Instant::now();
    for (stream, file) in streams.iter_mut().zip(files) {
        stream.write_all(file)?;
    }
    for stream in &mut streams {
        stream
            .read_exact(&mut [0; FINISH_BYTES])
            .context("the receiver did not finish")?;
    }
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
    fn frames_are_repeated_whole_from_any_of_them_on() {
        let (one, two) = (&b"\0\0\0\x01a"[..], &b"\0\0\0\x02bc"[..]);
        let sample = [START, one, two, STOP].concat();
        let frames = frames_of(&sample).expect("sound");
        assert_eq!(frames, [one, two]);
        assert_eq!(
            file_of(&frames, 3, 3),
            [START, two, one, two, STOP].concat()
        );
        assert!(frames_of(&sample[..sample.len() - 1]).is_err());
    }
}
