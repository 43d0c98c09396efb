//! Clocks: hooks read `CLOCK_MONOTONIC`, and dnstap needs the time of day.
//!
//! In a time namespace `CLOCK_MONOTONIC` differs from the kernel's own clock, which the hooks read
//! (`time_namespaces(7)`).

use std::{fs, sync::LazyLock};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds by which this process's `CLOCK_MONOTONIC` is ahead of the kernel's.
static AHEAD: LazyLock<i64> = LazyLock::new(|| {
    // Kernels without time namespaces have no such file.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    monotonic_offset_ns(&offsets).unwrap_or(0)
});

/// Returns the kernel's own `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic).wrapping_sub(AHEAD.cast_unsigned())
}

/// Returns the nanoseconds to add to a `CLOCK_MONOTONIC` time to get nanoseconds since the epoch,
/// according to the clocks now.
///
/// The two clocks cannot be read at the same moment. Of several readings, the one with the smallest
/// distance between the monotonic readings before and after it is used.
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

/// Returns the offset of `CLOCK_MONOTONIC` in `/proc/PID/timens_offsets`, whose lines have a
/// clock's name, seconds and nanoseconds.
fn monotonic_offset_ns(offsets: &str) -> Option<i64> {
    offsets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (clock, seconds, nanoseconds) = (words.next()?, words.next()?, words.next()?);
        // Kernels before 5.7 use the clock's number.
        if !matches!(clock, "monotonic" | "1") {
            return None;
        }
        let (seconds, nanoseconds): (i64, i64) = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
        seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
    })
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
    fn the_offset_of_a_time_namespace_is_read_from_its_line() {
        let offset = |text| monotonic_offset_ns(text);
        let text = "monotonic           -1 500000000\nboottime            90         0\n";
        assert_eq!(offset(text), Some(-500_000_000));
        assert_eq!(offset("1 90 7\n7 1 1\n"), Some(90_000_000_007));
        for text in [
            "",
            "boottime 1 1",
            "monotonic",
            "monotonic 1",
            "monotonic x 1",
            "monotonic 9223372036854775807 0",
        ] {
            assert_eq!(offset(text), None, "{text}");
        }
    }

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
