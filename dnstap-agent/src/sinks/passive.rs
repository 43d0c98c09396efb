//! Output to a store of passive DNS: `pdns:DIR`.
//!
//! RRsets wait in memory for at most [`Options::write`], and are then written in one step. So a crash of the agent
//! loses what came since the last write. A message counts as queued until its RRsets are on disk. After a failed write,
//! the store accepts nothing more until it is opened again, because it cannot know how much is on disk. So the output
//! ends, and the waiting messages count as lost.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dnstap_pdns::{Collector, Discard, Options as How, Pairing, Retention, Store, StoreError};
use tracing::{info, warn};

use super::{
    batch::Batch,
    file::privileges_at,
    queue::blocking::{self, Failure, Output, Written},
    report::Takes,
    sink::{About, Mistake, Opened, Place, Sink, Typed},
};
use crate::host::{
    sandbox::NeededPrivileges,
    units::{parse_bytes, parse_seconds},
};

/// Interval at which old RRsets are removed, if there is a limit of age or size.
const RETENTION_EVERY: Duration = Duration::from_hours(24);

/// The output `pdns:DIR`, as it is configured.
#[derive(Debug, PartialEq)]
pub(super) struct Passive {
    place: Place,
    options: Options,
}

/// Options that may follow the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    /// `memory=`: memory limit in front of the store, in bytes.
    memory: usize,
    /// `write=`: longest time that RRsets wait in memory.
    write: Duration,
    /// `paired-by=`: `frames` or `writer`.
    pairing: Pairing,
    /// `root=`: addresses of the root servers.
    roots: Vec<std::net::IpAddr>,
    /// `keep-age=`: age after which an RRset is removed.
    keep_age: Option<Duration>,
    /// `keep-size=`: largest size of the store, in bytes.
    keep_size: Option<usize>,
}

const VALID: &str = "valid are `memory=BYTES` (with K, M, G), `write=TIME` (such as 30s), `paired-by=frames` or `writer`, `root=ADDRESS`, \
     `keep-age=TIME` (such as 365d) and `keep-size=BYTES`";

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: 32 << 20,
            write: Duration::from_secs(30),
            pairing: Pairing::ByFrames,
            roots: Vec::new(),
            keep_age: None,
            keep_size: None,
        }
    }
}

impl Options {
    fn parse(text: Option<&str>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut seen = BTreeSet::new();
        for option in text.into_iter().flat_map(|text| text.split(',')) {
            let unknown = || format!("`{option}` is no option of a store of passive DNS; {VALID}");
            let (name, value) = option.split_once('=').ok_or_else(unknown)?;
            if name != "root" && !seen.insert(name) {
                return Err(format!("`{name}` is given twice"));
            }
            let wrong = |problem: String| format!("`{option}`: {problem}");
            match name {
                "memory" => {
                    let memory = parse_bytes(value).map_err(wrong)?;
                    if memory < 1 << 20 {
                        return Err(wrong("less than 1M".to_owned()));
                    }
                    options.memory = memory;
                }
                "write" => options.write = parse_seconds(value).map_err(wrong)?,
                "paired-by" => {
                    options.pairing = match value {
                        "frames" => Pairing::ByFrames,
                        "writer" => Pairing::ByWriter,
                        _ => return Err(unknown()),
                    }
                }
                "root" => {
                    let address = value
                        .parse()
                        .map_err(|_invalid| wrong("no address".to_owned()))?;
                    options.roots.push(address);
                }
                "keep-age" => options.keep_age = Some(parse_seconds(value).map_err(wrong)?),
                "keep-size" => options.keep_size = Some(parse_bytes(value).map_err(wrong)?),
                _ => return Err(unknown()),
            }
        }
        Ok(options)
    }
}

impl Typed for Passive {
    fn parse(form: &str, rest: &str) -> Result<Self, Mistake> {
        let (place, options) = Place::parse(rest)?;
        if place == Place::Stdout {
            let text = format!("`{form}:-`: a store is a folder; name one");
            return Err(Mistake::Other(text));
        }
        let options = Options::parse(options).map_err(Mistake::Other)?;
        Ok(Self { place, options })
    }
}

