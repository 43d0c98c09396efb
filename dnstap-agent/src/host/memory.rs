//! Returns memory that the allocator holds but the program no longer needs.
#![expect(
    unsafe_code,
    reason = "a function of the allocator that its crate does not wrap"
)]

/// Gives free memory of this thread back to the system; the allocator would do so only during later
/// allocations. Use it after a large amount of memory that is not needed again. Does nothing in
/// programs that use another allocator.
pub fn give_back() {
    // SAFETY: may be called at any time, by any thread; touches nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Bytes in queues above which their memory is worth giving back later.
const LARGE: u64 = 4 << 20;

/// Number of consecutive calls with little in the queues before memory is given back. Queues that
/// fill and empty all the time need their memory.
const CALM: u8 = 2;

/// Watches the amount in the queues and gives memory back when it has become small. Other threads
/// free what this one has allocated. The allocator notices this only during many later allocations,
/// which a quiet server never makes.
#[derive(Debug, Default)]
pub struct MemoryTrimmer {
    was_large: bool,
    calm: u8,
}

impl MemoryTrimmer {
    /// Takes the current number of queued bytes. Call this about once a second, on the thread that
    /// has allocated them.
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
