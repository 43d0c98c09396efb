//! The types of `dnstap.proto` and `dnstap_event.proto`, generated at build time. Their doc comments come from these files.

#![expect(
    missing_docs,
    clippy::doc_markdown,
    clippy::must_use_candidate,
    reason = "generated code; a comment may be about several fields that follow it"
)]

include!(concat!(env!("OUT_DIR"), "/dnstap.rs"));
