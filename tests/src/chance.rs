//! Random choices that can be repeated: they all depend on one seed, which is printed.

use std::{
    env,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};

/// A sequence of choices (`SplitMix64`).
pub(crate) struct Chance(u64);

impl Chance {
    /// Makes the sequence of this seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % end
    }

    /// Returns a time up to `end`.
    pub(crate) fn up_to(&mut self, end: Duration) -> Duration {
        let nanoseconds = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.below(nanoseconds))
    }

    /// Returns one of these choices.
    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = self.below(choices.len() as u64);
        &choices[usize::try_from(at).unwrap_or(0)]
    }
}

/// Returns the seed to use: `DNSTAP_SEED`, else a different one each time.
pub(crate) fn seed() -> Result<u64> {
    if let Ok(text) = env::var("DNSTAP_SEED") {
        return text.parse().with_context(|| format!("DNSTAP_SEED={text}"));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::from(now.subsec_nanos()))
}
