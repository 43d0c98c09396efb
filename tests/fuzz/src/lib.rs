//! Fuzz targets for all code that gets bytes from other programs, from the kernel's records to the printers.
//!
//! Each module is one target: a function `run` that takes any bytes and panics if a check fails. `cargo xtask fuzz`
//! links each with libFuzzer (see `src/bin`). The unit tests here run the committed seeds through them, and so need
//! nothing but Rust.
//!
//! Seeds are in `seeds/TARGET/`. `cargo run -p dnstap-fuzz --example seeds -- CAPTURE` makes them from a dnstap file,
//! for example that of `cargo xtask demo`. An input that has found a defect is added there, too, in addition to the
//! unit test in the module that had the defect.

pub mod btf;
pub mod classify;
pub mod dnstap;
pub mod event;
pub mod files;
pub mod frame_streams;
pub mod frames;
pub mod input;
pub mod laws;
pub mod options;
pub mod read;
pub mod stream;

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("btf", btf::run),
    ("classify", classify::run),
    ("dnstap", dnstap::run),
    ("event", event::run),
    ("files", files::run),
    ("frame_streams", frame_streams::run),
    ("options", options::run),
    ("read", read::run),
    ("stream", stream::run),
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_target_takes_its_seeds() {
        for (name, run) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("seeds")
                .join(name);
            let mut seeds = 0;
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                println!("{}", path.display()); // the last file printed is the one that fails
                run(&fs::read(path).unwrap());
                seeds += 1;
            }
            assert!(seeds > 0, "{name} has no seeds");
        }
    }

    #[test]
    fn every_target_takes_nothing_and_little() {
        for (_, run) in TARGETS {
            run(b"");
            for byte in 0..=u8::MAX {
                run(&[byte]);
                run(&[byte; 40]);
            }
        }
    }
}
