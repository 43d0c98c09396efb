//! Options of `check`.

/// Say what `attach` could use on this machine, and what is missing for more.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Check {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
