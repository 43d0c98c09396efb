//! Speed of the stages, alone and together: `cargo bench -p dnstap-agent --bench stages`.

mod recorded;

use std::{path::Path, time::Duration};

use criterion::{Criterion, Throughput};

use recorded::{MESSAGES, Recorded, STAGES};

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1))
        .configure_from_args();
    // The folder is in memory if possible, so that no disk affects the result.
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() {
        tempfile::tempdir_in(shared)
    } else {
        tempfile::tempdir()
    };
    let folder = folder.expect("a folder");
    let recorded = Recorded::new(folder.path());
    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for (name, stage) in STAGES {
        group.bench_function(name, |bencher| bencher.iter(|| stage(&recorded)));
    }
    group.finish();
    criterion.final_summary();
}
