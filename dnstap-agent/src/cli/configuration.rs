//! Options on where the other options come from.

use std::path::PathBuf;

use clap::Args;

/// Options on where the other options come from.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigOptions {
    /// Take what is neither on the command line nor in the environment from this TOML file: its table named like the command has the
    /// options by their long names
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// Print every option with its value and where it comes from, as a configuration file, and end
    #[arg(long)]
    pub print_config: bool,
}
