//! Options of `generate`.

use std::path::PathBuf;

/// Options of `generate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Generate {
    /// Where to: man pages below `man`, completions below `completions`
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}
