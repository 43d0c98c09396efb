//! `pdns collect`: reads files of dnstap into a store, each frame once.
//!
//! A file is identified by its content, not by its name: by its first frame, and by the SHA-256 of all frames that were
//! collected. So a file can be collected while it grows, be compressed afterwards, be moved, or be given again after a
//! crash: the command continues where it stopped. It still looks at frames that are already in the store, because they
//! may have queries whose responses come later.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use dnstap_pdns::{
    Answer, Collector, Counts, Discard, Mark, Options as How, Pairing, Rrset, Seen, Store, cof,
};
use dnstap_proto::{frame_streams::Row, lenient};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::refused;
use crate::{
    cli::{Collect, Pairs},
    commands::progress::Progress,
    formats::counted,
    host::{
        exit::{Exit, ExitWith},
        log,
    },
    sources::{
        Item, Source as _,
        file::{self, Fault, Files, named},
    },
};

/// Longest frame in bytes: the longest that `receive` may write.
const LONGEST: u32 = 64 << 20;

/// Number of responses from which on the command warns if nearly all of them are left out.
const JUDGED: u64 = 10;

/// Runs `pdns collect`. An error carries [`ExitWith`].
pub(super) fn run(options: &Collect) -> Result<Exit> {
    let store = Store::create(&options.db).map_err(refused)?;
    let how = How {
        memory: options.memory,
        pairing: match options.paired_by {
            Pairs::Frames => Pairing::ByFrames,
            Pairs::Writer => Pairing::ByWriter,
        },
        roots: options.roots.clone(),
    };
    let mut work = Work {
        collector: Collector::new(store, &how),
        options,
        new: options.new.as_deref().map(open_new).transpose()?,
        progress: Progress::over(&options.files),
        file: None,
        written: Instant::now(),
        exit: Exit::Ok,
    };
    let mut files = Files::new(
        options.files.iter().map(file::open),
        work.progress.counter(),
        LONGEST,
    );
    while !files.is_over() {
        let mut done = Ok(());
        files.drain(false, &mut |item| {
            done = match item {
                Item::Row(path, row) => work.row(path, row),
                Item::Fault(path, fault) => work.fault(path, fault),
                _ => unreachable!("files have rows and faults"),
            };
        });
        done?;
    }
    work.end()
}

struct Work<'a> {
    collector: Collector,
    options: &'a Collect,
    new: Option<Box<dyn io::Write>>,
    progress: Progress,
    file: Option<Current>,
    /// Time of the last write.
    written: Instant,
    exit: Exit,
}

/// The file that is being read.
struct Current {
    path: PathBuf,
    /// Offset of the last row of frames. The next row has a larger offset, unless the same file comes a second time.
    offset: u64,
    /// SHA-256 of all frames so far.
    digest: Sha256,
    first: [u8; 32],
    frames: u64,
    /// Position up to which the file is already in the store.
    known: Option<Mark>,
    /// Whether this is not the file that it seemed to be.
    is_other: bool,
}

impl Current {
    fn mark(&self) -> Mark {
        Mark {
            first: self.first,
            frames: self.frames,
            digest: self.digest.clone().finalize().into(),
        }
    }

    /// Returns whether the next frame is already in the store.
    fn is_known(&self) -> bool {
        self.known.is_some_and(|known| self.frames < known.frames)
    }
}

