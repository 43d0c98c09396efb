//! Options of `receive`.

use std::{path::PathBuf, time::Duration};

use super::{ConfigOptions, Frames};
use crate::{
    host::{
        net::Address,
        units::{parse_bytes, seconds_from},
    },
    observe::Observe,
    sinks::OutputSpec,
};

/// Options of `receive`.
#[derive(Debug, Clone, clap::Args)]
pub struct Receive {
    /// Where senders connect; may be given several times: `unix:PATH`, `tcp:ADDRESS:PORT`, or
    /// `tls:ADDRESS:PORT,cert=FILE,key=FILE` (PEM), with `,ca=FILE` to require a certificate of this authority from senders;
    /// `unix://PATH`, `tcp://ADDRESS:PORT` and so on mean the same
    #[arg(short, long, required = true, value_name = "SOCKET")]
    pub listen: Vec<Address>,

    /// Where to write; may be given several times, with the same forms and options as for `attach`; SIGHUP reopens
    /// renamed files
    #[arg(short, long = "output", value_name = "OUTPUT", default_value = "-")]
    pub outputs: Vec<OutputSpec>,

    /// How connections are taken
    #[command(flatten)]
    pub connections: Connections,

    /// For debugging: keep all privileges, and do not install the system call filter
    #[arg(long)]
    pub no_sandbox: bool,

    /// Also write the summary to this file, as a JSON object
    #[arg(long, value_name = "PATH")]
    pub summary_json: Option<PathBuf>,

    /// Who may watch
    #[command(flatten)]
    pub observe: Observe,

    /// Where options come from
    #[command(flatten)]
    pub configuration: ConfigOptions,
}

/// Options on connections.
#[derive(Debug, Clone, clap::Args)]
pub struct Connections {
    /// Largest number of connections; further ones are closed at once
    #[arg(long, value_name = "NUMBER", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// When an output's queue is full, let senders wait instead of dropping and counting messages
    #[arg(long)]
    pub wait: bool,

    /// Largest queue of each output, in bytes (or with K, M, G); when it is full, messages are dropped and counted
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub queue_size: usize,

    /// How frames are taken
    #[command(flatten)]
    pub frames: Frames,

    /// Close connections that send nothing for this time, such as `5m`; a number without unit is seconds [default: never]
    #[arg(long, value_name = "TIME", value_parser = seconds_from(Duration::from_secs(1)))]
    pub idle_timeout: Option<Duration>,

    /// Permissions of unix sockets, octal: who may connect
    #[arg(long, value_name = "MODE", default_value = "660", value_parser = parse_mode)]
    pub socket_mode: u32,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} is no octal mode such as 660"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("660"), Ok(0o660));
        for wrong in ["", "888", "1000", "-1", "u+w"] {
            parse_mode(wrong).expect_err(wrong);
        }
    }
}
