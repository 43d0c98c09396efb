//! libFuzzer's way into the target.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dnstap_fuzz::files::run(input));
