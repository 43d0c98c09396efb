//! A target that is a test: with one selected, cargo chooses the features of dependencies that it chooses for `cargo test`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dnstap_fuzz::classify::run(input));
