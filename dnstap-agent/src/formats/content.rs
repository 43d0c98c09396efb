//! Formats for dnstap messages.

/// Format of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Content {
    /// A readable line per message
    Text,
    /// The same line, and below it every record
    Full,
    /// A JSON object per line
    Json,
    /// A YAML document per message
    Yaml,
    /// Packets for Wireshark and others, with made-up headers below DNS
    Pcap,
    /// A Parquet file with a row for each query and its response
    Parquet,
    /// dnstap in Frame Streams, unchanged
    Dnstap,
}

impl Content {
    /// Returns whether the format is not meant for a terminal.
    #[must_use]
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Pcap | Self::Parquet | Self::Dnstap)
    }
}
