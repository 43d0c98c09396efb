//! Options on what is delivered and under which names.

use clap::Args;

use crate::profile::ProfileChoice;

/// Options on messages.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Messages")]
pub struct Messages {
    /// How queries and responses are named: `auto` (by the name of the executable), `generic`, `recursive`,
    /// `authoritative`, `forwarder`, `stub`, `tool`, or a server's name, such as `unbound`
    #[arg(long, value_name = "PROFILE", default_value_t)]
    pub profile: ProfileChoice,
}
