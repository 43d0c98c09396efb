//! Options of `top`.

use std::{path::PathBuf, time::Duration};

use clap::ArgGroup;
use dnstap_core::events::EventKinds;

use super::{Connections, Messages, Tapping, Target};
use crate::{
    host::{
        net::Address,
        units::{parse_seconds, seconds_from},
    },
    select::Identities,
};

/// Shortest interval. A shorter one would leave time only for drawing.
const SHORTEST: Duration = Duration::from_millis(100);

/// Options of `top`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("source").args(["pids", "names", "units", "listen", "files"]).required(true).multiple(true))]
pub struct Top {
    /// Look at these Frame Streams files of dnstap, also compressed as for `read`; `-` is standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["targets", "Messages", "Filters"])]
    pub files: Vec<PathBuf>,

    /// What to tap
    #[command(flatten)]
    pub target: Target,

    /// Receive dnstap from other programs, as `receive` does; may be given several times: `unix:PATH`, `tcp:ADDRESS:PORT`,
    /// `tls:ADDRESS:PORT,cert=FILE,key=FILE`
    #[arg(short, long, value_name = "SOCKET", conflicts_with_all = ["targets", "files", "Messages", "Filters"])]
    pub listen: Vec<Address>,

    /// Refresh the view each time that this time has passed, such as `500ms`; a number without unit is seconds
    #[arg(short, long, value_name = "TIME", default_value = "1", value_parser = seconds_from(SHORTEST))]
    pub interval: Duration,

    /// Show rates and counts of the last so much time, such as `5m`; a number without unit is seconds [default: 30; with
    /// --once and for files: the whole time]
    #[arg(short, long, value_name = "TIME", value_parser = seconds_from(SHORTEST))]
    pub window: Option<Duration>,

    /// Print text after each interval instead of drawing; this is the default without a terminal
    #[arg(long)]
    pub plain: bool,

    /// Print text once: at the end of the input, of --duration or of --messages, otherwise after one interval
    #[arg(long)]
    pub once: bool,

    /// Rows of each table of text
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub rows: u16,

    /// End after this time, such as `90s` or `1h`; a number without unit is seconds
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub duration: Option<Duration>,

    /// End after this many messages
    #[arg(long, value_name = "NUMBER")]
    pub messages: Option<u64>,

    /// Also show events of these kinds, on pages of their own: `transfer`, `rate-limit`, `cache`, `ns-change`, `purge`,
    /// `expiry`, `unanswered`, `all`. See docs/events.md
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', conflicts_with_all = ["files", "listen"])]
    pub events: Vec<EventKinds>,

    /// Which servers' messages
    #[command(flatten)]
    pub identities: Identities,

    /// How to tap
    #[command(flatten)]
    pub tapping: Tapping,

    /// What is looked at and under which names
    #[command(flatten)]
    pub selection: Messages,

    /// How connections are taken
    #[command(flatten)]
    pub connections: Connections,
}
