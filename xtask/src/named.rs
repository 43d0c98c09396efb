//! Starts private `named` processes on loopback, from the texts of their files.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::child::{Child, Log};

/// Longest time for the start of a `named`.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of ports that are tried.
const ATTEMPTS: usize = 20;

/// Names and texts of a server's files; the first is its configuration, and has a line `options {`.
pub(crate) type Files = Vec<(&'static str, String)>;

/// Starts a server whose files are in `folder`, with one worker thread. With `cpu` it runs only on that CPU. Returns
/// when it answers.
pub(crate) fn start(
    named: &Path,
    folder: &Path,
    files: &Files,
    cpu: Option<usize>,
) -> Result<Child> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let options = format!("options {{ directory \"{}\";\n", folder.display());
    for (name, text) in files {
        let path: PathBuf = folder.join(name);
        fs::write(&path, text.replace("options {\n", &options))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut command = on_cpu(cpu, named);
    command
        .args(["-g", "-n", "1", "-c"])
        .arg(folder.join("named.conf"));
    let mut server = Child::spawn(&command, Log::Kept)?;
    // The end of the line is compared, because an early line contains "running on Linux".
    server.wait_for("running", PATIENCE, |line| line.ends_with(" running"))?;
    Ok(server)
}

/// Returns a command that runs on only one CPU, if one is given.
pub(crate) fn on_cpu(cpu: Option<usize>, program: &Path) -> Command {
    match cpu {
        None => Command::new(program),
        Some(cpu) => {
            let mut command = Command::new("taskset");
            command.arg("--cpu-list").arg(cpu.to_string()).arg(program);
            command
        }
    }
}

/// Returns options for all servers: no files outside of the scratch folder, no control channel, no traffic of their
/// own.
pub(crate) fn common(port: u16) -> String {
    format!(
        "  port {port};\n  pid-file none;\n  session-keyfile none;\n  lock-file none;\n  dnssec-validation no;\n  \
         empty-zones-enable no;\n  notify no;\n  max-cache-size 16m;\n"
    )
}

/// Returns two ports that are free on each of these loopback addresses, over UDP and TCP.
pub(crate) fn free_ports(addresses: &[&str]) -> Result<[u16; 2]> {
    let mut found = None;
    for _ in 0..ATTEMPTS {
        let probe = UdpSocket::bind((addresses[0], 0)).context("cannot bind a loopback port")?;
        let port = probe
            .local_addr()
            .context("a bound socket has no address")?
            .port();
        drop(probe);
        let free = |address: &&str| {
            UdpSocket::bind((*address, port)).is_ok() && TcpListener::bind((*address, port)).is_ok()
        };
        if !addresses.iter().all(free) {
            continue;
        }
        match found {
            Some(other) if other != port => return Ok([other, port]),
            _ => found = Some(port),
        }
    }
    bail!("no two ports are free on {}", addresses.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ports_differ_and_are_free() {
        let [one, other] = free_ports(&["127.0.0.1"]).expect("loopback has free ports");
        assert_ne!(one, other);
        for port in [one, other] {
            UdpSocket::bind(("127.0.0.1", port)).expect("it is free");
        }
    }
}
