//! Conversion of kernel time.

/// Converts kernel time (`CLOCK_MONOTONIC`) to wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds between 1970 and the kernel clock's zero.
    pub offset_ns: i64,
}

impl Clock {
    /// Returns wall-clock nanoseconds since 1970.
    #[must_use]
    #[inline]
    pub fn wall_ns(self, ktime_ns: u64) -> u64 {
        match u64::try_from(self.offset_ns) {
            Ok(offset_ns) => ktime_ns.saturating_add(offset_ns),
            Err(_) => ktime_ns.saturating_sub(self.offset_ns.unsigned_abs()),
        }
    }

    /// Replaces the offset.
    pub fn set_offset(&mut self, offset_ns: i64) {
        self.offset_ns = offset_ns;
    }
}
