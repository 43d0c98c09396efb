//! `pdns export`, `import` and `merge`: pass sightings from store to store, with their origin. So they are counted
//! once, even if they arrive over several paths.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _},
    mem,
    path::Path,
};

use anyhow::{Context as _, Result};
use dnstap_pdns::{
    Store,
    exchange::{self, Origin, Sighting},
};
use sha2::{Digest as _, Sha256};

use super::{refused, write_out};
use crate::{
    cli::{Export, Import, Merge},
    formats::counted,
    host::{
        exit::{Exit, ExitWith},
        log,
    },
    sources::file::{self, named},
};

/// Largest number of sightings that are merged at once.
const BATCH: usize = 10_000;

/// Largest number of bytes that are merged at once. A line of many short records takes many times its length in memory.
const BATCH_BYTES: usize = 4 << 20;

/// Longest line in bytes. Data of 64 KiB fits, with four characters for each byte.
const LONGEST: u64 = 1 << 20;

/// Number of lines that are left out with a message for each.
const TOLD: u64 = 20;

/// Runs `pdns export`. An error carries [`ExitWith`].
pub(super) fn export(options: &Export) -> Result<Exit> {
    let store = Store::open(&options.db).map_err(refused)?;
    let mut output = BufWriter::new(io::stdout().lock());
    let mut text = String::new();
    for item in store.sightings().map_err(refused)? {
        let (set, seen, origin) = item.map_err(refused)?;
        text += &exchange::line(&set, seen, origin);
        text.push('\n');
        if text.len() > 64 << 10 {
            if !write_out(&mut output, &text)? {
                return Ok(Exit::Ok);
            }
            text.clear();
        }
    }
    write_out(&mut output, &text)?;
    Ok(Exit::Ok)
}

/// Runs `pdns import`. An error carries [`ExitWith`].
pub(super) fn import(options: &Import) -> Result<Exit> {
    let mut work = Importing::new(&options.db);
    let mut exit = Exit::Ok;
    for path in &options.files {
        let (_, opened) = file::open(path);
        if opened.is_ok() {
            // The store is created only now, so that a missing file leaves no empty store.
            work.store()?;
        }
        let done = opened.and_then(|mut file| {
            let origin = match &options.origin {
                Some(name) => exchange::origin(name),
                None => origin_of(path, &mut file)?,
            };
            work.lines(path, file, origin)
        });
        match done {
            Err(error) if options.files.len() > 1 && Exit::of(&error) == Exit::NoInput => {
                log::say(format_args!("dnstap-agent: warning: {error:#}\n"));
                exit = Exit::NoInput;
            }
            done => done?,
        }
    }
    work.merge()?;
    let (taken, left_out) = (counted(work.taken, "line"), work.left_out);
    log::say(format_args!("{taken} taken, {left_out} left out\n"));
    Ok(match exit {
        Exit::Ok if left_out > 0 => Exit::Data,
        exit => exit,
    })
}

/// Runs `pdns merge`. An error carries [`ExitWith`].
pub(super) fn merge(options: &Merge) -> Result<Exit> {
    let mut work = Importing::new(&options.db);
    // All stores are checked before anything is written, so that a mistake in the last one leaves nothing half done.
    for from in &options.from {
        Store::is_there(from).map_err(refused)?;
    }
    for from in &options.from {
        let other = Store::open(from).map_err(refused)?;
        work.store()?;
        for item in other.sightings().map_err(refused)? {
            work.take(item.map_err(refused)?)?;
        }
    }
    work.merge()?;
    let taken = counted(work.taken, "RRset");
    log::say(format_args!("{taken} merged\n"));
    Ok(Exit::Ok)
}

struct Importing<'a> {
    folder: &'a Path,
    /// The store. It is opened, or created if there is none, once there is something to read.
    store: Option<Store>,
    waiting: Vec<Sighting>,
    waiting_bytes: usize,
    taken: u64,
    left_out: u64,
}

impl<'a> Importing<'a> {
    fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            store: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            taken: 0,
            left_out: 0,
        }
    }

    fn store(&mut self) -> Result<&Store> {
        Ok(match &mut self.store {
            Some(store) => store,
            none => none.insert(Store::create(self.folder).map_err(refused)?),
        })
    }

    fn take(&mut self, sighting: Sighting) -> Result<()> {
        self.taken += 1;
        self.waiting_bytes += exchange::weight(&sighting);
        self.waiting.push(sighting);
        if self.waiting.len() >= BATCH || self.waiting_bytes >= BATCH_BYTES {
            self.merge()?;
        }
        Ok(())
    }

    fn merge(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.store()?.merge(&waiting).map_err(refused)
    }

    fn lines(&mut self, path: &Path, file: File, unnamed: Origin) -> Result<()> {
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line);
            if read.with_context(|| unread(path))? == 0 {
                break;
            }
            if line.len() as u64 == LONGEST && !line.ends_with(b"\n") {
                self.left_out(path, number, "longer than 1 MiB");
                while line.len() as u64 == LONGEST && !line.ends_with(b"\n") {
                    line.clear();
                    let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line);
                    read.with_context(|| unread(path))?;
                }
                continue;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            match exchange::read(&line, unnamed) {
                Ok(sighting) => self.take(sighting)?,
                Err(error) => self.left_out(path, number, &error.to_string()),
            }
        }
        Ok(())
    }

    fn left_out(&mut self, path: &Path, number: u64, why: &str) {
        self.left_out += 1;
        if self.left_out <= TOLD {
            let name = named(path);
            log::say(format_args!(
                "dnstap-agent: warning: {name}: line {number} left out: {why}\n"
            ));
        }
    }
}

/// Returns the origin for the content of a file. So the same file has the same origin under any name.
fn origin_of(path: &Path, file: &mut File) -> Result<Origin> {
    // A pipe cannot be read twice.
    file.stream_position().with_context(|| {
        let name = named(path);
        ExitWith(
            Exit::NoInput,
            format!("cannot read {name} twice to know it again; add --origin"),
        )
    })?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece).with_context(|| unread(path))? {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    file.rewind().with_context(|| unread(path))?;
    let hash: [u8; 32] = hash.finalize().into();
    let mut origin = [0; 16];
    origin.copy_from_slice(&hash[..16]);
    Ok(origin)
}

fn unread(path: &Path) -> ExitWith {
    ExitWith(Exit::NoInput, format!("cannot read {}", named(path)))
}
