//! `cargo xtask referee`: servers of all sorts, each with a packet capture beside the tap, and a judgement by the packets.
//!
//! The referee itself is a part of the integration tests' program (`tests/src/referee`); here its servers are made ready, it is started,
//! and what it says of all servers becomes `docs/servers.md`.

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{build, exec, packages::Apt, paths, servers, setup, ui};

/// What stands in front of the table.
const HEAD: &str = "\
# Which servers the tap has been held against

Written by `cargo xtask referee`. Each server runs in a network of its own. A packet capture runs there beside the tap and is decoded by
code of its own: headers, TCP streams, DNS messages. The packets are the judge:

- each message that the process has read or written is in the file, once, with its bytes, addresses, ports, type
  ([types.md](types.md)) and time, each response with its query's time. What is not is **missing**;
- nothing else is in the file. What is, is **extra**;
- a record of a message whose addresses, type or times are not right, or that the documentation leaves out, is **wrong**.

What the packets cannot show is explained below, with the reason and the number: whether a process has read what it did not answer on a
connection that was reset, for example.

The traffic, over IPv4 and IPv6 at the same time: datagrams, EDNS, truncated answers; streams in pieces of 1 to 30 bytes, pipelined queries,
half-closed connections whose last query comes in the packet of the FIN, answers up to 60 KB to a small window, zone transfers both ways,
connections that were open before the tap. Then what strangers do: malformed datagrams, responses that nobody asked for, urgent data amid
and between queries, lengths that lie, connections that break off and resets; and ordinary traffic once more. The upstream ends each
TCP connection in the packet of its answer, sends urgent data amid one answer, and resets the connection behind another.

";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this server; can be given several times
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// Only this hook; can be given several times [default: socket and syscall, on the same process at the same time]
    #[arg(long, value_name = "HOOK")]
    hook: Vec<String>,
}

/// Makes everything ready, runs it, and writes the page if all servers were asked for.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::run(setup::Purpose::Test)?;
    servers::ensure_referees(&mut Apt::default())?;
    let agent = build::release()?;
    let mut command = Command::new(build::tests()?);
    command
        .arg("referee")
        .env("DNSTAP_AGENT", &agent)
        .env("NAMED", servers::bind9()?);
    for (option, values) in [("--server", &args.server), ("--hook", &args.hook)] {
        for value in values {
            command.args([option, value]);
        }
    }
    ui::step("the referee");
    let mut table = String::new();
    let holds = exec::watched(&mut command, |line| {
        table.push_str(line);
        table.push('\n');
    })?;
    if args.server.is_empty() && args.hook.is_empty() && !table.is_empty() {
        let page = paths::root().join("docs/servers.md");
        let kernel = exec::output(Command::new("uname").arg("-r"))?;
        let text = format!("{HEAD}Here with Linux {}.\n\n{table}", kernel.trim());
        fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))?;
        ui::note(page.display());
    }
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
