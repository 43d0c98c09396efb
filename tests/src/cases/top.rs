//! The live view: it counts every message that was sent, and leaves the terminal as it was.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, Writer};
use libtest_mimic::Trial;

use super::{for_each_hook, for_each_hook_in_turn, trial};
use crate::{
    environment::{self, Combination, tool},
    lab::{self, Lab, Wanted},
    load::{client::UdpClient, tools::dig},
    process::{Running, Watch},
    toy::{By, Puppet},
    wire,
};

/// Number of queries; each is answered.
const QUERIES: u16 = 30;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_hook_in_turn("top --once counts what was sent", counted);
    trials.push(trial(
        "top draws on a terminal, ends at q, and leaves the terminal as it was".to_owned(),
        drawn,
    ));
    trials.extend(for_each_hook(
        "top shows the events that it is asked for",
        with_events,
    ));
    trials.push(trial(
        "top counts the files that there are, and says which is missing".to_owned(),
        one_missing,
    ));
    trials
}

fn one_missing() -> Result<()> {
    let scratch = lab::scratch()?;
    let file = scratch.path().join("empty.fstrm");
    Writer::new(File::create(&file)?, DNSTAP_CONTENT_TYPE)?.finish()?;
    for (files, told, text) in [
        (&["missing", "empty.fstrm"][..], 66, true),
        (&["missing"], 66, false),
    ] {
        let mut command = Command::new(environment::agent()?);
        command
            .args(["top", "--once"])
            .args(files)
            .current_dir(scratch.path());
        let ended = command.output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(
            ended.status.code() == Some(told),
            "{}: {said}",
            ended.status
        );
        ensure!(said.contains("cannot open missing"), "{said}");
        ensure!(ended.stdout.is_empty() != text, "{files:?}: {said}");
    }
    Ok(())
}

fn counted(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let text = scratch.path().join("top.txt");
    let mut command = Command::new(environment::agent()?);
    command
        .args(["top", "--once", "--hook", &how.hook, "--ring", &how.ring])
        .args(["--pid", &puppet.pid().to_string()])
        .args(["--messages", &(2 * QUERIES).to_string()])
        .stdin(Stdio::null())
        .stdout(File::create(&text)?);
    let mut top = Running::start("top", command, Watch::Stderr)?;
    top.wait_for("attached", |line| line.contains("attached"))?;
    let mut client = UdpClient::connect(address)?;
    for id in 0..QUERIES {
        let name = if id % 3 == 0 { "rare.lab" } else { "often.lab" };
        let query = wire::query(id, name, wire::TYPE_A, true);
        client.send(&query)?;
        puppet.receive(socket, By::Recvfrom, 512, 0)?;
        puppet.send(socket, By::Recvfrom, &wire::answer(&query))?;
        client.receive()?;
    }
    let ended = top.finish(crate::process::PATIENCE)?;
    ensure!(
        ended.status.success(),
        "{}\n{:?}",
        ended.status,
        ended.lines
    );
    let text = fs::read_to_string(&text)?;
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for expected in [
        &["often.lab.", "20", "66.7%"][..],
        &["rare.lab.", "10", "33.3%"],
        &["127.0.0.1", "30", "100.0%"],
        &["NOERROR", "30", "100.0%"],
        &["A", "30", "100.0%"],
    ] {
        ensure!(
            rows.iter().any(|row| row == expected),
            "{expected:?}\n{text}"
        );
    }
    for kind in ["CLIENT_QUERY", "CLIENT_RESPONSE"] {
        let row = rows.iter().find(|row| row.first() == Some(&kind));
        let row = row.with_context(|| text.clone())?;
        ensure!(row[2..] == ["30", "30"], "{row:?}\n{text}");
    }
    ensure!(text.contains("lost: none"), "{text}");
    Ok(())
}

fn with_events(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted {
        upstream: true,
        ..Wanted::default()
    })?;
    let text = lab.folder().join("top.txt");
    let mut command = Command::new(environment::agent()?);
    command
        .args(["top", "--once", "--hook", &how.hook, "--ring", &how.ring])
        .args(["--pid", &lab.tapped.pid().to_string(), "--duration", "1h"])
        .args(["--events", "cache,purge"])
        .stdin(Stdio::null())
        .stdout(File::create(&text)?);
    let mut top = Running::start("top", command, Watch::Stderr)?;
    top.wait_for("attached", |line| line.contains("attached"))?;
    dig(lab.server(false), &["w1.up.lab", "A"])?;
    lab.tapped.rndc(&["flushname", "w1.up.lab", "_default"])?;
    let ended = top.stop(libc::SIGINT)?;
    ensure!(
        ended.status.success(),
        "{}\n{:?}",
        ended.status,
        ended.lines
    );
    let text = fs::read_to_string(&text)?;
    let has = |words: &str| text.lines().any(|line| line.contains(words));
    ensure!(
        has("Purges, newest first") && has(" purge name w1.up.lab. view _default"),
        "{text}"
    );
    let rows = text.lines().map(|line| line.split_whitespace().collect());
    let rows: Vec<Vec<&str>> = rows.collect();
    ensure!(rows.iter().any(|row| row == &["purge", "1"]), "{text}");
    for (title, first) in [("by trust", "auth-answer"), ("by type", "A")] {
        ensure!(has(&format!("RRsets into the cache, {title}")), "{text}");
        let row = rows
            .iter()
            .find(|row| row.first() == Some(&first) && row.len() == 7);
        let row = row.with_context(|| text.clone())?;
        ensure!(row[1] != "0", "{row:?}\n{text}");
    }
    Ok(())
}

fn drawn() -> Result<()> {
    let scratch = lab::scratch()?;
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (before, after, socket) = (path("before"), path("after"), path("socket"));
    let agent = environment::agent()?;
    let line = format!(
        "stty rows 30 cols 100; stty -g > {before}; {} top --listen unix:{socket}; echo ended $?; stty -g > {after}",
        agent.display()
    );
    // script(1) makes a terminal; timeout(1) ends both if the test hangs.
    let mut command = Command::new(tool("timeout")?);
    command
        .arg("60")
        .arg(tool("script")?)
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    crate::system::die_with_this_process(&mut command);
    let mut terminal = command.spawn().context("a terminal")?;
    let mut keys = terminal.stdin.take().context("its keyboard")?;
    let mut screen = terminal.stdout.take().context("its screen")?;
    let mut seen = String::new();
    let mut until = |wanted: &str, seen: &mut String| -> Result<()> {
        let mut bytes = [0; 4096];
        while !seen.contains(wanted) {
            let count = screen.read(&mut bytes)?;
            ensure!(count > 0, "no {wanted:?} in {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        Ok(())
    };
    until("1 Overview", &mut seen)?;
    ensure!(
        seen.contains("\x1b[?1049h"),
        "no alternate screen: {seen:?}"
    );
    let overview = std::mem::take(&mut seen);
    ensure!(!overview.contains("LOSS"), "{overview:?}");
    keys.write_all(b"7")?;
    until("LOSS", &mut seen)?;
    keys.write_all(b"q")?;
    until("ended 0", &mut seen)?;
    for given_back in ["\x1b[?1049l", "\x1b[?25h"] {
        ensure!(seen.contains(given_back), "{given_back:?} in {seen:?}");
    }
    ensure!(terminal.wait()?.success(), "{seen:?}");
    let (before, after) = (fs::read_to_string(before)?, fs::read_to_string(after)?);
    ensure!(!before.is_empty() && before == after, "{before} {after}");
    Ok(())
}
