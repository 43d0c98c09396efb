//! Third-party readers of dnstap accept our file without a complaint and find the same frames.

use std::{path::Path, process::Command};

use anyhow::{Result, bail, ensure};
use dnstap_proto::{SocketProtocol, message::Type};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    environment::{self, combinations},
    lab::{Lab, Wanted},
    load::mixed,
    process::output,
    record::Record,
    tap::{Tap, Tapped},
    wire,
};

/// A program that prints one line per frame.
struct Reader {
    program: &'static str,
    /// Arguments before the file.
    arguments: &'static [&'static str],
    /// Whether it silently skips messages without a question, such as the later messages of a zone transfer.
    needs_question: bool,
    /// Whether it knows the types `UPDATE_*`, which were added later. Otherwise it prints only that it does not know
    /// them.
    knows_updates: bool,
}

const READERS: [Reader; 3] = [
    Reader {
        program: "dnstap",
        arguments: &["-q", "-r"],
        needs_question: false,
        knows_updates: true,
    },
    Reader {
        program: "dnstap-read",
        arguments: &[],
        needs_question: true,
        knows_updates: true,
    },
    Reader {
        program: "dnstap-ldns",
        arguments: &["-q", "-r"],
        needs_question: false,
        knows_updates: false,
    },
];

pub(super) fn trials() -> Vec<Trial> {
    let name =
        "dnstap, dnstap-read, dnstap-ldns and fstrm_dump read our file and count the same frames";
    combinations()
        .into_iter()
        .take(1)
        .map(|how| {
            trial(format!("{how}: {name}"), move || {
                let mut lab = Lab::start(Wanted {
                    upstream: true,
                    ..Wanted::default()
                })?;
                let tap = Tap::attach(lab.folder(), lab.tapped.pid(), &how, &[])?;
                mixed::run(&mut lab)?;
                let tapped = tap.stop()?;
                read_by_all(&tapped)?;
                yaml_like_bind(&tapped.file)?;
                json_by_schema(&tapped.file)
            })
        })
        .collect()
}

fn read_by_all(tapped: &Tapped) -> Result<()> {
    let records = tapped.records()?;
    ensure!(records.len() > 9_000, "only {} frames", records.len());
    for Reader {
        program,
        arguments,
        needs_question,
        knows_updates,
    } in READERS
    {
        let mut command = Command::new(environment::tool(program)?);
        command.args(arguments).arg(&tapped.file);
        let (text, complaints) = output(command)?;
        let complaint = complaints
            .lines()
            .find(|line| !line.starts_with("dnstap: opened input file"));
        ensure!(complaint.is_none(), "{program} complains: {complaints}");
        let shown: Vec<&Record> = records
            .iter()
            .filter(|record| !needs_question || wire::question(&record.message).is_some())
            .collect();
        let lines = text.lines().count();
        ensure!(
            lines == shown.len(),
            "{program} shows {lines} of {} frames",
            shown.len()
        );
        for kind in [
            Type::ClientQuery,
            Type::ClientResponse,
            Type::AuthQuery,
            Type::AuthResponse,
        ] {
            let expected = shown.iter().filter(|record| record.kind == kind).count();
            let found = lines_with(&text, mnemonic(kind));
            ensure!(
                found == expected,
                "{program} shows {found} of {expected} {}",
                kind.as_str_name()
            );
        }
        let expected = shown
            .iter()
            .filter(|record| record.protocol == SocketProtocol::Tcp)
            .filter(|record| knows_updates || !is_update(record))
            .count();
        let found = lines_with(&text, "TCP");
        ensure!(
            found == expected,
            "{program} shows {found} of {expected} over TCP"
        );
    }
    let frames = fstrm_dump(&tapped.file)?;
    ensure!(
        frames == records.len(),
        "fstrm_dump shows {frames} of {} frames",
        records.len()
    );
    Ok(())
}

