//! Parsers for sizes and durations on the command line.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Parses a duration with its unit, such as `500ms`, `15s`, `1.5h`, `1h 30m` or `2d`; a day has 24
/// hours. Returns `None` if the text is no duration or has no unit.
pub(crate) fn parse_length(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(length).ok()
}

/// Parses a duration; a number without unit means seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
    seconds(text).or_else(|| parse_length(text)).ok_or_else(|| {
        format!("{text:?} is no length of time, such as 500ms, 15s or 1h, and no number of seconds")
    })
}

/// Like [`parse_seconds`], but refuses durations shorter than `least`.
pub(crate) fn seconds_from(
    least: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| match parse_seconds(text)? {
        time if time < least => Err(format!("{least:?} at least")),
        time => Ok(time),
    }
}

/// Parses a duration; a number without unit means milliseconds.
pub(crate) fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds = text.parse().ok().map(Duration::from_millis);
    milliseconds.or_else(|| parse_length(text)).ok_or_else(|| {
        format!("{text:?} is no length of time, such as 500ms or 1s, and no number of milliseconds")
    })
}

/// Parses a number of bytes: `65536`, `64K`, `8M`, `1G` (powers of 1024).
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
    #[case("500ms", Some(500))]
    #[case("15s", Some(15_000))]
    #[case("1.5h", Some(5_400_000))]
    #[case("1h 30m", Some(5_400_000))]
    #[case("2d", Some(172_800_000))]
    #[case("15", Some(15_000))]
    #[case("0.25", Some(250))]
    #[case("1y", None)]
    #[case("-1s", None)]
    #[case("1s ago", None)]
    #[case("-1", None)]
    #[case("inf", None)]
    #[case("soon", None)]
    #[case("", None)]
    fn lengths_have_units_and_numbers_are_seconds(#[case] text: &str, #[case] millis: Option<u64>) {
        let expected = millis.map(Duration::from_millis);
        assert_eq!(parse_seconds(text).ok(), expected);
        let has_unit = text.ends_with(char::is_alphabetic);
        assert_eq!(parse_length(text), expected.filter(|_| has_unit));
    }

    #[test]
    fn a_number_may_be_milliseconds() {
        assert_eq!(parse_milliseconds("15"), Ok(Duration::from_millis(15)));
        assert_eq!(parse_milliseconds("1s"), Ok(Duration::from_secs(1)));
        parse_milliseconds("1.5").expect_err("as ever");
    }

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
