//! Owns `dnstap-agent report`: reads files as `read` does, and writes one page about all of their messages.

use std::{
    fs::File,
    io::{self, ErrorKind, Write as _},
    os::fd::AsFd as _,
};

use anyhow::{Context as _, Result};
use clap::{Args as _, Command};

use super::read::{self, Damage, Outcome};
use crate::{
    cli::Report as Options,
    config::Origin,
    host::exit::{Exit, ExitWith},
    report::{Facts, Report},
    select::Select,
};

/// Runs `report`. An error carries [`ExitWith`].
pub fn run(options: &Options, origin: &Origin) -> Result<Outcome> {
    // Before the files are read, which may take long.
    let mut output = open(options)?;
    let mut report = Report::default();
    let mut outcome = read::consume(&options.files, options.select.compile(), &mut |dnstap| {
        report.take(dnstap);
    })?;
    let facts = Facts {
        sources: options
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect(),
        filters: filters(origin),
        losses: Some(losses(&outcome)),
        rows: options.rows.into(),
    };
    match output.write_all(report.page(&facts).as_bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => outcome.output_closed = true,
        Err(error) => {
            let message = format!("cannot write {}", options.output.display());
            return Err(error).context(ExitWith(Exit::Output, message));
        }
    }
    Ok(outcome)
}

fn open(options: &Options) -> Result<File> {
    let path = &options.output;
    let opened = if path.as_os_str() == "-" {
        io::stdout().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::create(path)
    };
    let message = || format!("cannot create {}", path.display());
    opened.with_context(|| ExitWith(Exit::CannotCreate, message()))
}

/// The options that choose messages, as they could be typed.
fn filters(origin: &Origin) -> Vec<String> {
    let definition = Select::augment_args(Command::new("report"));
    let names = definition
        .get_arguments()
        .filter_map(|option| option.get_long());
    names
        .filter_map(|name| {
            let values = origin.values(name)?;
            let values: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
            Some(format!("--{name} {}", values.join(",")))
        })
        .collect()
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
    let left_out = [
        ("frames that are not dnstap messages", outcome.broken),
        ("messages that cannot be decoded", outcome.unfit),
    ];
    let left_out = left_out
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("left out: {count} {what}"));
    damaged.chain(left_out).collect()
}
