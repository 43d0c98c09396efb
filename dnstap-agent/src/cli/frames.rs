//! Options for reading frames.

use crate::host::units::parse_bytes;

/// Largest limit that can be set: a frame is held in memory.
const LARGEST: u32 = 64 << 20;

/// Default limit for sockets, as in `fstrm_capture`: two DNS messages of the greatest length, and
/// as much again. Each connection may hold one frame in memory.
const USUAL: u32 = 256 << 10;

/// Options on frames.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Frames {
    /// Longest frame to take, in bytes (or with K, M), at most 64M. In a file a longer one is passed over and told; over a
    /// socket its sender is disconnected [default: 64M in files, 256K over sockets]
    #[arg(long, value_name = "BYTES", value_parser = parse_frame)]
    pub max_frame: Option<u32>,
}

impl Frames {
    /// Returns the limit for files. The default is the largest, so that files written by `receive`
    /// with any limit can be read.
    #[must_use]
    pub fn in_files(self) -> u32 {
        self.max_frame.unwrap_or(LARGEST)
    }

    /// Returns the limit for connections, which may be many.
    #[must_use]
    pub fn over_sockets(self) -> u32 {
        self.max_frame.unwrap_or(USUAL)
    }
}

fn parse_frame(text: &str) -> Result<u32, String> {
    let bytes = u32::try_from(parse_bytes(text)?).ok();
    bytes
        .filter(|bytes| *bytes <= LARGEST)
        .ok_or_else(|| format!("{text} is more than 64M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_received_can_be_read() {
        assert_eq!(parse_frame("64M"), Ok(LARGEST));
        for wrong in ["0", "65M", "67108865", "5G", "x"] {
            parse_frame(wrong).expect_err(wrong);
        }
        let unset = Frames::default();
        assert_eq!(unset.in_files(), LARGEST);
        assert_eq!(unset.over_sockets(), USUAL);
    }
}
