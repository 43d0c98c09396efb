//! `cargo xtask referee`: runs many kinds of servers, each with a packet capture in addition to the tap, and judges the
//! tap by the packets.
//!
//! The referee itself is a part of the integration tests' program (`tests/src/referee`). This module prepares its
//! servers, starts it, and writes its results to `docs/servers.md`.

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{build, exec, packages::Apt, paths, servers, setup, ui};

/// Text before the table.
const HEAD: &str = "\
# The servers that the tap was tested with

Written by `cargo xtask referee`. Each server runs in a network namespace of its own. A packet capture runs there beside
the tap. A decoder that shares no code with the tap reads the packets: headers, TCP streams, DNS messages. The file must
agree with the packets:

- Each message that the process read or wrote is in the file, once. A message that is not is **missing**.
- Nothing else is in the file. Anything else is **extra**.
- Bytes, addresses, ports, type ([types.md](types.md)) and time are right, and each response has the time of its query.
  A record that is not right is **wrong**. So is a record that the documentation says is left out.

The packets do not show everything. For example, a connection is reset, and a query on it has no answer: the server may or
may not have read it. Such cases are counted below, with the reason.

The traffic uses IPv4 and IPv6 at the same time:

- Ordinary traffic: datagrams, EDNS, truncated answers, streams in pieces of 1 to 30 bytes, pipelined queries,
  half-closed connections whose last query is in the packet of the FIN, answers of up to 60 KB to a small window, zone
  transfers in both directions, and connections that were open before the tap.
- What strangers send: malformed datagrams, responses to no query, urgent data inside and between queries, false lengths,
  aborted connections and resets. Then ordinary traffic once more.
- The upstream closes each TCP connection in the packet of its answer, sends urgent data inside one answer, and resets the
  connection after another.

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

/// Prepares everything, runs the referee, and writes the page if all servers were selected.
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
        let text = format!("{HEAD}Run with Linux {}.\n\n{table}", kernel.trim());
        fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))?;
        ui::note(page.display());
    }
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
