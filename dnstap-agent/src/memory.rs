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
