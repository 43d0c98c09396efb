//! Options of `report`.

use std::path::PathBuf;

use super::Frames;
use crate::select::Select;

/// Make a report of dnstap files.
#[derive(Debug, Clone, clap::Args)]
pub struct Report {
    /// Files as `read` takes them; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Where to write the page; `-` is standard output; overwrites an existing file
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,

    /// Rows of each table at most
    #[arg(long, value_name = "NUMBER", default_value_t = 25)]
    pub rows: u16,

    /// Which frames
    #[command(flatten)]
    pub frames: Frames,

    /// Which messages
    #[command(flatten)]
    pub select: Select,
}
