//! Single queries and updates by the tools that operators use.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::environment;

/// Sends a query by `dig` and returns its output. Any response is accepted.
pub(crate) fn dig(server: SocketAddr, question: &[&str]) -> Result<String> {
    let mut command = Command::new(environment::tool("dig")?);
    command
        .arg("-r")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string()]);
    command.args(["+time=30", "+tries=1"]).args(question);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answered = ["MSG SIZE", "XFR size", "; Transfer failed."]
        .iter()
        .any(|sign| text.contains(sign));
    ensure!(
        output.status.success() && answered,
        "{command:?}: {}\n{text}",
        output.status
    );
    Ok(text)
}

/// Sends one update by `nsupdate`, over UDP or TCP. `more` are further arguments.
pub(crate) fn nsupdate(
    server: SocketAddr,
    tcp: bool,
    zone: &str,
    update: &str,
    more: &[&str],
) -> Result<()> {
    let mut command = Command::new(environment::tool("nsupdate")?);
    if tcp {
        command.arg("-v");
    }
    let mut child = command
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nsupdate")?;
    let script = format!(
        "server {} {}\nzone {zone}\n{update}\nsend\n",
        server.ip(),
        server.port()
    );
    child
        .stdin
        .take()
        .context("standard input is piped")?
        .write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "nsupdate of {zone}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
