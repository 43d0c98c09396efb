//! Options of `pdns`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use dnstap_pdns::{Format, SortKey};

use crate::host::units::{parse_bytes, parse_seconds};

/// Passive DNS.
#[derive(Debug, Args)]
pub struct Pdns {
    /// What to do
    #[command(subcommand)]
    pub command: PdnsCommand,
}

/// What to do with a store of passive DNS.
#[derive(Debug, Subcommand)]
pub enum PdnsCommand {
    /// Collect RRsets from dnstap files into a store
    Collect(Collect),
    /// Look for RRsets and records in a store
    Query(Box<Query>),
    /// Show what is in a store
    Stats(Stats),
    /// Remove what is too old or too much, and bring the store into its smallest form
    Compact(Compact),
    /// Write all that is in a store to standard output, in Common Output Format
    Export(Export),
    /// Read Common Output Format into a store
    Import(Import),
    /// Add what is in other stores to one
    Merge(Merge),
    /// Answer over HTTP as DNSDB (version 2) and CIRCL do, until SIGINT or SIGTERM
    Serve(Serve),
}

/// Who has seen to it that responses belong to queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pairs {
    /// The frames show it: a response counts if its query is in them
    Frames,
    /// The program that wrote the frames: every response counts
    Writer,
}

/// Collect RRsets.
#[derive(Debug, Args)]
pub struct Collect {
    /// Folder of the store; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,

    /// Files as `read` takes them; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Memory for what is folded before it is written, in bytes (or with K, M, G), at least 1M
    #[arg(long, value_name = "BYTES", default_value = "32M", value_parser = parse_memory)]
    pub memory: usize,

    /// How long something may wait in memory before it is written; a number without unit is seconds
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_seconds)]
    pub write_every: Duration,

    /// How it is known that responses answer a query of the resolver
    #[arg(long, value_name = "BY", value_enum, default_value_t = Pairs::Frames)]
    pub paired_by: Pairs,

    /// Addresses of the root's servers, for messages that do not name their zone [default: those of the Internet]
    #[arg(long = "root", value_name = "ADDRESS")]
    pub roots: Vec<IpAddr>,

    /// Collect files from their beginning, although they were collected before
    #[arg(long)]
    pub again: bool,

    /// Write RRsets that were not in the store before to this file, as JSON lines; `-` is standard output
    #[arg(long, value_name = "PATH")]
    pub new: Option<PathBuf>,
}

/// Look for RRsets and records.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["owner", "owner_hex", "name", "data_hex", "address"]).required(true))]
pub struct Query {
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,

    /// RRsets by owner: NAME, `*.NAME` (with all below it) or `NAME.*`
    #[arg(short = 'r', long, value_name = "NAME[/TYPE[,...][/BAILIWICK]]")]
    pub owner: Option<String>,

    /// The same, with the owner in wire form
    #[arg(short = 'R', long, value_name = "HEX[/TYPE[,...][/BAILIWICK]]")]
    pub owner_hex: Option<String>,

    /// Records by a name in their data: NAME, `*.NAME` or `NAME.*`
    #[arg(short = 'n', long, value_name = "NAME[/TYPE[,...]]")]
    pub name: Option<String>,

    /// Records by their whole data in wire form
    #[arg(short = 'N', long, value_name = "HEX[/TYPE[,...]]")]
    pub data_hex: Option<String>,

    /// Records by address: `192.0.2.1`, `192.0.2.0/24` (or with a comma), `192.0.2.1-192.0.2.9`, and the same of IPv6
    #[arg(short = 'i', long, value_name = "IP|PREFIX|RANGE")]
    pub address: Option<String>,