/// Checks that `--yaml-style bind` prints the same as `dnstap-read -y`, except for white space and the order of
/// records, which BIND sorts into sets.
fn yaml_like_bind(file: &Path) -> Result<()> {
    let mut command = Command::new(environment::tool("dnstap-read")?);
    command.arg("-y").arg(file);
    let theirs = documents(&output(command)?.0);
    let mut command = Command::new(environment::agent()?);
    command
        .args(["read", "--format", "yaml", "--yaml-style", "bind"])
        .arg(file);
    let mut ours = documents(&output(command)?.0);
    // BIND leaves out messages without a question.
    ours.retain(|document| document.has_question || !document.has_message);
    ensure!(
        theirs.len() == ours.len(),
        "{} documents, and {} of ours",
        theirs.len(),
        ours.len()
    );
    let mut compared = 0;
    for (theirs, ours) in theirs.iter().zip(&ours) {
        // We also show messages that BIND cannot parse. BIND leaves out the second SOA of a transfer.
        if theirs.has_message && !ours.is_transfer {
            compared += 1;
            ensure!(
                theirs.lines == ours.lines,
                "dnstap-read -y: {:#?}\nours: {:#?}",
                theirs.lines,
                ours.lines
            );
        }
    }
    ensure!(
        compared > ours.len() / 2,
        "only {compared} of {} can be compared",
        ours.len()
    );
    Ok(())
}

/// A document of YAML.
struct Document {
    has_message: bool,
    has_question: bool,
    is_transfer: bool,
    /// Without white space, sorted.
    lines: Vec<String>,
}

fn documents(yaml: &str) -> Vec<Document> {
    let document = |text: &str| {
        let line = |line: &str| line.split_whitespace().collect::<String>();
        let mut lines: Vec<_> = text
            .lines()
            .map(line)
            .filter(|line| !line.is_empty())
            .collect();
        lines.sort_unstable();
        Document {
            has_message: text.contains("_message_data:"),
            has_question: text.contains("QUESTION_SECTION:") || text.contains("ZONE_SECTION:"),
            is_transfer: text.contains(" AXFR'\n") || text.contains(" IXFR'\n"),
            lines,
        }
    };
    yaml.split("\n---\n").map(document).collect()
}

/// Checks every line of JSON against the schema in `docs/`.
fn json_by_schema(file: &Path) -> Result<()> {
    let schema = include_str!("../../../docs/dnstap-json.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema)?)?;
    let mut command = Command::new(environment::agent()?);
    command.args(["read", "--format", "json"]).arg(file);
    let (lines, _) = output(command)?;
    for line in lines.lines() {
        if let Err(error) = schema.validate(&serde_json::from_str(line)?) {
            bail!("{error}: {line}");
        }
    }
    Ok(())
}

/// Counts the data frames of a complete file with `fstrm_dump`, which reports them on standard error.
fn fstrm_dump(file: &Path) -> Result<usize> {
    let mut command = Command::new(environment::tool("fstrm_dump")?);
    command.arg(file);
    let (_, said) = output(command)?;
    let known = ["FSTRM_CONTROL_", " \"", "Data frame ("];
    let complaint = said
        .lines()
        .find(|line| !known.iter().any(|start| line.starts_with(start)));
    ensure!(
        complaint.is_none(),
        "fstrm_dump complains: {}",
        complaint.unwrap_or_default()
    );
    ensure!(
        said.lines()
            .any(|line| line.starts_with("FSTRM_CONTROL_STOP")),
        "fstrm_dump saw no STOP"
    );
    Ok(said
        .lines()
        .filter(|line| line.starts_with("Data frame ("))
        .count())
}

fn mnemonic(kind: Type) -> &'static str {
    match kind {
        Type::ClientQuery => "CQ",
        Type::ClientResponse => "CR",
        Type::AuthQuery => "AQ",
        _ => "AR",
    }
}

fn is_update(record: &Record) -> bool {
    matches!(record.kind, Type::UpdateQuery | Type::UpdateResponse)
}

/// Counts the lines with the given word.
fn lines_with(text: &str, word: &str) -> usize {
    text.lines()
        .filter(|line| line.split_whitespace().any(|other| other == word))
        .count()
}
