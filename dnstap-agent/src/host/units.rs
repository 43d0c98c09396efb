//! How sizes and durations are written.

use std::time::Duration;

/// A number of seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_invalid| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// A number of bytes: `65536`, `64K`, `8M`, `1G` (powers of 1024).
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (&text[..end], 10),
        Some((end, 'm' | 'M')) => (&text[..end], 20),
        Some((end, 'g' | 'G')) => (&text[..end], 30),
        _ => (text, 0),
    };
    let number: usize = digits
        .parse()
        .map_err(|_invalid| format!("{text:?} is no number of bytes (65536, 64K, 8M, 1G)"))?;
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| format!("{text} is out of range"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("65536", Ok(65_536))]
    #[case::kilo("64K", Ok(65_536))]
    #[case::mega("8m", Ok(8 << 20))]
    #[case::none("", Err(()))]
    #[case::zero("0", Err(()))]
    #[case::negative("-1", Err(()))]
    #[case::huge("99999999999999999999G", Err(()))]
    #[case::overflow("18446744073709551615G", Err(()))]
    fn sizes_have_binary_suffixes(#[case] text: &str, #[case] bytes: Result<usize, ()>) {
        assert_eq!(parse_bytes(text).map_err(drop), bytes);
    }
}
