//! `read` prints record data as BIND prints it, and BIND reads it back to the same bytes.

mod data;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use dnstap_proto::{
    DnstapRef, MessageRef,
    frame_streams::{DNSTAP_CONTENT_TYPE, Writer},
    message::Type,
};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    chance::{Chance, seed},
    environment::{Combination, agent, combinations, tool},
    lab::{
        free_port,
        named::{RUNNING, basics, start},
        scratch, write,
    },
    process::output,
    tap::Tap,
    wire,
};

/// Number of records of each type.
const EACH: usize = 4;

/// The zone of the second trial.
const ZONE: &str = "types.lab";

/// A type, its number, and data.
type Record = (&'static str, u16, Vec<u8>);

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![trial(
        "data of every type reads back to the same bytes, and is printed as BIND prints it".into(),
        read_back,
    )];
    let how = combinations().into_iter().next();
    trials.extend(how.map(|how| {
        let name = format!("{how}: records of every type in a zone are printed as dig prints them");
        trial(name, move || as_dig(&how))
    }));
    trials
}

/// Makes random data of each type for which `known` returns true.
fn records(chance: &mut Chance, known: impl Fn(&str) -> bool) -> Vec<Record> {
    let types = data::TYPES.iter().chain(&data::NEWER);
    types
        .filter(|(name, ..)| known(name))
        .flat_map(|(name, number, fields)| (0..EACH).map(move |_| (*name, *number, *fields)))
        .map(|(name, number, fields)| (name, number, data::of(fields, chance)))
        .collect()
}

fn read_back() -> Result<()> {
    let checker = tool("named-rrchecker")?;
    let known = types_of_bind(&checker)?;
    let forgotten = data::TYPES.iter().find(|(name, ..)| !known.contains(*name));
    ensure!(forgotten.is_none(), "BIND does not know {forgotten:?}");
    let seed = seed()?;
    let records = records(&mut Chance::new(seed), |name| known.contains(name));
    let folder = scratch()?;
    let file = folder.path().join("answers.fstrm");
    write_answers(&records, &file)?;
    let mut wrong = String::new();
    let all_printed = printed(&file)?;
    ensure!(all_printed.len() == records.len(), "{}", all_printed.len());
    for ((name, number, data), printed) in records.iter().zip(all_printed) {
        let line = format!("IN {name} {printed}\n");
        let back = check(&checker, "-u", &line).unwrap_or_else(|error| error.to_string());
        let expected = format!("CLASS1\tTYPE{number}\t{}", generic(data)?);
        if back != expected {
            writeln!(wrong, "{line}  of {expected}\n  reads back as {back}")?;
            continue;
        }
        // BIND splits long numbers into pieces. Reading the record back has already checked the spaces that matter.
        let theirs = check(&checker, "-p", &line)?;
        let theirs = theirs.rsplit('\t').next().unwrap_or_default();
        if theirs.replace(' ', "") != printed.replace(' ', "") {
            writeln!(wrong, "{line}  BIND prints {theirs}")?;
        }
    }
    ensure!(wrong.is_empty(), "DNSTAP_SEED={seed}\n{wrong}");
    Ok(())
}

/// Writes data in the form of RFC 3597 section 5.
fn generic(data: &[u8]) -> Result<String> {
    let mut text = format!("\\# {} ", data.len());
    for byte in data {
        write!(text, "{byte:02X}")?;
    }
    Ok(text)
}

/// Writes a file of responses, one for each record.
fn write_answers(records: &[Record], file: &Path) -> Result<()> {
    let mut writer = Writer::new(File::create(file)?, DNSTAP_CONTENT_TYPE)?;
    for (_, number, data) in records {
        let mut answer = wire::query(1, "x.lab", *number, false);
        (answer[2], answer[7]) = (0x84, 1);
        answer.extend([0xc0, 12]);
        answer.extend(number.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(data.len())?.to_be_bytes());
        answer.extend(data);
        let message = MessageRef {
            response_message: Some(&answer),
            ..MessageRef::new(Type::AuthResponse)
        };
        let mut payload = Vec::new();
        DnstapRef::new(message).encode(&mut payload);
        writer.write_frame(&payload)?;
    }
    writer.finish()?;
    Ok(())
}

/// Returns the data of the only record of each message of a file, from the JSON output.
fn printed(file: &Path) -> Result<Vec<String>> {
    let mut read = Command::new(agent()?);
    read.args(["read", "--format", "json"]).arg(file);
    let data = |line: &str| -> Result<String> {
        let object: serde_json::Value = serde_json::from_str(line)?;
        let data = &object["message"]["answers"][0]["rdata"];
        Ok(data.as_str().context("no data")?.to_owned())
    };
    output(read)?.0.lines().map(data).collect()
}

