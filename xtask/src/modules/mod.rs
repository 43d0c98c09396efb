//! `cargo xtask modules`: shows the imports between the modules of each crate. Modules with the same parent must not
//! form a cycle, at any level, so that each can be read after the modules that it uses.
//!
//! Tests are left out: they may use everything. A child may use the definitions of its parent.

mod graph;
mod source;

use anyhow::Result;

use self::{graph::Graph, source::Crate};
use crate::paths;

/// The root files of all crates. A crate with a library and a program has both.
const ROOTS: [&str; 11] = [
    "proto/src/lib.rs",
    "dnstap-ebpf/src/lib.rs",
    "dnstap-ebpf/src/main.rs",
    "dnstap-agent/core/src/lib.rs",
    "dnstap-agent/pdns/src/lib.rs",
    "dnstap-agent/src/lib.rs",
    "dnstap-agent/src/main.rs",
    "tests/src/main.rs",
    "tests/fuzz/src/lib.rs",
    "xtask/src/main.rs",
    "dnstap-agent/benches/stages.rs",
];

/// Options of `modules`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Print what the modules at the top of each crate import, too
    #[arg(long)]
    graph: bool,
}

/// Prints the cycles of all crates. Returns `true` if there are none.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let mut found = 0;
    for root in ROOTS {
        let krate = Crate::read(&paths::root().join(root))?;
        let graphs = Graph::of_levels(&krate);
        if args.graph
            && let Some(top) = graphs.iter().find(|graph| graph.parent.is_empty())
        {
            println!("{root}\n{top}");
        }
        let cycles: Vec<_> = graphs.iter().flat_map(Graph::cycles).collect();
        println!(
            "{root}: {} modules, {} cycles",
            krate.modules.len(),
            cycles.len()
        );
        for cycle in &cycles {
            println!("{cycle}");
        }
        found += cycles.len();
    }
    Ok(found == 0)
}
