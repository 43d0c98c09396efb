//! Options of `status`.

use std::path::PathBuf;

/// Options of `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct Status {
    /// One JSON object per agent, for machines
    #[arg(long)]
    pub json: bool,

    /// Ask the agent of this socket (its `--status-socket`) [default: all in /run/dnstap-agent, or in `$RUNTIME_DIRECTORY`]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}