impl Work<'_> {
    fn row(&mut self, path: &Path, row: &Row) -> Result<()> {
        let is_same = |file: &Current| file.path == path && file.offset < row.offset;
        if !self.file.as_ref().is_some_and(is_same) {
            self.end_file()?;
        }
        for (_, payload) in row.payloads() {
            let hashed = |digest: Sha256| {
                let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
                digest
                    .chain_update(length.to_be_bytes())
                    .chain_update(payload)
            };
            let mut current = match self.file.take() {
                Some(current) => current,
                None => self.begin(path, hashed(Sha256::new()).finalize().into())?,
            };
            let is_known = current.is_known();
            current.offset = row.offset;
            current.frames += 1;
            current.digest = hashed(current.digest);
            let mark = match current.known {
                Some(known) if current.frames == known.frames => {
                    let mark = current.mark();
                    (mark != known).then_some(mark)
                }
                _ => None,
            };
            if mark.is_some() {
                current.is_other = true;
                self.warn(Exit::Data, format_args!(
                    "{}: begins as a file that was collected before, and is another; nothing of it is collected (--again collects it from its beginning)",
                    named(path)
                ));
            }
            if !current.is_other {
                let frame = lenient::decode(row.frames.bytes.slice_ref(payload));
                match frame {
                    Ok(dnstap) if is_known => self.collector.look(&dnstap),
                    Ok(dnstap) => self.collector.take(&dnstap),
                    Err(_) if is_known => {}
                    Err(error) => self.warn(
                        Exit::Data,
                        format_args!("{}: skipped frame {}: {error}", named(path), current.frames),
                    ),
                }
            }
            self.file = Some(current);
            if self.collector.is_full() {
                self.write()?;
            }
        }
        self.progress.messages(self.collector.counts().messages);
        if self.written.elapsed() >= self.options.write_every {
            self.write()?;
        }
        Ok(())
    }

    fn begin(&self, path: &Path, first: [u8; 32]) -> Result<Current> {
        let known = if self.options.again {
            None
        } else {
            self.collector.store().mark(first).map_err(refused)?
        };
        Ok(Current {
            path: path.to_path_buf(),
            offset: 0,
            digest: Sha256::new(),
            first,
            frames: 0,
            known,
            is_other: false,
        })
    }

    /// Writes everything, with the position in the file that is reached.
    fn write(&mut self) -> Result<()> {
        let is_behind = |file: &&Current| !file.is_other && !file.is_known();
        let mark = self.file.as_ref().filter(is_behind);
        let is_more = |mark: &Mark| {
            let known = self.file.as_ref().and_then(|file| file.known);
            known.is_none_or(|known| mark.frames > known.frames)
        };
        let mark = mark.map(Current::mark).filter(is_more);
        let mut new = Vec::new();
        self.collector
            .write(mark.as_ref(), &mut |set, seen| new.push((set, seen)))
            .map_err(refused)?;
        self.written = Instant::now();
        if let Some(output) = &mut self.new {
            write_new(output, new)?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        if let Some(file) = &self.file
            && file.is_known()
            && !file.is_other
        {
            let name = named(&file.path);
            self.warn(Exit::Ok, format_args!(
                "{name}: shorter than what was collected of a file that begins in the same way; nothing of it is collected"
            ));
        }
        self.write()?;
        self.file = None;
        Ok(())
    }

    fn fault(&mut self, path: &Path, fault: Fault) -> Result<()> {
        match fault {
            Fault::Unread(error) if self.options.files.len() == 1 => return Err(error),
            Fault::Unread(error) => self.warn(Exit::NoInput, format_args!("{error:#}")),
            Fault::TooLong(error) => {
                self.warn(
                    Exit::Data,
                    format_args!("{}: skipped the {error}", named(path)),
                );
            }
            Fault::Damaged { error, .. } => {
                self.warn(Exit::Data, format_args!("{}: {error}", named(path)));
            }
        }
        Ok(())
    }

    /// Prints a warning, and remembers the exit code. The code for a file that could not be read takes precedence over
    /// the code for a damaged file.
    fn warn(&mut self, exit: Exit, what: std::fmt::Arguments<'_>) {
        self.progress
            .aside(|| log::say(format_args!("dnstap-agent: warning: {what}\n")));
        if exit != Exit::Ok && self.exit != Exit::NoInput {
            self.exit = exit;
        }
    }

    fn end(mut self) -> Result<Exit> {
        self.end_file()?;
        if let Some(output) = &mut self.new {
            output.flush().context("cannot write new RRsets")?;
        }
        drop(self.progress);
        let counts = self.collector.counts();
        log::say(summary(counts));
        if let Some((why, remedy)) = counts.nearly_all_left_out(JUDGED) {
            warn!(
                reason = why.name(),
                "nearly all responses are left out: {remedy}"
            );
        }
        Ok(self.exit)
    }
}

/// Returns the numbers of messages and RRsets by result, as lines of text.
fn summary(counts: &Counts) -> String {
    let left_out = |of_rrset: bool| {
        let these = Discard::ALL
            .into_iter()
            .filter(move |why| why.is_of_rrset() == of_rrset);
        let these = these.filter(|why| counts.discarded(*why) > 0);
        let these: Vec<_> = these
            .map(|why| format!(", {} {}", counts.discarded(why), why.name()))
            .collect();
        these.concat()
    };
    format!(
        "{}: {} taken, {}, {} of other types{}\n{} seen: {} stored, of these {} new{}\n",
        counted(counts.messages, "message"),
        counted(counts.responses, "response"),
        counted(counts.queries, "query").replace("querys", "queries"),
        counts.other,
        left_out(false),
        counted(counts.rrsets, "RRset"),
        counts.stored,
        counts.new,
        left_out(true),
    )
}

fn open_new(path: &Path) -> Result<Box<dyn io::Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::options().append(true).create(true).open(path);
    let file = file.with_context(|| {
        ExitWith(
            Exit::CannotCreate,
            format!("cannot open {} for new RRsets", named(path)),
        )
    })?;
    Ok(Box::new(file))
}

/// Writes new RRsets, each with the registered domain of its owner.
fn write_new(output: &mut dyn io::Write, new: Vec<(Rrset, Seen)>) -> Result<()> {
    let mut text = String::new();
    for (set, seen) in new {
        let domain = registered(&set);
        let mut object = cof(&Answer {
            set,
            seen,
            by_data: false,
        });
        if let Some(domain) = domain {
            object["domain"] = domain.into();
        }
        text.push_str(&object.to_string());
        text.push('\n');
    }
    output
        .write_all(text.as_bytes())
        .with_context(|| ExitWith(Exit::Output, "cannot write new RRsets".to_owned()))
}

/// Returns the registered domain of the owner, by the public suffix list. Returns `None` if the owner is itself a
/// public suffix, or if its suffix is not in the list.
fn registered(set: &Rrset) -> Option<String> {
    let owner = set.owner.undotted();
    let domain = psl::domain(owner.as_bytes())?;
    let is_known = domain.suffix().is_known();
    let domain = str::from_utf8(domain.as_bytes()).ok()?;
    is_known.then(|| domain.to_owned())
}
