//! Embeds the eBPF object that `cargo xtask build` names in `DNSTAP_EBPF_OBJECT`. Without it the agent builds all the same,
//! for `cargo check`, clippy and unit tests, and says at run time that it has no programs.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=DNSTAP_EBPF_OBJECT");
    let embedded =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("dnstap-ebpf");
    match env::var_os("DNSTAP_EBPF_OBJECT") {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            fs::copy(&object, &embedded)
                .unwrap_or_else(|error| panic!("cannot read {}: {error}", object.display()));
        }
        None => fs::write(&embedded, []).expect("OUT_DIR is writable"),
    }
}