impl Sink for Passive {
    fn name(&self) -> String {
        format!("pdns:{}", self.place)
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.place)
    }

    fn privileges(&self) -> NeededPrivileges {
        privileges_at(&self.place)
    }

    fn wants_views(&self) -> bool {
        true
    }

    fn open(&self, _: Takes, _: &About) -> Result<Opened, String> {
        let Place::Path(path) = &self.place else {
            return Err("a store is a folder".to_owned());
        };
        let store = Store::create(path).map_err(|error| described(&error))?;
        let how = How {
            memory: self.options.memory,
            pairing: self.options.pairing,
            roots: self.options.roots.clone(),
        };
        let output = PassiveOutput {
            collector: Collector::new(store, &how),
            options: self.options.clone(),
            written: Instant::now(),
            thinned: None,
            held: Written::default(),
            warned: false,
            folder: path.clone(),
        };
        Ok(Box::new(|_| blocking::start(Box::new(output))))
    }
}

/// Returns the text of an error, with its cause.
fn described(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

struct PassiveOutput {
    collector: Collector,
    options: Options,
    written: Instant,
    /// Time at which old RRsets were last removed.
    thinned: Option<Instant>,
    /// Number of messages and bytes that were taken since the store was last written.
    held: Written,
    /// Whether the output has already warned that nearly all responses are left out.
    warned: bool,
    folder: PathBuf,
}

/// Numbers of responses from which on the output judges how many of them are left out: while the tap runs, and when it
/// ends.
const JUDGED: (u64, u64) = (100, 10);

impl PassiveOutput {
    fn store(&mut self) -> io::Result<()> {
        self.written = Instant::now();
        self.collector
            .write(None, &mut |_, _| {})
            .map_err(into_io)?;
        self.held = Written::default();
        Ok(())
    }

    /// Warns once if nearly all responses are left out. Returns the reason if it warns.
    fn judge(&mut self, least: u64) -> Option<Discard> {
        if self.warned {
            return None;
        }
        let (why, remedy) = self.collector.counts().nearly_all_left_out(least)?;
        self.warned = true;
        warn!(
            folder = %self.folder.display(),
            reason = why.name(),
            "nearly all responses are left out of the store of passive DNS: {remedy}"
        );
        Some(why)
    }

    fn thin(&mut self) {
        let is_asked = self.options.keep_age.is_some() || self.options.keep_size.is_some();
        let is_due = self
            .thinned
            .is_none_or(|then| then.elapsed() >= RETENTION_EVERY);
        if !is_asked || !is_due {
            return;
        }
        self.thinned = Some(Instant::now());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let retention = Retention {
            since: self
                .options
                .keep_age
                .map(|age| now.saturating_sub(age).as_secs()),
            bytes: self.options.keep_size.map(|bytes| bytes as u64),
        };
        match self.collector.store().compact(retention) {
            Ok(removed) => info!(
                folder = %self.folder.display(),
                rrsets = removed.rrsets,
                bytes = removed.bytes.1,
                "old RRsets removed"
            ),
            Err(error) => warn!("old RRsets cannot be removed: {}", described(&error)),
        }
    }
}

impl Output for PassiveOutput {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        let mut written = Written {
            bytes: batch.frames.len() as u64,
            ..Written::default()
        };
        self.held.bytes += written.bytes;
        let mut failed = None;
        batch.for_each(|message| match message {
            _ if failed.is_some() => {}
            Some(message) => {
                self.collector.take(message);
                self.held.messages += 1;
                written.messages += 1;
                if self.collector.is_full() {
                    failed = self.store().err();
                }
            }
            None => written.unfit += 1,
        });
        match failed {
            None => Ok(written),
            Some(error) => Err(Failure {
                written,
                error,
                resumable: false,
            }),
        }
    }

    fn next_turn(&self) -> Option<Duration> {
        Some(self.options.write.saturating_sub(self.written.elapsed()))
    }

    fn turn(&mut self) -> io::Result<()> {
        self.store()?;
        self.judge(JUDGED.0);
        self.thin();
        Ok(())
    }

    fn held(&self) -> Written {
        self.held
    }

    fn finish(&mut self) -> io::Result<()> {
        self.store()?;
        self.judge(JUDGED.1);
        let counts = self.collector.counts();
        let discards = Discard::ALL.map(|why| (why.name(), counts.discarded(why)));
        let discards: Vec<_> = discards
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name}={count}"))
            .collect();
        info!(
            folder = %self.folder.display(),
            responses = counts.responses,
            rrsets = counts.rrsets,
            stored = counts.stored,
            new = counts.new,
            left_out = discards.join(" "),
            "passive DNS stored"
        );
        Ok(())
    }
}

