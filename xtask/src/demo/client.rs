//! The demo's client: `dig` over UDP and TCP, IPv4 and IPv6.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::named::{BIG, FAR, HERE, Lab, SERVER, SERVER_V6};
use crate::exec;

/// Pause between queries, so that the messages can be followed as they pass.
const PACE: Duration = Duration::from_millis(150);

/// Sends each query once; each must be answered.
pub(super) fn ask(lab: &Lab) -> Result<()> {
    let local = format!("www.{HERE}");
    let (far, far_too) = (format!("www.{FAR}"), format!("mail.{FAR}"));
    let missing = format!("missing.{HERE}");
    let questions: [(&str, &[&str]); 8] = [
        (SERVER, &[&local, "A", "+norecurse"]),
        (SERVER, &[&local, "A"]),
        (SERVER, &[&local, "AAAA", "+tcp"]),
        (SERVER, &[&missing, "A"]),
        (SERVER, &[BIG, "TXT", "+bufsize=512"]), // truncated, so dig asks again over TCP
        (SERVER, &[&far, "A"]),                  // the resolver asks the upstream
        (SERVER_V6, &[&far_too, "A"]),
        (SERVER_V6, &[HERE, "SOA", "+tcp"]),
    ];
    for (server, question) in questions {
        if server == SERVER_V6 && !lab.has_ipv6() {
            continue;
        }
        let mut dig = Command::new("dig");
        dig.args([
            "-p",
            &lab.port().to_string(),
            &format!("@{server}"),
            "+tries=1",
            "+time=5",
        ])
        .args(question);
        let answer = exec::output(&mut dig).context("a question was not answered")?;
        let expected = if *question == [missing.as_str(), "A"] {
            "NXDOMAIN"
        } else {
            "NOERROR"
        };
        ensure!(
            answer.contains(&format!("status: {expected}")),
            "not {expected}:\n{answer}"
        );
        thread::sleep(PACE);
    }
    Ok(())
}
