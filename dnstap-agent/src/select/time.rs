//! Times and durations on the command line.

use std::str::FromStr;

use jiff::{Timestamp, civil, tz::TimeZone};

use crate::{formats::render::socket::Time, host::units::parse_length};

/// A time: `2026-11-24T03:00:00Z`, `2026-11-24 03:00` or `2026-11-24` (UTC), or a duration before
/// now, such as `15m` or `15m ago`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub(super) Time);

impl Moment {
    fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
        if let Ok(moment) = text.parse() {
            return Some(moment);
        }
        if let Some(ago) = parse_length(text.strip_suffix(" ago").unwrap_or(text)) {
            return now.checked_sub(ago).ok();
        }
        let civil: civil::DateTime = text.parse().ok()?;
        TimeZone::UTC.to_timestamp(civil).ok()
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let moment = Self::parse(text, Timestamp::now()).ok_or_else(|| {
            format!("{text:?} is no time, such as 2026-11-24T03:00:00Z, 2026-11-24 03:00 (UTC), or 15m (ago)")
        })?;
        let seconds = u64::try_from(moment.as_second());
        let nanoseconds = u32::try_from(moment.subsec_nanosecond());
        match (seconds, nanoseconds) {
            (Ok(seconds), Ok(nanoseconds)) => Ok(Self((seconds, nanoseconds))),
            _ => Err(format!("{text} is before 1970")),
        }
    }
}

/// A duration, such as `100ms` or `1.5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    pub(super) nanoseconds: i64,
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no length of time, such as 100ms or 1.5s");
        let length = parse_length(text).ok_or_else(wrong)?;
        Ok(Self {
            nanoseconds: length.as_nanos().try_into().map_err(|_invalid| wrong())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2026-11-24T03:00:00Z", Some(1_795_489_200))]
    #[case("2026-11-24T04:00:00+01:00", Some(1_795_489_200))]
    #[case("2026-11-24 03:00", Some(1_795_489_200))]
    #[case("2026-11-24T03:00:00", Some(1_795_489_200))]
    #[case("2026-11-24", Some(1_795_478_400))]
    #[case("15m", Some(1_000_000_000 - 900))]
    #[case("1h 30m", Some(1_000_000_000 - 5_400))]
    #[case("15m ago", Some(1_000_000_000 - 900))]
    #[case("-15m", None)]
    #[case("-15m ago", None)]
    #[case("15m ago ago", None)]
    #[case("yesterday", None)]
    #[case("", None)]
    fn moments_are_absolute_or_ago(#[case] text: &str, #[case] seconds: Option<i64>) {
        let now = Timestamp::from_second(1_000_000_000).expect("a time");
        let moment = Moment::parse(text, now);
        assert_eq!(moment.map(Timestamp::as_second), seconds);
    }

    #[rstest]
    #[case("100ms", Some(100_000_000))]
    #[case("1.5s", Some(1_500_000_000))]
    #[case("250us", Some(250_000))]
    #[case("-5ms", None)]
    #[case("5ms ago", None)]
    #[case("5", None)]
    #[case("fast", None)]
    fn lengths_have_units(#[case] text: &str, #[case] nanoseconds: Option<i64>) {
        let length = text.parse::<Length>().ok();
        assert_eq!(length.map(|length| length.nanoseconds), nanoseconds);
    }
}
