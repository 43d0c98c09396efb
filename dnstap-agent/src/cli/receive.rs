//! Options of `receive`.

use std::path::PathBuf;

use super::ConfigOptions;
use crate::{
    host::{net::Address, units::parse_bytes},
    observe::Observe,
    sinks::OutputSpec,
};

/// Options of `receive`.
#[derive(Debug, Clone, clap::Args)]
pub struct Receive {
    /// Where senders connect; may be given several times: `unix:PATH`, `tcp:ADDRESS:PORT`, or
    /// `tls:ADDRESS:PORT,cert=FILE,key=FILE` (PEM), with `,ca=FILE` for senders that must show a certificate of that authority
    #[arg(short, long, required = true, value_name = "SOCKET")]
    pub listen: Vec<Address>,

    /// Where to write; may be given several times, as for `attach`, with the same options; SIGHUP begins files anew that were
    /// renamed
    #[arg(short, long = "output", value_name = "OUTPUT", default_value = "-")]
    pub outputs: Vec<OutputSpec>,

    /// How connections are taken
    #[command(flatten)]
    pub connections: Connections,

    /// Keep all privileges, and filter no system calls: to find out whether that is what fails
    #[arg(long)]
    pub no_sandbox: bool,

    /// Write the summary as a JSON object to this file, too
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
    /// Connections at a time; those beyond are closed at once
    #[arg(long, value_name = "NUMBER", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// Let senders wait while an output has no room, instead of dropping messages and counting them
    #[arg(long)]
    pub wait: bool,

    /// What each output may have waiting: bytes, or with K, M, G
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub queue_size: usize,

    /// Longest frame to take, in bytes; a sender of a longer one is disconnected
    #[arg(long, value_name = "BYTES", default_value = "262144", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_frame: u32,

    /// Close connections that are silent for this long [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub idle_timeout: Option<u32>,

    /// Who may connect to unix sockets: mode of their files, octal
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