    /// Types; ANY are all but those of DNSSEC, which are ANY-DNSSEC [default: ANY]
    #[arg(
        short = 't',
        long = "type",
        value_name = "TYPE[,...]",
        value_delimiter = ','
    )]
    pub types: Vec<String>,

    /// RRsets that were taken on the word of this zone; with -r or -R
    #[arg(short = 'b', long, value_name = "NAME")]
    pub bailiwick: Option<String>,

    /// Seen at or after this time: seconds since 1970, `-3600` (seconds ago), `1w2d3h4m5s` (ago), `2026-11-30` or `2026-11-30 12:00:00`
    /// (UTC)
    #[arg(short = 'A', long, value_name = "TIME", allow_hyphen_values = true)]
    pub after: Option<String>,

    /// Seen at or before this time
    #[arg(short = 'B', long, value_name = "TIME", allow_hyphen_values = true)]
    pub before: Option<String>,

    /// With -A and -B: first and last seen within these times; without it a part of it is enough
    #[arg(short = 'c', long)]
    pub complete: bool,

    /// Answers to look for, at most, before they are sorted; 0 for all
    #[arg(short = 'l', long, value_name = "NUMBER", default_value_t = 10_000)]
    pub limit: usize,

    /// Answers to write, at most, after they were sorted
    #[arg(short = 'L', long, value_name = "NUMBER")]
    pub output_limit: Option<usize>,

    /// Answers to pass over at the beginning
    #[arg(short = 'O', long, value_name = "NUMBER", default_value_t = 0)]
    pub offset: usize,

    /// Sort, smallest first
    #[arg(short = 's', long, conflicts_with = "descending")]
    pub ascending: bool,

    /// Sort, greatest first
    #[arg(short = 'S', long)]
    pub descending: bool,

    /// Sort by these, the others behind them: first, last, duration, count, name, type, data
    #[arg(short = 'k', long, value_name = "KEY[,...]", value_delimiter = ',', value_parser = parse_key)]
    pub keys: Vec<SortKey>,

    /// How answers are written: text, json (Common Output Format), csv, or minimal (only what was not known, each once)
    #[arg(short = 'p', long, value_name = "FORMAT", default_value = "text", value_parser = str::parse::<Format>)]
    pub format: Format,
}

/// Show what is in a store.
#[derive(Debug, Args)]
pub struct Stats {
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,

    /// As a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Remove what is too old or too much.
#[derive(Debug, Args)]
pub struct Compact {
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,

    /// Remove RRsets that were last seen longer ago than this, such as `365d`
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub keep_age: Option<Duration>,

    /// If the store takes more bytes (or with K, M, G) on disk, remove RRsets that were seen longest ago
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub keep_size: Option<usize>,
}

/// Write all that is in a store.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,
}

/// Read Common Output Format into a store.
#[derive(Debug, Args)]
pub struct Import {
    /// Folder of the store; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,

    /// Who has seen what lines without `sensor_id` say; without it, each file is an origin of its own, by what is in it
    #[arg(long, value_name = "TEXT")]
    pub origin: Option<String>,

    /// Files with an object on each line; `-` is standard input, and wants --origin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Add what is in other stores to one.
#[derive(Debug, Args)]
pub struct Merge {
    /// Folder of the store; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,

    /// Folders of the other stores, which stay as they are
    #[arg(required = true, value_name = "DIR")]
    pub from: Vec<PathBuf>,
}

/// Answer over HTTP.
#[derive(Debug, Args)]
pub struct Serve {
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub db: PathBuf,

    /// Where to listen; without --keys a loopback address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8053")]
    pub listen: SocketAddr,

    /// File of the keys that may ask, one on each line; without it everybody may who can reach the address. A limit of requests may
    /// follow a key, such as `1000/day` (or second, minute, hour)
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,

    /// Serve over TLS with this certificate and the intermediate ones (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl Pdns {
    /// What is wrong with the options together.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let query = match &self.command {
            PdnsCommand::Query(query) => query,
            PdnsCommand::Import(options) => {
                let is_nameless = options.origin.is_none()
                    && options.files.iter().any(|file| file.as_os_str() == "-");
                let text = "standard input has no name of its own; add --origin";
                return is_nameless.then(|| text.to_owned()).into_iter().collect();
            }
            _ => return Vec::new(),
        };
        let by_owner = query.owner.is_some() || query.owner_hex.is_some();
        let sorted = query.ascending || query.descending;
        let mistakes = [
            (
                query.bailiwick.is_some() && !by_owner,
                "-b is for questions about owners; add -r, or leave out -b",
            ),
            (
                query.complete && query.after.is_none() && query.before.is_none(),
                "-c is about times; add -A or -B",
            ),
            (
                !query.keys.is_empty() && !sorted,
                "-k says by what is sorted; add -s or -S",
            ),
        ];
        let wrong = mistakes.into_iter().filter(|(wrong, _)| *wrong);
        wrong.map(|(_, text)| text.to_owned()).collect()
    }
}

/// So that a message of the longest kind fits.
pub(crate) fn parse_memory(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    let fits = (bytes >= 1 << 20).then_some(bytes);
    fits.ok_or_else(|| format!("{text} is less than 1M"))
}

fn parse_key(text: &str) -> Result<SortKey, String> {
    let found = SortKey::ALL.into_iter().find(|key| key.name() == text);
    found.ok_or_else(|| {
        format!("{text:?} is none of first, last, duration, count, name, type, data")
    })
}
