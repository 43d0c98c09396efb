//! `pdns`: passive DNS in a store on disk. The crate `dnstap-pdns` has the store and its rules; this module has files,
//! options and texts.

mod collect;
mod exchange;
mod query;
mod serve;
mod times;

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use dnstap_pdns::{Retention, Store, StoreError};

use crate::{
    cli::{Compact, Pdns, PdnsCommand, Stats},
    formats::counted,
    host::{
        exit::{Exit, ExitWith},
        log,
    },
};

/// Runs `pdns`. An error carries [`ExitWith`].
pub(super) fn run(options: &Pdns) -> Result<Exit> {
    match &options.command {
        PdnsCommand::Collect(options) => collect::run(options),
        PdnsCommand::Query(options) => query::run(options),
        PdnsCommand::Stats(options) => stats(options),
        PdnsCommand::Compact(options) => compact(options),
        PdnsCommand::Export(options) => exchange::export(options),
        PdnsCommand::Import(options) => exchange::import(options),
        PdnsCommand::Merge(options) => exchange::merge(options),
        PdnsCommand::Serve(options) => serve::run(options),
    }
}

fn stats(options: &Stats) -> Result<Exit> {
    let store = Store::open(&options.db).map_err(refused)?;
    let stats = store.stats().map_err(refused)?;
    let text = if options.json {
        let mut text = serde_json::to_string(&stats).context("cannot write the numbers as JSON")?;
        text.push('\n');
        text
    } else {
        let time = |time: Option<u64>| time.map_or_else(|| "never".to_owned(), times::utc);
        let mut text = format!(
            "RRsets:        {}\nowners:        {}\nsightings:     {}\nfirst seen:    {}\nlast seen:     {}\n\
             index entries: {}\nfiles:         {}\nbytes on disk: {} (of these journal: {})\n",
            stats.rrsets,
            stats.owners,
            stats.count,
            time(stats.first),
            time(stats.last),
            stats.index,
            stats.files,
            stats.bytes,
            stats.journal_bytes,
        );
        for (kind, count) in &stats.types {
            writeln!(text, "  {kind:<12} {count}").context("cannot write the numbers")?;
        }
        text
    };
    print(&text)
}

fn compact(options: &Compact) -> Result<Exit> {
    let store = Store::open(&options.db).map_err(refused)?;
    let retention = Retention {
        since: options
            .keep_age
            .map(|age| now().saturating_sub(age.as_secs())),
        bytes: options.keep_size.map(|bytes| bytes as u64),
    };
    let removed = store.compact(retention).map_err(refused)?;
    let (before, after) = removed.bytes;
    let rrsets = counted(removed.rrsets, "RRset");
    log::say(format_args!(
        "{rrsets} removed; {before} bytes on disk before, {after} now\n"
    ));
    Ok(Exit::Ok)
}

/// Returns the current time in seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// Writes to standard output. It is no error if the reader has closed it.
fn print(text: &str) -> Result<Exit> {
    write_out(&mut io::stdout().lock(), text)?;
    Ok(Exit::Ok)
}

/// Writes text, and returns whether there is still a reader.
fn write_out(output: &mut impl Write, text: &str) -> Result<bool> {
    let done = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    match done {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error)
            .with_context(|| ExitWith(Exit::Output, "cannot write to standard output".to_owned())),
        Ok(()) => Ok(true),
    }
}

/// Returns the error with its exit code.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it takes what map_err hands over"
)]
fn refused(error: StoreError) -> anyhow::Error {
    let exit = match &error {
        StoreError::None(_) | StoreError::InUse(_) => Exit::NoInput,
        StoreError::Foreign(_) => Exit::CannotCreate,
        StoreError::Damaged(..) | StoreError::Format(..) => Exit::Data,
        StoreError::Io(..) => Exit::Output,
    };
    let text = error.to_string();
    match std::error::Error::source(&error) {
        Some(cause) => anyhow::anyhow!("{cause}").context(ExitWith(exit, text)),
        None => anyhow::anyhow!(ExitWith(exit, text)),
    }
}