/// Returns BIND's output for a record.
fn check(checker: &Path, option: &str, record: &str) -> Result<String> {
    let mut child = Command::new(checker)
        .arg(option)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(record.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "it says {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8(output.stdout)?
        .trim_end_matches('\n')
        .to_owned())
}

/// Types that a primary does not load, or does not answer with.
const NOT_IN_ZONES: [&str; 4] = ["NULL", "SOA", "MD", "MF"];

fn as_dig(how: &Combination) -> Result<()> {
    let dig = tool("dig")?;
    let scratch = scratch()?;
    let folder = scratch.path();
    let seed = seed()?;
    let types = types_of_bind(&tool("named-rrchecker")?)?;
    let known = |name: &str| types.contains(name) && !NOT_IN_ZONES.contains(&name);
    let records = records(&mut Chance::new(seed), known);
    let port = free_port()?;
    let mut zone = String::from("@ 60 SOA . . 1 2 3 4 5\n@ 60 NS .\n");
    for (at, (_, number, data)) in records.iter().enumerate() {
        writeln!(zone, "r{at} 60 TYPE{number} {}", generic(data)?)?;
    }
    let file = write(folder, "types", &zone)?;
    let configuration = format!(
        "controls {{ }};\noptions {{\n{}listen-on port {port} {{ 127.0.0.1; }};\nlisten-on-v6 {{ none; }};\n\
         recursion no;\ndnssec-validation no;\nnotify no;\nminimal-responses yes;\n}};\n\
         zone \"{ZONE}\" {{ type primary; file \"{}\"; check-names ignore; check-mx ignore; check-integrity no; }};\n",
        basics(folder)?,
        file.display()
    );
    let named = start(folder, "types", &configuration, None, &[RUNNING])?;
    let tap = Tap::attach(folder, named.pid(), how, &[])?;
    let mut theirs = Vec::new();
    for (at, (_, number, _)) in records.iter().enumerate() {
        let mut ask = Command::new(&dig);
        ask.arg("@127.0.0.1").args(["-p", &port.to_string()]);
        ask.args([
            "-r",
            "+norecurse",
            "+nosplit",
            "+noall",
            "+answer",
            "+authority",
            "+nottlunits",
        ]);
        ask.args([format!("r{at}.{ZONE}."), format!("TYPE{number}")]);
        theirs.push(output(ask)?.0);
    }
    named.stop()?;
    let tapped = tap.stop()?;
    let mut read = Command::new(agent()?);
    read.args(["read", "--format", "full", "--only", "auth-response"])
        .arg(&tapped.file);
    let full = output(read)?.0;
    fs::write(folder.join("full"), &full)?;
    let ours = sections(&full);
    ensure!(
        ours.len() == theirs.len(),
        "{} answers of {}",
        ours.len(),
        theirs.len()
    );
    let mut wrong = String::new();
    for ((ours, theirs), (name, ..)) in ours.iter().zip(&theirs).zip(&records) {
        let theirs: Vec<_> = theirs.lines().map(plain).collect();
        if *ours != theirs || theirs.is_empty() {
            writeln!(
                wrong,
                "{name}: we print {ours:#?}\n  dig prints {theirs:#?}"
            )?;
        }
    }
    ensure!(wrong.is_empty(), "DNSTAP_SEED={seed}\n{wrong}");
    Ok(())
}

/// Returns the types that this BIND knows.
fn types_of_bind(checker: &Path) -> Result<BTreeSet<String>> {
    let mut list = Command::new(checker);
    list.arg("-T");
    Ok(output(list)?.0.lines().map(str::to_owned).collect())
}

/// Returns the records of each message, without EDNS.
fn sections(full: &str) -> Vec<Vec<String>> {
    let mut messages: Vec<Vec<String>> = Vec::new();
    for line in full.lines() {
        if !line.starts_with(' ') {
            messages.push(Vec::new());
        }
        let record = ["  answer ", "  authority "]
            .iter()
            .find_map(|section| line.strip_prefix(section));
        if let (Some(record), Some(message)) = (record, messages.last_mut()) {
            message.push(plain(record));
        }
    }
    messages
}

/// Replaces tabs and several spaces, which `dig` prints, by one space.
fn plain(record: &str) -> String {
    record.split_whitespace().collect::<Vec<_>>().join(" ")
}
