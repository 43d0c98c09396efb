//! `dnstap-agent report`: reads files as `read` does, and writes one page about all of their
//! messages.

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use clap::{Arg, Args as _, Command};
use rustix::fs::Access;

use super::{
    progress::Progress,
    read::{self, Damage, Outcome},
};
use crate::{
    cli::Report as Options,
    config::Origin,
    formats::counted,
    host::exit::{Exit, ExitWith},
    observe::summary::Loss,
    report::{Facts, Report},
    select::Select,
    sources::file::{self, named},
};

/// Runs `report`. Its errors carry [`ExitWith`].
pub(super) fn run(options: &Options, origin: &Origin) -> Result<Outcome> {
    // The output is opened before the files are read, which may take long.
    let output = open(options)?;
    let mut report = Report::default();
    let mut outcome = read::consume(
        options.files.iter().map(file::open),
        options.frames.in_files(),
        options.select.compile(),
        Progress::over(&options.files),
        &mut io::stderr(),
        &mut |dnstap| {
            dnstap.inspect(|dnstap| report.take(dnstap));
            true
        },
    )?;
    let definition = Select::augment_args(Command::new("report"));
    let names: Vec<_> = definition
        .get_arguments()
        .filter_map(Arg::get_long)
        .chain([LIMIT])
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
    let is_new = output.is_none();
    match write(options, output, &report.page(&facts)) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => outcome.output_closed = true,
        Err(error) => {
            let exit = if is_new && !options.output.exists() {
                Exit::CannotCreate
            } else {
                Exit::Output
            };
            let message = format!("cannot write {}", named(&options.output));
            return Err(error).context(ExitWith(exit, message));
        }
    }
    Ok(outcome)
}

/// Name of the option that leaves out long frames.
pub(super) const LIMIT: &str = "max-frame";

/// Opens the page's file, if it exists; its content stays until the page is written. A new file is
/// created only when the page is written, so there is no file without a page.
fn open(options: &Options) -> Result<Option<File>> {
    let path = &options.output;
    let message = || format!("cannot create {}", named(path));
    let failed = || ExitWith(Exit::CannotCreate, message());
    if is_standard(path) {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            let message = "a page is not for a terminal; send it to a file";
            return Err(anyhow!(ExitWith(Exit::Usage, message.to_owned())));
        }
        let output = stdout.as_fd().try_clone_to_owned().with_context(failed)?;
        return Ok(Some(output.into()));
    }
    let output = match File::options().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| *folder != Path::new(""));
            let access = Access::WRITE_OK | Access::EXEC_OK;
            rustix::fs::access(folder.unwrap_or(Path::new(".")), access).with_context(failed)?;
            return Ok(None);
        }
        opened => opened.with_context(failed)?,
    };
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let own = output.metadata().map(identity).with_context(failed)?;
    let is_it = |file: &&PathBuf| fs::metadata(file).map(identity).ok() == Some(own);
    match options.files.iter().find(is_it) {
        Some(file) => {
            let message = format!(
                "{} would be overwritten; name another file with -o",
                named(file)
            );
            Err(anyhow!(ExitWith(Exit::Usage, message)))
        }
        None => Ok(Some(output)),
    }
}

fn write(options: &Options, output: Option<File>, page: &str) -> io::Result<()> {
    let mut output = match output {
        Some(output) => output,
        None => File::create(&options.output)?,
    };
    if !is_standard(&options.output) && output.metadata()?.is_file() {
        output.set_len(0)?;
    }
    output.write_all(page.as_bytes())
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Returns the facts for a page about live messages.
pub(super) fn live(subject: &str, origin: &Origin, filters_of: &[&str], losses: &[Loss]) -> Facts {
    let loss = |loss: &Loss| format!("{} {}: {}", loss.hop, loss.reason, loss.count);
    Facts {
        sources: vec![subject.to_owned()],
        filters: filters(origin, filters_of),
        losses: Some(losses.iter().map(loss).collect()),
        ..Facts::default()
    }
}

/// Returns those of the named options that have a value, as they could be typed.
fn filters(origin: &Origin, names: &[&str]) -> Vec<String> {
    let typed = |name: &&str| {
        let values = origin.values(name)?.iter();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some(format!("--{name} {}", values.join(",")))
    };
    names.iter().filter_map(typed).collect()
}

/// Describes the losses in the files in words.
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
        ("frame", "without a dnstap message", outcome.broken),
        ("frame", "longer than --max-frame", outcome.long),
        ("message", "that cannot be decoded", outcome.unfit),
    ];
    let left_out = left_out
        .iter()
        .filter(|(.., count)| *count > 0)
        .map(|(what, why, count)| format!("left out: {} {why}", counted(*count, what)));
    damaged.chain(unread).chain(left_out).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::{cli::Command, config};

    /// Writes a report about a file in the folder.
    fn reported(folder: &Path, file: &str, output: &Path) -> Result<Outcome> {
        let file = folder.join(file);
        let words: [&OsStr; 5] = [
            "dnstap-agent".as_ref(),
            "report".as_ref(),
            file.as_ref(),
            "-o".as_ref(),
            output.as_ref(),
        ];
        let resolved = config::resolve(&words.map(OsStr::to_owned)).expect("sound options");
        let Command::Report(options) = &resolved.cli.command else {
            unreachable!("it is a report");
        };
        run(options, &resolved.origin)
    }

    #[test]
    fn without_a_page_there_is_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("new.html");
        let error = reported(folder.path(), "missing", &page).expect_err("nothing to read");
        assert_eq!(Exit::of(&error), Exit::NoInput);
        assert!(!page.exists());
        // An output that cannot be created fails before the files are read, which may take long.
        let nowhere = folder.path().join("none/new.html");
        let error = reported(folder.path(), "missing", &nowhere).expect_err("no such folder");
        assert_eq!(Exit::of(&error), Exit::CannotCreate);
        fs::write(folder.path().join("empty"), "").expect("written");
        reported(folder.path(), "empty", &page).expect("a page");
        let page = fs::read_to_string(&page).expect("there");
        assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    }

    #[test]
    fn what_is_left_out_is_told_by_its_reason() {
        let outcome = Outcome {
            broken: 1,
            long: 2,
            ..Outcome::default()
        };
        let told = [
            "left out: 1 frame without a dnstap message",
            "left out: 2 frames longer than --max-frame",
        ];
        assert_eq!(losses(&outcome), told);
    }
}
