//! The times that `dnsdbq` accepts after -A and -B.

use jiff::{Timestamp, civil, tz::TimeZone};

/// Reads a time, and returns it in seconds since 1970. The formats are `1300000000`, `-3600` and `1w2d3h4m5s` (both
/// before `now`), `2026-11-30`, and `2026-11-30 12:00:00` (UTC).
pub(super) fn parse(text: &str, now: u64) -> Option<u64> {
    if let Some(ago) = text.strip_prefix('-') {
        return Some(now.saturating_sub(ago.parse().ok()?));
    }
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    if let Some(ago) = length(text) {
        return Some(now.saturating_sub(ago));
    }
    let civil: civil::DateTime = text.parse().ok()?;
    let time = TimeZone::UTC.to_timestamp(civil).ok()?;
    u64::try_from(time.as_second()).ok()
}

/// Reads weeks, days, hours, minutes and seconds, each with its letter, and returns the seconds.
fn length(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = match rest.as_bytes()[end].to_ascii_lowercase() {
            b'w' => 604_800,
            b'd' => 86_400,
            b'h' => 3_600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end + 1..];
    }
    (!text.is_empty()).then_some(total)
}

/// Returns a time in UTC as text.
pub(super) fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(
        || seconds.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1300000000", Some(1_300_000_000))]
    #[case("-3600", Some(996_400))]
    #[case("1w2d3h4m5s", Some(1_000_000 - 788_645))]
    #[case("1970-01-02", Some(86_400))]
    #[case("1970-01-02 00:01:05", Some(86_465))]
    #[case("", None)]
    #[case("-", None)]
    #[case("5x", None)]
    #[case("w", None)]
    #[case("1é", None)]
    #[case("1960-01-01", None)]
    fn moments_are_those_of_dnsdbq(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(parse(text, 1_000_000), expected);
    }
}
