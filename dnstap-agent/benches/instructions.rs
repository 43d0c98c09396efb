//! Runs one stage a given number of times, so that valgrind can count its instructions: `cargo
//! xtask bench --stages`. Without arguments, or with those of `cargo test` and `cargo bench`, it
//! runs every stage once.

mod recorded;

use recorded::{Recorded, STAGES};

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let recorded = Recorded::new(folder.path());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [name, times] => {
            let times: u32 = times.parse().expect("a number of times");
            let (_, stage) = STAGES
                .iter()
                .find(|(stage, _)| stage == name)
                .expect("the name of a stage");
            for _ in 0..times {
                stage(&recorded);
            }
        }
        _ => {
            for (name, stage) in STAGES {
                stage(&recorded);
                println!("{name}");
            }
        }
    }
}
