//! Counts the messages that a contender has written.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::exec;

/// Counts the messages in a dnstap file.
pub(super) fn frames(agent: &Path, file: &Path) -> Result<u64> {
    counted(Command::new(agent).args(["read", "--count"]).arg(file))
}

/// Returns the number that `read --count` prints, with any options.
pub(super) fn counted(read: &mut Command) -> Result<u64> {
    let text = exec::output(read)?;
    text.lines()
        .find_map(|line| line.strip_prefix("total ")?.parse().ok())
        .with_context(|| format!("no total in:\n{text}"))
}

/// Counts the packets in a pcap file of this machine's byte order.
pub(super) fn packets(file: &Path) -> Result<u64> {
    let what = || format!("cannot read {}", file.display());
    let mut file = BufReader::new(File::open(file).with_context(what)?);
    file.seek(SeekFrom::Start(24)).with_context(what)?;
    let mut packets = 0;
    let mut header = [0_u32; 4].map(u32::to_ne_bytes).concat();
    loop {
        match file.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(packets),
            Err(error) => return Err(error).with_context(what),
        }
        let held = header[8..12].try_into().map(u32::from_ne_bytes)?;
        file.seek_relative(held.into()).with_context(what)?;
        packets += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_any_length_are_counted() {
        let mut bytes = vec![0; 24];
        for length in [0_u32, 5, 70] {
            bytes.extend([1, 2, length, length].map(u32::to_ne_bytes).concat());
            bytes.extend(vec![7; length as usize]);
        }
        let path = std::env::temp_dir().join(format!("packets-{}", std::process::id()));
        std::fs::write(&path, bytes).expect("written");
        let counted = packets(&path);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(counted.expect("readable"), 3);
    }
}
