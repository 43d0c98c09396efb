//! `dnstap-agent`: the command line.

use std::process::ExitCode;

/// Returns memory to the system after a queue has been emptied (its collector was away). See also
/// [`dnstap_agent::host::memory`].
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dnstap_agent::run()
}
