//! `dnstap-agent`: the command line.

use std::process::ExitCode;

/// Gives back what a queue held while its collector was away. See [`dnstap_agent::host::memory`], too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dnstap_agent::run()
}
