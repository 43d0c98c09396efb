//! The program's allocator: what it keeps for later, and does not need.
#![expect(
    unsafe_code,
    reason = "a function of the allocator that its crate does not wrap"
)]

/// Gives free memory of this thread back to the system, which the allocator would do only in the course of later allocations: after
/// something large that does not come again. Elsewhere than in the program, whose allocator it is, it does nothing.
pub fn give_back() {
    // SAFETY: may be called at any time, by any thread; touches nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// What is queued at some time for its memory to be worth a look later. Bytes.
const LARGE: u64 = 4 << 20;

/// How often in a row little must be queued: a queue that fills and empties all the time needs its memory.
const CALM: u8 = 2;

/// Watches what is queued, to give its memory back when it has gone. Other threads free what this one has allocated, and the allocator
/// looks for that only in the course of many more allocations, which on a quiet server never come.
#[derive(Debug, Default)]
pub struct MemoryTrimmer {
    was_large: bool,
    calm: u8,
}

impl MemoryTrimmer {
    /// Takes how many bytes are queued now. To be called about once a second by the thread that has allocated them.
    pub fn look(&mut self, queued: u64) {
        if self.is_past_peak(queued) {
            give_back();
        }
    }

    fn is_past_peak(&mut self, queued: u64) -> bool {
        self.was_large |= queued >= LARGE;
        self.calm = if queued < LARGE / 4 { self.calm + 1 } else { 0 };
        let past_peak = self.was_large && self.calm >= CALM;
        if past_peak || !self.was_large {
            *self = Self::default();
        }
        past_peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_when_a_large_queue_has_stayed_empty() {
        let mut trimmer = MemoryTrimmer::default();
        let mut looks = |queued: &[u64]| -> Vec<bool> {
            queued
                .iter()
                .map(|queued| trimmer.is_past_peak(*queued))
                .collect()
        };
        assert_eq!(looks(&[0, LARGE - 1, 0, 0]), [false; 4]);
        assert_eq!(looks(&[LARGE, 0, LARGE / 4, 0]), [false; 4]);
        assert_eq!(looks(&[0, 0, 0]), [true, false, false]);
        assert_eq!(
            looks(&[10 * LARGE, LARGE, 0, 0]),
            [false, false, false, true]
        );
    }
}
