//! Owns `dnstap-agent report`: reads files as `read` does, and writes one page about all of their messages.

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use clap::{Arg, Args as _, Command};

use super::read::{self, Damage, Outcome};
use crate::{
    cli::Report as Options,
    config::Origin,
    host::exit::{Exit, ExitWith},
    observe::summary::Loss,
    report::{Facts, Report},
    select::Select,
};

/// Runs `report`. An error carries [`ExitWith`].
pub fn run(options: &Options, origin: &Origin) -> Result<Outcome> {
    // Before the files are read, which may take long.
    let mut output = open(options)?;
    let mut report = Report::default();
    let mut outcome = read::consume(
        &options.files,
        options.frames.in_files(),
        options.select.compile(),
        &mut |dnstap| report.take(dnstap),
    )?;
    let definition = Select::augment_args(Command::new("report"));
    let names: Vec<_> = definition
        .get_arguments()
        .filter_map(Arg::get_long)
        .collect();
    let facts = Facts {
        sources: options
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect(),
        filters: filters(origin, &names),
        losses: Some(losses(&outcome)),
        rows: options.rows.into(),
    };
    match write(options, &mut output, &report.page(&facts)) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => outcome.output_closed = true,
        Err(error) => {
            let message = format!("cannot write {}", options.output.display());
            return Err(error).context(ExitWith(Exit::Output, message));
        }
    }
    Ok(outcome)
}

/// Opens where the page goes; what is there stays until it is written.
fn open(options: &Options) -> Result<File> {
    let path = &options.output;
    let message = || format!("cannot create {}", path.display());
    let failed = || ExitWith(Exit::CannotCreate, message());
    if is_standard(path) {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            let message = "a page is not for a terminal; send it to a file";
            return Err(anyhow!(ExitWith(Exit::Usage, message.to_owned())));
        }
        let output = stdout.as_fd().try_clone_to_owned().with_context(failed)?;
        return Ok(output.into());
    }
    let mut how = File::options();
    let how = how.write(true).create(true).truncate(false);
    let output = how.open(path).with_context(failed)?;
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let own = output.metadata().map(identity).with_context(failed)?;
    let is_it = |file: &&PathBuf| fs::metadata(file).map(identity).ok() == Some(own);
    match options.files.iter().find(is_it) {
        Some(file) => {
            let message = format!("{} would be overwritten", file.display());
            Err(anyhow!(ExitWith(Exit::Usage, message)))
        }
        None => Ok(output),
    }
}

fn write(options: &Options, output: &mut File, page: &str) -> io::Result<()> {
    if !is_standard(&options.output) && output.metadata()?.is_file() {
        output.set_len(0)?;
    }
    output.write_all(page.as_bytes())
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What a page states of messages that have just come.
pub(super) fn live(subject: &str, origin: &Origin, filters_of: &[&str], losses: &[Loss]) -> Facts {
    let loss = |loss: &Loss| format!("{} {}: {}", loss.hop, loss.reason, loss.count);
    Facts {
        sources: vec![subject.to_owned()],
        filters: filters(origin, filters_of),
        losses: Some(losses.iter().map(loss).collect()),
        ..Facts::default()
    }
}

/// Those of these options that have a value, as they could be typed.
fn filters(origin: &Origin, names: &[&str]) -> Vec<String> {
    let typed = |name: &&str| {
        let values = origin.values(name)?.iter();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some(format!("--{name} {}", values.join(",")))
    };
    names.iter().filter_map(typed).collect()
}

/// What is missing of the files, in words.
fn losses(outcome: &Outcome) -> Vec<String> {
    let damaged = outcome.damaged.iter().map(|damage| match damage {
        Damage::Truncated { file, offset } => {
            format!(
                "{} is cut off at byte {offset}, or still being written",
                file.display()
            )
        }
        Damage::Malformed { file, offset } => {
            format!("{} cannot be read from byte {offset} on", file.display())
        }
    });
    let unread = outcome.unread.iter();
    let unread = unread.map(|file| format!("{} cannot be read", file.display()));
    let left_out = [
        ("frames that are not dnstap messages", outcome.broken),
        ("messages that cannot be decoded", outcome.unfit),
    ];
    let left_out = left_out
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("left out: {count} {what}"));
    damaged.chain(unread).chain(left_out).collect()
}
