//! The command line as it is typed.

mod check;
mod configuration;
mod events;
mod frames;
mod generate;
mod messages;
mod pdns;
mod place;
mod read;
mod receive;
mod report;
mod status;
mod tapping;
mod target;
mod top;

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};
use dnstap_core::pipeline::MAX_LABEL;

pub use self::{
    check::Check,
    configuration::ConfigOptions,
    events::Events,
    frames::Frames,
    generate::Generate,
    messages::{Filters, Messages, Mimic},
    pdns::{
        Collect, Compact, Export, Import, Merge, Pairs, Pdns, PdnsCommand, Query, Serve, Stats,
    },
    place::Place,
    read::{Read, YamlStyle},
    receive::{Connections, Receive},
    report::Report,
    status::Status,
    tapping::Tapping,
    target::Target,
    top::Top,
};
use crate::{
    host::{
        log::LogOptions,
        units::{parse_bytes, parse_milliseconds, parse_seconds},
    },
    observe::Observe,
    sinks::OutputSpec,
};

/// Exit codes, for the help.
const EXIT_CODES: &str = "\
Exit codes:
   0  done, also when ended by SIGINT, SIGTERM or the end of the tapped process
   1  something failed that no other code names
  64  the command line is wrong
  65  an input file is damaged or cut off
  66  an input file cannot be opened (others beside it are read all the same), or a socket cannot be listened on
  69  the process to tap does not exist, or cannot be tapped
  73  an output cannot be created
  74  an output failed while it was written (disk full, ...)
  77  a privilege or a kernel feature is missing";

/// Taps the DNS messages of a running server and writes them as dnstap.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, max_term_width = 120)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,

    /// What is logged, and how
    #[command(flatten)]
    pub log: LogOptions,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tap a running DNS server until SIGINT, SIGTERM, the end of the server, or --duration
    #[command(after_help = EXIT_CODES)]
    Attach(Box<Attach>),
    /// Show what attach can use on this machine, and what is missing
    #[command(after_help = EXIT_CODES)]
    Check(Check),
    /// Print dnstap files
    #[command(after_help = EXIT_CODES)]
    Read(Read),
    /// Write the man pages and the completions for shells to a folder, for packages
    #[command(hide = true)]
    Generate(Generate),
    /// Passive DNS: which RRsets resolvers were given, from when to when
    #[command(after_help = EXIT_CODES)]
    Pdns(Box<Pdns>),
    /// Receive dnstap from other programs over sockets until SIGINT or SIGTERM
    #[command(after_help = EXIT_CODES)]
    Receive(Receive),
    /// Make a report of dnstap files: one HTML page with plots and tables
    #[command(after_help = EXIT_CODES)]
    Report(Box<Report>),
    /// Show the state of running agents
    #[command(after_help = EXIT_CODES)]
    Status(Status),
    /// Live view of a DNS server, or of dnstap from elsewhere: rates, names, clients, response codes, response times
    #[command(after_help = EXIT_CODES)]
    Top(Box<Top>),
}

/// Options of `attach`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["pids", "names", "units"]).required(true).multiple(true))]
pub struct Attach {
    /// What to tap
    #[command(flatten)]
    pub target: Target,

