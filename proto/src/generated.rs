//! The types of `dnstap.proto`, generated at build time. Their doc comments come from that file.

#![expect(
    clippy::doc_markdown,
    clippy::must_use_candidate,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/dnstap.rs"));
