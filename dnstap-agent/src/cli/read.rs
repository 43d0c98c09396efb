//! Options of `read`.

use std::path::PathBuf;

use clap::ColorChoice;

use crate::{formats::Content, select::Select};

/// Print dnstap files.
#[derive(Debug, Clone, clap::Args)]
pub struct Read {
    /// Frame Streams files of dnstap, also compressed by zstd; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Format of the output
    #[arg(long, value_enum, default_value_t = Content::Text)]
    pub format: Content,

    /// Tell the identity of each message, which names the server, in `text` and `full`
    #[arg(long)]
    pub show_identity: bool,

    /// Print only how many messages of each type there are
    #[arg(short, long, conflicts_with = "format")]
    pub count: bool,

    /// Follow the file as it grows and when it is rotated, until SIGINT or SIGTERM
    #[arg(short, long)]
    pub follow: bool,

    /// Colour the text; `auto`: on a terminal, unless `NO_COLOR` is set
    #[arg(long, visible_alias = "color", value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    pub colour: ColorChoice,

    /// Which messages
    #[command(flatten)]
    pub select: Select,
}