    /// Where to write; may be given several times: `-` (a line per message), `json:-` (a JSON object per line), `yaml:-` (a
    /// document per message), `pcap:-` (packets), `file:PATH` (dnstap in Frame Streams), `unix:PATH`, `tcp:HOST:PORT` and
    /// `tls:HOST:PORT[,ca=FILE][,cert=FILE,key=FILE][,name=NAME]` (a collector of dnstap, which may come later, go and come
    /// back; files in PEM). `file://PATH`, `unix://PATH`, `tcp://HOST:PORT` and so on mean the same.
    ///
    /// `html:PATH` is a report for a browser, which is written at the end; best with --duration. `pdns:DIR` is a store of passive DNS, see
    /// docs/passive-dns.md. `kafka:HOST:PORT[,HOST:PORT...]/TOPIC[,OPTION=VALUE...]` sends one record per message; its options are in
    /// docs/kafka.md.
    ///
    /// `parquet:PATH` is a table with a row for each query and its response, see docs/parquet.md; its file is called PATH.part until it is
    /// complete.
    ///
    /// `text:PATH`, `json:PATH`, `yaml:PATH`, `pcap:PATH`, `parquet:PATH` and `file:PATH` overwrite a file that is there, unless they rotate. After PATH, which
    /// may have conversions of strftime (`%Y%m%d-%H%M%S`, UTC) in the file's name, these may follow:
    ///
    ///   ,rotate-size=BYTES  begin a new file before this one is larger (with K, M, G)
    ///   ,rotate-time=TIME   begin a new file at each multiple of TIME (90s, 15m, 1h, 1d), UTC
    ///   ,keep=NUMBER        delete the oldest of more complete files than this
    ///   ,compress=zstd      compress, in zstd frames of at most a second
    ///   ,mode=OCTAL         permissions of new files [default: 0640]
    ///   ,owner=USER:GROUP   of new files; either may be left out
    ///   ,exec=PROGRAM       run for each complete file, with its path as argument
    ///
    /// SIGHUP reopens files that were renamed or removed.
    #[arg(
        short,
        long = "output",
        value_name = "OUTPUT",
        default_value = "-",
        verbatim_doc_comment
    )]
    pub outputs: Vec<OutputSpec>,

    /// How to tap it
    #[command(flatten)]
    pub tapping: Tapping,

    /// Time that a message may wait in the ring, from `1ms` (shortest delay) to `1s` (least CPU time); a number without unit
    /// is milliseconds
    #[arg(long, value_name = "TIME", default_value = "15", value_parser = parse_wait)]
    pub interval: Duration,

    /// Largest queue of each output, in bytes (or with K, M, G); when it is full, messages are dropped and counted
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub queue_size: usize,

    /// Where the agent runs
    #[command(flatten)]
    pub place: Place,

    /// dnstap identity of this server; empty for none [default: the host's name]
    #[arg(long, value_name = "TEXT", value_parser = parse_label)]
    pub identity: Option<String>,

    /// End after this time, such as `90s` or `1h`; a number without unit is seconds
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub duration: Option<Duration>,

    /// Also write the summary to this file, as a JSON object
    #[arg(long, value_name = "PATH")]
    pub summary_json: Option<PathBuf>,

    /// What is delivered and under which names
    #[command(flatten)]
    pub messages: Messages,

    /// Which events are reported, and where
    #[command(flatten)]
    pub events: Events,

    /// Who may watch
    #[command(flatten)]
    pub observe: Observe,

    /// Where options come from
    #[command(flatten)]
    pub configuration: ConfigOptions,
}

impl Cli {
    /// Returns mistakes in the combination of options that the parser does not find.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        match &self.command {
            Command::Attach(options) => {
                let notices = options.messages.unanswered_events.as_slice();
                let outputs = [&options.outputs, notices].concat();
                let mut mistakes = options.messages.mistakes();
                mistakes.extend(options.events.mistakes(&outputs));
                mistakes
            }
            Command::Receive(options) => OutputSpec::mistakes(&options.outputs),
            Command::Top(options) => options.selection.mistakes(),
            Command::Read(options) => options.mistakes(),
            Command::Pdns(options) => options.mistakes(),
            _ => Vec::new(),
        }
    }
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    let wait = parse_milliseconds(text)?;
    let fits = (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&wait);
    let wait = fits.then_some(wait);
    wait.ok_or_else(|| format!("{text} is not between 1ms and 1s"))
}

/// Parses a text that goes into each message. The text must be short enough that no frame exceeds
/// what receivers accept.
pub(crate) fn parse_label(text: &str) -> Result<String, String> {
    if text.len() <= MAX_LABEL {
        Ok(text.to_owned())
    } else {
        Err(format!("longer than {MAX_LABEL} bytes"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
