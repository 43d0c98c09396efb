//! The clocks: the hooks stamp with `CLOCK_MONOTONIC`, dnstap wants the time of day.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds to add to a `CLOCK_MONOTONIC` time to get nanoseconds since the epoch, as the clocks stand now.
///
/// The two clocks cannot be read at once: the reading whose two monotonic neighbours are closest together is taken.
#[must_use]
pub fn realtime_offset_ns() -> i64 {
    let mut best = (u64::MAX, 0);
    for _ in 0..5 {
        let before = monotonic_ns();
        let now = nanoseconds(ClockId::Realtime);
        let spread = monotonic_ns() - before;
        if spread < best.0 {
            best = (spread, now.wrapping_sub(before + spread / 2).cast_signed());
        }
    }
    best.1
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_monotonic_time_and_the_offset_give_the_time_of_day() {
        let wall = u128::from(monotonic_ns().wrapping_add_signed(realtime_offset_ns()));
        let system = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        assert!(
            system.abs_diff(wall) < 1_000_000_000,
            "{system} and {wall} are more than a second apart"
        );
    }
}
