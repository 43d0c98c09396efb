//! dnstap messages and Frame Streams.