fn into_io(error: StoreError) -> io::Error {
    match error {
        StoreError::Io(_, error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{message::Type, prost::Message as _};
    use rstest::rstest;

    use super::*;
    use crate::{sinks::OutputSpec, tally::tests::message};

    #[test]
    fn options_follow_the_folder() {
        let parsed = Passive::parse(
            "pdns",
            "a,memory=8M,write=5s,paired-by=writer,root=192.0.2.1,root=::1,keep-age=7d,keep-size=1G",
        );
        let options = parsed.expect("valid").options;
        assert_eq!((options.memory, options.write.as_secs()), (8 << 20, 5));
        assert_eq!(
            (options.pairing, options.roots.len()),
            (Pairing::ByWriter, 2)
        );
        assert_eq!(options.keep_age, Some(Duration::from_hours(168)));
        assert_eq!(options.keep_size, Some(1 << 30));
        let spec: OutputSpec = "pdns:/a,write=5s".parse().expect("valid");
        assert_eq!(spec.to_string(), "pdns:/a");
        assert!(OutputSpec::privileges(std::slice::from_ref(&spec)).paths);
    }

    #[rstest]
    #[case("")]
    #[case("-")]
    #[case("a,memory")]
    #[case("a,memory=5")]
    #[case("a,write=5s,write=6s")]
    #[case("a,paired-by=luck")]
    #[case("a,root=example.com")]
    #[case("a,mode=0600")]
    fn what_makes_no_sense_is_refused(#[case] text: &str) {
        Passive::parse("pdns", text).expect_err(text);
    }

    fn output(folder: &std::path::Path) -> PassiveOutput {
        // The memory has room for everything, so only a turn writes.
        let how = How {
            memory: 4 << 20,
            ..How::default()
        };
        PassiveOutput {
            collector: Collector::new(Store::create(folder).expect("a store"), &how),
            options: Options::default(),
            written: Instant::now(),
            thinned: None,
            held: Written::default(),
            warned: false,
            folder: folder.to_path_buf(),
        }
    }

    fn batch(kind: Type, messages: u64) -> Batch {
        let mut frames = Vec::new();
        for _ in 0..messages {
            let frame = message(kind, "name", 1, 0).encode_to_vec();
            frames.extend(u32::try_from(frame.len()).expect("short").to_be_bytes());
            frames.extend(frame);
        }
        Batch::new(frames, messages)
    }

    #[test]
    fn what_waits_in_memory_is_held_until_it_is_on_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut output = output(folder.path());
        let (one, two) = (batch(Type::ClientQuery, 3), batch(Type::ClientQuery, 2));
        assert_eq!(output.write(&one).expect("taken").messages, 3);
        assert_eq!(output.write(&two).expect("taken").messages, 2);
        let bytes = (one.frames.len() + two.frames.len()) as u64;
        let held = output.held();
        assert_eq!((held.messages, held.bytes), (5, bytes));
        output.turn().expect("written");
        assert_eq!(output.held(), Written::default());
    }

    #[test]
    fn it_is_told_once_that_nearly_all_responses_are_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut output = output(folder.path());
        output
            .write(&batch(Type::ForwarderResponse, 99))
            .expect("taken");
        assert_eq!(output.judge(100), None, "too few");
        output
            .write(&batch(Type::ForwarderResponse, 1))
            .expect("taken");
        assert_eq!(output.judge(100), Some(Discard::Forwarder));
        assert_eq!(output.judge(100), None, "once");
    }

    #[test]
    fn a_store_that_another_has_open_is_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let _store = Store::create(folder.path()).expect("a store");
        let passive = Passive::parse("pdns", &folder.path().display().to_string()).expect("valid");
        let refused = passive
            .open(Takes::Messages, &About::default())
            .err()
            .expect("refused");
        assert!(refused.contains("another process"), "{refused}");
    }
}
