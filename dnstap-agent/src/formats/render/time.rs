//! Formatting of times as RFC 3339 text in UTC.

use jiff::Timestamp;

/// Formats times. Caches the last second, which neighbouring messages share.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// Text of `second`, such as `2026-11-23T15:53:24`.
    text: String,
}

impl Clock {
    /// Appends the time like [`Self::write_time`], or an invalid one as `@SECONDS.NANOSECONDS`.
    pub(super) fn write(
        &mut self,
        seconds: u64,
        nanoseconds: u32,
        digits: usize,
        out: &mut Vec<u8>,
    ) {
        if !self.write_time(seconds, nanoseconds, digits, out) {
            out.extend_from_slice(format!("@{seconds}.{nanoseconds:09}").as_bytes());
        }
    }

    /// Appends `2026-11-23T15:53:24.123456Z` with `digits` (0 to 9) decimals; the rest is cut off.
    ///
    /// Returns false, and appends nothing, if the time is invalid: the nanoseconds are a whole
    /// second or more, or the year has five digits.
    pub(super) fn write_time(
        &mut self,
        seconds: u64,
        nanoseconds: u32,
        digits: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let known =
            nanoseconds < 1_000_000_000 && (self.second == Some(seconds) || self.learn(seconds));
        if known {
            let mut fraction = [b'0'; 9];
            let mut rest = nanoseconds;
            for digit in fraction.iter_mut().rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
                rest /= 10;
            }
            out.extend_from_slice(self.text.as_bytes());
            if digits > 0 {
                out.push(b'.');
            }
            out.extend(fraction.iter().take(digits));
            out.push(b'Z');
        }
        known
    }

    fn learn(&mut self, seconds: u64) -> bool {
        let timestamp = i64::try_from(seconds)
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        if let Some(timestamp) = timestamp {
            self.second = Some(seconds);
            self.text = timestamp.to_string();
            self.text.truncate(self.text.len() - 1); // the Z
        }
        timestamp.is_some()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1_795_448_004, 123_456_789, 6, "2026-11-23T15:33:24.123456Z")]
    #[case(1_795_448_004, 5, 9, "2026-11-23T15:33:24.000000005Z")]
    #[case(0, 0, 6, "1970-01-01T00:00:00.000000Z")]
    #[case(0, 1_000_000_000, 6, "@0.1000000000")]
    #[case(u64::MAX, 1, 6, "@18446744073709551615.000000001")]
    fn times_are_rfc_3339_or_marked_as_none(
        #[case] s: u64,
        #[case] ns: u32,
        #[case] digits: usize,
        #[case] text: &str,
    ) {
        let mut clock = Clock::default();
        for _ in 0..2 {
            let mut out = Vec::new();
            clock.write(s, ns, digits, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn a_new_second_is_not_taken_for_the_last_one() {
        let mut clock = Clock::default();
        let mut out = Vec::new();
        for second in [59, 60, 59] {
            clock.write(second, 0, 1, &mut out);
        }
        assert_eq!(
            out,
            b"1970-01-01T00:00:59.0Z1970-01-01T00:01:00.0Z1970-01-01T00:00:59.0Z"
        );
    }
}
