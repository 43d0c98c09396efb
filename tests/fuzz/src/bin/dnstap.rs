//! Entry point of libFuzzer for the target.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dnstap_fuzz::dnstap::run(input));
