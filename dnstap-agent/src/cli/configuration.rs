//! Options for the sources of the other options.

use std::path::PathBuf;

use clap::Args;

/// Options on where the other options come from.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigOptions {
    /// Read options from this TOML file if they are neither on the command line nor in the environment. Each command
    /// has a table of its name, with the long names of its options
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// Print every option with its value and its source, as a configuration file, and exit
    #[arg(long)]
    pub print_config: bool,
}
