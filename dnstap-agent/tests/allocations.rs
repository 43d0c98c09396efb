//! In steady state the pipeline allocates nothing for a message. A test of its own, because it counts what the whole process
//! allocates.

#[path = "../benches/recorded/mod.rs"]
#[expect(dead_code, reason = "the benchmarks use the rest")]
mod recorded;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use dnstap_agent::pipeline::{Batch, Pipeline, PipelineConfig};
use recorded::{MESSAGES, Recorded};

/// The system's, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller vouches for the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller vouches for both.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller vouches for all three.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn in_steady_state_no_message_is_allocated_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let recorded = Recorded::new(folder.path());
    let mut pipeline = Pipeline::new(PipelineConfig::default());
    let mut batch = Batch::default();
    let mut allocated = Vec::new();
    for _ in 0..3 {
        let before = ALLOCATIONS.load(Relaxed);
        recorded::push(&mut pipeline, &recorded, &mut batch, &mut |_batch| {});
        allocated.push(ALLOCATIONS.load(Relaxed) - before);
    }
    assert_eq!(
        pipeline.counters().deliver.messages,
        3 * MESSAGES as u64,
        "all were delivered"
    );
    assert_eq!(
        allocated[1..],
        [0, 0],
        "the first pass took {}",
        allocated[0]
    );
}
