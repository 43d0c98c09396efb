//! Generates the prost types of `dnstap.proto` and `dnstap_event.proto`, without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=dnstap.proto");
    println!("cargo::rerun-if-changed=dnstap_event.proto");
    let descriptors = protox::compile(["dnstap.proto", "dnstap_event.proto"], ["."])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
