//! Options for tapping processes.

use clap::Args;

use crate::host::units::parse_bytes;
use crate::sources::{
    probes::Probe,
    socket::{HookChoice, RingChoice},
};

/// Options of all commands that tap.
#[derive(Clone, Debug, Args)]
pub struct Tapping {
    /// Where the kernel is hooked
    #[arg(long, value_enum, default_value = "auto")]
    pub hook: HookChoice,

    /// How the kernel hands over messages
    #[arg(long, value_enum, default_value = "auto")]
    pub ring: RingChoice,

    /// Size of the ring, for `perf` of each CPU's: bytes, or with K, M, G; rounded up to a power of two of pages. A full
    /// ring drops messages and counts them
    #[arg(long, value_name = "BYTES", default_value = "8M", value_parser = parse_ring)]
    pub ring_size: usize,

    /// Also ask the server itself, by probes of its functions: `zone` (the zone that BIND has in mind, as dnstap's `query_zone`, in
    /// RESOLVER and FORWARDER messages and in AUTH responses; they come up to 50 ms later), `encrypted` (the messages over TLS and
    /// HTTPS in the clear, of BIND 9.18 and later). What cannot be probed is tapped without
    #[arg(
        long = "probe",
        value_enum,
        value_name = "PROBE,...",
        value_delimiter = ','
    )]
    pub probes: Vec<Probe>,

    /// Tap the process even if it has no IPv4 or IPv6 sockets yet
    #[arg(long)]
    pub allow_no_sockets: bool,

    /// Log each message that the kernel side drops (needs `DNSTAP_AGENT_LOG=debug`)
    #[arg(long)]
    pub kernel_log: bool,

    /// For debugging: keep all privileges after attaching, and do not install the system call filter
    #[arg(long)]
    pub no_sandbox: bool,
}

fn parse_ring(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    let small = (bytes <= 1 << 30).then_some(bytes);
    small.ok_or_else(|| format!("{text} is larger than 1G"))
}
