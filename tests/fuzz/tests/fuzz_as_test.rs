//! A cargo target of kind "test". If one is selected, cargo chooses the same features of dependencies as for
//! `cargo test`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dnstap_fuzz::classify::run(input));
